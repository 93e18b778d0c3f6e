"""record_node as a process: what a robot publishes stands in a bag that other tools read, also after a kill."""

from pathlib import Path

import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from user_bringup.bags.reading import Bag
from user_core.errors import CodecError
from user_learner.data.mcap.bags import is_indexed
from user_testing.processes import NodeProcess
from user_testing.waiting import wait_until

pytest.importorskip("mcap")
highlevel = pytest.importorskip("rosbags.highlevel")


def joint_states(bag: Bag) -> list[float]:
    topic = "/r0/joint_states"
    if topic not in bag.types:
        return []
    return [float(bag.decode(message).position[0]) for message in bag.messages([topic])]


def test_what_is_published_is_recorded_and_a_kill_loses_a_second_at_most(tmp_path, ros_domain):
    folder = tmp_path / "record"
    parameters = {
        "autostart": True, "folder": str(folder), "flush_s": 0.1, "keep_free_mb": 0.0,
        "topics": ["/extra/.*"],
    }  # fmt: skip
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    node = rclpy.create_node("robot", context=context)
    recorder = NodeProcess("user_bringup.nodes.record", parameters, tmp_path)
    try:
        states = node.create_publisher(JointState, "/r0/joint_states", 10)
        extra = node.create_publisher(String, "/extra/words", 10)
        node.create_publisher(String, "/private", 10).publish(String(data="x"))
        kept = node.create_publisher(
            String, "/r0/robot_description",
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )  # fmt: skip
        kept.publish(String(data="<robot/>"))
        recorder.start()
        sent = 0

        def recorded() -> bool:
            nonlocal sent
            sent += 1
            message = JointState(name=["lift"], position=[float(sent)])
            message.header.stamp.sec = sent
            states.publish(message)
            extra.publish(String(data=str(sent)))
            if not any(folder.glob("*.mcap")):
                return False
            try:
                return len(joint_states(Bag(folder))) > 20
            except CodecError:  # no messages: only its head is there
                return False

        wait_until(recorded, "joint states in the bag", period_s=0.02)
        recorder.kill()
    finally:
        recorder.close()
        node.destroy_node()
        context.try_shutdown()
    (file,) = folder.glob("*.mcap")
    assert not is_indexed(file)
    bag = Bag(folder)
    found = joint_states(bag)
    assert found == [found[0] + k for k in range(len(found))]  # each once, in order
    assert set(bag.types) >= {"/r0/joint_states", "/extra/words", "/r0/robot_description"}
    assert "/private" not in bag.types
    (said,) = bag.messages(["/r0/robot_description"])
    assert bag.decode(said).data == "<robot/>"
    again = NodeProcess("user_bringup.nodes.record", parameters, Path(tmp_path))
    try:
        again.start()
        wait_until(lambda: is_indexed(file), "the index of what was cut off")
    finally:
        again.close()
    with highlevel.AnyReader([file]) as reader:
        assert sum(
            (c.topic == "/r0/joint_states" and c.msgcount) or 0 for c in reader.connections
        ) == len(found)
