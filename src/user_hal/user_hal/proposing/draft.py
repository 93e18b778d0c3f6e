"""The contract that a survey suggests, and what must be asked because nobody can see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.checking.graph import SERVO_COMMAND_TYPE
from user_hal.checking.streams import rounded_up, skew_of
from user_hal.proposing.grouping import (
    Grouping,
    Hand,
    Part,
    Way,
    give_hand,
    group,
    moving_joints,
    words,
)
from user_hal.proposing.namesakes import told_apart
from user_hal.proposing.survey import (
    COMPRESSED,
    IMAGE,
    JOINT_STATE,
    ODOMETRY,
    POSE,
    WRENCH,
    Survey,
    controller_node,
)
from user_hal.proposing.writing import to_yaml
from user_hal.robot_description import Urdf, parse_urdf
from user_hal.robots.ros2.messages import (
    FOLLOW_TRAJECTORY,
    JOINT_JOG,
    JOINT_TRAJECTORY,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    TWIST,
)

PERIOD_S = 0.1
_STEP_RAD, _STEP_M, _TURN_RAD, _SLIDE_M = 0.05, 0.01, 0.05, 0.01
_VELOCITY_RAD_S = 0.3
_IMAGE_WIDTH = 128
_PARAMS = "robot.params"
SWITCH_CONTROLLER = "controller_manager_msgs/srv/SwitchController"


@dataclass(frozen=True)
class Question:
    """Something that a person knows, and the graph does not.

    Attributes:
        path: Key of the contract that it is about.
        text: The question, one sentence.
        default: What is taken without an answer.
        choices: What can be chosen; empty: anything.
    """

    path: str
    text: str
    default: Any
    choices: tuple[str, ...] = ()


#: Gives the answer, or None where nobody answers.
Ask = Callable[[Question], Any]


@dataclass
class Draft:
    """A contract that wants to be read.

    Attributes:
        data: The content of the robot's file.
        comments: Above keys, by their paths.
        open: Questions that nobody answered.
    """

    data: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)
    open: list[Question] = field(default_factory=list)


def draft_of(found: Survey, ask: Ask = lambda question: None, robot: str = "") -> Draft:
    """Make a contract.

    Args:
        found: What is there.
        ask: Asks a person.
        robot: Kind of robot; empty: as the URDF calls it.

    Raises:
        ConfigError: There are no joint states, or nothing to command.
    """
    return _Drafter(found, ask).draft(robot)


class _Drafter:
    def __init__(self, found: Survey, ask: Ask) -> None:
        self.found, self.names = told_apart(found)
        found, self._ask = self.found, ask
        self.result = Draft()
        self.urdf: Urdf | None = None
        self._commanding: set[str] = set()  # topics that are chosen for a part
        if found.description:
            try:
                self.urdf = parse_urdf(found.description)
            except ConfigError as error:
                found.notes.append(str(error))
        self.grouping: Grouping = group(found, self.urdf)

    def draft(self, robot: str) -> Draft:
        found = self.found
        if not found.joints:
            raise ConfigError(
                "joint states",
                got="no message of type sensor_msgs/msg/JointState",
                expected="a robot that publishes its joints",
                hint=f"Topics of this type: {[t.name for t in found.of_type(JOINT_STATE)]}",
            )
        parts = self._commanded()
        if not parts:
            raise ConfigError(
                "commands",
                got="nobody listens to a topic that could move these joints",
                expected="a controller: joint trajectory, forward commands, servo",
            )
        self._ask_for_hands(parts)
        single = len(parts) == 1 and not parts[0].base
        ways = [self._choose(p, _PARAMS if single else f"{_PARAMS}.groups.{p.name}") for p in parts]
        params: dict[str, Any] = {"robot": robot or (self.urdf.name if self.urdf else "my_robot")}
        params |= self._base_frame(parts, ways)
        params["period_s"] = PERIOD_S
        joints = [joint for part in parts for joint in part.joints]
        if single:
            params["joints"] = joints
        params |= self._about_joints(joints)
        params["observation"] = self._observation(parts, single)
        if single:
            params |= self._part(parts[0], ways[0], _PARAMS, params["observation"], "")
        else:
            params["groups"] = {}
            for part, way in zip(parts, ways):
                path = f"{_PARAMS}.groups.{part.name}"
                content = self._part(part, way, path, params["observation"], f"{part.name}.")
                own = {"joints": list(part.joints)} if part.joints else {}
                params["groups"][part.name] = {**own, **content}
        params |= self._before(ways) | self._cameras() | self._timing()
        self._about_doubles()
        self.result.data = {
            "robot": {"plugin": "ros2", "params": params},
            "safety": {"watchdog_s": round(3.5 * PERIOD_S, 3), "max_observation_age_s": 0.5},
        }
        self._comment("safety", "What may reach the robot; add velocity, workspace, force: docs/explanation/safety.md")  # fmt: skip
        self._leftovers()
        return self.result

    # --- asking ---

    def ask(self, path: str, text: str, default: Any, choices: Sequence[str] = ()) -> Any:
        question = Question(path, text, default, tuple(choices))
        answer = self._ask(question)
        if answer is not None:
            return answer
        self.result.open.append(question)
        others = [choice for choice in choices if choice != default]
        also = f" Others: {', '.join(others)}" if others else ""
        self._comment(path, f"TODO: {text}{also}")
        return default

    def _comment(self, path: str, text: str) -> None:
        self.result.comments.setdefault(path, []).append(text)

    # --- joints and frames ---

    def _commanded(self) -> list[Part]:
        """The parts that can be commanded at all. Ways that nobody knows the owner of may be those
        of any part without one; where there are too few of them, these are one part."""
        loose = [way for way in self.grouping.loose_ways if not way.joints]
        parts = [part for part in self.grouping.parts if part.ways]
        waiting = [part for part in self.grouping.parts if not part.ways]
        if len(waiting) > len(loose):
            joints = tuple(joint for part in waiting for joint in part.joints)
            hands = [hand for part in waiting for hand in part.hands]
            waiting = [Part(waiting[0].name if parts else "arm", joints, [], hands)]
        for part in waiting if loose else []:
            part.ways = list(loose)
            parts.append(part)
        if waiting and loose:
            self.grouping.loose_ways = [way for way in self.grouping.loose_ways if way.joints]
        order = {id(part): number for number, part in enumerate(self.grouping.parts)}
        self.grouping.parts = sorted(parts, key=lambda part: order.get(id(part), 0))
        return self.grouping.parts

    def _ask_for_hands(self, parts: Sequence[Part]) -> None:
        """Whose grippers are those that nobody can tell?"""
        arms = [part for part in parts if not part.base]
        for hand in list(self.grouping.loose_hands):
            free = [part for part in arms if not part.hands]
            if not free:
                return
            likely = max(free, key=lambda part: len(part.joints))
            text = f"Which part has the gripper {hand.topic}?"
            names = [part.name for part in free]
            answer = self.ask(f"{_PARAMS}.groups", text, likely.name, [*names, "none"])
            self.grouping.loose_hands.remove(hand)
            used = {joint for part in parts for joint in part.joints}
            left = [name for name in moving_joints(self.found, self.urdf) if name not in used]
            for part in free:
                if part.name == answer:
                    give_hand(part, hand, parts, left, self.urdf, self.found)

    def _about_joints(self, joints: Sequence[str]) -> dict[str, Any]:
        if self.urdf is None:
            text = "Fastest that each joint can move, rad/s? (There is no robot description.)"
            speed = self.ask(f"{_PARAMS}.joint_velocity_limits", text, None)
            return {"joint_velocity_limits": speed} if isinstance(speed, (int, float, list)) else {}
        known = [self.urdf.joints[name] for name in joints if name in self.urdf.joints]
        found: dict[str, Any] = {}
        for kind in ("prismatic", "continuous"):
            names = [joint.name for joint in known if joint.kind == kind]
            if names:
                found[kind] = names
        speeds = [joint.velocity for joint in known]
        if len(known) == len(joints) and all(speeds) and speeds:
            found["joint_velocity_limits"] = _shared(speeds)
            self._comment(f"{_PARAMS}.joint_velocity_limits", "of the URDF")
        return found

    def _base_frame(self, parts: Sequence[Part], ways: Sequence[Way]) -> dict[str, Any]:
        frames = list(
            dict.fromkeys(f for t, f in self.found.frames.items() if f and self._is(t, POSE))
        )
        path = f"{_PARAMS}.base_frame"
        joints = [joint for part in parts for joint in part.joints]
        of_urdf = self.urdf.base_of(joints) if self.urdf else ""
        if len(frames) == 1:
            self._comment(path, "the frame that the tool's pose comes in")
            return {"base_frame": frames[0]}
        if frames:
            text = "Which frame are tool poses and commands in?"
            return {"base_frame": str(self.ask(path, text, frames[0], frames))}
        if any(way.kind is ActionKind.EE_DELTA for way in ways):
            text = "Which frame are tool commands in?"
            return {"base_frame": str(self.ask(path, text, of_urdf or "base_link"))}
        return {"base_frame": of_urdf} if of_urdf else {}  # nothing depends on it

    def _is(self, topic: str, type_name: str) -> bool:
        return any(t.name == topic and t.type_name == type_name for t in self.found.topics)

    # --- observation ---

    def _observation(self, parts: Sequence[Part], single: bool) -> dict[str, Any]:
        joints = [joint for part in parts for joint in part.joints]
        topics = self._joint_topics(joints)
        found: dict[str, Any] = {"joint_position": self._joint_source(topics, "position", joints)}
        if topics and all(self.found.joints[topic].velocity for topic in topics):
            found["joint_velocity"] = self._joint_source(topics, "velocity", joints)
        arms = [part for part in parts if not part.base]
        for type_name, name, field_name in ((POSE, "tcp_pose", "pose"), (WRENCH, "wrench", "wrench")):  # fmt: skip
            self._tool_sources(found, arms, single, type_name, name, field_name)
        for part in parts:
            if part.base and self.grouping.odometry:
                topic = self.grouping.odometry
                found[f"{part.name}.velocity"] = {
                    "topic": topic, "type": ODOMETRY, "field": "twist.twist", "layout": "twist",
                    "frame": self.found.frames.get(topic, "odom"),
                }  # fmt: skip
        if not any(name.endswith("tcp_pose") for name in found) and self.urdf is not None:
            text = "No topic tells the tool's pose. It can be looked up on /tf:"
            for arm in arms:
                prefix = "" if single else f"{arm.name}."
                text += f" {prefix}tcp_pose: {{tf: {self._tool_link(arm)}}}"
            self._comment(f"{_PARAMS}.observation", text)
        return found

    def _joint_source(
        self, topics: Sequence[str], field_name: str, joints: Sequence[str]
    ) -> dict[str, Any]:
        common = {"type": JOINT_STATE, "field": field_name}
        if len(topics) == 1 and not self.names.differ(joints):
            return {"topic": topics[0], **common}
        parts = []
        for topic in topics:
            own = [name for name in joints if name in self.found.joints[topic].names]
            part: dict[str, Any] = {"topic": topic}
            if self.names.differ(own):
                part |= {"names": self.names.in_messages(own), "elements": own}
            parts.append(part)
        return {**common, "parts": parts}

    def _joint_topics(self, joints: Sequence[str]) -> list[str]:
        """The topics that have all joints: one if there is one, else as few as will do."""
        missing, chosen = set(joints), []
        samples = dict(sorted(self.found.joints.items(), key=lambda item: (len(item[0]), item[0])))
        while missing and samples:
            best = max(samples, key=lambda topic: len(missing & set(samples[topic].names)))
            if not missing & set(samples[best].names):
                break
            chosen.append(best)
            missing -= set(samples.pop(best).names)
        if missing:
            self._comment(f"{_PARAMS}.observation", f"TODO: nobody publishes {sorted(missing)}")
        return chosen

    def _tool_sources(
        self,
        found: dict[str, Any],
        arms: Sequence[Part],
        single: bool,
        type_name: str,
        name: str,
        field_name: str,
    ) -> None:
        topics = [t.name for t in self.found.of_type(type_name, published=True) if t.name in self.found.frames]  # fmt: skip
        for arm in arms:
            prefix = "" if single else f"{arm.name}."
            own = topics if single else [t for t in topics if set(words(arm.name)) & set(words(t))]
            if not own:
                continue
            topic, path = own[0], f"{_PARAMS}.observation.{prefix}{name}"
            if len(own) > 1:
                topic = str(self.ask(path, f"Which topic is the {name} of the tool?", topic, own))
            source = {"topic": topic, "type": type_name, "field": field_name}
            frame = self.found.frames[topic]
            if frame:
                source["frame"] = frame
            elif type_name == POSE:
                source["frame"] = str(self.ask(path, "In which frame is this pose? Its messages do not say.", "base_link"))  # fmt: skip
            found[f"{prefix}{name}"] = source

    def _tool_link(self, arm: Part) -> str:
        """The last link behind an arm's last joint that hangs on it by fixed joints."""
        assert self.urdf is not None  # noqa: S101 - asked before
        last = [self.urdf.joints[name] for name in arm.joints if name in self.urdf.joints]
        link = last[-1].child if last else self.urdf.root
        for joint in self.urdf.joints.values():
            if joint.parent == link and joint.kind == "fixed":
                link = joint.child
        return link

    # --- what is commanded ---

    def _choose(self, part: Part, path: str) -> Way:
        """Which way a part is commanded; its joints are in the order that this needs."""
        free = [way for way in part.ways if way.topic not in self._commanding] or part.ways
        way = free[0]
        if len(part.ways) > 1:
            topics = [item.topic for item in part.ways]
            whole = len(self.grouping.parts) == 1
            text = f"Which topic commands {'the robot' if whole else part.name}?"
            chosen = self.ask(f"{path}.action", text, way.topic, topics)
            way = next(item for item in part.ways if item.topic == chosen)
        self._commanding.add(way.topic)
        if way.type_name == NUMBERS and way.joints:
            part.joints = way.joints  # numbers without names: the controller's order
        elif way.type_name == NUMBERS:
            self._comment(
                f"{path}.joints",
                f"TODO: Are the numbers of {way.topic} these joints, in this order?",
            )
        elif not way.joints and len(self.grouping.parts) > 1 and part.joints:
            self._comment(f"{path}.joints", f"TODO: Are these the joints of {way.topic}?")
        return way

    def _part(
        self, part: Part, way: Way, path: str, observation: dict[str, Any], prefix: str
    ) -> dict[str, Any]:
        if way.active is False:
            self._about_inactive(way, f"{path}.action")
        action: dict[str, Any] = {"kind": way.kind.value}
        action |= self._bounds(part, way, f"{path}.action")
        action["command"] = self._command(way, part, f"{path}.action.command")
        for hand in part.hands[:1]:
            gripper = self._gripper(hand, f"{path}.action.gripper", observation, prefix)
            if gripper:
                action["gripper"] = gripper
        content: dict[str, Any] = {"action": action}
        if part.joints and way.kind is not ActionKind.BASE_TWIST and way.quantity != "velocity":
            content |= self._home(part, way, path)
        return content

    def _bounds(self, part: Part, way: Way, path: str) -> dict[str, Any]:
        joints = [self.urdf.joints.get(name) if self.urdf else None for name in part.joints]
        slides = [joint is not None and joint.kind == "prismatic" for joint in joints]
        text = "How far may one action move? This is for one period of 0.1 s."
        if way.kind is ActionKind.JOINT_DELTA:
            steps = [self._step(joint) for joint in joints] or [_STEP_RAD]
            high = _shared(steps)
        elif way.kind is ActionKind.JOINT_VELOCITY:
            text = "How fast may an action move the joints, rad/s?"
            speeds = [j.velocity if j and j.velocity else 1.0 for j in joints] or [1.0]
            high = _shared([min(_VELOCITY_RAD_S, 0.3 * speed) for speed in speeds])
        elif way.kind is ActionKind.BASE_TWIST:
            text = "How fast may the base go (m/s) and turn (rad/s)?"
            high = [0.1, 0.3]
        else:
            high = [_STEP_M] * 3 + [_TURN_RAD] * 3
        answer = self.ask(f"{path}.low" if path else "low", text, high)
        high = answer if isinstance(answer, (int, float, list)) else high
        low = [-value for value in high] if isinstance(high, list) else -high
        bounds: dict[str, Any] = {"low": low, "high": high}
        if way.kind is ActionKind.JOINT_DELTA and joints and all(
            joint is not None and joint.lower is not None and joint.upper is not None
            for joint in joints
        ):  # fmt: skip
            known = [joint for joint in joints if joint is not None]
            bounds["target_low"] = _shared([round(joint.lower or 0.0, 4) for joint in known])
            bounds["target_high"] = _shared([round(joint.upper or 0.0, 4) for joint in known])
        elif way.kind is ActionKind.JOINT_DELTA:
            self._comment(f"{path}.low", "No limits of the joints are known: see target_low and target_high")  # fmt: skip
        if any(slides) and way.kind is ActionKind.JOINT_DELTA:
            self._comment(f"{path}.low", "m for joints that shift, rad for those that turn")
        return bounds

    def _step(self, joint: Any) -> float:
        if joint is None:
            return _STEP_RAD
        usual = _SLIDE_M if joint.kind == "prismatic" else _STEP_RAD
        if not joint.velocity:
            return usual
        return min(usual, round(0.3 * joint.velocity * PERIOD_S, 4))

    def _command(self, way: Way, part: Part, path: str) -> dict[str, Any]:
        command: dict[str, Any] = {"topic": way.topic, "type": way.type_name}
        if way.quantity:
            command["quantity"] = way.quantity
        if way.type_name in (JOINT_TRAJECTORY, FOLLOW_TRAJECTORY):
            command["time_from_start_s"] = round(1.5 * PERIOD_S, 3)
        fields: dict[str, Any] = dict(way.fields)
        if self.names.differ(part.joints):
            fields = fields or _with_names(way.type_name, self.names.in_messages(part.joints))
        if fields:
            command["fields"] = fields
            if way.fields:
                self._comment(path, f"TODO: What stands in the fields of {way.type_name}?")
        return command

    def _home(self, part: Part, way: Way, path: str) -> dict[str, Any]:
        position = {k: v for sample in self.found.joints.values() for k, v in sample.position.items()}  # fmt: skip
        if way.kind not in (ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY) or not set(part.joints) <= set(position):  # fmt: skip
            return {}
        here = [round(position[name], 3) + 0.0 for name in part.joints]
        answer = self.ask(f"{path}.home", "Where does an episode start? This is where the robot is now.", here)  # fmt: skip
        return {"home": {"joints": answer if isinstance(answer, list) else here}}

    def _gripper(
        self, hand: Hand, path: str, observation: dict[str, Any], prefix: str
    ) -> dict[str, Any]:
        joint = self.urdf.joints.get(hand.joints[0]) if self.urdf and hand.joints else None
        low, high = (joint.lower, joint.upper) if joint else (None, None)
        if low is None or high is None or low == high:
            low, high = 0.0, 1.0
        # fingers that shift open upwards; a knuckle that turns closes upwards (Robotiq)
        closed, opened = (low, high) if joint is None or joint.kind == "prismatic" else (high, low)
        answer = self.ask(path, "Which number closes the gripper, and which opens it? [closed, opened]", [closed, opened])  # fmt: skip
        if isinstance(answer, list) and len(answer) == 2 and answer[0] != answer[1]:
            closed, opened = answer
        gripper: dict[str, Any] = {
            "topic": hand.topic, "type": hand.type_name, "closed": closed, "opened": opened,
        }  # fmt: skip
        named = hand.type_name in (PARALLEL_GRIPPER_ACTION, JOINT_TRAJECTORY, JOINT_STATE)
        if named and not hand.joints:
            self._comment(path, "TODO: whose joints are the gripper's? Add joints: [NAME]")
            return {}
        if named:
            gripper["joints"] = self.names.in_messages(hand.joints)
        if hand.fields:
            gripper["fields"] = dict(hand.fields)
        topic = next((t for t, s in self.found.joints.items() if hand.joints and hand.joints[0] in s.names), "")  # fmt: skip
        if topic:
            scale = 1.0 / (opened - closed)
            observation[f"{prefix}gripper"] = {
                "topic": topic, "type": JOINT_STATE, "field": "position",
                "names": self.names.in_messages(hand.joints[:1]), "scale": round(scale, 6),
                "offset": round(-closed * scale, 6) + 0.0, "low": 0.0, "high": 1.0,
            }  # fmt: skip
            self._comment(f"{_PARAMS}.observation.{prefix}gripper", "0 closed to 1 open, from the gripper's closed and opened")  # fmt: skip
        return gripper

    # --- the rest ---

    def _cameras(self) -> dict[str, Any]:
        devices: dict[str, Any] = {}
        for topic in self.found.of_type(IMAGE, published=True):
            encoding, width, height = self.found.images.get(topic.name, ("", 0, 0))
            if not width:
                self._comment(f"{_PARAMS}.cameras", f"{topic.name} is there, but no image came")
                continue
            depth = encoding in ("16UC1", "32FC1", "mono16")
            name = _camera_name(topic.name, depth, devices)
            small = min(width, _IMAGE_WIDTH)
            params: dict[str, Any] = {"topic": topic.name}
            if depth:
                params["kind"] = "depth"
            params |= {"width": small, "height": max(1, round(height * small / width))}
            if self.found.frames.get(topic.name):
                params["frame"] = self.found.frames[topic.name]
            devices[name] = {"plugin": "ros_topic", "params": params}
        seen = {topic.name for topic in self.found.of_type(IMAGE, published=True)}
        for topic in self.found.of_type(COMPRESSED, published=True):
            base = topic.name.rpartition("/")[0]
            if base in seen or topic.name.endswith("compressedDepth"):
                continue
            name = _camera_name(base, False, devices)
            params = {"topic": topic.name, "width": _IMAGE_WIDTH, "height": 96}
            devices[name] = {"plugin": "ros_topic", "params": params}
        if not devices:
            return {}
        rates = [s.rate_hz for s in self.found.streams if s.camera and s.rate_hz]
        slowest_s = 1.0 / min(rates) if rates else 0.1
        skew = {"max_skew_s": round(1.5 * slowest_s, 3)} if 1.5 * slowest_s > 0.1 else {}
        return {"cameras": {"devices": devices, **skew}}

    def _timing(self) -> dict[str, Any]:
        used = [s for s in self.found.streams if s.count > 1 and not s.camera]
        skew = skew_of(used, 0.05)
        timing: dict[str, Any] = {}
        if skew is not None and skew.largest_s > 0.045:
            timing["max_skew_s"] = rounded_up(1.2 * skew.largest_s)
        slowest = max((stream.largest_gap_s for stream in used), default=0.0)
        if slowest > 0.1:
            timing["max_age_s"] = round(3 * slowest, 2)
        if timing:
            self._comment(f"{_PARAMS}.timing", "as the topics came just now")
        return {"timing": timing} if timing else {}

    def _about_inactive(self, way: Way, path: str) -> None:
        """Say how to activate a controller, by hand or by the contract."""
        controller = self.found.controller(way.topic)
        if controller is None:
            return
        others = [
            item.name
            for item in self.found.controllers
            if item.active
            and item.manager == controller.manager
            and set(item.joints) & set(controller.joints)
        ]
        instead = f" --deactivate {' '.join(others)}" if others else ""
        self._comment(path, "TODO: its controller is inactive: ros2 control switch_controllers "
                      f"--activate {controller.name}{instead}. Or let the contract do it, beside period_s:")  # fmt: skip
        request = {
            "activate_controllers": [controller.name],
            "deactivate_controllers": others,
            "strictness": 2,
        }
        back = {
            "activate_controllers": others,
            "deactivate_controllers": [controller.name],
            "strictness": 2,
        }
        call = {
            "service": f"{controller.manager}/switch_controller",
            "type": SWITCH_CONTROLLER,
            "request": request,
            "undo": {"request": back},
        }
        for line in to_yaml({"before": [call]}, {}).splitlines():
            self._comment(path, f"  {line}")

    def _before(self, ways: Sequence[Way]) -> dict[str, Any]:
        """MoveIt Servo ignores commands until it is told of which type they are."""
        calls = []
        for way in ways:
            service = f"{controller_node(way.topic)}/switch_command_type"
            kind = {JOINT_JOG: 0, TWIST: 1, POSE: 2}.get(way.type_name)
            if kind is not None and SERVO_COMMAND_TYPE in self.found.services.get(service, ()):
                request = {"command_type": kind}
                calls.append({"service": service, "type": SERVO_COMMAND_TYPE, "request": request})
        return {"before": calls} if calls else {}

    def _about_doubles(self) -> None:
        """The same joints on several topics, in different places: robots with the same names."""
        samples = list(self.found.joints.items())
        for number, (topic, sample) in enumerate(samples):
            for other, theirs in samples[number + 1 :]:
                both = [name for name in sample.names if name in theirs.position]
                apart = [
                    abs(sample.position.get(name, 0.0) - theirs.position[name]) for name in both
                ]
                if both and max(apart) > 0.1:
                    self._comment(
                        f"{_PARAMS}.observation",
                        f"TODO: {topic} and {other} both have {both[0]!r}, in different places: "
                        "two robots? A contract needs a name of its own for each joint",
                    )

    def _leftovers(self) -> None:
        used = {joint for part in self.grouping.parts for joint in part.joints}
        used |= {joint for part in self.grouping.parts for hand in part.hands for joint in hand.joints}  # fmt: skip
        left = [name for name in moving_joints(self.found, self.urdf) if name not in used]
        if left:
            self._comment(f"{_PARAMS}.unused", f"Joints that are seen, and commanded by nobody that is known: {', '.join(left)}")  # fmt: skip
        loose = [f"{way.topic} ({way.type_name})" for way in self.grouping.loose_ways]
        loose += [
            f"{hand.topic} ({hand.type_name}), a gripper" for hand in self.grouping.loose_hands
        ]
        if loose:
            self._comment(f"{_PARAMS}.unused", "Not used, for nobody can tell what moves by it:")
            for line in loose:
                self._comment(f"{_PARAMS}.unused", f"  {line}")
        for note in self.found.notes:
            self._comment(f"{_PARAMS}.unused", f"Not known: {note}")


def _with_names(type_name: str, names: list[str]) -> dict[str, Any]:
    """Fields of a command to joints that are called otherwise in the contract."""
    points = [{"positions": "values", "time_from_start": "duration"}]
    trajectory = {"joint_names": names, "points": points}
    if type_name == JOINT_TRAJECTORY:
        return trajectory
    if type_name == FOLLOW_TRAJECTORY:
        return {"trajectory": trajectory}
    return {"name": names, "position": "values"} if type_name == JOINT_STATE else {}


def _shared(values: Sequence[Any]) -> Any:
    """One number where all are the same."""
    return values[0] if len(set(values)) == 1 else list(values)


def _camera_name(topic: str, depth: bool, taken: Mapping[str, Any]) -> str:
    """``/wrist/color/image_raw`` is ``wrist``; ``/camera/camera/depth/image`` is ``camera_depth``."""
    dull = {
        "image",
        "raw",
        "color",
        "colour",
        "rgb",
        "depth",
        "rect",
        "stereo",
        "left",
        "image_raw",
    }
    parts = [re.sub(r"\W", "_", part) for part in topic.strip("/").split("/")]
    said = [p for p in parts if not set(p.lower().split("_")) <= dull]
    name = (said[0] if said else parts[0]).removesuffix("_camera") + ("_depth" if depth else "")
    number = 2
    while name in taken:
        name, number = f"{name.rstrip('0123456789')}{number}", number + 1
    return name
