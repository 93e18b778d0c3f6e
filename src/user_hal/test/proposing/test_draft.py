"""Contracts that are proposed for many kinds of robots, from what a survey would find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_hal.checking.graph import Controller
from user_hal.proposing.draft import draft_of
from user_hal.proposing.questions import Draft, Question
from user_hal.proposing.survey import JointSample, Survey, Topic, _take, command_fields
from user_hal.proposing.writing import to_yaml
from user_hal.robot_file import RobotFile, build_robot
from user_testing.worlds.robots.proposed_robots import LEFT, RIGHT, TWO_URDF, joint, urdf

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
FOLLOW = "control_msgs/action/FollowJointTrajectory"
NUMBERS = "std_msgs/msg/Float64MultiArray"
TWIST = "geometry_msgs/msg/TwistStamped"
GRIPPER = "control_msgs/action/GripperCommand"


def sample(names: Sequence[str], at: float = 0.1) -> JointSample:
    return JointSample(list(names), dict.fromkeys(names, at), velocity=True)


def told(*topics: tuple[str, str]) -> list[Topic]:
    return [Topic(name, kind, heard=True) for name, kind in topics]


def proposed(
    joints: Mapping[str, Sequence[str]], topics: Sequence[Topic], answers: Any = None, **more: Any
) -> tuple[dict[str, Any], Draft]:
    """The parameters; the whole file is checked."""
    states = [Topic(name, JOINT_STATE, published=True) for name in joints]
    found = Survey(topics=[*states, *topics], **more)
    found.joints = {topic: sample(names) for topic, names in joints.items()}
    draft = draft_of(found, answers or (lambda question: None))
    data = yaml.safe_load(to_yaml(draft.data, draft.comments))
    assert data == yaml.safe_load(yaml.safe_dump(draft.data))
    build_robot(from_mapping(RobotFile, data)).close()
    params: dict[str, Any] = data["robot"]["params"]
    return params, draft


def text_of(draft: Draft) -> str:
    return to_yaml(draft.data, draft.comments)


ARM = ("pan", "lift", "elbow")


def test_one_arm_without_anything_known() -> None:
    params, draft = proposed({"/joint_states": ARM}, told(("/arm/commands", NUMBERS)))
    assert params["joints"] == list(ARM) and params["action"]["kind"] == "joint_delta"
    assert "groups" not in params and "base_frame" not in params
    assert "these joints, in this order?" in text_of(draft)


def test_numbers_without_names_are_in_the_order_of_the_controller() -> None:
    manager = Controller("fwd", "active", "x", "/controller_manager", ("elbow", "pan", "lift"))
    params, _ = proposed(
        {"/joint_states": ARM},
        told(("/fwd/commands", NUMBERS)),
        controllers=[manager],
        joints_of={"/fwd": manager.joints},
    )
    assert params["joints"] == ["elbow", "pan", "lift"]


def test_controllers_of_the_same_name_under_two_managers() -> None:
    arms = {"left": LEFT, "right": RIGHT}
    controllers = [
        Controller("jtc", "active" if name == "left" else "inactive", "x",
                   f"/{name}/controller_manager", joints)
        for name, joints in arms.items()
    ]  # fmt: skip
    params, draft = proposed(
        {"/joint_states": [*RIGHT, *LEFT]},
        told(*((f"/{name}/jtc/joint_trajectory", TRAJECTORY) for name in arms)),
        controllers=controllers,
        joints_of={f"/{name}/jtc": joints for name, joints in arms.items()},
    )
    for name, joints in arms.items():
        assert params["groups"][name]["joints"] == list(joints)
        assert f"/{name}/jtc" in params["groups"][name]["action"]["command"]["topic"]
    text = text_of(draft)
    assert text.count("its controller is inactive") == 1
    assert "service: /right/controller_manager/switch_controller" in text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_joint_{}", "right_joint_{}"),
        ("openarm_left_joint{}", "openarm_right_joint{}"),
        ("arm1_joint{}", "arm2_joint{}"),
        ("LeftShoulder{}", "RightShoulder{}"),
    ],
)
def test_arms_are_told_apart_by_a_word_of_their_joints(left: str, right: str) -> None:
    joints = [name.format(n) for name in (left, right) for n in range(1, 6)]
    params, _ = proposed({"/joint_states": joints}, told(("/a/commands", NUMBERS), ("/b/commands", NUMBERS)))  # fmt: skip
    groups = list(params["groups"].values())
    assert [group["joints"] for group in groups] == [joints[:5], joints[5:]]
    assert [group["action"]["command"]["topic"][:2] for group in groups] == ["/a", "/b"]
    params, _ = proposed({"/joint_states": joints}, told(("/all/commands", NUMBERS)))
    assert params["joints"] == joints, "one topic for both is one robot"


def test_parts_are_told_apart_by_the_names_of_controllers_that_tell_nothing() -> None:
    joints = ["torso_lift_joint", *(f"arm_{n}_joint" for n in range(1, 8))]
    fingers = ["gripper_left_finger_joint", "gripper_right_finger_joint"]
    params, draft = proposed(
        {"/joint_states": [*joints, *fingers]},
        told(*((f"/{name}_controller/joint_trajectory", TRAJECTORY)
               for name in ("torso", "arm", "gripper"))),
    )  # fmt: skip
    assert {name: group["joints"] for name, group in params["groups"].items()} == {
        "torso_lift": joints[:1], "arm": joints[1:],
    }  # fmt: skip
    assert "Are these the joints of /arm_controller/joint_trajectory?" in text_of(draft)
    assert "Which part has the gripper /gripper_controller/joint_trajectory?" in text_of(draft)
    assert params["groups"]["arm"]["action"]["gripper"]["joints"] == fingers


def test_arms_with_the_same_joints_in_namespaces_of_their_own() -> None:
    states = {f"/robot_{side}/joint_states": ARM for side in ("left", "right")}
    params, _ = proposed(
        states,
        told(*((f"/robot_{side}/jtc/joint_trajectory", TRAJECTORY) for side in ("left", "right"))),
        joints_of={f"/robot_{side}/jtc": ARM for side in ("left", "right")},
    )
    for side in ("left", "right"):
        group = params["groups"][side]
        assert group["joints"] == [f"{side}_{name}" for name in ARM]
        assert group["action"]["command"]["fields"]["joint_names"] == list(ARM)
    parts = params["observation"]["joint_position"]["parts"]
    assert parts[1] == {
        "topic": "/robot_right/joint_states", "names": list(ARM),
        "elements": [f"right_{name}" for name in ARM],
    }  # fmt: skip


def test_types_that_nobody_knows_are_proposed_by_their_fields() -> None:
    kind = "lab_msgs/msg/Command"
    params, draft = proposed(
        {"/joint_states": ARM}, told(("/go", kind)), fields={kind: {"goal": "values"}}
    )
    assert params["action"]["command"]["fields"] == {"goal": "values"}
    assert f"What stands in the fields of {kind}, and in which unit?" in text_of(draft)


def test_one_arm_with_words_in_its_joints_stays_one() -> None:
    ur = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint",
          "wrist_2_joint", "wrist_3_joint")  # fmt: skip
    for joints in (ur, [f"joint{n}" for n in range(1, 8)], [f"fr3_joint{n}" for n in range(1, 8)]):
        params, _ = proposed({"/joint_states": joints}, told(("/x/joint_trajectory", TRAJECTORY)))
        assert params["joints"] == list(joints)


def test_a_joint_of_the_arm_may_be_called_gripper() -> None:
    """SO-101: the arm's own controller moves it, so it is a joint."""
    joints = ("pan", "lift", "elbow", "gripper")
    params, _ = proposed(
        {"/joint_states": joints},
        told(("/arm_controller/joint_trajectory", TRAJECTORY)),
        joints_of={"/arm_controller": joints},
    )
    assert params["joints"] == list(joints) and "gripper" not in params["action"]


def test_a_joint_beside_numbered_ones_is_the_grippers_whatever_it_is_called() -> None:
    """xArm: joint1 to joint7, and drive_joint, which six finger joints mimic."""
    numbered = [f"joint{n}" for n in range(1, 8)]
    joints = [*numbered, "drive_joint", "left_finger_joint"]
    topics = told(("/arm_controller/joint_trajectory", TRAJECTORY), ("/grip/action", GRIPPER))
    params, _ = proposed({"/joint_states": joints}, topics)
    assert params["joints"] == numbered
    without, _ = proposed({"/joint_states": joints[:-1]}, topics[:1])  # no gripper: whose is it?
    assert without["joints"] == joints[:-1]
    mixed, _ = proposed({"/joint_states": ["pan", "lift", "elbow1", "elbow2"]}, topics)
    assert mixed["joints"] == ["pan", "lift", "elbow1", "elbow2"]


def test_grippers_of_a_trajectory_controller_and_of_both_actions() -> None:
    joints = (*ARM, "left_finger", "right_finger")
    params, _ = proposed(
        {"/joint_states": joints},
        told(
            ("/arm_controller/joint_trajectory", TRAJECTORY),
            ("/gripper_controller/joint_trajectory", TRAJECTORY),
        ),
        joints_of={"/arm_controller": ARM, "/gripper_controller": joints[3:]},
    )
    assert params["joints"] == list(ARM)
    assert params["action"]["gripper"]["joints"] == ["left_finger", "right_finger"]
    assert params["observation"]["gripper"]["names"] == ["left_finger"]
    parallel = "control_msgs/action/ParallelGripperCommand"
    params, _ = proposed(
        {"/joint_states": joints[:4]},
        told(
            ("/arm_controller/joint_trajectory", TRAJECTORY),
            ("/hand/gripper_cmd", parallel),
            ("/hand/gripper_cmd", GRIPPER),
        ),
        joints_of={"/arm_controller": ARM},
    )
    assert params["action"]["gripper"]["type"] == parallel
    assert params["action"]["gripper"]["joints"] == ["left_finger"]


def test_limits_kinds_and_mimics_come_from_the_urdf() -> None:
    description = urdf(
        "arm",
        "world",
        [
            joint("lift", "world", "a", "prismatic", "0.0 0.5 0.2"),
            joint("pan", "a", "b", "continuous", "0 0 2.0"),
            joint("elbow", "b", "c", "revolute", "-1.5 1.5 1.0"),
            joint("finger", "c", "d", "prismatic", "0.0 0.04 0.1"),
            joint("finger2", "c", "e", "prismatic", "0.0 0.04 0.1", "finger"),
        ],
    )
    params, draft = proposed(
        {"/joint_states": ["finger2", "finger", "pan", "elbow", "lift"]},
        told(("/arm_controller/joint_trajectory", TRAJECTORY), ("/hand/gripper_cmd", GRIPPER)),
        joints_of={"/arm_controller": ("pan", "elbow", "lift")},
        description=description,
    )
    assert params["joints"] == ["lift", "pan", "elbow"]
    assert (params["prismatic"], params["continuous"]) == (["lift"], ["pan"])
    assert params["joint_velocity_limits"] == [0.2, 2.0, 1.0]
    assert params["action"]["high"] == [0.006, 0.05, 0.03], "30 % of what they can do"
    assert "target_low" not in params["action"] and "No limits of the joints" in text_of(draft)
    assert params["observation"]["gripper"]["names"] == ["finger"]
    assert (params["action"]["gripper"]["closed"], params["action"]["gripper"]["opened"]) == (0.0, 0.04)  # fmt: skip
    assert "tcp_pose: {tf: c}" in text_of(draft)


def test_grippers_belong_to_the_arm_that_they_hang_on() -> None:
    """Names say nothing here; the URDF does."""
    params, _ = proposed(
        {"/joint_states": [*LEFT, *RIGHT, "left_finger", "right_finger"]},
        told(
            ("/a/joint_trajectory", TRAJECTORY), ("/b/joint_trajectory", TRAJECTORY),
            ("/grip_one/gripper_cmd", GRIPPER), ("/grip_two/gripper_cmd", GRIPPER),
        ),
        joints_of={"/a": LEFT, "/b": RIGHT, "/grip_one": ("right_finger",),
                   "/grip_two": ("left_finger",)},
        description=TWO_URDF,
    )  # fmt: skip
    assert params["groups"]["left"]["action"]["gripper"]["topic"] == "/grip_two/gripper_cmd"
    assert params["groups"]["right"]["action"]["gripper"]["topic"] == "/grip_one/gripper_cmd"


def test_a_base_and_an_arm() -> None:
    odometry = Topic("/odom", "nav_msgs/msg/Odometry", published=True)
    params, _ = proposed(
        {"/joint_states": [*ARM, "wheel_left", "wheel_right"]},
        [*told(("/arm_controller/joint_trajectory", TRAJECTORY), ("/cmd_vel", TWIST)), odometry],
        joints_of={"/arm_controller": ARM},
        frames={"/odom": "odom"},
    )
    assert list(params["groups"]) == ["arm", "base"]
    assert params["groups"]["base"]["action"]["kind"] == "base_twist"
    assert params["observation"]["base.velocity"]["topic"] == "/odom"
    assert "joints" not in params["groups"]["base"]


def test_a_servo_is_told_its_command_type() -> None:
    servo = "moveit_msgs/srv/ServoCommandType"
    params, _ = proposed(
        {"/joint_states": ARM},
        told(("/servo_node/delta_twist_cmds", TWIST)),
        services={"/servo_node/switch_command_type": [servo]},
    )
    assert params["action"]["kind"] == "ee_delta"
    assert params["before"] == [
        {"service": "/servo_node/switch_command_type", "type": servo, "request": {"command_type": 1}}
    ]  # fmt: skip


def test_an_action_is_taken_where_there_is_no_topic() -> None:
    both = told(("/jtc/follow_joint_trajectory", FOLLOW), ("/jtc/joint_trajectory", TRAJECTORY))
    params, draft = proposed({"/joint_states": ARM}, both)
    assert params["action"]["command"]["type"] == TRAJECTORY and "Which topic" not in text_of(draft)
    params, _ = proposed({"/joint_states": ARM}, both[:1])
    assert params["action"]["command"]["topic"] == "/jtc/follow_joint_trajectory"


def test_answers_are_taken_and_leave_no_todo() -> None:
    asked: list[Question] = []

    def answer(question: Question) -> Any:
        asked.append(question)
        if question.choices:
            return "/velocity_controller/commands"
        limits = ("low", "joint_velocity_limits")
        return 0.2 if question.path.endswith(limits) else question.default

    params, draft = proposed(
        {"/joint_states": ARM},
        told(("/arm/joint_trajectory", TRAJECTORY), ("/velocity_controller/commands", NUMBERS)),
        answer,
        joints_of={"/arm": ARM, "/velocity_controller": ARM},
    )
    assert params["action"]["kind"] == "joint_velocity"
    assert (params["action"]["low"], params["action"]["high"]) == (-0.2, 0.2)
    assert "TODO" not in text_of(draft) and not draft.open
    assert asked[0].choices == ("/arm/joint_trajectory", "/velocity_controller/commands")


def test_cameras_and_tool_poses() -> None:
    images = {
        "/wrist/color/image_raw": ("rgb8", 640, 480),
        "/wrist/aligned_depth/image_raw": ("16UC1", 640, 480),
        "/camera/camera/color/image_raw": ("bgr8", 64, 36),
    }
    topics = [Topic(name, "sensor_msgs/msg/Image", published=True) for name in images]
    topics.append(Topic("/side/image_raw/compressed", "sensor_msgs/msg/CompressedImage", True))
    poses = [Topic(f"/{n}/pose", "geometry_msgs/msg/PoseStamped", published=True) for n in "ab"]
    params, draft = proposed(
        {"/joint_states": ARM},
        [*told(("/x/joint_trajectory", TRAJECTORY)), *topics, *poses],
        images=images,
        frames={"/a/pose": "base", "/b/pose": "base", "/wrist/color/image_raw": "wrist_optical"},
    )
    devices = params["cameras"]["devices"]
    assert sorted(devices) == ["camera", "side", "wrist", "wrist_depth"]
    assert devices["wrist"]["params"] == {
        "topic": "/wrist/color/image_raw", "width": 128, "height": 96, "frame": "wrist_optical",
    }  # fmt: skip
    assert devices["wrist_depth"]["params"]["kind"] == "depth"
    assert (devices["camera"]["params"]["width"], devices["camera"]["params"]["height"]) == (64, 36)
    assert (
        params["observation"]["tcp_pose"]["topic"] == "/a/pose" and params["base_frame"] == "base"
    )
    assert "Which topic is the tcp_pose of the tool? Others: /b/pose" in text_of(draft)


def test_two_robots_with_the_same_names_are_noticed() -> None:
    states = {"/left/joint_states": sample(ARM, 0.1), "/right/joint_states": sample(ARM, 0.9)}
    found = Survey(topics=told(("/left/joint_trajectory", TRAJECTORY)), joints=states)
    assert "both have 'pan', in different places" in text_of(draft_of(found))


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no message of type sensor_msgs/msg/JointState"):
        draft_of(Survey(topics=told(("/x/joint_trajectory", TRAJECTORY))))
    with pytest.raises(ConfigError, match="nobody listens to a topic"):
        draft_of(Survey(joints={"/joint_states": sample(ARM)}))


def test_yaml_with_comments() -> None:
    text = to_yaml(
        {"a": {"b": 1, "c": [1, 2]}, "d": "x: y"}, {"a.b": ["one"], "e": ["end"]}, "head"
    )
    assert text == "# head\na:\n  # one\n  b: 1\n  c: [1, 2]\nd: 'x: y'\n# end\n"


FINGERS = tuple(
    f"r_hand_{name}" for name in ("thumb_bend", "thumb_turn", "index", "middle", "pinky")
)


def hand_urdf(*above: str) -> str:
    """An arm of these joints and a hand whose fingers move one by one; two joints follow others."""
    joints = [joint(name, f"l{n}", f"l{n + 1}") for n, name in enumerate(above)]
    palm = f"l{len(above)}"
    joints += [joint(name, palm, f"{name}_link") for name in FINGERS]
    joints += [joint(f"{n}_tip", f"{n}_link", f"{n}_tip", mimic=n) for n in FINGERS[2:4]]
    return urdf("hand", "l0", joints)


def test_a_hand_whose_fingers_move_one_by_one_is_no_gripper() -> None:
    hand = ("/r_hand/joint_trajectory", TRAJECTORY)
    for description in ("", hand_urdf()):
        params, draft = proposed(
            {"/joint_states": FINGERS},
            told(hand),
            joints_of={"/r_hand": FINGERS},
            description=description,
        )
        assert params["joints"] == list(FINGERS) and "gripper" not in params["action"]
        assert "tcp_pose" not in text_of(draft), "a hand has no tool"
    arm = ("/arm/joint_trajectory", TRAJECTORY)
    for description in ("", hand_urdf(*ARM)):
        params, _ = proposed(
            {"/joint_states": [*ARM, *FINGERS]}, told(hand, arm),
            joints_of={"/r_hand": FINGERS, "/arm": ARM}, description=description,
        )  # fmt: skip
        groups = params["groups"]
        assert {name: group["joints"] for name, group in groups.items()} == {
            "arm": list(ARM), "r_hand": list(FINGERS),
        }  # fmt: skip
        assert list(groups) == ["arm", "r_hand"], "in the order of the robot"
        assert not any("gripper" in group["action"] for group in groups.values())


def test_joints_of_a_hand_that_follow_others_leave_it_a_gripper() -> None:
    """Its controller commands three joints, two of which are driven by the first."""
    names = ("left_finger", "right_finger", "finger_tip")
    both = [joint(names[0], "l3", "f0"), *(joint(n, "l3", n, mimic=names[0]) for n in names[1:])]
    arm = [joint(name, f"l{n}", f"l{n + 1}") for n, name in enumerate(ARM)]
    params, _ = proposed(
        {"/joint_states": [*ARM, *names]},
        told(("/arm/joint_trajectory", TRAJECTORY), ("/hand_controller/joint_trajectory", TRAJECTORY)),
        joints_of={"/arm": ARM, "/hand_controller": names}, description=urdf("arm", "l0", arm + both),
    )  # fmt: skip
    assert params["joints"] == list(ARM)
    assert params["action"]["gripper"]["topic"] == "/hand_controller/joint_trajectory"


@pytest.mark.parametrize("wheels", [(), ("wheel_left", "wheel_right")])
def test_a_base_alone_needs_no_joints(wheels: Sequence[str]) -> None:
    topics = [
        *told(("/cmd_vel", "geometry_msgs/msg/Twist")),
        Topic("/odom", "nav_msgs/msg/Odometry", published=True),
    ]
    joints = {"/joint_states": wheels} if wheels else {}
    odometry = SimpleNamespace(header=SimpleNamespace(frame_id="odom"), child_frame_id="footprint")
    heard = Survey()
    _take(heard, topics[-1], odometry)
    params, draft = proposed(joints, topics, frames=heard.frames, bodies=heard.bodies)
    frames = [params["observation"][f"base.{name}"]["frame"] for name in ("pose", "velocity")]
    assert frames == ["odom", "footprint"], "a twist is the body's"
    assert (
        list(params["groups"]) == ["base"]
        and params["groups"]["base"]["action"]["kind"] == "base_twist"
    )
    assert set(params["observation"]) == {"base.pose", "base.velocity"}
    assert not any("each joint" in question.text for question in draft.open)


def test_of_several_lists_of_numbers_the_one_for_positions_is_what_joints_are_told() -> None:
    def class_of(**fields: str) -> Any:
        return type("Message", (), {"get_fields_and_field_types": staticmethod(lambda: fields)})

    stream = class_of(pos="double[6]", vel="double[6]", acc="double[6]", time="double", mode="int8")
    unclear = class_of(first="double[6]", second="double[6]")
    kinds = {"maker_msgs/msg/Stream": stream, "maker_msgs/msg/Unclear": unclear}
    found = Survey(topics=told(*((f"/{kind[-6:]}", kind) for kind in kinds)))
    assert command_fields(kinds.__getitem__, found) == {"maker_msgs/msg/Stream": {"pos": "values"}}


def test_who_finds_no_command_is_told_what_else_is_listened_to() -> None:
    with pytest.raises(ConfigError, match=r"/go \(maker_msgs/msg/Odd\): if one of these moves it"):
        proposed({"/joint_states": ARM}, told(("/go", "maker_msgs/msg/Odd")))
    with pytest.raises(ConfigError, match="Is its controller running"):
        proposed({"/joint_states": ARM}, told(("/load", "controller_manager_msgs/srv/X")))
    calls = {"/arm/get_error": ["maker_msgs/srv/Get"], "/arm/move_joint": ["maker_msgs/srv/Move"]}
    calls |= {"/arm/set_parameters": ["rcl_interfaces/srv/SetParameters"]}
    found = told(("/dance", "maker_msgs/action/Dance"))
    with pytest.raises(ConfigError, match="a driver of your own") as raised:
        proposed({"/joint_states": ARM}, found, services=calls)
    named = ("/arm/move_joint (maker_msgs/srv/Move)", "/dance (maker_msgs/action/Dance)")
    assert f"There are {', '.join(named)}, /arm/get_error" in str(raised.value)
    assert "set_parameters" not in str(raised.value)
    assert "Is its controller running" not in str(raised.value)
    calls |= {"/controller_manager/load": ["controller_manager_msgs/srv/LoadController"]}
    with pytest.raises(ConfigError, match="Is its controller running.*; There are /arm/move_joint"):
        proposed({"/joint_states": ARM}, found, services=calls)


def test_joint_states_that_are_limits_or_targets_are_no_reading() -> None:
    """A driver that tells limits by the type of joint states, under a name that sorts before the state's."""
    seen = (*ARM, "hand")
    params, draft = proposed(
        {"/joint_limits": [*seen, "aperture"], "/joint_states": seen, "/joint_command": seen},
        told(("/ctl/follow_joint_trajectory", FOLLOW)),
    )
    assert params["observation"]["joint_position"]["topic"] == "/joint_states"
    assert "aperture" not in params["joints"]
    text = text_of(draft)
    assert (
        "/joint_limits is a JointState, and by its name no state" in text
        and "two robots" not in text
    )
    assert "Are these the joints of /ctl/follow_joint_trajectory?" in text, "nobody told"
    params, _ = proposed({"/joint_command": ARM}, told(("/ctl/follow_joint_trajectory", FOLLOW)))
    assert params["observation"]["joint_position"]["topic"] == "/joint_command", "there is no other"
