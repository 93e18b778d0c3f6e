"""Poses and transforms looked up by name through the tree of /tf and /tf_static."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault, DeviceTimeout, ImplausibleReading
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import MESSAGES, Header, Quaternion, Time, TwistStamped, Vector3
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.frames import Frames
from user_hal.robots.ros2.reading.observations import Observer
from user_hal.robots.ros2.tf_tree import TF_MESSAGE, TfTree
from user_testing.waiting import wait_until

START_NS = 10**18
HALF_TURN = (0.0, 0.0, 1.0, 0.0)
QUARTER = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))


@dataclass
class TFMessage:
    """tf2_msgs/msg/TFMessage."""

    transforms: list[Any] = field(default_factory=list)


def transform(
    parent: str,
    child: str,
    xyz: tuple[float, ...] = (0.0, 0.0, 0.0),
    turn: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0),
    stamp_ns: int = START_NS,
) -> Any:
    return SimpleNamespace(
        header=Header(Time(*divmod(stamp_ns, 10**9)), parent),
        child_frame_id=child,
        transform=SimpleNamespace(translation=Vector3(*xyz), rotation=Quaternion(*turn)),
    )


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        monkeypatch.setitem(MESSAGES, TF_MESSAGE, TFMessage)
        self.now_ns = START_NS
        self.io = LocalTopics(lambda: self.now_ns)
        self.moving = self.io.publisher("/tf", TF_MESSAGE)
        self.fixed = self.io.publisher("/tf_static", TF_MESSAGE, latched=True)
        self.observer = Observer(contract(**changes))

    def read(self, name: str = "tcp_pose") -> np.ndarray:
        return self.observer.read()[0][name]


def contract(**changes: Any) -> Ros2Config:
    return from_mapping(
        Ros2Config,
        {
            "robot": "ur",
            "base_frame": "base_link",
            "observation": {"tcp_pose": {"tf": "tool0"}},
            "action": {
                "kind": "ee_delta", "low": -0.1, "high": 0.1,
                "command": {"topic": "/servo", "type": "geometry_msgs/msg/TwistStamped"},
            },
            "timing": {"max_age_s": 0.5, "max_skew_s": 0.05, "connect_timeout_s": 0.2},
            **changes,
        },
    )  # fmt: skip


def test_a_pose_is_looked_up_by_name_whatever_the_order_and_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """lbr_fri_ros2_stack#177: by index, 23 of 40 readings were the camera's frame."""
    world = World(monkeypatch)
    world.fixed.publish(TFMessage([transform("flange", "tool0", (0.0, 0.0, 0.1))]))
    world.observer.subscribe(world.io)
    sent = [
        transform("base_link", "base", turn=HALF_TURN),
        transform("base", "flange", (0.4, 0.1, 0.3)),
        transform("world", "camera", (9.0, 0.0, 0.0)),
    ]
    for turn in range(3):
        world.moving.publish(TFMessage(sent[turn:] + sent[:turn]))
        np.testing.assert_allclose(world.read(), [-0.4, -0.1, 0.4, 0.0, 0.0, 1.0, 0.0], atol=1e-6)
    spec = world.observer.specs["tcp_pose"]
    assert spec.frame == "base_link" and spec.names[:3] == ("x", "y", "z")


def test_a_moving_pose_is_interpolated_at_the_common_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.observer.subscribe(world.io)
    for step in range(3):
        stamp_ns = START_NS + step * 20_000_000
        turn = (0.0, 0.0, math.sin(step * 0.1), math.cos(step * 0.1))
        world.moving.publish(
            TFMessage([transform("base_link", "arm", (0.1 * step, 0.0, 0.0), turn, stamp_ns)])
        )
    world.now_ns = START_NS + 50_000_000
    world.moving.publish(
        TFMessage([transform("arm", "tool0", (1.0, 0.0, 0.0), stamp_ns=START_NS + 30_000_000)])
    )
    arrays, moment_ns = world.observer.read()
    assert moment_ns == START_NS + 30_000_000  # up to which both frames are known
    np.testing.assert_allclose(arrays["tcp_pose"][0], 0.15 + math.cos(0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([], r"no message on /tf or /tf_static"),
        ([transform("base_link", "arm")], r"frame 'tool0': got no transform.*\['arm', 'base_link'"),
        ([transform("base_link", "tool1")], r"Did you mean 'tool1'"),
        ([transform("base_link", "arm"), transform("wrist", "tool0")],
         r"'tool0' to 'base_link': got two trees: tool0 < wrist, and base_link, "
         r"expected a transform that links 'wrist' and 'base_link'.*transforms: \{wrist: "),
        ([transform("base_link", "tool0", (float("nan"), 0.0, 0.0))], "sent numbers that are no"),
        ([transform("base_link", "arm"), transform("arm", "base_link")], "above itself"),
    ],
)  # fmt: skip
def test_the_missing_link_is_named(
    monkeypatch: pytest.MonkeyPatch, sent: list[Any], message: str
) -> None:
    world = World(monkeypatch)
    if sent:
        world.fixed.publish(TFMessage(sent))
    with pytest.raises((DeviceFault, DeviceTimeout), match=message):
        world.observer.open(world.io)
    world.observer.close()


def test_a_link_that_the_contract_gives_need_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, transforms={"wrist": {"parent": "base_link", "xyz": [0, 0, 1.0]}})
    world.fixed.publish(TFMessage([transform("wrist", "tool0", (0.0, 0.5, 0.0))]))
    world.observer.subscribe(world.io)
    np.testing.assert_allclose(world.read()[:3], [0.0, 0.5, 1.0])


def test_a_frame_that_is_not_sent_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, timing={"max_age_s": 0.05})
    world.observer.subscribe(world.io)
    world.moving.publish(TFMessage([transform("base_link", "tool0")]))
    world.read()
    time.sleep(0.06)
    with pytest.raises(DeviceTimeout, match="frame 'tool0' in 'base_link' on /tf.*s old"):
        world.read()


def test_stamps_of_tf_from_another_clock_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.observer.subscribe(world.io)
    for behind_ns, text in ((3 * 10**9, "behind"), (-3 * 10**9, "ahead")):
        world.moving.publish(
            TFMessage([transform("base_link", f"tool{behind_ns}", stamp_ns=START_NS - behind_ns)])
        )
        world.observer.sources["tcp_pose"].parts[0]._source = f"tool{behind_ns}"
        with pytest.raises(DeviceFault, match=rf"3\.000 s old: .*{text}.*Synchronise the clocks"):
            world.read()


def test_two_nodes_that_send_one_frame_are_told() -> None:
    tree = TfTree()
    for count in range(10):
        parent, stamp_ns = ("base_link", "world")[count % 2], START_NS + count
        tree.put(parent, "tool0", np.array([0.0] * 6 + [1.0]), stamp_ns, count, fixed=False)
    with pytest.raises(DeviceFault, match=r"2 parents in turn: \['base_link', 'world'\]"):
        tree.lookup(tree._links["tool0"].parent, "tool0")


def test_a_choice_by_the_order_of_transforms_is_refused() -> None:
    by_index = {"topic": "/tf", "type": TF_MESSAGE, "field": "transforms[0].transform"}
    with pytest.raises(ConfigError, match="order of transforms.*Write tf: FRAME"):
        contract(observation={"tcp_pose": by_index})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tf": "tool0", "field": "pose"}, "none beside tf"),
        ({"tf": "tool0", "layout": "twist"}, "expected 6|expected pose, for tf"),
        ({"topic": "/pose"}, "type, field of /pose: got nothing, expected topic, type and field"),
    ],
)
def test_what_does_not_go_with_tf_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract(observation={"tcp_pose": entry})


def twist_world(monkeypatch: pytest.MonkeyPatch, **entry: Any) -> World:
    """A twist in the frame of the flange, which moves."""
    twist = {"topic": "/twist", "type": "geometry_msgs/msg/TwistStamped", "field": "twist"}
    return World(
        monkeypatch,
        use_tf=True,
        observation={
            "tcp_pose": {"tf": "tool0"},
            "tcp_velocity": {**twist, "frame": "flange", **entry},
        },
    )


@pytest.mark.parametrize(
    ("taken_at", "linear"),
    [("auto", [0.0, 1.0, 0.0]), ("tool", [0.0, 1.0, 0.0]), ("origin", [0.0, -1.0, 0.0])],
)
def test_a_twist_in_a_moving_frame_is_taken_to_the_base(
    monkeypatch: pytest.MonkeyPatch, taken_at: str, linear: list[float]
) -> None:
    world = twist_world(monkeypatch, taken_at=taken_at)
    world.observer.subscribe(world.io)
    world.moving.publish(
        TFMessage(
            [
                transform("base_link", "flange", (1.0, 0.0, 0.0), QUARTER),
                transform("flange", "tool0"),
            ]
        )
    )
    message = TwistStamped(Header(Time(*divmod(START_NS, 10**9)), "flange"))
    message.twist.linear, message.twist.angular = Vector3(1.0, 0.0, 0.0), Vector3(0.0, 0.0, 2.0)
    world.io.publisher("/twist", "geometry_msgs/msg/TwistStamped").publish(message)
    np.testing.assert_allclose(world.read("tcp_velocity"), [*linear, 0.0, 0.0, 2.0], atol=1e-6)
    assert world.observer.specs["tcp_velocity"].frame == "base_link"


def test_a_moving_frame_that_is_not_known_is_a_fault_of_the_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = twist_world(monkeypatch)
    world.observer.subscribe(world.io)
    world.moving.publish(TFMessage([transform("base_link", "tool0")]))
    message = TwistStamped(Header(Time(*divmod(START_NS, 10**9)), "flange"))
    world.io.publisher("/twist", "geometry_msgs/msg/TwistStamped").publish(message)
    with pytest.raises(DeviceFault, match="'/twist'.*tcp_velocity'.: frame 'flange'"):
        world.read()


def test_without_tf_another_frame_is_refused_as_before() -> None:
    pose = {"topic": "/pose", "type": "geometry_msgs/msg/PoseStamped", "field": "pose"}
    with pytest.raises(ConfigError, match="use_tf: true"):
        contract(observation={"tcp_pose": {**pose, "frame": "base"}})
    contract(observation={"tcp_pose": {**pose, "frame": "base"}}, use_tf=True)


def test_a_wrench_and_a_twist_at_another_origin() -> None:
    """The same power and the same force field, whatever the frame: f.v + t.w is kept."""
    way = Frames({"s": ("b", (0.3, -0.2, 0.5), (0.4, -1.0, 2.0))}).between("s", "b")
    assert way is not None
    rng = np.random.default_rng(1)
    wrench, twist = rng.normal(size=6), rng.normal(size=6)
    there_wrench = way.apply("wrench", wrench)
    there_twist = way.apply("twist", twist, "origin")
    assert there_wrench @ there_twist == pytest.approx(wrench @ twist)
    np.testing.assert_allclose(
        way.apply("wrench", wrench, "tool")[3:], way.rotated(wrench[3:])
    )  # about the tool's own point: only the axes turn


def test_commands_follow_a_moving_frame_and_a_stop_goes_out_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pose = "geometry_msgs/msg/PoseStamped"
    command = {"topic": "/target", "type": pose, "frame": "cart", "require_subscriber": False}
    world = World(
        monkeypatch,
        use_tf=True,
        timing={"max_age_s": 0.1, "connect_timeout_s": 0.2},
        observation={"tcp_pose": {"topic": "/pose", "type": pose, "field": "pose"}},
        action={"kind": "ee_delta", "low": -0.1, "high": 0.1, "command": command},
    )
    robot = Ros2Robot(world.observer._contract)
    robot.attach(world.io)
    seen: list[Any] = []
    world.io.subscribe("/target", pose, seen.append)
    publisher = world.io.publisher("/pose", pose)

    def show(x: float, *, cart: bool = True) -> None:
        message = publisher.new()
        message.header.frame_id = "base_link"
        message.pose.position.x = x
        publisher.publish(message)
        if cart:
            world.moving.publish(TFMessage([transform("cart", "base_link", (0.0, x, 0.0))]))

    threading.Timer(0.02, show, (0.5,)).start()
    robot.connect()
    show(0.5)
    robot.command(np.array([0.05, 0, 0, 0, 0, 0], np.float32))
    assert seen[-1].header.frame_id == "cart"
    place = seen[-1].pose.position
    np.testing.assert_allclose([place.x, place.y], [0.55, 0.5], atol=1e-6)

    def refused() -> str:
        show(0.55, cart=False)
        try:
            robot.command(np.zeros(6, np.float32))
        except DeviceTimeout as error:
            return str(error)
        return ""

    text = wait_until(refused, "a command that is refused")
    assert "way from frame 'base_link' to 'cart' (/tf): got nothing new for" in text
    robot.stop()
    place = seen[-1].pose.position
    np.testing.assert_allclose([place.x, place.y], [0.55, 0.5], atol=1e-6)
    robot.close()


def test_a_tool_that_jumps_on_tf_is_a_fault_until_readings_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, tool_velocity_limits=[1.0, 3.0])
    world.observer.subscribe(world.io)

    def tool_at(x: float) -> np.ndarray:
        world.now_ns += 20_000_000
        world.moving.publish(
            TFMessage([transform("base_link", "tool0", (x, 0.0, 0.3), stamp_ns=world.now_ns)])
        )
        return world.read()

    np.testing.assert_allclose(tool_at(0.40)[0], 0.40)
    np.testing.assert_allclose(tool_at(0.41)[0], 0.41, rtol=1e-6)
    for _ in range(5):
        with pytest.raises(ImplausibleReading, match="frame 'tool0' .*the tool: got a jump from"):
            tool_at(0.0)
    np.testing.assert_allclose(tool_at(0.0)[0], 0.0)
