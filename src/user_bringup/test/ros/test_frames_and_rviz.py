"""What rviz is told to show is published, and every frame hangs in the tree of the shipped URDF."""

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from user_bringup.running import find_deployment, read_deployment
from user_bringup.running.find import config_folder
from user_bringup.rviz import ShownRobot, robots_of, rviz_view
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Observation
from user_fleet.deployment import Faults, parse_overrides
from user_fleet.deployment.check import OF_EVERY_NODE
from user_hal.node_configs import HalConfig
from user_hal.nodes.standard_topics import StandardTopics, markers
from user_hal.robot_file import DisplayConfig, build_robot
from user_hal.runtime.control_loop import HalLoop
from user_hal.sim import urdf

TEMPLATE = config_folder() / "rviz" / "user.rviz"
CAMERAS = "cameras:=[front, wrist]"


def hal_of(name, *words):
    faults = Faults()
    composition = read_deployment(
        find_deployment(name), parse_overrides(words), Path("runs") / "r", faults, False
    )
    faults.check()
    (process,) = robots_of(composition.deployment)
    return process


class Published:
    """The standard topics of a robot, and what it says on each."""

    def __init__(self, process):
        parameters = {k: v for k, v in process.parameters.items() if k not in OF_EVERY_NODE}
        config = HalConfig(**parameters).expand(parameters)
        self.robot = build_robot(config)
        spec, self.display = self.robot.spec, config.display.of(self.robot)
        self.names, self.messages = [], {}
        topics = StandardTopics(
            spec, self.display, self._advertise, calibrations=self.robot.calibrations
        )
        arrays = {name: np.zeros(item.shape, item.dtype) for name, item in spec.observation.items()}
        if "tcp_pose" in arrays:
            arrays["tcp_pose"][-1] = 1
        if "gripper" in arrays:
            arrays["gripper"][:] = 0.5
        observation = Observation(arrays, 5_000_000_000, 1, 1)
        topics._publish(observation)
        drawn = markers(
            observation,
            HalLoop(self.robot, config.loop, config.safety, config.lease).status(),
            None,
            self.display,
            config.safety.workspace,
        )
        self.frames = {m.header.frame_id for m in (*self.messages.values(), *drawn.markers)}

    def _advertise(self, topic):
        published = self
        self.names.append(topic.name)

        class Publisher:
            wanted, readers = True, frozenset({"rviz"})

            def publish(self, message):
                published.messages[topic.name] = message

        return Publisher()


class Tree:
    """Links and joints of a URDF."""

    def __init__(self, text):
        root = ElementTree.fromstring(text)
        self.links = {link.get("name") for link in root.findall("link")}
        self.above, self.moving = {}, set()
        for joint in root.findall("joint"):
            self.above[joint.find("child").get("link")] = joint.find("parent").get("link")
            if joint.get("type") != "fixed":
                self.moving.add(joint.get("name"))

    def reaches(self, root, link):
        while link != root and link in self.above:
            link = self.above[link]
        return link == root


@pytest.mark.parametrize("task", ["reach", "pick_place", "peg_insertion"])
@pytest.mark.parametrize("arm", ["panda", "ur5e"])
def test_every_frame_hangs_in_the_tree_and_every_joint_is_told(arm, task):
    process = hal_of("sim_single", f"robot:={arm}", f"task:={task}", CAMERAS)
    published = Published(process)
    tree = Tree((Path(urdf.__file__).parents[2] / "urdf" / f"{arm}.urdf").read_text())
    base = ShownRobot.of(process).base_frame
    assert len(published.frames) == 3, "base, and two cameras"
    for frame in tree.links | published.frames:
        assert tree.reaches(base, frame), frame
    joints = published.messages["joint_states"]
    assert set(joints.name) == tree.moving
    assert len(joints.name) == len(joints.position) == len(joints.velocity)
    if task == "pick_place":
        at = dict(zip(joints.name, joints.position, strict=True))
        assert at["panda_finger_joint1" if arm == "panda" else "gripper_finger_joint1"] > 0.005


def test_cameras_say_how_they_project():
    published = Published(hal_of("sim_single", "task:=reach", CAMERAS))
    for camera in ("front", "wrist"):
        info = published.messages[f"camera/{camera}/camera_info"]
        assert info.header == published.messages[f"camera/{camera}/image_raw"].header
        assert info.k[0] == info.k[4] > 0 and info.p[0] == info.k[0]
        assert info.distortion_model == "plumb_bob"


def topics_of(view):
    """The topics that a view names."""
    found = []
    for display in view["Visualization Manager"]["Displays"]:
        for key in ("Topic", "Description Topic"):
            if isinstance(display.get(key), dict):
                found.append(str(display[key]["Value"]))
    return found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sim_single", [CAMERAS]),
        ("sim_single", ["robot:=ur5e"]),
        ("sim_images", []),
        ("real_robot", ["robot:=sim_ros_robot"]),
        ("real_robot", ["robot:=franka_fr3", "namespace:=/lab1", "name:=arm"]),
    ],
)
def test_rviz_is_shown_topics_that_are_published(name, words):
    process = hal_of(name, *words)
    published = Published(process)
    robot = ShownRobot.of(process, f"{process.namespace}/robot_description")
    view = rviz_view(TEMPLATE, [robot])
    there = {f"{process.namespace}/{topic}" for topic in published.names}
    there |= {f"{process.namespace}/markers", robot.description}
    assert set(topics_of(view)) - there <= {
        f"{process.namespace}/{topic}" for topic in ("tcp_pose", "wrench")
    }, "a robot may lack pose or wrench"
    pictures = [topic for topic in topics_of(view) if topic.endswith("/image_raw")]
    assert len(pictures) == len(robot.cameras)
    fixed = view["Visualization Manager"]["Global Options"]["Fixed Frame"]
    assert fixed == published.display.base_frame
    text = str(view)
    assert not any(word in text for word in ("ROBOT", "BASE_FRAME", "TF_PREFIX", "CAMERA"))


def test_two_arms_of_a_kind_have_frames_of_their_own():
    process = hal_of("sim_single", "tf_prefix:=left/", CAMERAS)
    published = Published(process)
    assert all(frame.startswith("left/") for frame in published.frames)
    robots = [
        ShownRobot.of(process),
        ShownRobot.of(hal_of("sim_single", "name:=robot1", "tf_prefix:=right/")),
    ]
    displays = rviz_view(TEMPLATE, robots)["Visualization Manager"]["Displays"]
    models = [d for d in displays if d["Class"] == "rviz_default_plugins/RobotModel"]
    assert [model["TF Prefix"] for model in models] == ["left/", "right/"]
    assert len({display["Name"] for display in displays}) == len(displays)


def test_a_robot_on_topics_has_the_base_frame_of_its_contract():
    for robot, base in (("franka_fr3", "fr3_link0"), ("sim_ros_robot", "base_link")):
        assert ShownRobot.of(hal_of("real_robot", f"robot:={robot}")).base_frame == base


def published_of(arrays, **specs):
    """What is said of a robot with these arrays, by topic."""
    spec = RobotSpec(
        robot="lab", observation=specs, action=ArraySpec((1,), "float32", -1.0, 1.0),
        action_kind=ActionKind.JOINT_DELTA, period_s=0.1,
    )  # fmt: skip
    said = {}

    def advertise(topic):
        return SimpleNamespace(
            wanted=True, readers={"rviz"}, publish=lambda m: said.__setitem__(topic.name, m)
        )

    topics = StandardTopics(spec, DisplayConfig(base_frame="base"), advertise)
    topics._publish(Observation(arrays, 5_000_000_000, 1, 1))
    return said


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_depth_is_shown_in_metres_with_holes_as_nan(dtype):
    unit, values = ("m", [[0.0, 1.25]]) if dtype == "float32" else ("0.001 m", [[0, 1250]])
    depth = np.array(values, dtype)[..., None]
    said = published_of(
        {"depth_wrist": depth}, depth_wrist=ArraySpec((1, 2, 1), dtype, unit=unit, frame="cam")
    )
    image = said["camera/wrist/image_raw"]
    assert (image.encoding, image.height, image.width, image.step) == ("32FC1", 1, 2, 8)
    metres = np.frombuffer(image.data, np.float32)
    assert np.isnan(metres[0]) and metres[1] == pytest.approx(1.25)
    assert image.header.frame_id == said["camera/wrist/camera_info"].header.frame_id == "cam"


def test_the_arms_of_a_robot_have_topics_of_their_own_and_their_joints_are_told_together():
    joints = {
        f"{side}.joint_position": ArraySpec((2,), "float64", names=(f"{side}_1", f"{side}_2"))
        for side in ("left", "right")
    }
    pose = {
        f"{side}.tcp_pose": ArraySpec((7,), "float64", frame=f"{side}_base")
        for side in ("left", "right")
    }
    arrays = {name: np.arange(2.0) for name in joints}
    arrays |= {name: np.array([1.0, 2, 3, 0, 0, 0, 1]) for name in pose}
    said = published_of(arrays, **joints, **pose)
    assert said["joint_states"].name == ["left_1", "left_2", "right_1", "right_2"]
    assert said["left/tcp_pose"].header.frame_id == "left_base"
    assert said["right/tcp_pose"].pose.position.z == 3.0
