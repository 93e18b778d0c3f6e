"""The bridge between real ROS graphs and a real Zenoh router."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zenoh
from rclpy.serialization import serialize_message
from std_msgs.msg import String, UInt8MultiArray
from user_msgs.msg import ActorStatus, TrajectoryAck, TrajectoryChunk

from user_comm import topics
from user_comm.bridge.config import CROSSINGS, BridgeConfig, Route, Way
from user_comm.net.network import Members, Network
from user_comm.net.router import RouterConfig
from user_comm.net.sessions import ZenohConfig
from user_comm.topics import LATCHED, Quality
from user_core.errors import ConfigError
from user_testing.waiting import wait_until
from user_testing.worlds.bridge import BridgeWorld

STRING = "std_msgs/msg/String"


@pytest.fixture
def world() -> Iterator[BridgeWorld]:
    world = BridgeWorld()
    world.router()
    yield world
    world.close()


def out(topic: str, **options: Any) -> Route:
    return Route(topic=topic, direction="out", **{"type": STRING, **options})


def into(topic: str, **options: Any) -> Route:
    return Route(topic=topic, direction="in", **{"type": STRING, **options})


def text(words: str) -> String:
    return String(data=words)


def counts(bridge: Any, key: str) -> Any:
    (found,) = [one for one in bridge.counts if one.route.key == key]
    return found


def test_topics_cross_both_ways_between_robots_and_a_learner(world: BridgeWorld) -> None:
    cloud, hosts = world.graph(), [world.graph(), world.graph()]
    above = world.bridge(
        cloud,
        routes=(
            into("/learner/up", key="*/up", depth=400),
            into("/*/state", key="*/state", latched=True),
            out("/learner/down"),
        ),
    )
    for name, host in zip(("r0", "r1"), hosts):
        world.bridge(
            host,
            routes=(
                out(f"/{name}/up", depth=400),
                out(f"/{name}/state", latched=True),
                into("/learner/down"),
            ),
        )
    merged, state = (
        cloud.hear(String, "/learner/up", Quality(400)),
        cloud.hear(String, "/r1/state", LATCHED),
    )
    heard = [host.hear(String, "/learner/down") for host in hosts]
    say = [host.speaker(String, f"/r{n}/up", Quality(400)) for n, host in enumerate(hosts)]
    down = cloud.speaker(String, "/learner/down")

    def all_connected() -> bool:
        for number, speaker in enumerate(say):
            speaker.publish(text(f"hello {number}"))
        down.publish(text("hello"))
        time.sleep(0.02)
        return {m.data for m in merged} == {"hello 0", "hello 1"} and all(heard)

    wait_until(all_connected, "everybody hears everybody")
    merged.clear()
    for number in range(300):
        say[0].publish(text(f"{number}"))
        time.sleep(0.0005)
    wait_until(lambda: [m.data for m in merged if m.data.isdecimal()][-1:] == ["299"], "the last")
    assert [m.data for m in merged if m.data.isdecimal()] == [str(n) for n in range(300)]
    hosts[1].speaker(String, "/r1/state", LATCHED).publish(text("idle"))
    wait_until(lambda: [m.data for m in state] == ["idle"], "the state, once")
    assert all(not one.refused for one in above.counts)
    for link in above.links.values():
        wait_until(lambda one=link: 0 < one.round_trip_s < 5, "the round trip is measured")


def test_who_comes_late_gets_what_is_kept_once(world: BridgeWorld) -> None:
    cloud, robot = world.graph(), world.graph()
    above = world.bridge(cloud, routes=(out("/learner/policy", latched=True),), refresh_s=0.3)
    cloud.speaker(String, "/learner/policy", LATCHED).publish(text("version 7"))
    wait_until(lambda: counts(above, "learner/policy").carried, "it was said before anybody came")
    late = world.bridge(robot, routes=(into("/learner/policy", latched=True),))
    wait_until(lambda: counts(late, "learner/policy").carried, "it crosses")
    heard = robot.hear(String, "/learner/policy", LATCHED)  # comes later still
    wait_until(lambda: heard, "a late listener hears it")
    wait_until(lambda: counts(late, "learner/policy").repeated > 2, "it is sent again and again")
    assert [m.data for m in heard] == ["version 7"]


def test_it_waits_for_a_router_and_comes_back_when_it_dies(world: BridgeWorld) -> None:
    world.kill_router()
    cloud, robot = world.graph(), world.graph()
    above = world.bridge(cloud, wait=False, routes=(into("/r/up"), into("/r/state", latched=True)))
    below = world.bridge(robot, wait=False, routes=(out("/r/up"), out("/r/state", latched=True)))
    heard, state = cloud.hear(String, "/r/up"), cloud.hear(String, "/r/state", LATCHED)
    say, tell = robot.speaker(String, "/r/up"), robot.speaker(String, "/r/state", LATCHED)
    tell.publish(text("waiting"))
    for link in (*above.links.values(), *below.links.values()):
        assert "not connected to" in link.item().message
        assert link.times_up == 0
    world.router()
    wait_until(lambda: [m.data for m in state] == ["waiting"], "what is kept arrives")
    wait_until(lambda: say.publish(text("one")) or heard, "messages arrive")
    for round_ in range(2):
        world.kill_router()
        wait_until(lambda: not any(link.is_up for link in below.links.values()), "it is noticed")
        tell.publish(text(f"changed {round_}"))
        world.router()
        wait_until(lambda r=round_: state[-1].data == f"changed {r}", "the change arrives")
        heard.clear()
        wait_until(lambda r=round_: say.publish(text("again")) or heard, "messages arrive again")


def test_what_is_wrong_is_refused_counted_and_named_and_the_others_go_on(
    world: BridgeWorld,
) -> None:
    cloud = world.graph()
    bridge = world.bridge(
        cloud,
        routes=(into("/bad", max_bytes=1000), into("/good"), into("/*/many", key="*/many")),
        max_robots=3,
    )
    bad, good = cloud.hear(String, "/bad"), cloud.hear(String, "/good")
    stranger = world.session()
    payload = serialize_message(text("fine"))

    def both_arrive() -> bool:
        stranger.put("bad", payload)
        stranger.put("good", payload)
        time.sleep(0.02)
        return bool(bad and good)

    wait_until(both_arrive, "what is right arrives")
    for wrong in (
        b"",
        b"\x00\x01\x00\x03",
        b"hello",
        payload[:-3],
        b"\x00\x01\x00\x00" + b"\xff" * 9,
    ):
        stranger.put("bad", wrong)
    for _ in range(2):
        stranger.put("bad", payload + bytes(1000))
    account = counts(bridge, "bad")
    wait_until(
        lambda: account.refused == {"codec": 5, "oversized": 2}, f"counted: {account.refused}"
    )
    assert account.item().level == 1
    assert "oversized" in " ".join(world.said)
    for number in range(5):
        stranger.put(f"robot{number}/many", payload)
    stranger.put("no-name/many", payload)
    wait_until(lambda: counts(bridge, "*/many").refused == {"too_many": 2, "name": 1}, "limits")
    assert counts(bridge, "*/many").carried == 3
    before = len(good)
    stranger.put("good", payload)
    wait_until(lambda: len(good) > before, "the others go on")


def test_out_too_large_too_often(world: BridgeWorld) -> None:
    robot, seen = world.graph(), []
    bridge = world.bridge(
        robot,
        routes=(
            out("/big", type="std_msgs/msg/UInt8MultiArray", max_bytes=5000),
            out("/often", max_rate_hz=5.0),
        ),
    )
    observer = world.session()
    subscriber = observer.declare_subscriber("**", lambda s: seen.append(str(s.key_expr)))
    big, often = robot.speaker(UInt8MultiArray, "/big"), robot.speaker(String, "/often")
    wait_until(
        lambda: big.publish(UInt8MultiArray(data=bytes(100))) or "big" in seen, "a small one"
    )
    wait_until(
        lambda: big.publish(UInt8MultiArray(data=bytes(6000))) or counts(bridge, "big").refused,
        "a large one is refused",
    )
    start_s = time.monotonic()
    wait_until(
        lambda: (
            often.publish(text("x"))
            or (counts(bridge, "often").queue.thinned > 20 and seen.count("often") >= 3)
        ),
        "most are thinned out, some arrive",
    )
    took_s = time.monotonic() - start_s
    assert seen.count("often") <= took_s * 5.0 + 2
    subscriber.undeclare()


def test_two_bridges_of_one_graph_make_no_loop(world: BridgeWorld) -> None:
    """One carries a topic out, another by mistake the same in: without care, for ever."""
    graph, other = world.graph(), world.graph()
    one = world.bridge(graph, routes=(out("/talk"),))
    two = world.bridge(graph, routes=(into("/talk"),))
    heard, far = graph.hear(String, "/talk"), other.hear(String, "/talk")
    world.bridge(other, routes=(into("/talk"),))
    say = graph.speaker(String, "/talk")
    wait_until(lambda: say.publish(text("hello")) or (heard and far), "it is heard here and there")
    wait_until(lambda: counts(two, "talk").refused.get("loop", 0) > 0, "the loop is refused")
    # Whatever was said before the last words has gone its way when these have, round it or not.
    say.publish(text("last words"))
    for ears in (heard, far):
        wait_until(lambda e=ears: e[-1].data == "last words", "the last words are heard")
    wait_until(
        lambda: counts(two, "talk").refused["loop"] == counts(one, "talk").carried,
        "all that was carried out came back to the other, which refused it",
    )
    assert counts(two, "talk").carried == 0
    assert len(heard) == counts(one, "talk").carried  # once each: nothing goes round


def test_a_bridge_refuses_to_carry_a_topic_both_ways() -> None:
    for routes in (
        (out("/x"), into("/x")),
        (out("/r0/x"), into("/y", key="*/x")),
        (out("/x", key="a"), into("/x", key="b")),
    ):
        with pytest.raises(ConfigError, match="one way"):
            BridgeConfig(routes=routes).all_routes()
    with pytest.raises(ConfigError, match="type"):
        BridgeConfig(routes=(Route(topic="/chatter", direction="out"),)).all_routes()
    with pytest.raises(ConfigError):
        into("/*/x")


def test_the_stock_bridge_would_see_its_tokens_and_samples(world: BridgeWorld) -> None:
    """Keys, tokens and payloads of zenoh-bridge-ros2dds."""
    robot = world.graph()
    bridge = world.bridge(
        robot, routes=(out("/r0/up", depth=7), into("/learner/down", latched=True, depth=1))
    )
    stock = world.session()

    def tokens() -> set[str]:
        answers = stock.liveliness().get("@/*/@ros2_lv/**")
        found = {str(answer.ok.key_expr).partition("@ros2_lv/")[2] for answer in answers}
        return found - {""}  # the bridge itself

    wait_until(lambda: len(tokens()) == 2, "two routes are shown")
    up, down = sorted(tokens())
    assert up.startswith("MP/r0§up/std_msgs§msg§String/:1:0:0,7")
    assert down.startswith("MS/learner§down/std_msgs§msg§String/:1:1:0,1")
    assert ":typehash=RIHS01_" in up
    seen: list[bytes] = []
    subscriber = stock.declare_subscriber("r0/up", lambda s: seen.append(s.payload.to_bytes()))
    say = robot.speaker(String, "/r0/up")
    wait_until(lambda: say.publish(text("cdr")) or seen, "a sample")
    assert seen[0] == serialize_message(text("cdr"))
    heard = robot.hear(String, "/learner/down", LATCHED)
    payload = serialize_message(text("from the stock bridge"))
    wait_until(lambda: stock.put("learner/down", payload) or heard, "a sample back")
    assert counts(bridge, "learner/down").repeated or len(heard) == 1
    subscriber.undeclare()


def test_a_rogue_robot_harms_nobody(world: BridgeWorld, tmp_path: Path) -> None:
    """The routes of the table, over mutual TLS with access control."""
    endpoint = world.endpoint.replace("tcp/", "tls/")
    world.kill_router()
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    ends = {name: network.add("robot", name) for name in ("r0", "r1")}
    ends["learner"] = network.add("learner", "learner")
    world.run(RouterConfig(network=str(network.folder)))

    def end(name: str) -> ZenohConfig:
        folder = str(ends[name].folder)
        return ZenohConfig(connect=(endpoint,), credentials=folder, shared_memory=False)

    cloud, robot = world.graph(), world.graph()
    above = world.bridge(cloud, role="learner", zenoh=end("learner"))
    world.bridge(robot, role="robot", robot="r0", zenoh=end("r0"))
    rogue = world.session(end("r1"))
    state = cloud.hear(ActorStatus, "/r0/actor_status")
    acks = robot.hear(TrajectoryAck, "/learner/trajectory_ack")
    say = robot.speaker(ActorStatus, "/r0/actor_status")
    acknowledge = cloud.speaker(TrajectoryAck, "/learner/trajectory_ack")

    def both() -> bool:
        say.publish(ActorStatus(actor="r0"))
        acknowledge.publish(TrajectoryAck(producer="r0"))
        time.sleep(0.05)
        return bool(state and acks)

    wait_until(both, "robot and learner hear each other")
    chunk = serialize_message(TrajectoryChunk(producer="r1"))
    for _ in range(3):
        for key, data in (
            ("learner/trajectory_ack", serialize_message(TrajectoryAck(producer="forged"))),
            ("r0/actor_status", serialize_message(ActorStatus(actor="forged"))),
            ("r1/trajectory", chunk[:-5]),
            ("r1/actor_status", serialize_message(ActorStatus()) + bytes(2**20)),
            ("r1/trajectory", chunk),
        ):
            rogue.put(key, data, congestion_control=zenoh.CongestionControl.BLOCK)
    account, status = counts(above, "*/trajectory"), counts(above, "*/actor_status")
    wait_until(lambda: account.refused == {"codec": 3}, f"counted: {account.refused}")
    wait_until(lambda: status.refused == {"oversized": 3}, f"counted: {status.refused}")
    wait_until(lambda: account.carried == 3, "what is right is carried")
    before = len(state), len(acks)
    wait_until(
        lambda: both() and len(state) > before[0] and len(acks) > before[1], "the others go on"
    )
    assert {m.actor for m in state} == {"r0"}
    assert {m.producer for m in acks} == {"r0"}


def test_the_table_says_which_topics_cross() -> None:
    robot = BridgeConfig(role="robot", robot="arm0").all_routes()
    learner = BridgeConfig(role="learner", inference_for=("arm0",)).all_routes()
    outs = {r.key for r in robot if r.direction == "out"}
    assert {"arm0/trajectory", "arm0/actor_status", "arm0/robot_spec"} <= outs
    assert {r.key for r in robot if r.direction == "in"} == {
        r.key for r in learner if r.direction == "out"
    }
    assert {r.key.replace("*", "arm0") for r in learner if r.direction == "in"} == outs
    local = {topic.name for topic in topics.TOPICS} - {c.topic.name for c in CROSSINGS}
    assert {"observation", "action", "camera/{camera}/image_raw", "intervention"} <= local
    (policy,) = [r for r in robot if r.key == "learner/policy"]
    assert policy.latched
    assert policy.type == "user_msgs/msg/PolicyVersion"
    assert not any(c.waits for c in CROSSINGS if c.way is Way.DOWN)  # one slow robot stops nobody
    assert {c.topic for c in CROSSINGS} <= set(topics.TOPICS)
    two = BridgeConfig(role="learner", inference_for=("arm0", "arm1")).all_routes()
    answers = {(r.topic, r.key) for r in two if r.topic.endswith("remote_action")}
    assert answers == {
        (f"/{n}/remote_action", f"learner/{n}/remote_action") for n in ("arm0", "arm1")
    }
    assert not any("remote_action" in r.key for r in BridgeConfig(role="learner").all_routes())
    less = BridgeConfig(role="robot", robot="arm0", leave_out=("/diagnostics",)).all_routes()
    assert outs - {r.key for r in less} == {"arm0/diagnostics"}
