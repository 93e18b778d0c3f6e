"""What the graph tells: quality of service, controllers, others who command."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from user_core.errors import SafetyError
from user_hal.checking.findings import Level, Section
from user_hal.checking.graph import (
    LIST_CONTROLLERS,
    Ours,
    controller_behind,
    list_controllers,
    look_at_graph,
)
from user_hal.checking.muted import MutedTopics
from user_hal.checking.streams import TopicUse, call_uses
from user_hal.cli.check import _without_calls
from user_hal.fakes.local_topics import LocalTopics
from user_hal.robot_file import RobotFile
from user_hal.topic_io import GET_STATE, incompatible

JOINTS = "sensor_msgs/msg/JointState"
COMMAND = "std_msgs/msg/Float64MultiArray"


class Graph(LocalTopics):
    """Local topics whose ends have chosen qualities, beside a controller_manager."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, tuple[list[Ours], list[Ours]]] = {}
        self.controllers: list[Any] = []
        self.services["/controller_manager/list_controllers"] = lambda _: SimpleNamespace(
            controller=self.controllers
        )

    def endpoints(self, topic: str) -> Any:
        return self.ends.get(topic, ([], []))

    def service_types(self) -> dict[str, Sequence[str]]:
        return {**super().service_types(), "/controller_manager/list_controllers": [LIST_CONTROLLERS]}  # fmt: skip


def controller(name: str, state: str, *joints: str) -> Any:
    return SimpleNamespace(
        name=name,
        state=state,
        type="some/Controller",
        claimed_interfaces=[f"{joint}/position" for joint in joints],
        required_command_interfaces=[f"{joint}/position" for joint in joints],
    )


READ = TopicUse("observation.joint_position", "/joint_states", JOINTS, True, {})
RELIABLE = TopicUse("observation.x", "/joint_states", JOINTS, True, {"reliability": "reliable"})
TOLD = TopicUse("action.command", "/fwd/commands", COMMAND, False, {})


def found(graph: Graph, *uses: TopicUse) -> Section:
    return look_at_graph(MutedTopics(graph), uses)


def test_everything_fits() -> None:
    graph = Graph()
    graph.ends = {"/joint_states": ([Ours(JOINTS)], []), "/fwd/commands": ([], [Ours(COMMAND)])}
    section = found(graph, READ, TOLD)
    assert not section.failed and section.findings[0].level is Level.OK


@pytest.mark.parametrize(
    ("use", "publisher", "text"),
    [
        (RELIABLE, Ours(JOINTS, "best_effort", node="/driver"),
         "/driver publishes it, and does not fit: reliability: best_effort offered, reliable"),
        (TopicUse("observation.x", "/joint_states", JOINTS, True, {"latched": True}),
         Ours(JOINTS, node="/driver"), "durability: volatile offered, transient_local asked for"),
        (READ, Ours("sensor_msgs/msg/Joy", node="/pad"), "type: sensor_msgs/msg/Joy offered"),
    ],
)  # fmt: skip
def test_incompatible_publishers_are_named_with_the_policy(
    use: TopicUse, publisher: Ours, text: str
) -> None:
    graph = Graph()
    graph.ends = {"/joint_states": ([publisher], [])}
    section = found(graph, use)
    assert section.failed and any(text in finding.text for finding in section.findings)


def test_incompatible_listeners_are_named_with_the_policy() -> None:
    graph = Graph()
    listener = Ours(COMMAND, durability="transient_local", node="/controller")
    graph.ends = {"/fwd/commands": ([], [listener])}
    section = found(graph, TOLD)
    assert "/controller hears it, and does not fit: durability" in section.findings[0].text
    assert incompatible(Ours("a"), Ours("a", deadline_s=0.1)).startswith("deadline: none offered")
    assert incompatible(Ours("a", deadline_s=0.05), Ours("a", deadline_s=0.1)) == ""
    assert "liveliness" in incompatible(Ours("a"), Ours("a", liveliness="manual_by_topic"))


def test_who_is_missing_and_who_is_too_many() -> None:
    graph = Graph()
    graph.ends = {
        "/joint_states": ([Ours(JOINTS, node="/a"), Ours(JOINTS, node="/b")], []),
        "/fwd/commands": ([Ours(COMMAND, node="/moveit")], []),
    }
    texts = [finding.text for finding in found(graph, READ, TOLD).findings]
    assert texts == [
        "/joint_states has 2 publishers: /a, /b",
        "/fwd/commands: nobody listens to commands (std_msgs/msg/Float64MultiArray)",
        "/fwd/commands is commanded by others, too: /moveit",
    ]
    assert found(Graph(), READ).failed


def test_inactive_controllers_are_named_with_the_way_to_activate_them() -> None:
    graph = Graph()
    graph.ends = {"/fwd/commands": ([], [Ours(COMMAND)])}
    graph.controllers = [
        controller("fwd", "inactive", "j1", "j2"),
        controller("jtc", "active", "j1", "j2"),
        controller("other", "active", "k1"),
    ]
    finding = next(f for f in found(graph, TOLD).findings if f.level is Level.FAIL)
    assert finding.text == "controller fwd (/fwd/commands) is inactive; jtc has its joints"
    assert finding.hint == "ros2 control switch_controllers --activate fwd --deactivate jtc"
    graph.controllers[0].state = "active"
    assert not found(graph, TOLD).failed
    known, trouble = list_controllers(graph)
    assert not trouble and controller_behind("/ns/jtc/joint_trajectory", known) is known[1]
    assert known[1].joints == ("j1", "j2") and controller_behind("/jtc", known) is None


def test_action_servers_are_looked_for() -> None:
    use = TopicUse("action.gripper", "/hand", "control_msgs/action/GripperCommand", False, {})
    graph = Graph()
    assert "no action server" in found(graph, use).findings[0].text
    graph.serve("/hand", "control_msgs/action/ParallelGripperCommand", print)
    assert "its server is of type control_msgs/action/Par" in found(graph, use).findings[0].text
    other = TopicUse("x", "/hand", "control_msgs/action/ParallelGripperCommand", False, {})
    assert not found(graph, other).failed


def test_calls_that_nobody_answers_are_named() -> None:
    graph = Graph()
    data = {
        "home": {"before": [{"service": "/zero"}]},
        "before": [{"service": "/controller_manager/list_controllers", "type": "x/srv/Other"}],
        "action": {"kind": "joint_delta", "gripper": {"topic": "/hand", "type": "a/srv/Move"}},
        "recover": [{"action": "/hand", "type": "control_msgs/action/GripperCommand"}],
    }
    graph.serve("/hand", "control_msgs/action/GripperCommand", print)
    section = look_at_graph(MutedTopics(graph), [], list(call_uses(data)))
    assert [finding.text for finding in section.findings] == [
        "/zero: nobody answers it (home.before[0], std_srvs/srv/Trigger)",
        f"/controller_manager/list_controllers is of type {LIST_CONTROLLERS}, not x/srv/Other "
        "(before[0])",
        "/hand: nobody answers it (action.gripper, a/srv/Move)",
    ]


def test_a_servo_that_is_not_told_its_command_type_is_named() -> None:
    class Servo(Graph):
        def service_types(self) -> dict[str, Sequence[str]]:
            return {"/servo_node/switch_command_type": ["moveit_msgs/srv/ServoCommandType"]}

    graph, twist = Servo(), "geometry_msgs/msg/TwistStamped"
    topic = "/servo_node/delta_twist_cmds"
    graph.ends = {topic: ([], [Ours(twist)])}
    use = TopicUse("action.command", topic, twist, False, {})
    finding = look_at_graph(MutedTopics(graph), [use]).findings[0]
    assert finding.level is Level.WARN and "until /servo_node/switch_command_type" in finding.text
    before = [{"service": "/servo_node/switch_command_type", "type": "moveit_msgs/srv/ServoCommandType"}]  # fmt: skip
    section = look_at_graph(MutedTopics(graph), [use], list(call_uses({"before": before})))
    assert [finding.level for finding in section.findings] == [Level.OK]


def test_nothing_gets_out_while_it_is_muted() -> None:
    io = LocalTopics()
    heard: list[Any] = []
    io.subscribe("/cmd", COMMAND, heard.append)
    io.serve("/hand", "control_msgs/action/GripperCommand", heard.append)
    io.services["/trigger"] = lambda request: heard.append(request)
    muted = MutedTopics(io)
    publisher = muted.publisher("/cmd", COMMAND)
    goals = muted.goals("/hand", "control_msgs/action/GripperCommand")
    assert publisher.subscribers == 1 and goals.accepted is None
    publisher.publish(publisher.new())
    goals.publish(goals.new())
    goals.publish_or_cancel(goals.new())
    with pytest.raises(SafetyError, match="while nothing is to be moved"):
        muted.act("/trigger", "control_msgs/action/GripperCommand", None, timeout_s=0.1)
    with pytest.raises(SafetyError, match="while nothing is to be moved"):
        muted.call("/trigger", "std_srvs/srv/Trigger", {}, timeout_s=0.1)
    assert not heard
    muted.muted = False
    publisher.publish(publisher.new())
    goals.publish(goals.new())
    muted.call("/trigger", "std_srvs/srv/Trigger", {}, timeout_s=0.1)
    assert len(heard) == 3 and goals.accepted
    for end in (publisher, goals):
        end.close()


def test_a_managed_node_that_is_not_active_is_told_with_what_it_keeps_silent() -> None:
    graph = Graph()
    states = {"/camera": "inactive", "/arm": "unconfigured", "/other": "active"}
    for node, label in states.items():
        state = SimpleNamespace(current_state=SimpleNamespace(label=label))
        graph.services[f"{node}/get_state"] = lambda _, state=state: state
    real = graph.service_types
    graph.service_types = lambda: {
        **real(), **{f"{node}/get_state": [GET_STATE] for node in states}
    }  # fmt: skip
    image = TopicUse("cameras.devices.wrist", "/image", "sensor_msgs/msg/Image", True, {})
    graph.ends = {
        "/image": ([Ours("sensor_msgs/msg/Image", node="/camera")], []),
        "/joint_states": ([Ours(JOINTS, node="/other")], []),
    }
    section = found(graph, READ, image)  # /arm is somebody else's
    [finding] = [f for f in section.findings if "silent" in f.text]
    assert finding.level is Level.FAIL and finding.text.startswith(
        "/camera is inactive, and publishes /image"
    )
    assert finding.hint == "ros2 lifecycle set /camera activate"
    graph.ends["/joint_states"] = ([], [])  # nobody publishes it: perhaps because of /arm
    texts = {f.text.partition(":")[0]: f.hint for f in found(graph, READ, image).findings}
    assert texts["/arm is unconfigured"] == "ros2 lifecycle set /arm configure, then activate"


def test_services_that_stop_when_asks_are_asked_while_nothing_is_sent() -> None:
    topics = LocalTopics()
    topics.services["/mode"] = topics.services["/enable"] = lambda request: "answer"
    muted = MutedTopics(topics, questions=["/mode"])
    assert muted.call("/mode", "dobot_msgs_v4/srv/RobotMode", {}, timeout_s=1.0) == "answer"
    with pytest.raises(SafetyError):
        muted.call("/enable", "dobot_msgs_v4/srv/EnableRobot", {}, timeout_s=1.0)


def test_a_robot_that_is_only_read_makes_no_calls_of_any_group() -> None:
    call = {"service": "/enable"}
    groups = {"left": {"joints": ["l"], "before": [call], "recover": [call], "after": [call]}}
    params = {"robot": "two", "before": [call], "groups": groups}
    file = RobotFile.model_validate({"robot": {"plugin": "ros2", "params": params}})
    left = [use.path for use in call_uses(_without_calls(file).robot.params)]
    assert left == ["groups.left.recover[0]"]  # for a reset, which reading is not
    assert len(list(call_uses(file.robot.params))) == 4
