"""The contract that a survey suggests, and what must be asked because nobody can see it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.checking.streams import rounded_up, skew_of
from user_hal.proposing.commands import PERIOD_S, CommandKeys, shared
from user_hal.proposing.grouping import (
    JOINT_RANKS,
    Grouping,
    Part,
    Way,
    give_hand,
    group,
    is_a_hand,
    moving_joints,
    words,
)
from user_hal.proposing.namesakes import with_distinct_names
from user_hal.proposing.questions import PARAMS, Ask, Draft
from user_hal.proposing.survey import (
    COMPRESSED,
    IMAGE,
    JOINT_STATE,
    ODOMETRY,
    POSE,
    WRENCH,
    Survey,
    calls_of_makers,
    has_controller_manager,
    is_of_a_maker,
)
from user_hal.robot_description import Urdf, parse_urdf
from user_hal.robots.ros2.messages import NUMBERS

_IMAGE_WIDTH = 128


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
        found.without_what_is_no_state()
        self.found, self.names = with_distinct_names(found)
        found = self.found
        self.result = Draft(person=ask)
        self.urdf: Urdf | None = None
        self._commanding: set[str] = set()  # topics that are chosen for a part
        if found.description:
            try:
                self.urdf = parse_urdf(found.description)
            except ConfigError as error:
                found.notes.append(str(error))
        self.grouping: Grouping = group(found, self.urdf)
        self.commands = CommandKeys(self.result, found, self.urdf, self.names)

    def draft(self, robot: str) -> Draft:
        found = self.found
        if not found.joints and not any(part.base for part in self.grouping.parts):
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
                hint=self._what_else_is_heard(),
            )
        self._ask_for_hands(parts)
        single = len(parts) == 1 and not parts[0].base
        ways = [self._choose(p, PARAMS if single else f"{PARAMS}.groups.{p.name}") for p in parts]
        params: dict[str, Any] = {"robot": robot or (self.urdf.name if self.urdf else "my_robot")}
        params |= self._base_frame(parts, ways)
        params["period_s"] = PERIOD_S
        joints = [joint for part in parts for joint in part.joints]
        if single:
            params["joints"] = joints
        params |= self._about_joints(joints)
        params["observation"] = self._observation(parts, single)
        if single:
            params |= self.commands.part(parts[0], ways[0], PARAMS, params["observation"], "")
        else:
            params["groups"] = {}
            for part, way in zip(parts, ways):
                path = f"{PARAMS}.groups.{part.name}"
                content = self.commands.part(
                    part, way, path, params["observation"], f"{part.name}."
                )
                own = {"joints": list(part.joints)} if part.joints else {}
                params["groups"][part.name] = {**own, **content}
        params |= self.commands.before(ways) | self._cameras() | self._timing()
        self._about_doubles()
        self.result.data = {
            "robot": {"plugin": "ros2", "params": params},
            "safety": {"watchdog_s": round(3.5 * PERIOD_S, 3), "max_observation_age_s": 0.5},
        }
        self.result.comment("safety", "What may reach the robot; add velocity, workspace, force: docs/explanation/safety.md")  # fmt: skip
        self._leftovers()
        return self.result

    def _what_else_is_heard(self) -> str:
        """Topics of types that nobody knows here, one of which may be the robot's command."""
        makers = [
            f"{t.name} ({t.type_name})" for t in self.found.topics if t.heard and is_of_a_maker(t)
        ]
        page, told = "docs/how_to/bring_your_own_ros2_robot.md", list[str]()
        if makers:
            told.append(
                f"Somebody listens to {', '.join(makers[:5])}: if one of these moves it, write the contract by hand, with "
                f"`fields` that say what stands where ({page})"
            )
        if calls := calls_of_makers(self.found):
            more = f" and {len(calls) - 5} more" if len(calls) > 5 else ""
            told.append(
                f"There are {', '.join(calls[:5])}{more}: if the robot moves by one of these alone, a contract cannot say "
                f"so, and a driver of your own calls it ({page}, When topics are not enough)"
            )
        if not told or has_controller_manager(self.found):
            told.insert(0, "Is its controller running? `ros2 topic list -t` and `ros2 control list_controllers` show what is there")  # fmt: skip
        return "; ".join(told)

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
            answer = self.result.ask(f"{PARAMS}.groups", text, likely.name, [*names, "none"])
            self.grouping.loose_hands.remove(hand)
            used = {joint for part in parts for joint in part.joints}
            left = [name for name in moving_joints(self.found, self.urdf) if name not in used]
            for part in free:
                if part.name == answer:
                    give_hand(part, hand, parts, left, self.urdf, self.found)

    def _about_joints(self, joints: Sequence[str]) -> dict[str, Any]:
        if not joints:  # a base alone
            return {}
        if self.urdf is None:
            text = "Fastest that each joint can move, rad/s? (There is no robot description.)"
            speed = self.result.ask(f"{PARAMS}.joint_velocity_limits", text, None)
            return {"joint_velocity_limits": speed} if isinstance(speed, (int, float, list)) else {}
        known = [self.urdf.joints[name] for name in joints if name in self.urdf.joints]
        found: dict[str, Any] = {}
        for kind in ("prismatic", "continuous"):
            names = [joint.name for joint in known if joint.kind == kind]
            if names:
                found[kind] = names
        speeds = [joint.velocity for joint in known]
        if len(known) == len(joints) and all(speeds) and speeds:
            found["joint_velocity_limits"] = shared(speeds)
            self.result.comment(f"{PARAMS}.joint_velocity_limits", "of the URDF")
        return found

    def _base_frame(self, parts: Sequence[Part], ways: Sequence[Way]) -> dict[str, Any]:
        frames = list(
            dict.fromkeys(f for t, f in self.found.frames.items() if f and self._is(t, POSE))
        )
        path = f"{PARAMS}.base_frame"
        joints = [joint for part in parts for joint in part.joints]
        of_urdf = self.urdf.base_of(joints) if self.urdf else ""
        if len(frames) == 1:
            self.result.comment(path, "the frame that the tool's pose comes in")
            return {"base_frame": frames[0]}
        if frames:
            text = "Which frame are tool poses and commands in?"
            return {"base_frame": str(self.result.ask(path, text, frames[0], frames))}
        if any(way.kind is ActionKind.EE_DELTA for way in ways):
            text = "Which frame are tool commands in?"
            return {"base_frame": str(self.result.ask(path, text, of_urdf or "base_link"))}
        return {"base_frame": of_urdf} if of_urdf else {}  # nothing depends on it

    def _is(self, topic: str, type_name: str) -> bool:
        return any(t.name == topic and t.type_name == type_name for t in self.found.topics)

    # --- observation ---

    def _observation(self, parts: Sequence[Part], single: bool) -> dict[str, Any]:
        joints = [joint for part in parts for joint in part.joints]
        topics = self._joint_topics(joints)
        found: dict[str, Any] = {}
        if joints:
            found["joint_position"] = self._joint_source(topics, "position", joints)
        if topics and all(self.found.joints[topic].velocity for topic in topics):
            found["joint_velocity"] = self._joint_source(topics, "velocity", joints)
        arms = [part for part in parts if not part.base]
        for type_name, name, field_name in ((POSE, "tcp_pose", "pose"), (WRENCH, "wrench", "wrench")):  # fmt: skip
            self._tool_sources(found, arms, single, type_name, name, field_name)
        for part in parts:
            if part.base and self.grouping.odometry:
                topic = self.grouping.odometry
                found[f"{part.name}.pose"] = {
                    "topic": topic, "type": ODOMETRY, "field": "pose.pose", "layout": "pose",
                    "frame": self.found.frames.get(topic, "odom"),
                }  # fmt: skip
                found[f"{part.name}.velocity"] = {
                    "topic": topic, "type": ODOMETRY, "field": "twist.twist", "layout": "twist",
                }  # fmt: skip
                if body := self.found.bodies.get(topic):  # a twist is the body's
                    found[f"{part.name}.velocity"]["frame"] = body
        arms = [arm for arm in arms if not is_a_hand(arm)]
        if arms and not any(name.endswith("tcp_pose") for name in found) and self.urdf is not None:
            text = "No topic tells the tool's pose. It can be looked up on /tf:"
            for arm in arms:
                prefix = "" if single else f"{arm.name}."
                text += f" {prefix}tcp_pose: {{tf: {self._tool_link(arm)}}}"
            self.result.comment(f"{PARAMS}.observation", text)
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
            self.result.comment(
                f"{PARAMS}.observation", f"TODO: nobody publishes {sorted(missing)}"
            )
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
            topic, path = own[0], f"{PARAMS}.observation.{prefix}{name}"
            if len(own) > 1:
                topic = str(
                    self.result.ask(path, f"Which topic is the {name} of the tool?", topic, own)
                )
            source = {"topic": topic, "type": type_name, "field": field_name}
            frame = self.found.frames[topic]
            if frame:
                source["frame"] = frame
            elif type_name == POSE:
                source["frame"] = str(self.result.ask(path, "In which frame is this pose? Its messages do not say.", "base_link"))  # fmt: skip
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
            chosen = self.result.ask(f"{path}.action", text, way.topic, topics)
            way = next(item for item in part.ways if item.topic == chosen)
        self._commanding.add(way.topic)
        if way.type_name == NUMBERS and way.joints:
            part.joints = way.joints  # numbers without names: the controller's order
        elif way.type_name == NUMBERS:
            self.result.comment(
                f"{path}.joints",
                f"TODO: Are the numbers of {way.topic} these joints, in this order?",
            )
        elif not way.joints and part.joints and way.rank < JOINT_RANKS:
            self.result.comment(f"{path}.joints", f"TODO: Are these the joints of {way.topic}?")
        return way

    # --- the rest ---

    def _cameras(self) -> dict[str, Any]:
        devices: dict[str, Any] = {}
        for topic in self.found.of_type(IMAGE, published=True):
            encoding, width, height = self.found.images.get(topic.name, ("", 0, 0))
            if not width:
                self.result.comment(
                    f"{PARAMS}.cameras", f"{topic.name} is there, but no image came"
                )
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
            _, width, height = self.found.images.get(topic.name, ("", 4, 3))
            params = {
                "topic": topic.name, "width": _IMAGE_WIDTH,
                "height": max(1, round(height * _IMAGE_WIDTH / max(1, width))),
            }  # fmt: skip
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
            self.result.comment(f"{PARAMS}.timing", "as the topics came just now")
        return {"timing": timing} if timing else {}

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
                    self.result.comment(
                        f"{PARAMS}.observation",
                        f"TODO: {topic} and {other} both have {both[0]!r}, in different places: "
                        "two robots? A contract needs a name of its own for each joint",
                    )

    def _leftovers(self) -> None:
        used = {joint for part in self.grouping.parts for joint in part.joints}
        used |= {joint for part in self.grouping.parts for hand in part.hands for joint in hand.joints}  # fmt: skip
        left = [name for name in moving_joints(self.found, self.urdf) if name not in used]
        if left:
            self.result.comment(f"{PARAMS}.unused", f"Joints that are seen, and commanded by nobody that is known: {', '.join(left)}")  # fmt: skip
        loose = [f"{way.topic} ({way.type_name})" for way in self.grouping.loose_ways]
        loose += [
            f"{hand.topic} ({hand.type_name}), a gripper" for hand in self.grouping.loose_hands
        ]
        if loose:
            self.result.comment(
                f"{PARAMS}.unused", "Not used, for nobody can tell what moves by it:"
            )
            for line in loose:
                self.result.comment(f"{PARAMS}.unused", f"  {line}")
        for note in self.found.notes:
            self.result.comment(f"{PARAMS}.unused", f"Not known: {note}")


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
