"""replay_node and learner_node as processes, an actor and a robot played by this one."""

import os
import signal
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor

from user_comm import topics
from user_comm.converters import CONVERTERS, RobotDescription
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.topics import interface_class, profile
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.specs import ArraySpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_learner.replay.meaning import write_meaning
from user_learner.upkeep.retention import survives_thinning
from user_testing.ports import free_endpoint
from user_testing.waiting import wait_until
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, Actor, Plan, contents, fill

SPEC = FakeRobot(FakeRobotConfig()).spec
SCHEMA = TrajectorySchema.of(SPEC)


class Peer:
    """This process's end of the topics."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain, args=[])
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.got = {}
        self.thread = threading.Thread(target=self.spin, daemon=True)
        self.publishers = {}

    def spin(self):
        while self.context.ok():
            try:
                self.executor.spin_once(timeout_sec=0.1)
            except Exception:
                return

    def listen(self, topic):
        values = self.got[topic.name] = []
        known = CONVERTERS.get(topic.type)
        decode = known.decode if known is not None else lambda message: message
        self.node.create_subscription(
            interface_class(topic.type),
            topic.name,
            lambda message: values.append(decode(message)),
            profile(topic.quality),
        )
        return values

    def publisher(self, topic):
        return self.node.create_publisher(
            interface_class(topic.type), topic.name, profile(topic.quality)
        )

    def publish(self, topic, value):
        if topic.name not in self.publishers:
            self.publishers[topic.name] = self.publisher(topic)
        self.publishers[topic.name].publish(CONVERTERS[topic.type].encode(value))

    def close(self):
        self.context.try_shutdown()
        self.thread.join(60)


@pytest.fixture
def peer(ros_domain):
    peer = Peer(ros_domain)
    peer.acks = peer.listen(topics.TRAJECTORY_ACK)
    peer.replay_status = peer.listen(topics.REPLAY_STATUS)
    peer.learner_status = peer.listen(topics.LEARNER_STATUS)
    peer.policies = peer.listen(topics.POLICY)
    peer.publisher(topics.TRAJECTORY)
    peer.thread.start()
    yield peer
    peer.close()


@pytest.fixture
def start_node(start_process, tmp_path, ros_domain):
    def start(name, **parameters):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        code = f"from user_learner.nodes.{name} import main; main()"
        return start_process(
            [sys.executable, "-c", code, "--ros-args", "--params-file", str(file)],
            env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain)},
        )

    return start


def chunk(sequence, rows=20, source=EpisodeSource.ONLINE, schema=SCHEMA, robot=None):
    """Every chunk is an episode of its own, driven straight to the goal."""
    rng = np.random.default_rng(sequence)
    steps = []
    for row in range(rows - 1):
        position, goal = rng.uniform(-0.5, 0.5, (2, 2)).astype(np.float32)
        action = np.clip((goal - position) * 5, -1, 1)
        steps.append(Step({"position": position, "goal": goal}, action, action, 0.1 * row))
    steps.append(FinalObservation(steps[-1].observation))
    return TrajectoryChunk(
        ChunkId("actor0", 7, sequence),
        EpisodeKey("actor0", 7, sequence),
        source,
        0,
        schema.rows(steps),
        schema.hash,
        robot="fake",
        task="reach",
    )


def send_until_acknowledged(peer, chunks, timeout_s=60.0):
    """As an outbox does: again and again, until the ack says so."""
    last = max(chunk.id.sequence for chunk in chunks)
    deadline_s = time.monotonic() + timeout_s
    while not any(ack.sequence >= last for ack in peer.acks):
        assert time.monotonic() < deadline_s, f"no ack for {last}: {peer.acks[-3:]}"
        for one in chunks:
            peer.publish(topics.TRAJECTORY, one)
        time.sleep(0.2)


def test_a_robot_whose_data_look_wrong_is_named_in_status(peer, start_node, tmp_path):
    """Its rewards are all one number, though some episodes succeed; and its actions are all changed.

    What came before the one whose turn it is counts, too: on a link that loses or reorders, most of a robot's do.
    """
    chunks = []
    for sequence in range(1, 21):
        one = chunk(sequence)
        one.columns["reward"][:] = 0.0
        one.columns["proposed_action"][:-1] = np.where(one.columns["action"][:-1] > 0, -0.9, 0.9)
        outcome = Outcome.SUCCESS if sequence % 3 else Outcome.TIMEOUT
        result = EpisodeResult(one.episode, one.source, outcome, 19, 0.0, 0)
        chunks.append(replace(one, result=result))
    start_node("replay", path=str(tmp_path / "s"), autostart=True, **{"store.min_free_bytes": 0})
    send_until_acknowledged(peer, [*chunks[7:], *chunks[:7]])
    codes = ["rewards_constant", "actions_clipped"]
    said = lambda: peer.replay_status[-1] if peer.replay_status else None  # noqa: E731
    wait_until(lambda: said() and list(said().warning_codes) == codes, "flags", seen=said)
    assert said().chunks == len(chunks)
    assert all(text.startswith("fake: ") for text in said().warnings)


def stored_sequences(path):
    with_numbers = []
    reader = StoreReader(path)
    try:
        for episode in reader.episodes():
            with_numbers.append((episode.key.number, episode.rows))
    finally:
        reader.close()
    return sorted(with_numbers)


def test_chunks_are_acknowledged_and_stored_once_also_across_kills(peer, start_node, tmp_path):
    store = tmp_path / "store"
    chunks = [chunk(sequence) for sequence in range(1, 31)]
    parameters = {"path": str(store), "autostart": True, "store.min_free_bytes": 0}
    process = start_node("replay", **parameters)
    send_until_acknowledged(peer, chunks[:10])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    peer.acks.clear()
    process = start_node("replay", **parameters)
    # Without being asked, it tells who has come back how far it got.
    wait_until(lambda: any(ack.sequence >= 10 for ack in peer.acks), "the greeting")
    send_until_acknowledged(peer, chunks)
    assert len({ack.store for ack in peer.acks}) == 1
    wait_until(lambda: peer.replay_status and peer.replay_status[-1].steps == 30 * 19, "the status")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert stored_sequences(store) == [(sequence, 20) for sequence in range(1, 31)]


@pytest.fixture
def two_full_segments(tmp_path):
    """A store of images with these, and a third that is not full."""
    store = tmp_path / "store"
    with StoreWriter(store, config=QUICK.replace(segment_bytes=1)) as writer:  # 1024 rows each
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100), [Plan(100)] * 25)
    return store


def test_images_of_full_segments_are_compressed_in_the_background(
    peer, start_node, two_full_segments
):
    store = two_full_segments
    start_node(
        "replay", path=str(store), autostart=True, retention_period_s=0.2,
        **{"store.min_free_bytes": 0, "store.compression.raw_bytes": 0},
    )  # fmt: skip
    raw = 25 * 101 * IMAGE_SCHEMA.row_nbytes
    wait_until(
        lambda: peer.replay_status and 0 < peer.replay_status[-1].disk_bytes < raw / 2, "the status"
    )
    assert len(list(store.rglob("*.packed"))) == 2
    assert verify(store).ok


def test_old_episodes_are_thinned_out_in_the_background_once(peer, start_node, two_full_segments):
    store = two_full_segments
    with closing(StoreReader(store)) as reader:
        open_ones = "SELECT DISTINCT x.episode FROM extents x JOIN segments s ON s.id = x.segment WHERE NOT sealed"
        stays = {number for (number,) in reader.connection.execute(open_ones)}
        wanted = {
            e.key for e in reader.episodes()
            if survives_thinning(e.key, 2) or reader.episode_number(e.key) in stays
        }  # fmt: skip
    start_node(
        "replay", path=str(store), autostart=True, retention_period_s=0.2,
        **{"store.min_free_bytes": 0, "store.retention.max_rows": 1, "store.retention.thin": 2},
    )  # fmt: skip
    assert 0 < len(wanted) < 25
    wait_until(
        lambda: peer.replay_status and peer.replay_status[-1].episodes == len(wanted), "the status"
    )
    seen = len(peer.replay_status)
    wait_until(lambda: len(peer.replay_status) > seen + 2, "more statuses, and retention between")
    assert contents(store).keys() == wanted
    assert verify(store).ok


@pytest.mark.parametrize(("camera", "packed"), [("nowhere", 0), ("image_wrist", 2)])
def test_segments_are_moved_after_they_were_compressed_or_could_not_be(
    peer, start_node, two_full_segments, tmp_path, camera, packed
):
    store = two_full_segments
    start_node(
        "replay", path=str(store), autostart=True, retention_period_s=0.2,
        **{"store.min_free_bytes": 0, "store.compression.raw_bytes": 0,
           f"store.compression.cameras.{camera}": "zstd", "tier.folder": str(tmp_path / "slow"),
           "tier.keep_here_mb": 0.0},
    )  # fmt: skip
    wait_until(
        lambda: sum(path.is_symlink() for path in (store / "segments").iterdir()) == 2, "the move"
    )
    assert len(list((tmp_path / "slow").rglob("*.packed"))) == packed


def test_a_chunk_of_another_schema_is_refused_with_the_difference(peer, start_node, tmp_path):
    store = tmp_path / "store"
    start_node("replay", path=str(store), autostart=True, **{"store.min_free_bytes": 0})
    send_until_acknowledged(peer, [chunk(1)])
    columns = {**SCHEMA.columns, "observation.more": ArraySpec((2,))}
    other = TrajectorySchema(columns)
    wrong = chunk(2)
    wrong = replace(
        wrong,
        columns={**wrong.columns, "observation.more": np.zeros((20, 2), np.float32)},
        schema_hash=other.hash,
    )
    deadline_s = time.monotonic() + 60
    while not any(ack.refused == 2 for ack in peer.acks):
        assert time.monotonic() < deadline_s, "no refusal"
        peer.publish(topics.TRAJECTORY, wrong)
        time.sleep(0.2)
    refusal = next(ack for ack in peer.acks if ack.refused == 2)
    assert refusal.error_code == "schema_mismatch"
    assert "observation.more" in refusal.error
    assert refusal.sequence == 1


def test_a_robot_whose_numbers_mean_something_else_is_refused_in_words(peer, start_node, tmp_path):
    store = tmp_path / "store"
    process = start_node("replay", path=str(store), autostart=True, **{"store.min_free_bytes": 0})
    send_until_acknowledged(peer, [chunk(1)])
    write_meaning(store, SPEC)
    said = peer.node.create_publisher(
        interface_class(topics.ROBOT_SPEC.type),
        "/arm7/robot_spec",
        profile(topics.ROBOT_SPEC.quality),
    )
    other = replace(SPEC, period_s=SPEC.period_s / 3)
    said.publish(CONVERTERS[topics.ROBOT_SPEC.type].encode(RobotDescription(other)))
    wait_until(lambda: said.get_subscription_count(), "the replay node to hear of the robot")
    foreign = chunk(1)
    name = "arm7.actor"
    deadline_s, number = time.monotonic() + 30, 0
    while not any(ack.producer == name and ack.error for ack in peer.acks):
        assert time.monotonic() < deadline_s, "no refusal"
        number += 1  # what came before its spec was heard was taken
        peer.publish(
            topics.TRAJECTORY,
            replace(foreign, id=ChunkId(name, 7, number), episode=EpisodeKey(name, 7, number)),
        )
        time.sleep(0.2)
    refusal = next(ack for ack in peer.acks if ack.producer == name and ack.error)
    assert refusal.error_code == "schema_mismatch"
    assert "period" in refusal.error
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_learner_trains_publishes_and_resumes_after_a_kill(peer, start_node, tmp_path):
    store, endpoint = tmp_path / "store", free_endpoint()
    start_node("replay", path=str(store), autostart=True, **{"store.min_free_bytes": 0})
    send_until_acknowledged(peer, [chunk(n, source=EpisodeSource.DEMONSTRATION) for n in (1, 2)])
    parameters = {
        "autostart": True,
        "directory": str(tmp_path / "learner"),
        "store": str(store),
        "algorithm.plugin": "bc",
        "policy.params": "{hidden: [32, 32]}",
        "training.batch_size": 32,
        "training.utd.learning_starts": 0,
        "training.utd.initial_updates": 1_000_000,
        "training.publish_period_s": 0.2,
        "training.checkpoint_period_s": 0.2,
        "training.threads": 1,
        "zenoh.listen": [endpoint],
        "key": "test/policy",
    }
    learner = start_node("learner", **parameters)
    wait_until(lambda: peer.learner_status, "a status")
    assert "waiting for the robot's spec" in peer.learner_status[-1].warnings
    peer.publish(topics.ROBOT_SPEC, RobotDescription(SPEC, "reach"))
    wait_until(lambda: len(peer.policies) >= 3, "three versions")

    connect = ZenohConfig(connect=(endpoint,), shared_memory=False)
    with PolicyPuller(lambda stop: open_session(connect, stop)) as puller:
        announced = peer.policies[-1]  # a newer one may be announced at any moment
        puller.announced(announced)
        wait_until(lambda: puller.newest(0), "a version over Zenoh")
        assert puller.newest(0).number == announced.number or puller.stats.superseded
        wait_until(lambda: peer.learner_status[-1].checkpoint_update > 0, "a checkpoint")
        before, highest = peer.learner_status[-1], peer.policies[-1].number

        os.kill(learner.pid, signal.SIGKILL)
        learner.wait()
        peer.policies.clear()
        peer.learner_status.clear()
        learner = start_node("learner", **parameters)  # no robot says its spec this time
        wait_until(lambda: peer.policies, "a version after the restart")
        assert peer.policies[0].number > highest
        wait_until(lambda: peer.learner_status and peer.learner_status[-1].update > 0, "updates")
        assert peer.learner_status[-1].update >= before.checkpoint_update
        puller.announced(peer.policies[-1])
        wait_until(lambda: puller.newest(highest), "a version over Zenoh after the restart")
    learner.send_signal(signal.SIGINT)
    assert learner.wait(30) == 0
