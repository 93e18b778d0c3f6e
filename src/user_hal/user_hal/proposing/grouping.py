"""Which joints belong together, what commands them, and which grippers are theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from user_core.specs import ActionKind
from user_hal.proposing.survey import JOINT_STATE, ODOMETRY, POSE, Survey, Topic, controller_node
from user_hal.robot_description import Urdf
from user_hal.robots.ros2.messages import (
    FOLLOW_TRAJECTORY,
    GRIPPER_ACTION,
    JOINT_JOG,
    JOINT_TRAJECTORY,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    PLAIN_TWIST,
    TWIST,
)

GRIPPER_TYPES = (PARALLEL_GRIPPER_ACTION, GRIPPER_ACTION)
#: Words that say nothing about which arm it is.
_COMMON = {
    "joint", "joints", "controller", "trajectory", "position", "velocity", "forward", "scaled",
    "commands", "command", "group", "arm", "cmd", "node", "servo", "delta", "twist", "goal",
    "follow", "jog", "pose", "target", "motion", "cmds", "states", "state", "gripper",
}  # fmt: skip
_HANDS = {"gripper", "hand", "finger", "fingers", "knuckle", "jaw", "robotiq"}
#: Words of controllers that may move the fingers of a hand one by one; a gripper's close together.
_FINGERED = {"hand", "finger", "fingers"}
#: Joints of a gripper at most: more that move by themselves are a hand, which one number does not command.
_MOST_OF_A_GRIPPER = 2
#: Types of makers that move an arm, or a gripper, with what stands in their fields.
_WAYS_BY_FIELDS: dict[str, Mapping[str, Any]] = {
    "interbotix_xs_msgs/msg/JointGroupCommand": {"name": "arm", "cmd": "values"},
}
_HANDS_BY_FIELDS: dict[str, Mapping[str, Any]] = {
    "interbotix_xs_msgs/msg/JointSingleCommand": {"name": "gripper", "cmd": "value"},
}
#: Types of makers that are nothing but commands.
MAKERS_COMMANDS = {*_WAYS_BY_FIELDS, *_HANDS_BY_FIELDS}
#: Ranks below this are commands to joints.
JOINT_RANKS = 5
#: Fewest joints of an arm that is told from another by the beginning of their names.
_FEWEST = 3


@dataclass(frozen=True)
class Way:
    """One way to command an arm.

    Attributes:
        topic: Topic or action.
        type_name: Its type.
        kind: What actions would be.
        quantity: ``velocity`` where the contract must say it; else empty.
        joints: Joints of its controller, in its order; empty: not known.
        active: Whether its controller is active; None: not known.
        rank: The smaller, the better.
        fields: What stands in which field, for types that the driver does not know.
    """

    topic: str
    type_name: str
    kind: ActionKind
    quantity: str = ""
    joints: tuple[str, ...] = ()
    active: bool | None = None
    rank: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts the best to the front."""
        return (1 if self.active is False else 0, self.rank, self.topic)


@dataclass
class Hand:
    """A gripper.

    Attributes:
        topic: Action or topic.
        type_name: Its type.
        joints: Its joints; empty: not known.
        fields: What stands in which field, for types that the driver does not know.
    """

    topic: str
    type_name: str
    joints: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Part:
    """What is commanded by itself: an arm, a lift, a base.

    Attributes:
        name: For a contract's group.
        joints: Its joints.
        ways: How it can be commanded, the best first.
        hands: Grippers that are taken to be its own.
        base: Whether it is a mobile base.
    """

    name: str
    joints: tuple[str, ...] = ()
    ways: list[Way] = field(default_factory=list)
    hands: list[Hand] = field(default_factory=list)
    base: bool = False


@dataclass
class Grouping:
    """What was found.

    Attributes:
        parts: Arms and others, in the order of a contract's groups.
        loose_ways: Ways to command that nobody can tell whose they are.
        loose_hands: Grippers, likewise.
        odometry: Topic of the base's odometry; empty: none.
    """

    parts: list[Part]
    loose_ways: list[Way] = field(default_factory=list)
    loose_hands: list[Hand] = field(default_factory=list)
    odometry: str = ""


def group(found: Survey, urdf: Urdf | None) -> Grouping:
    """Tell arms, grippers and base apart."""
    moving = moving_joints(found, urdf)
    hands = [
        Hand(t.name, t.type_name, found.joints_of.get(controller_node(t.name), ()))
        for t in _best_of_each(found.of_type(*GRIPPER_TYPES, heard=True))
    ]
    hands += [
        Hand(t.name, t.type_name, fields=_HANDS_BY_FIELDS[t.type_name])
        for t in found.of_type(*_HANDS_BY_FIELDS, heard=True)
    ]
    ways = _ways(found)
    odometry = next((t.name for t in found.of_type(ODOMETRY, published=True)), "")
    base_ways = [way for way in ways if way.kind is ActionKind.BASE_TWIST]
    ways = [way for way in ways if way.kind is not ActionKind.BASE_TWIST]
    of_hands = [way for way in ways if _is_hand(way, urdf, ways)]
    if len(of_hands) < len(ways):  # else the robot is a hand
        hands += [Hand(way.topic, way.type_name, way.joints) for way in of_hands]
    claimed = {way_hand.topic for way_hand in hands}
    ways = [way for way in ways if way.topic not in claimed]
    in_hands = {joint for hand in hands for joint in hand.joints}
    arms = _arms(ways, [name for name in moving if name not in in_hands], urdf, hands)
    result = Grouping(arms, odometry=odometry)
    _give_ways(result, [way for way in ways if not any(way in arm.ways for arm in arms)])
    _give_hands(result, hands, [name for name in moving if name not in _all(arms)], urdf, found)
    for arm in arms:
        arm.ways.sort(key=lambda way: way.order)
    if base_ways:
        result.parts.append(Part("base", (), sorted(base_ways, key=lambda w: w.order), base=True))
    return result


def moving_joints(found: Survey, urdf: Urdf | None) -> list[str]:
    """Joints that come in messages, in the order of the URDF; without those that mimic others."""
    heard = dict.fromkeys(name for sample in found.joints.values() for name in sample.names)
    if urdf is None:
        return list(heard)
    known = [j.name for j in urdf.joints.values() if j.name in heard and j.moves and not j.mimics]
    return known + [name for name in heard if name not in urdf.joints]


def words(name: str) -> list[str]:
    """The words of a name: ``/left_arm/Joint1`` has left, arm, joint."""
    return [word for word in re.split(r"[^a-z]+", _spaced(name).lower()) if word]


def _spaced(name: str) -> str:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name)


def _ways(found: Survey) -> list[Way]:
    ways = []
    for topic in found.topics:
        if not topic.heard:
            continue
        controller = found.controller(topic.name)
        joints = found.joints_of.get(controller_node(topic.name), ())
        active = None if controller is None else controller.active
        made = _way(topic, controller.kind if controller else "", bool(found.of_type(ODOMETRY)))
        if made is None and (topic.type_name in _WAYS_BY_FIELDS or topic.type_name in found.fields):
            made = ActionKind.JOINT_DELTA, "", 8
        if made is not None:
            kind, quantity, rank = made
            fields = _WAYS_BY_FIELDS.get(topic.type_name) or found.fields.get(topic.type_name, {})
            ways.append(
                Way(topic.name, topic.type_name, kind, quantity, joints, active, rank, fields)
            )
    topics = {way.topic for way in ways}
    return [  # the action of a controller whose topic is there as well is no other way
        way
        for way in ways
        if way.type_name != FOLLOW_TRAJECTORY
        or f"{controller_node(way.topic)}/joint_trajectory" not in topics
    ]


def _way(topic: Topic, controller: str, has_odometry: bool) -> tuple[ActionKind, str, int] | None:
    """Kind of actions, quantity and rank of a topic; None: it commands no robot."""
    name, said = topic.name.lower(), words(topic.name)
    if topic.type_name == JOINT_TRAJECTORY:
        return ActionKind.JOINT_DELTA, "", 0
    if topic.type_name == FOLLOW_TRAJECTORY:
        return ActionKind.JOINT_DELTA, "", 1
    if topic.type_name == NUMBERS:
        if "velocity" in said or "velocity" in controller.lower():
            return ActionKind.JOINT_VELOCITY, "", 4
        if "effort" in said or "effort" in controller.lower():
            return None
        return ActionKind.JOINT_DELTA, "", 2
    if topic.type_name == JOINT_STATE and not topic.published:
        return ActionKind.JOINT_DELTA, "position", 3
    if topic.type_name == JOINT_JOG:
        return ActionKind.JOINT_VELOCITY, "", 6
    if topic.type_name in (TWIST, PLAIN_TWIST):
        if name.endswith("cmd_vel") or (has_odometry and "delta" not in said):
            return ActionKind.BASE_TWIST, "", 0
        return ActionKind.EE_DELTA, "", 5
    if topic.type_name == POSE and not topic.published:
        return ActionKind.EE_DELTA, "", 7
    return None


def _best_of_each(topics: Sequence[Topic]) -> Iterable[Topic]:
    """Of a gripper that has both actions, the newer one."""
    taken: set[str] = set()
    for topic in sorted(topics, key=lambda item: GRIPPER_TYPES.index(item.type_name)):
        if topic.name not in taken:
            taken.add(topic.name)
            yield topic


def _is_hand(way: Way, urdf: Urdf | None, ways: Sequence[Way]) -> bool:
    """Whether a joint controller is a gripper's: its name says so, or its few joints hang on those
    of an arm and are called like fingers. A hand whose fingers move one by one is none."""
    said = set(words(controller_node(way.topic))) & _HANDS
    if said:
        own = [
            j
            for j in way.joints
            if urdf is None or j not in urdf.joints or not urdf.joints[j].mimics
        ]
        return not (said <= _FINGERED and len(own) > _MOST_OF_A_GRIPPER)
    if not 0 < len(way.joints) <= 2:
        return False
    others = [j for other in ways if len(other.joints) > 2 for j in other.joints]
    hangs = urdf is None or all(urdf.hangs_on(joint, others) for joint in way.joints)
    return hangs and all(set(words(joint)) & _HANDS for joint in way.joints)


def is_a_hand(part: Part) -> bool:
    """Whether a part is a hand, which has no tool of its own."""
    return bool(set(words(part.name)) & _FINGERED)


def _arms(
    ways: Sequence[Way], joints: Sequence[str], urdf: Urdf | None, hands: Sequence[Hand]
) -> list[Part]:
    known = [way for way in ways if way.joints]
    arms: list[Part] = []
    for way in sorted(known, key=lambda w: (w.active is False, w.rank, -len(w.joints))):
        if not set(way.joints) & _all(arms):
            arms.append(Part("", _in_order(way.joints, joints)))
    if not arms:
        arms = _by_topic(ways, _without_hands(joints, urdf, hands))
    if not arms:
        own = _without_hands(joints, urdf, hands)
        arms = _by_prefix(_numbered(own) if hands and urdf is None else own)
    for arm in arms:
        arm.ways += [way for way in known if set(way.joints) == set(arm.joints)]
    place = {name: number for number, name in enumerate(joints)}
    arms.sort(key=lambda arm: min(place.get(name, len(place)) for name in arm.joints))
    _name(arms)
    return arms


def _in_order(joints: tuple[str, ...], order: Sequence[str]) -> tuple[str, ...]:
    """A controller's joints in the order of the robot; as they are where some are not heard."""
    if not set(joints) <= set(order):
        return joints
    return tuple(name for name in order if name in joints)


def _without_hands(joints: Sequence[str], urdf: Urdf | None, hands: Sequence[Hand]) -> list[str]:
    """Nobody told whose joints are whose: those called like fingers are a gripper's."""
    if not hands:
        return list(joints)
    left = [
        name
        for name in joints
        if not set(words(name)) & _HANDS
        or (urdf is not None and not urdf.hangs_on(name, [j for j in joints if j != name]))
    ]
    return left


#: This many numbered joints are an arm's, and one that is called otherwise is not.
_FEWEST_NUMBERED = 4


def _numbered(joints: list[str]) -> list[str]:
    """Without one joint that is called otherwise than all others, which are numbered: joint1 to
    joint7, and the drive_joint of the gripper."""
    families: dict[str, list[str]] = {}
    for name in joints:
        families.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    if len(families) != 2:
        return joints
    few, many = sorted(families.values(), key=len)
    return many if len(few) == 1 and len(many) >= _FEWEST_NUMBERED else joints


def _by_topic(ways: Sequence[Way], joints: Sequence[str]) -> list[Part]:
    """Parts of several controllers that tell no joints, where words of their names are those of
    joints: ``/arm_controller`` has ``arm_1_joint``, ``/torso_controller`` ``torso_lift_joint``."""
    nodes = {controller_node(way.topic) for way in ways if way.rank < JOINT_RANKS}
    found: dict[str, tuple[str, ...]] = {}
    for node in sorted(nodes):
        said = set(words(node.rpartition("/")[2])) - (_COMMON - {"arm"})
        own = tuple(name for name in joints if said and said <= set(words(name)))
        if own:
            found[node] = own
    taken = [joint for own in found.values() for joint in own]
    if len(found) < 2 or len(taken) > len(set(taken)):
        return []
    order = sorted(found, key=lambda node: joints.index(found[node][0]))
    return [
        Part("", found[node], [w for w in ways if controller_node(w.topic) == node])
        for node in order
    ]


def _by_prefix(joints: Sequence[str]) -> list[Part]:
    """One arm, or several that a word of their joints' names tells apart: the first word in which
    there are several families of some joints (``left_...`` and ``right_...``)."""
    parts = {name: re.split(r"[_/.\-]", _spaced(name).lower()) for name in joints}
    for place in range(3):
        families: dict[str, list[str]] = {}
        for name, said in parts.items():
            if place < len(said) - 1:  # the last word tells joints apart
                families.setdefault(said[place], []).append(name)
        arms = [family for family in families.values() if len(family) >= _FEWEST]
        if len(arms) > 1:
            return [Part("", tuple(family)) for family in arms]
    return [Part("", tuple(joints))] if joints else []


def _name(arms: Sequence[Part]) -> None:
    taken: set[str] = set()
    for number, arm in enumerate(arms, 1):
        common = set(words(arm.joints[0]))
        for joint in arm.joints[1:]:
            common &= set(words(joint))
        said = [word for word in words(arm.joints[0]) if word in common - _COMMON]
        if arm.ways and not said:
            said = [w for w in words(controller_node(arm.ways[0].topic)) if w not in _COMMON]
        name = "_".join(dict.fromkeys(said)) or "arm"
        arm.name = name if name not in taken else f"{name}{number}"
        taken.add(arm.name)


def _give_ways(result: Grouping, ways: Sequence[Way]) -> None:
    for way in ways:
        if way.joints and not any(set(way.joints) <= set(arm.joints) for arm in result.parts):
            result.loose_ways.append(way)  # of joints of several, or of others
            continue
        owner = _owner(way.topic, way.joints, result.parts)
        if owner is None:
            result.loose_ways.append(way)
        elif not way.joints or set(way.joints) == set(owner.joints):
            owner.ways.append(way)


def _joints_beside(topic: str, found: Survey) -> set[str]:
    """Joints that are published in the namespace of a gripper, and of nothing else."""
    space = controller_node(topic)
    beside = [
        sample for name, sample in found.joints.items() if name.rpartition("/")[0] == space != ""
    ]
    return {joint for sample in beside if len(sample.names) <= _FEWEST for joint in sample.names}


def _give_hands(
    result: Grouping,
    hands: Sequence[Hand],
    left: Sequence[str],
    urdf: Urdf | None,
    found: Survey,
) -> None:
    for hand in hands:
        owner = _owner(hand.topic, hand.joints, result.parts)
        if urdf is not None and hand.joints:
            hanging = [a for a in result.parts if urdf.hangs_on(hand.joints[0], a.joints)]
            owner = hanging[0] if len(hanging) == 1 else owner
        if owner is None:
            result.loose_hands.append(hand)
        else:
            give_hand(owner, hand, result.parts, left, urdf, found)


def give_hand(
    owner: Part,
    hand: Hand,
    parts: Sequence[Part],
    left: Sequence[str],
    urdf: Urdf | None,
    found: Survey,
) -> None:
    """Give a part its gripper, with joints that are left over where it tells none."""
    if not hand.joints:
        near = [n for n in left if n in _joints_beside(hand.topic, found)]
        hand.joints = tuple(near[:1])
    if not hand.joints:
        own = [n for n in left if urdf is None or urdf.hangs_on(n, owner.joints)]
        named = [n for n in own if _owner(n, (), parts) is owner] or own
        called = [name for name in named if set(words(name)) & _HANDS] or named
        # a trajectory controller wants all of its joints, an action moves by the first
        every = hand.type_name == JOINT_TRAJECTORY
        hand.joints = tuple(called if every else called[:1])
    owner.hands.append(hand)


def _owner(topic: str, joints: Sequence[str], parts: Sequence[Part]) -> Part | None:
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if joints and set(joints) <= set(part.joints):
            return part
    said = set(words(topic))
    fitting = [part for part in parts if part.name and set(words(part.name)) <= said]
    return fitting[0] if len(fitting) == 1 else None


def _all(parts: Iterable[Part]) -> set[str]:
    return {joint for part in parts for joint in part.joints}
