"""What commands a part of a robot: the keys ``action``, ``home`` and ``before`` of a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from user_core.specs import ActionKind
from user_hal.checking.graph import SERVO_COMMAND_TYPE
from user_hal.proposing.grouping import Hand, Part, Way
from user_hal.proposing.namesakes import Namesakes
from user_hal.proposing.questions import PARAMS, Draft
from user_hal.proposing.survey import JOINT_STATE, POSE, Survey, controller_node
from user_hal.proposing.writing import to_yaml
from user_hal.robot_description import Urdf
from user_hal.robots.ros2.messages import (
    FOLLOW_TRAJECTORY,
    JOINT_JOG,
    JOINT_TRAJECTORY,
    PARALLEL_GRIPPER_ACTION,
    TWIST,
)

PERIOD_S = 0.1
_STEP_RAD, _STEP_M, _TURN_RAD, _SLIDE_M = 0.05, 0.01, 0.05, 0.01
_VELOCITY_RAD_S = 0.3
SWITCH_CONTROLLER = "controller_manager_msgs/srv/SwitchController"


class CommandKeys:
    """Writes these keys.

    Args:
        draft: Where comments and questions go.
        found: What is there.
        urdf: The robot description, if there is one.
        names: What messages call the joints.
    """

    def __init__(self, draft: Draft, found: Survey, urdf: Urdf | None, names: Namesakes) -> None:
        self.draft, self.found, self.urdf, self.names = draft, found, urdf, names

    def part(
        self, part: Part, way: Way, path: str, observation: dict[str, Any], prefix: str
    ) -> dict[str, Any]:
        """``action`` and ``home`` of a part; its gripper is added to the observation.

        Args:
            part: What is commanded.
            way: By which topic.
            path: Of the part in the file.
            observation: Of the contract.
            prefix: Of the part's names there.
        """
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
        """``low`` and ``high`` of an action, which a person is asked for; of joints that get changes,
        also the bounds of the targets that these add up to."""
        joints = [self.urdf.joints.get(name) if self.urdf else None for name in part.joints]
        text, high = self._largest(way.kind, joints)
        answer = self.draft.ask(f"{path}.low" if path else "low", text, high)
        high = answer if isinstance(answer, (int, float, list)) else high
        low = [-value for value in high] if isinstance(high, list) else -high
        bounds: dict[str, Any] = {"low": low, "high": high}
        if way.kind is ActionKind.JOINT_DELTA:
            bounds |= self._target_bounds(joints, path)
        if way.kind is ActionKind.BASE_TWIST:
            self.draft.comment(
                f"{path}.low", "One that goes sideways, too: sideways: true, and vx, vy, wz"
            )
        return bounds

    def _largest(self, kind: ActionKind, joints: Sequence[Any]) -> tuple[str, Any]:
        """What to ask about the largest action of a kind, and what is proposed: a number or a list."""
        if kind is ActionKind.JOINT_VELOCITY:
            speeds = [j.velocity if j and j.velocity else 1.0 for j in joints] or [1.0]
            slow = shared([min(_VELOCITY_RAD_S, 0.3 * speed) for speed in speeds])
            return "How fast may an action move the joints, rad/s?", slow
        if kind is ActionKind.BASE_TWIST:
            return "How fast may the base go (m/s) and turn (rad/s)?", [0.1, 0.3]
        text = "How far may one action move? This is for one period of 0.1 s."
        if kind is ActionKind.JOINT_DELTA:
            return text, shared([self._step(joint) for joint in joints] or [_STEP_RAD])
        return text, [_STEP_M] * 3 + [_TURN_RAD] * 3

    def _target_bounds(self, joints: Sequence[Any], path: str) -> dict[str, Any]:
        """``target_low`` and ``target_high`` where the limits of all joints are known; else a remark."""
        bounds: dict[str, Any] = {}
        known = [j for j in joints if j is not None and j.lower is not None and j.upper is not None]
        if joints and len(known) == len(joints):
            bounds["target_low"] = shared([round(joint.lower, 4) for joint in known])
            bounds["target_high"] = shared([round(joint.upper, 4) for joint in known])
        else:
            self.draft.comment(f"{path}.low", "No limits of the joints are known: see target_low and target_high")  # fmt: skip
        if any(joint is not None and joint.kind == "prismatic" for joint in joints):
            self.draft.comment(f"{path}.low", "m for joints that shift, rad for those that turn")
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
                self.draft.comment(
                    path,
                    f"TODO: What stands in the fields of {way.type_name}, and in which unit? (degrees: scale)",
                )
        return command

    def _home(self, part: Part, way: Way, path: str) -> dict[str, Any]:
        position = {k: v for sample in self.found.joints.values() for k, v in sample.position.items()}  # fmt: skip
        if way.kind not in (ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY) or not set(part.joints) <= set(position):  # fmt: skip
            return {}
        here = [round(position[name], 3) + 0.0 for name in part.joints]
        answer = self.draft.ask(f"{path}.home", "Where does an episode start? This is where the robot is now.", here)  # fmt: skip
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
        answer = self.draft.ask(path, "Which number closes the gripper, and which opens it? [closed, opened]", [closed, opened])  # fmt: skip
        if isinstance(answer, list) and len(answer) == 2 and answer[0] != answer[1]:
            closed, opened = answer
        gripper: dict[str, Any] = {
            "topic": hand.topic, "type": hand.type_name, "closed": closed, "opened": opened,
        }  # fmt: skip
        named = hand.type_name in (PARALLEL_GRIPPER_ACTION, JOINT_TRAJECTORY, JOINT_STATE)
        if named and not hand.joints:
            self.draft.comment(path, "TODO: whose joints are the gripper's? Add joints: [NAME]")
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
            self.draft.comment(f"{PARAMS}.observation.{prefix}gripper", "0 closed to 1 open, from the gripper's closed and opened")  # fmt: skip
        return gripper

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
        self.draft.comment(path, "TODO: its controller is inactive: ros2 control switch_controllers "
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
            self.draft.comment(path, f"  {line}")

    def before(self, ways: Sequence[Way]) -> dict[str, Any]:
        """MoveIt Servo ignores commands until it is told of which type they are."""
        calls = []
        for way in ways:
            service = f"{controller_node(way.topic)}/switch_command_type"
            kind = {JOINT_JOG: 0, TWIST: 1, POSE: 2}.get(way.type_name)
            if kind is not None and SERVO_COMMAND_TYPE in self.found.services.get(service, ()):
                request = {"command_type": kind}
                calls.append({"service": service, "type": SERVO_COMMAND_TYPE, "request": request})
        return {"before": calls} if calls else {}


def _with_names(type_name: str, names: list[str]) -> dict[str, Any]:
    """Fields of a command to joints that are called otherwise in the contract."""
    points = [{"positions": "values", "time_from_start": "duration"}]
    trajectory = {"joint_names": names, "points": points}
    if type_name == JOINT_TRAJECTORY:
        return trajectory
    if type_name == FOLLOW_TRAJECTORY:
        return {"trajectory": trajectory}
    return {"name": names, "position": "values"} if type_name == JOINT_STATE else {}


def shared(values: Sequence[Any]) -> Any:
    """One number where all are the same."""
    return values[0] if len(set(values)) == 1 else list(values)
