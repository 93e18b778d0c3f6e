"""A first contract of the robot that a bag is of: its joints, commands, tools, cameras, frames.

What ``user robots propose`` asks a running ROS graph is taken from the messages of the bag. Who listened
to a topic is not recorded: topics that carry commands are known by their types and names. How far
actions go is measured, with the contract itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from user_bringup.bags.reading import Bag
from user_core.errors import SuiteError
from user_core.specs import Array
from user_hal.checking.streams import Stream
from user_hal.proposing.draft import draft_of
from user_hal.proposing.grouping import MAKERS_COMMANDS, words
from user_hal.proposing.questions import PARAMS, Draft
from user_hal.proposing.survey import (
    COMPRESSED,
    IMAGE,
    JOINT_STATE,
    ODOMETRY,
    POSE,
    STRING,
    WRENCH,
    JointSample,
    Survey,
    Topic,
    command_fields,
    controller_node,
)
from user_hal.proposing.writing import to_yaml
from user_hal.robots.ros2.messages import JOINT_JOG, JOINT_TRAJECTORY, NUMBERS, PLAIN_TWIST, TWIST
from user_hal.robots.ros2.recorded.cuts import Cut
from user_hal.robots.ros2.recorded.playing import Recording, Steps
from user_learner.data.source import in_one_line

#: Messages of a topic that are looked at.
_LOOKED_AT = 300
#: A silence of this many usual times between messages is a pause between episodes.
_PAUSE = 20
#: Time of a bag that is played to see how far actions go, seconds.
_PLAYED_S = 60.0
#: Types that carry nothing but commands, and those that do where their names say so.
_COMMANDS = {JOINT_TRAJECTORY, JOINT_JOG, *MAKERS_COMMANDS}
_PERHAPS = {NUMBERS, TWIST, PLAIN_TWIST, JOINT_STATE, POSE}
_COMMAND_WORDS = {
    "command", "commands", "cmd", "cmds", "goal", "goals", "target", "targets", "desired",
    "setpoint", "setpoints", "reference", "servo", "jog",
}  # fmt: skip
_MEASURED = Topic("/joint_commands", JOINT_STATE, heard=True)
HEAD = """yaml-language-server: $schema=schemas/robot.schema.json
Proposed by `user data inspect` from a bag. Read it, answer what is marked TODO; {how}"""


@dataclass(frozen=True)
class Proposal:
    """What a bag suggests.

    Attributes:
        contract: The robot's file, YAML; empty: none can be made.
        notes: What a person should know.
        measured: Whether there are no commands in it, so that an import needs ``actions: measured``.
    """

    contract: str = ""
    notes: tuple[str, ...] = ()
    measured: bool = False


#: Plays a contract to the bag: the recording, its episodes, and the steps of one.
Play = Callable[[Mapping[str, Any], bool], tuple[Recording, Sequence[Cut], Callable[[Cut], Steps]]]


def propose(bag: Bag, play: Play) -> Proposal:
    """Make a contract of what a bag holds.

    Args:
        bag: It.
        play: Makes a recording of the content of a robot's file.
    """
    found = survey_of(bag)
    measured = False
    try:
        draft = draft_of(found)
    except SuiteError as error:
        if not found.joints:
            return Proposal(notes=(f"no contract is proposed: {error}",))
        found.topics.append(_MEASURED)
        found.joints_of[controller_node(_MEASURED.name)] = tuple(
            max(found.joints.values(), key=lambda sample: len(sample.names)).names
        )
        measured = True
        try:
            draft = draft_of(found)
        except SuiteError as error:
            return Proposal(notes=(f"no contract is proposed: {error}",))
    notes = []
    _about_home(draft)
    try:
        notes += _bounds(draft, *play(draft.data, measured))
    except SuiteError as error:
        notes.append(f"the contract does not fit the bag yet: {in_one_line(error)}")
    how = "then: user data import BAG --into STORE --robot THIS_FILE"
    if measured:
        draft.comment(f"{PARAMS}.action", "No commands were recorded: the topic is not in the bag")
        how += "\n--options FILE, with the line  actions: measured"
        notes.append("no commands were recorded: an import needs --options with actions: measured")
    notes += [f"TODO {question.path}: {question.text}" for question in draft.open]
    text = to_yaml(draft.data, draft.comments, HEAD.format(how=how))
    return Proposal(text, tuple(notes), measured)


def survey_of(bag: Bag) -> Survey:
    """What is in a bag, as a look at the running robot would have found it."""
    found = Survey()
    for name, type_name in sorted(bag.types.items()):
        told = type_name in _COMMANDS or bool(
            set(words(name)) & _COMMAND_WORDS and (type_name in _PERHAPS or _is_of_a_maker(type_name))
        )  # fmt: skip
        if type_name == NUMBERS and "controller" in words(name):
            told = True
        found.topics.append(Topic(name, type_name, published=not told, heard=told))
    found.fields = command_fields(bag.message_class, found)
    for topic in found.topics:
        try:
            _look_at(bag, found, topic)
        except SuiteError as error:
            found.notes.append(f"{topic.name}: {in_one_line(error)}")
    return found


def _is_of_a_maker(type_name: str) -> bool:
    package = type_name.partition("/")[0]
    return not package.endswith(("std_msgs", "_interfaces")) and "/msg/" in type_name


def _look_at(bag: Bag, found: Survey, topic: Topic) -> None:
    kind, name = topic.type_name, topic.name
    if kind == STRING and name.rpartition("/")[2] == "robot_description":
        for message in _messages(bag, name, 1):
            found.description = found.description or str(message.data)
    elif topic.heard and kind in (JOINT_TRAJECTORY, JOINT_JOG, JOINT_STATE):
        field = "name" if kind == JOINT_STATE else "joint_names"
        joints = dict.fromkeys(str(n) for m in _messages(bag, name) for n in getattr(m, field))
        if joints:
            found.joints_of[controller_node(name)] = tuple(joints)
    elif not topic.heard and kind in (JOINT_STATE, POSE, WRENCH, IMAGE, COMPRESSED, ODOMETRY):
        _listen(bag, found, topic)


def _listen(bag: Bag, found: Survey, topic: Topic) -> None:
    kind, name = topic.type_name, topic.name
    stream = Stream((), name, kind, leads=kind not in (IMAGE, COMPRESSED), camera=kind == IMAGE)
    times = bag.times([name]).get(name, np.zeros(0, np.int64))[:_LOOKED_AT]
    gaps = np.diff(times)
    pauses = np.flatnonzero(gaps > _PAUSE * np.median(gaps)) if len(gaps) else gaps
    count = int(pauses[0]) + 1 if len(pauses) else len(times)
    for time_ns, message in zip(times.tolist(), _messages(bag, name, count)):
        stamp = message.header.stamp
        stream.take(stamp.sec * 1_000_000_000 + stamp.nanosec, time_ns, time_ns)
        if kind == JOINT_STATE:
            found.joints.setdefault(name, JointSample()).take(message)
            continue
        found.frames.setdefault(name, str(message.header.frame_id))
        if kind == IMAGE:
            found.images.setdefault(name, (message.encoding, message.width, message.height))
        elif (
            kind == COMPRESSED
            and name not in found.images
            and (shape := _shape_of(message.data)) is not None
        ):
            found.images[name] = (message.format, shape[1], shape[0])
    if stream.count and kind not in (ODOMETRY, COMPRESSED):
        found.streams.append(stream)


def _shape_of(data: Any) -> tuple[int, ...] | None:
    """Of a compressed image; None where it is none."""
    import cv2  # every command about data sets loads this module, and few read images by it

    image = cv2.imdecode(np.asarray(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if image is None else image.shape


def _messages(bag: Bag, topic: str, count: int = _LOOKED_AT) -> Iterator[Any]:
    return map(bag.decode, islice(bag.messages([topic]), count))


def _about_home(draft: Draft) -> None:
    """Where an episode starts was asked of a robot that stands there now."""
    for path, lines in draft.comments.items():
        if path.endswith(".home"):
            lines[:] = ["TODO: Where does an episode start? This is where the bag begins."]
    draft.open = [question for question in draft.open if not question.path.endswith(".home")]


def _bounds(
    draft: Draft, recording: Recording, cuts: Sequence[Cut], steps_of: Callable[[Cut], Steps]
) -> list[str]:
    """Set the bounds of actions to what was commanded; say what cannot be played."""
    if not cuts:
        return ["the contract finds no episodes in the bag"]
    played: list[Array] = []
    left_s, wrong = _PLAYED_S, ""
    for one in cuts:
        if left_s <= 0:
            break
        end_ns = min(one.end_ns, one.start_ns + round(left_s * 1e9))
        try:
            played.append(np.abs(steps_of(Cut(one.start_ns, end_ns)).actions))
        except SuiteError as error:
            wrong = wrong or in_one_line(error)
        left_s -= (end_ns - one.start_ns) / 1e9
    if not played:
        return [f"no episode can be played yet: {wrong}"]
    most = np.concatenate(played).max(axis=0)
    params, start = draft.data["robot"]["params"], 0
    groups = recording.spec.action_groups
    for path, action, size in (
        [(f"{PARAMS}.groups.{g.name}", params["groups"][g.name]["action"], g.size) for g in groups]
        if "groups" in params
        else [(PARAMS, params["action"], len(most))]
    ):
        _set_bounds(draft, f"{path}.action.low", action, most[start : start + size])
        start += size
    return [f"an episode cannot be played: {wrong}"] if wrong else []


def _set_bounds(draft: Draft, path: str, action: dict[str, Any], most: Array) -> None:
    """Bounds of one part, 10 % beyond what it was told; those of a gripper are its own."""
    old = action["high"]
    count = len(old) if isinstance(old, list) else len(most) - ("gripper" in action)
    high = [_rounded_up(1.1 * float(value)) for value in most[:count]]
    if not isinstance(old, list):
        high = [max(high)] * count if high else [old]
    if not max(high) > 0:
        return  # it never moved
    high = [value or max(high) for value in high]
    action["high"] = high if isinstance(old, list) else high[0]
    action["low"] = [-value for value in high] if isinstance(old, list) else -high[0]
    draft.open = [question for question in draft.open if question.path != path]
    draft.comments[path] = [
        "10 % beyond the largest action in the bag",
        *(line for line in draft.comments.get(path, ()) if not line.startswith("TODO")),
    ]


def _rounded_up(value: float) -> float:
    """To two digits."""
    if value <= 1e-6:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 9)
