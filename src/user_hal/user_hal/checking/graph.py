"""What the ROS graph says about the topics of a robot: who is there, what fits, who is active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from user_core.errors import SuiteError
from user_hal.checking.findings import Level, Section
from user_hal.checking.streams import CallUse, TopicUse
from user_hal.topic_io import (
    GET_STATE,
    Endpoint,
    Ours,
    TopicIo,
    incompatible,
    lifecycle_nodes,
)

LIST_CONTROLLERS = "controller_manager_msgs/srv/ListControllers"
SERVO_COMMAND_TYPE = "moveit_msgs/srv/ServoCommandType"
_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Controller:
    """A controller of ros2_control.

    Attributes:
        name: Its name.
        state: ``active``, ``inactive``, ``unconfigured``.
        kind: Its plugin, for instance joint_trajectory_controller/JointTrajectoryController.
        manager: Full name of its controller_manager.
        joints: Joints whose interfaces it claims (or would claim).
    """

    name: str
    state: str
    kind: str
    manager: str
    joints: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether it does what it is told."""
        return self.state == "active"

    @property
    def node(self) -> str:
        """Full name of its node: beside its controller_manager."""
        return f"{self.manager.rpartition('/')[0]}/{self.name}"


def list_controllers(io: TopicIo) -> tuple[list[Controller], str]:
    """The controllers of every controller_manager in the graph, and why some are not known."""
    found: list[Controller] = []
    trouble = ""
    for service, types in sorted(io.service_types().items()):
        if LIST_CONTROLLERS not in types:
            continue
        manager = service.rpartition("/")[0]
        try:
            answer = io.call(service, LIST_CONTROLLERS, {}, timeout_s=_TIMEOUT_S)
        except SuiteError as error:
            trouble = f"{service} cannot be asked: {error}"
            continue
        found += [_controller(item, manager) for item in answer.controller]
    return found, trouble


def _controller(item: Any, manager: str) -> Controller:
    interfaces = [*getattr(item, "required_command_interfaces", ())]
    interfaces += [*getattr(item, "claimed_interfaces", ())]
    joints = dict.fromkeys(str(name).rpartition("/")[0] for name in interfaces)
    return Controller(item.name, item.state, item.type, manager, tuple(joints))


def controller_behind(topic: str, controllers: Sequence[Controller]) -> Controller | None:
    """The controller that a topic or action belongs to: ``/NAMESPACE/NAME/what``."""
    node = topic.rpartition("/")[0]
    exact = [item for item in controllers if item.node == node]
    named = [item for item in controllers if item.name == node.rpartition("/")[2]]
    return exact[0] if exact else named[0] if len(named) == 1 else None


def look_at_graph(io: TopicIo, uses: Sequence[TopicUse], calls: Sequence[CallUse] = ()) -> Section:
    """Who publishes what is read, who hears what is commanded, who answers what is called, and
    whether that fits."""
    section = Section("Who is there")
    for topic in dict.fromkeys(use.topic for use in uses if use.read):
        _look_at_read(io, next(u for u in uses if u.topic == topic and u.read), section)
    _look_at_managed(io, [use.topic for use in uses if use.read], section)
    written = [use for use in uses if not use.read]
    controllers, trouble = list_controllers(io)
    if trouble:
        section.add(Level.WARN, "the state of the controllers is not known", trouble)
    for topic in dict.fromkeys(use.topic for use in written):
        use = next(u for u in written if u.topic == topic)
        if "/action/" in use.type_name:
            _look_at_action(io, use, section)
        elif "/srv/" not in use.type_name:
            _look_at_written(io, use, section)
        _look_at_controller(topic, controllers, section)
    services = io.service_types()
    for call in dict.fromkeys(calls):
        _look_at_call(services, call, section)
    for topic in dict.fromkeys(use.topic for use in written):
        _look_at_servo(services, topic, calls, section)
    if not section.findings:
        section.add(Level.OK, "publishers, subscribers and quality of service fit")
    return section


def _look_at_read(io: TopicIo, use: TopicUse, section: Section) -> None:
    publishers, _ = io.endpoints(use.topic)
    if not publishers and not use.path:
        return  # the driver can do without it
    if not publishers:
        section.add(Level.FAIL, f"{use.topic}: nobody publishes it ({use.name})")
        return
    latched = bool(use.options.get("latched"))
    asked = use.options.get("reliability", "reliable" if latched else "best_effort")
    wanted = use.type_name or publishers[0].type_name
    ours = Ours(
        wanted,
        "reliable" if asked == "reliable" else "best_effort",
        "transient_local" if latched else "volatile",
    )
    unfit = [(item, incompatible(item, ours)) for item in publishers]
    _report_unfit(use.topic, "publishes", unfit, section, _read_cure(use))
    nodes = sorted({item.node for item in publishers})
    if len(publishers) > 1:
        section.add(
            Level.WARN,
            f"{use.topic} has {len(publishers)} publishers: {', '.join(nodes)}",
            hint="If two of them publish the same joints, end one",
        )


def _look_at_managed(io: TopicIo, topics: Sequence[str], section: Section) -> None:
    """Managed nodes that are not active, where they publish what is read, or nobody does."""
    publishers = {topic: {end.node for end in io.endpoints(topic)[0]} for topic in topics}
    unheard = any(not nodes for nodes in publishers.values())
    for node in lifecycle_nodes(io):
        read = [topic for topic, nodes in publishers.items() if node in nodes]
        if not read and not unheard:
            continue
        try:
            answer = io.call(f"{node}/get_state", GET_STATE, {}, timeout_s=_TIMEOUT_S)
        except SuiteError:
            continue  # it is busy, or gone
        state = str(answer.current_state.label)
        if state == "active":
            continue
        steps = "configure, then activate" if state == "unconfigured" else "activate"
        what = f", and publishes {', '.join(read)}" if read else ""
        section.add(
            Level.FAIL if read else Level.WARN,
            f"{node} is {state}{what}: it is silent until it is active",
            hint=f"ros2 lifecycle set {node} {steps}",
        )


def _read_cure(use: TopicUse) -> str:
    if use.options.get("reliability") == "reliable":
        return f"Write {use.path}.reliability: best_effort, which is heard from everybody"
    return f"Correct {use.path}" if use.path else ""


def _look_at_written(io: TopicIo, use: TopicUse, section: Section) -> None:
    publishers, subscriptions = io.endpoints(use.topic)
    required = use.options.get("require_subscriber", True)
    if not subscriptions:
        level = Level.FAIL if required else Level.WARN
        section.add(
            level,
            f"{use.topic}: nobody listens to commands ({use.type_name})",
            hint="Start or activate the controller: ros2 control list_controllers",
        )
    else:
        ours = Ours(use.type_name)
        unfit = [(item, incompatible(ours, item)) for item in subscriptions]
        _report_unfit(use.topic, "hears", unfit, section, f"Correct {use.path}")
    if publishers:
        nodes = ", ".join(sorted({item.node for item in publishers}))
        section.add(
            Level.WARN,
            f"{use.topic} is commanded by others, too: {nodes}",
            hint="End them while USER drives",
        )


def _report_unfit(
    topic: str,
    does: str,
    unfit: Sequence[tuple[Endpoint, str]],
    section: Section,
    cure: str,
) -> None:
    wrong = [(item.node, why) for item, why in unfit if why]
    for node, why in wrong:
        level = Level.FAIL if len(wrong) == len(unfit) else Level.WARN
        section.add(level, f"{topic}: {node} {does} it, and does not fit: {why}", hint=cure)


def _look_at_action(io: TopicIo, use: TopicUse, section: Section) -> None:
    types = io.service_types().get(f"{use.topic}/_action/send_goal", ())
    if not types:
        section.add(Level.FAIL, f"{use.topic}: no action server ({use.type_name})")
    elif f"{use.type_name}_SendGoal" not in types:
        serves = types[0].removesuffix("_SendGoal")
        section.add(Level.FAIL, f"{use.topic}: its server is of type {serves}, not {use.type_name}")


def _look_at_call(services: Mapping[str, Sequence[str]], call: CallUse, section: Section) -> None:
    if "/action/" in call.type_name:
        types = [
            name.removesuffix("_SendGoal")
            for name in services.get(f"{call.name}/_action/send_goal", ())
        ]
    else:
        types = list(services.get(call.name, ()))
    if not types:
        others = sorted(name for name, found in services.items() if call.type_name in found)
        instead = f"Servers of this type: {', '.join(others)}" if others else ""
        text = f"{call.name}: nobody answers it ({call.path}, {call.type_name})"
        section.add(Level.FAIL, text, hint=instead)
    elif call.type_name not in types:
        section.add(Level.FAIL, f"{call.name} is of type {types[0]}, not {call.type_name} ({call.path})")  # fmt: skip


def _look_at_controller(topic: str, controllers: Sequence[Controller], section: Section) -> None:
    controller = controller_behind(topic, controllers)
    if controller is None:
        return
    if controller.active:
        section.add(Level.OK, f"controller {controller.name} is active")
        return
    others = [
        item.name
        for item in controllers
        if item.active and set(item.joints) & set(controller.joints)
    ]
    instead = f" --deactivate {' '.join(others)}" if others else ""
    section.add(
        Level.FAIL,
        f"controller {controller.name} ({topic}) is {controller.state}"
        + (f"; {', '.join(others)} has its joints" if others else ""),
        hint=f"ros2 control switch_controllers --activate {controller.name}{instead}",
    )


def _look_at_servo(
    services: Mapping[str, Sequence[str]],
    topic: str,
    calls: Sequence[CallUse],
    section: Section,
) -> None:
    """MoveIt Servo ignores commands until it is told of which type they are."""
    service = f"{topic.rpartition('/')[0]}/switch_command_type"
    if SERVO_COMMAND_TYPE not in services.get(service, ()):
        return
    if any(call.name == service for call in calls):
        section.add(Level.OK, f"MoveIt Servo is told its command type by {service}")
        return
    section.add(
        Level.WARN,
        f"MoveIt Servo, which listens to {topic}, ignores commands until {service} is called",
        "command_type is 0 for joints, 1 for twists, 2 for poses",
        f"before: [{{service: {service}, type: {SERVO_COMMAND_TYPE}, request: {{command_type: 1}}}}]",
    )
