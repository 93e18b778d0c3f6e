"""The one table of topics and services: name, type, direction, quality of service, and why.

Names are relative: a deployment puts every robot, and each learner, into a namespace of its
own. The table is plain data, read without ROS; ``docs/reference/topics.md``
(``python -m user_comm.topics > docs/reference/topics.md``) and ``user topics`` are printed from
it.

Reliability is a property of the *pair*: a reader may ask for less than the writer offers,
so everything that is offered reliably here can also be read with best effort (rviz, a
dashboard across a bad network), and a slow reader of that kind never holds a robot up.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from string import Formatter
from typing import Any

from user_core.command_line import Parser
from user_core.errors import ConfigError, TransportError


class Reliability(str, Enum):
    """Whether a sample that was lost on the way is sent again."""

    RELIABLE = "reliable"
    BEST_EFFORT = "best effort"


class Durability(str, Enum):
    """Whether a reader that comes late still gets the last samples."""

    VOLATILE = "volatile"
    TRANSIENT_LOCAL = "transient local"


@dataclass(frozen=True)
class Quality:
    """How one topic is carried.

    Attributes:
        depth: Samples that are kept for a reader (and, if transient local, for late ones);
            the oldest gives way.
        reliability: Whether lost samples are sent again.
        durability: Whether late readers get the kept samples.
    """

    depth: int = 1
    reliability: Reliability = Reliability.RELIABLE
    durability: Durability = Durability.VOLATILE

    def __str__(self) -> str:
        latched = ", transient local" if self.durability is Durability.TRANSIENT_LOCAL else ""
        return f"{self.reliability.value}{latched}, keep last {self.depth}"


#: Names of the nodes by which consoles look, and how many images a second they show at most: images that nobody else
#: subscribes to come no oftener. A console that shows more has another name.
CONSOLE_NODE, CONSOLE_HZ = "user_console", 10.0
CONSOLE_SELDOM_NODE, CONSOLE_SELDOM_HZ = "user_console_seldom", 4.0
EYES_HZ = {CONSOLE_NODE: CONSOLE_HZ, CONSOLE_SELDOM_NODE: CONSOLE_SELDOM_HZ}
#: Somebody acts on every sample, and only on the newest one.
COMMAND = Quality(depth=1)
#: Periodic and soon outdated: a lost sample is not worth the wait for its second coming.
SENSOR = Quality(depth=5, reliability=Reliability.BEST_EFFORT)
#: The last state, also for those who come late.
LATCHED = Quality(depth=1, durability=Durability.TRANSIENT_LOCAL)
#: Status once a second: reliable, so that a person sees every change.
STATUS = Quality(depth=10)


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: Relative name; ``{camera}`` and the like are filled in by :meth:`at`.
        type: Message type, ``package/msg/Name``.
        source: Who publishes.
        target: Who subscribes.
        quality: How it is carried.
        why: What it is for, and why it is carried this way.
    """

    name: str
    type: str
    source: str
    target: str
    quality: Quality
    why: str

    def at(self, **places: str) -> Topic:
        """The topic with its placeholders filled in, ``CAMERA_IMAGE.at(camera="wrist")``."""
        wanted = set(placeholders(self.name))
        if wanted != places.keys():
            raise ConfigError(
                f"places of topic {self.name!r}",
                got=sorted(places),
                expected=sorted(wanted),
            )
        return replace(self, name=self.name.format(**places))


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        name: Relative name; ``~/`` stands for the name of the node that offers it.
        type: Service type, ``package/srv/Name``.
        server: Who offers it.
        client: Who calls it.
        why: What it is for.
    """

    name: str
    type: str
    server: str
    client: str
    why: str


def placeholders(name: str) -> Iterator[str]:
    """The names in braces in a topic's name."""
    return (field for _, field, _, _ in Formatter().parse(name) if field)


OBSERVATION = Topic(
    "observation", "user_msgs/msg/Observation", "hal", "actor, teleop",
    Quality(depth=2),
    "All arrays of one reading, taken together. Reliable, because with a lockstep robot "
    "somebody waits for each one; two are kept, so that the last of an episode is not "
    "pushed out by the first of the next.",
)  # fmt: skip
ACTION = Topic(
    "action", "user_msgs/msg/ActionChunk", "actor", "hal",
    COMMAND,
    "What the robot is to do next. Only the newest counts; the watchdog of the safety gate "
    "stops the robot when none comes.",
)  # fmt: skip
REMOTE_OBSERVATION = Topic(
    "remote_observation", "user_msgs/msg/Observation", "actor", "inference",
    COMMAND,
    "What a policy on another host acts on; images are coded (`name@coding`), and "
    "`@deterministic` says whether to act without noise. Only the newest counts.",
)  # fmt: skip
REMOTE_ACTION = Topic(
    "remote_action", "user_msgs/msg/ActionChunk", "inference", "actor",
    COMMAND,
    "What that policy answers. `start_ns` and `sequence` are stamp and sequence of the observation "
    "that it answers, so that no clocks are compared. Only the newest counts.",
)  # fmt: skip
REMOTE_REFUSAL = Topic(
    "remote_refusal", "std_msgs/msg/String", "inference", "actor",
    COMMAND,
    "Why the inference host does not answer this robot now: it has no room for it, or cannot read what it sends. "
    "At most once a second.",
)  # fmt: skip
ROBOT_SPEC = Topic(
    "robot_spec", "user_msgs/msg/RobotSpec", "hal", "actor, teleop, learner, inference, replay",
    LATCHED,
    "What the robot shows and takes; policies are built from it. Said once, kept for those "
    "who come later.",
)  # fmt: skip
ROBOT_DESCRIPTION = Topic(
    "robot_description", "std_msgs/msg/String", "hal", "rviz, console",
    LATCHED,
    "The robot's URDF, where its driver knows it and nobody else says it here.",
)  # fmt: skip
SAFETY_STATUS = Topic(
    "safety_status", "user_msgs/msg/SafetyStatus", "hal", "actor, teleop, people",
    LATCHED,
    "State of the safety gate, on change and once a second; a node that starts late must "
    "know at once whether the robot is stopped.",
)  # fmt: skip
INTERVENTION = Topic(
    "intervention", "user_msgs/msg/Intervention", "teleop", "actor",
    Quality(depth=10),
    "What a person wants now. Reliable and not only the newest, for a label (success, failure) "
    "stands in one message and must not be pushed out by the next.",
)  # fmt: skip
JOINT_STATES = Topic(
    "joint_states", "sensor_msgs/msg/JointState", "hal", "rviz, robot_state_publisher, rosbag2",
    Quality(depth=10),
    "Joints as everybody in ROS expects them. Reliable, because common readers ask for it.",
)  # fmt: skip
TCP_POSE = Topic(
    "tcp_pose", "geometry_msgs/msg/PoseStamped", "hal", "rviz, rosbag2",
    SENSOR, "Tool centre point in the base frame.",
)  # fmt: skip
TCP_TWIST = Topic(
    "tcp_twist", "geometry_msgs/msg/TwistStamped", "hal", "rviz, rosbag2",
    SENSOR, "Velocity of the tool centre point in the base frame.",
)  # fmt: skip
WRENCH = Topic(
    "wrench", "geometry_msgs/msg/WrenchStamped", "hal", "rviz, rosbag2",
    SENSOR, "Force and torque at the tool centre point.",
)  # fmt: skip
GRIPPER = Topic(
    "gripper", "sensor_msgs/msg/JointState", "hal", "rviz, rosbag2",
    SENSOR,
    "Opening of the gripper, 0 closed to 1 open, as a joint named `gripper`: unlike "
    "std_msgs/Float64 it carries a stamp.",
)  # fmt: skip
CAMERA_IMAGE = Topic(
    "camera/{camera}/image_raw", "sensor_msgs/msg/Image", "hal", "rviz, rosbag2",
    SENSOR, "Images for people and other nodes; only made while somebody subscribes.",
)  # fmt: skip
CAMERA_INFO = Topic(
    "camera/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", "hal", "rviz, rosbag2",
    SENSOR, "Size and, where it is known, calibration of the camera, with each image.",
)  # fmt: skip
MARKERS = Topic(
    "markers", "visualization_msgs/msg/MarkerArray", "hal", "rviz",
    Quality(depth=10),
    "Goal, workspace box and who is acting. Reliable, because rviz asks for it.",
)  # fmt: skip
TRAJECTORY = Topic(
    "trajectory", "user_msgs/msg/TrajectoryChunk", "actor", "replay",
    Quality(depth=64),
    "What was experienced, from the outbox. Reliable and deep enough for all chunks that may "
    "be under way; what is lost all the same (restart, cut link) is sent again for want of an "
    "ack.",
)  # fmt: skip
TRAJECTORY_ACK = Topic(
    "trajectory_ack", "user_msgs/msg/TrajectoryAck", "replay", "actor",
    Quality(depth=64),
    "What is durable. Cumulative, so that a later ack stands for those that were lost; one "
    "topic for all actors, each takes its own.",
)  # fmt: skip
POLICY = Topic(
    "policy", "user_msgs/msg/PolicyVersion", "learner", "actor, inference",
    LATCHED,
    "Announcement of the newest version; an actor that starts late gets it too. The bytes "
    "are pulled over Zenoh.",
)  # fmt: skip
EPISODE_RESULT = Topic(
    "episode_result", "user_msgs/msg/EpisodeResult", "actor", "people, dashboards",
    STATUS, "The result of each episode.",
)  # fmt: skip
ACTOR_STATUS = Topic(
    "actor_status", "user_msgs/msg/ActorStatus", "actor", "people, dashboards",
    STATUS, "How an actor is doing, once a second.",
)  # fmt: skip
REPLAY_STATUS = Topic(
    "replay_status", "user_msgs/msg/ReplayStatus", "replay", "people, dashboards",
    STATUS, "How the store is doing, once a second.",
)  # fmt: skip
LEARNER_STATUS = Topic(
    "learner_status", "user_msgs/msg/LearnerStatus", "learner", "people, dashboards",
    STATUS, "How the learner is doing, once a second.",
)  # fmt: skip
LEARNER_BACKLOG = Topic(
    "learner_backlog", "std_msgs/msg/Float64", "learner", "actor",
    Quality(depth=1),
    "Environment steps whose updates are due and not made yet; negative while the learner waits "
    "for robots. Simulations in lockstep are held back by it; only sent while one listens.",
)  # fmt: skip
DIAGNOSTICS = Topic(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "every node",
    "people, lifecycle_manager", STATUS,
    "Health of every node, once a second (its heartbeat) and on change; absolute, as REP-107 "
    "wants it.",
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    OBSERVATION, ACTION, REMOTE_OBSERVATION, REMOTE_ACTION, REMOTE_REFUSAL, ROBOT_SPEC, ROBOT_DESCRIPTION,
    SAFETY_STATUS,
    INTERVENTION, JOINT_STATES, TCP_POSE, TCP_TWIST, WRENCH, GRIPPER, CAMERA_IMAGE, CAMERA_INFO, MARKERS, TRAJECTORY, TRAJECTORY_ACK,
    POLICY, EPISODE_RESULT, ACTOR_STATUS, REPLAY_STATUS, LEARNER_STATUS, LEARNER_BACKLOG,
    DIAGNOSTICS,
)  # fmt: skip

RESET = Service(
    "~/reset", "user_msgs/srv/ResetRobot", "hal", "actor",
    "Bring the robot to the start of an episode; returns the first observation.",
)  # fmt: skip
EMERGENCY_STOP = Service(
    "~/emergency_stop", "std_srvs/srv/Trigger", "hal", "people, any node",
    "Stop, and stay stopped until it is reset. Needs no lease.",
)  # fmt: skip
RESET_EMERGENCY_STOP = Service(
    "~/reset_emergency_stop", "std_srvs/srv/Trigger", "hal", "people",
    "Let commands pass again after an emergency stop.",
)  # fmt: skip
ACQUIRE_LEASE = Service(
    "~/acquire_lease", "user_msgs/srv/AcquireLease", "hal", "actor",
    "Get the right to use a resource for a limited time.",
)  # fmt: skip
RENEW_LEASE = Service(
    "~/renew_lease", "user_msgs/srv/RenewLease", "hal", "actor",
    "Prolong a lease that one holds.",
)  # fmt: skip
RELEASE_LEASE = Service(
    "~/release_lease", "user_msgs/srv/ReleaseLease", "hal", "actor",
    "Give a lease back; a robot comes to a safe stop.",
)  # fmt: skip
GO = Service(
    "~/go", "std_srvs/srv/Trigger", "actor", "people",
    "Let the robot move, where it waits for a person's word (`loop.start: operator`); refused while "
    "it is not ready.",
)  # fmt: skip
EVALUATE = Service(
    "~/evaluate", "std_srvs/srv/Trigger", "actor", "people",
    "Evaluate the policy from the next episode on, for one round, whenever the next evaluation would be due.",
)  # fmt: skip
CHECKPOINT = Service(
    "~/checkpoint", "std_srvs/srv/Trigger", "learner", "people",
    "Keep a checkpoint and publish the policy after the present update, whenever the next ones would be due.",
)  # fmt: skip
FINISH = Service(
    "~/finish", "user_msgs/srv/FinishEpisode", "actor", "user up",
    "Let the episode come to its end, and begin no other: the robot is wanted elsewhere. Asked again, says how "
    "far it is.",
)  # fmt: skip
PAUSE = Service(
    "~/pause", "std_srvs/srv/Trigger", "lifecycle_manager", "people",
    "Deactivate all managed nodes, the last one first.",
)  # fmt: skip
RESUME = Service(
    "~/resume", "std_srvs/srv/Trigger", "lifecycle_manager", "people",
    "Bring all managed nodes up, also those that were given up or taken in hand.",
)  # fmt: skip
SHUT_DOWN = Service(
    "~/shut_down", "std_srvs/srv/Trigger", "lifecycle_manager", "people",
    "Finalize all managed nodes, the last one first; their processes end.",
)  # fmt: skip

SERVICES: tuple[Service, ...] = (
    RESET, EMERGENCY_STOP, RESET_EMERGENCY_STOP, ACQUIRE_LEASE, RENEW_LEASE, RELEASE_LEASE,
    GO, EVALUATE, CHECKPOINT, FINISH, PAUSE, RESUME, SHUT_DOWN,
)  # fmt: skip


def profile(quality: Quality) -> Any:
    """The ``rclpy.qos.QoSProfile`` of a quality of service."""
    # Imported late: the table itself is read where there is no ROS.
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    reliable = quality.reliability is Reliability.RELIABLE
    latched = quality.durability is Durability.TRANSIENT_LOCAL
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=quality.depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


@cache
def interface_class(name: str) -> type[Any]:
    """Import the class of a message, service or action.

    Args:
        name: ``package/msg/Name``, ``package/srv/Name`` or ``package/action/Name``.

    Raises:
        TransportError: The name is no such name, or the package is not installed, or has no
            such interface; then those that it has are listed.
    """
    parts = name.split("/")
    if len(parts) != 3 or parts[1] not in ("msg", "srv", "action") or not all(parts):
        raise TransportError(
            "type of a topic or service",
            got=name,
            expected="package/msg/Name, package/srv/Name or package/action/Name",
        )
    package, kind, cls = parts
    try:
        module = importlib.import_module(f"{package}.{kind}")
    except ImportError as error:
        raise TransportError(
            f"interface {name}",
            got=str(error),
            expected=f"an installed package {package!r} with {kind} interfaces",
            hint=f"Install ros-$ROS_DISTRO-{package.replace('_', '-')}, or source the workspace "
            "that has it",
        ) from error
    found = getattr(module, cls, None)
    if not isinstance(found, type):
        known = [known for known in dir(module) if known[:1].isupper() and "_" not in known]
        raise TransportError(
            f"interface {name}", got="not in that package", expected=f"one of {known}"
        )
    return found


_TITLE = """\
# Topics and services

<!-- Written by `python -m user_comm.topics`; change src/user_comm/user_comm/topics.py. -->

Names are relative to the namespace of a robot or learner; `~/` stands for the name of the node
that offers a service. A reader may ask for less than what is offered: what is reliable here can
also be read with best effort.
"""


def markdown() -> str:
    """The reference page."""
    lines = [_TITLE, "## Topics", ""]
    lines += _table(
        ("topic", "type", "from", "to", "quality of service", "why"),
        [(f"`{t.name}`", f"`{t.type}`", t.source, t.target, str(t.quality), t.why) for t in TOPICS],
    )
    lines += ["", "## Services", ""]
    lines += _table(
        ("service", "type", "offered by", "called by", "why"),
        [(f"`{s.name}`", f"`{s.type}`", s.server, s.client, s.why) for s in SERVICES],
    )
    return "\n".join(lines) + "\n"


def terminal() -> str:
    """Topics and services in columns, without the reasons: what ``user topics`` prints."""
    rows = [("TOPIC", "TYPE", "FROM", "TO", "QUALITY OF SERVICE")]
    rows += [(t.name, t.type, t.source, t.target, str(t.quality)) for t in TOPICS]
    services = [("SERVICE", "TYPE", "OFFERED BY", "CALLED BY")]
    services += [(s.name, s.type, s.server, s.client) for s in SERVICES]
    return "\n".join((*_columns(rows), "", *_columns(services)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def main(words: Sequence[str]) -> int:
    """The command ``user topics``."""
    parser = Parser(prog="user topics", description=main.__doc__)
    parser.add_argument("--markdown", action="store_true", help="with the reasons, as Markdown")
    print(markdown() if parser.parse_args(words).markdown else terminal())
    return 0


if __name__ == "__main__":
    print(markdown(), end="")
