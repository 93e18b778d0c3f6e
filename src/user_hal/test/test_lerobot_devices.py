"""Devices of LeRobot behind our interfaces. What needs LeRobot skips where it is not installed."""

import contextlib
import json
import sys
import textwrap
import time

import numpy as np
import pytest
import yaml

from user_core.conformance import check_robot
from user_core.errors import ConfigError, DeviceError, DeviceFault, PluginError
from user_core.plugins import build
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Observation
from user_hal.robot_file import find_robot_file
from user_hal.robots.lerobot import LeRobotRobotConfig, _Moved, _Observations
from user_testing.waiting import wait_until

ROBOT = "user_hal.robots.lerobot:LeRobotRobot"
CAMERA = "user_hal.cameras.lerobot:LeRobotCamera"
TELEOP = "user_hal.teleops.lerobot:LeRobotTeleop"
LIMITS = {"pan": (-1.5, 1.5), "lift": (-1.0, 1.0)}
FEATURES = {"pan.pos": float, "lift.pos": float, "gripper.pos": float}


def config(**params):
    return LeRobotRobotConfig(device={"type": "any"}, limits=LIMITS, **params)


# --- numbers and names, without LeRobot -------------------------------------------------------------


def test_degrees_become_rad_and_grippers_shares():
    moved, seen = _Moved(config(), FEATURES, "arm"), _Observations(config(), FEATURES)
    assert moved.kind is ActionKind.JOINT_POSITION and moved.grippers == (2,)
    assert moved.spec.names == ("pan", "lift", "gripper") and moved.spec.unit == "rad"
    action = np.array([np.pi / 2, -0.5, 0.25], np.float32)
    theirs = moved.theirs(action)
    assert theirs == pytest.approx(
        {"pan.pos": 90.0, "lift.pos": -28.6479, "gripper.pos": 25.0}, rel=1e-5
    )
    np.testing.assert_allclose(moved.ours(theirs, action * 0), action, rtol=1e-6)
    np.testing.assert_allclose(moved.ours({}, action), action)
    arrays = seen.arrays({"pan.pos": 90.0, "lift.pos": 0.0, "gripper.pos": 104.0}, "arm")
    np.testing.assert_allclose(arrays["joint_position"], [np.pi / 2, 0])
    np.testing.assert_allclose(arrays["gripper"], [1.0])


def test_numbers_of_no_known_unit_stay_and_have_no_kind():
    moved = _Moved(config(unit="raw"), FEATURES, "arm")
    assert moved.kind is ActionKind.GENERIC and moved.spec.unit == ""
    mobile = {"pan.pos": float, "x.vel": float, "theta.vel": float}
    limits = {"pan": (-1.0, 1.0), "x.vel": (-0.2, 0.2), "theta.vel": (-60.0, 60.0)}
    both = _Moved(LeRobotRobotConfig(device={}, limits=limits, unit="rad"), mobile, "kiwi")
    assert both.kind is ActionKind.GENERIC and both.names == ["pan", "x.vel", "theta.vel"]
    assert both.hold({}, {}) == {"x.vel": 0.0, "theta.vel": 0.0}, "what nobody knows is left alone"
    assert (
        both.hold({"x.vel": 3.0}, {"pan.pos": 0.5})
        == both.hold({"pan.pos": 0.5}, {})
        == {
            "pan.pos": 0.5,
            "x.vel": 0.0,
            "theta.vel": 0.0,
        }
    )


def test_without_limits_nothing_moves_and_what_to_write_is_said():
    with pytest.raises(ConfigError) as told:
        _Moved(LeRobotRobotConfig(device={}), FEATURES, "arm")
    assert "limits: {pan: [LEAST, MOST], lift: [LEAST, MOST]}" in str(told.value)
    with pytest.raises(ConfigError, match="elbow"):
        _Moved(LeRobotRobotConfig(device={}, limits={**LIMITS, "elbow": (0, 1)}), FEATURES, "arm")
    with pytest.raises(ConfigError, match="gripper_opened"):
        LeRobotRobotConfig(device={}, gripper_opened=0.0)


def test_names_of_observations():
    seen = _Observations(
        config(unit="rad"),
        {
            "pan.pos": float, "lift.pos": float, "pan.vel": float, "lift.vel": float, "pan.torque": float,
            "lift.torque": float, "battery": float, "x.vel": float, "wrist": (4, 6, 3), "wrist_depth": (4, 6, 1),
        },
    )  # fmt: skip
    assert {n: (s.shape, s.unit) for n, s in seen.specs.items()} == {
        "joint_position": ((2,), "rad"), "joint_velocity": ((2,), "rad/s"), "joint_torque": ((2,), ""),
        "battery": ((1,), ""), "x_vel": ((1,), ""), "image_wrist": ((4, 6, 3), ""),
        "depth_wrist": ((4, 6, 1), "0.001 m"),
    }  # fmt: skip


def test_readings_that_are_missing_or_not_finite_are_faults():
    seen = _Observations(config(), {**FEATURES, "front": (4, 6, 3)})
    good = {
        "pan.pos": 0.0,
        "lift.pos": 0.0,
        "gripper.pos": 0.0,
        "front": np.zeros((4, 6, 3), np.uint8),
    }
    assert set(seen.arrays(good, "arm")) == {"joint_position", "gripper", "image_front"}
    for bad in (
        {k: v for k, v in good.items() if k != "lift.pos"},
        {**good, "pan.pos": float("nan")},
        {**good, "front": np.zeros((6, 6, 3), np.uint8)},
        {k: v for k, v in good.items() if k != "front"},
    ):
        with pytest.raises(DeviceFault):
            seen.arrays(bad, "arm")


def test_without_lerobot_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(PluginError, match="USER_EXTRA=lerobot make setup"):
        build("robots", ROBOT, {"device": {"type": "so101_follower"}})
    from user_hal.cameras.lerobot import LeRobotCamera
    from user_hal.robots.lerobot import LeRobotRobot
    from user_hal.teleops.lerobot import LeRobotTeleop

    assert not [*LeRobotRobot.discover(), *LeRobotCamera.discover(), *LeRobotTeleop.discover()]


# --- devices of somebody else's package, with LeRobot -----------------------------------------------

PACKAGE = {
    "__init__.py": """
        from .devices import *
    """,
    "config_devices.py": """
        from dataclasses import dataclass, field
        from lerobot.cameras import CameraConfig
        from lerobot.robots import RobotConfig
        from lerobot.teleoperators import TeleoperatorConfig

        @RobotConfig.register_subclass("spring")
        @dataclass(kw_only=True)
        class SpringConfig(RobotConfig):
            port: str = "none"
            calibrated: bool = True
            cameras: dict[str, CameraConfig] = field(default_factory=dict)

        @TeleoperatorConfig.register_subclass("spring_leader")
        @dataclass(kw_only=True)
        class SpringLeaderConfig(TeleoperatorConfig):
            pass

        @TeleoperatorConfig.register_subclass("spring_pad")
        @dataclass(kw_only=True)
        class SpringPadConfig(TeleoperatorConfig):
            pass

        @CameraConfig.register_subclass("spring_camera")
        @dataclass(kw_only=True)
        class SpringCameraConfig(CameraConfig):
            pass
    """,
    "devices.py": """
        import time
        import numpy as np
        from lerobot.cameras import Camera
        from lerobot.robots import Robot
        from lerobot.teleoperators import Teleoperator
        from lerobot.teleoperators.utils import TeleopEvents
        from lerobot.utils.errors import DeviceNotConnectedError
        from .config_devices import *

        SAYS = {}

        class Arm:
            def connect(self, calibrate=True):
                assert not calibrate, "nobody is there to move it"
                if SAYS.get("unplugged"):
                    raise ConnectionError("no such port")
                self.on = True
            is_connected = property(lambda self: getattr(self, "on", False))
            is_calibrated = property(lambda self: getattr(self.config, "calibrated", True))
            def calibrate(self): raise AssertionError
            def configure(self): pass
            def disconnect(self): self.on = False
            def need(self):
                if not self.is_connected: raise DeviceNotConnectedError("spring")

        class Spring(Arm, Robot):
            config_class, name = SpringConfig, "spring"
            def __init__(self, config):
                Robot.__init__(self, config)
                self.config, self.at = config, {"pan.pos": 0.0, "lift.pos": 10.0, "gripper.pos": 50.0}
            observation_features = property(lambda self: {**{k: float for k in self.at}, "front": (4, 6, 3)})
            action_features = property(lambda self: {k: float for k in self.at})
            def get_observation(self):
                self.need()
                if SAYS.get("blind"): raise RuntimeError("no frame")
                return {**self.at, "front": np.full((4, 6, 3), 7, np.uint8)}
            def send_action(self, action):
                self.need()
                self.at = {k: min(max(v, -45.0), 100.0) for k, v in action.items()}
                return dict(self.at)

        class SpringLeader(Arm, Teleoperator):
            config_class, name = SpringLeaderConfig, "spring_leader"
            def __init__(self, config):
                Teleoperator.__init__(self, config)
                self.config = config
            action_features = property(lambda self: {k: float for k in ("pan.pos", "lift.pos", "gripper.pos")})
            feedback_features = {}
            def get_action(self):
                if SAYS.get("broken"): raise RuntimeError("bad packet")
                return {k: SAYS.get(k, 0.0) for k in self.action_features}
            def send_feedback(self, feedback): pass

        class SpringPad(SpringLeader):
            config_class, name = SpringPadConfig, "spring_pad"
            action_features = property(lambda self: {"dtype": "float32", "names": {"delta_x": 0, "delta_y": 1, "delta_z": 2, "gripper": 3}})
            def get_action(self): return {"delta_x": SAYS.get("x", 0.0), "delta_y": 0.0, "delta_z": 0.0, "gripper": 2}
            def get_teleop_events(self):
                return {TeleopEvents.IS_INTERVENTION: SAYS.get("held", False), TeleopEvents.SUCCESS: SAYS.get("success", False)}

        class SpringCamera(Camera):
            def __init__(self, config):
                super().__init__(config)
                self.on, self.count = False, 0
            is_connected = property(lambda self: self.on)
            @staticmethod
            def find_cameras(): return []
            def connect(self, warmup=True): self.on = True
            def read(self): return self.async_read()
            def async_read(self, timeout_ms=200):
                if SAYS.get("dark"): raise TimeoutError("no frame")
                self.count += 1
                return np.full((self.height, self.width, 3), self.count % 256, np.uint8)
            def disconnect(self): self.on = False
    """,
}


@pytest.fixture
def says(tmp_path, monkeypatch):
    """A package of somebody else's is there; gives what its devices say."""
    pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")
    folder = tmp_path / "spring_package"
    if "spring_package" not in sys.modules:
        folder.mkdir()
        for name, text in PACKAGE.items():
            (folder / name).write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(str(tmp_path))
        __import__("spring_package")
    said = sys.modules["spring_package.devices"].SAYS
    said.clear()
    yield said
    said.clear()


def made(kind, plugin, device, tmp_path, **params):
    device = {"id": "mine", "calibration_dir": str(tmp_path / "calibration"), **device}
    if kind == "cameras":
        device = {k: v for k, v in device.items() if k not in ("id", "calibration_dir")}
    return build(kind, plugin, {"device": device, "modules": ["spring_package"], **params})


def arm(tmp_path, **params):
    return made("robots", ROBOT, {"type": "spring"}, tmp_path, limits=LIMITS, **params)


def test_a_robot_keeps_the_promises_of_a_driver(says, tmp_path):
    check_robot(arm(tmp_path)).require()


def test_what_was_sent_is_what_lerobot_says(says, tmp_path):
    robot = arm(tmp_path, home={"pan": 0.5}, home_speed=10.0)
    robot.connect()
    seen = robot.reset()
    np.testing.assert_allclose(seen.arrays["joint_position"], [0.5, np.radians(10)], rtol=1e-5)
    sent = robot.command(np.array([-1.4, 0.0, 1.0], np.float32))
    np.testing.assert_allclose(sent, [np.radians(-45), 0, 1], atol=1e-6)  # it cut what went too far
    robot.stop()
    np.testing.assert_allclose(
        robot.read().arrays["joint_position"], [np.radians(-45), 0], atol=1e-6
    )
    robot.close()
    robot.close()


def test_a_robot_that_is_not_there_or_not_calibrated(says, tmp_path):
    says["unplugged"] = True
    with pytest.raises(DeviceError, match="no such port"):
        arm(tmp_path).connect()
    says.clear()
    raw = made("robots", ROBOT, {"type": "spring", "calibrated": False}, tmp_path, limits=LIMITS)
    with pytest.raises(DeviceError, match="lerobot-calibrate --robot.type=spring --robot.id=mine"):
        raw.connect()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ({"type": "so101_folower"}, "so101_follower"),
        ({"type": "spring", "prt": "/dev/x"}, "port"),
        ({}, "spring"),
        ({"type": "spring", "cameras": 3}, "cameras"),
    ],
)
def test_a_device_that_is_written_wrong(says, tmp_path, device, said):
    with pytest.raises(ConfigError, match=said):
        made("robots", ROBOT, device, tmp_path, limits=LIMITS)


def test_lerobots_own_arm_is_made_from_its_settings(says, tmp_path):
    pytest.importorskip("scservo_sdk")
    joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
    robot = made(
        "robots", ROBOT, {"type": "so101_follower", "port": "/dev/ttyACM99"}, tmp_path,
        limits=dict.fromkeys(joints, (-1.5, 1.5)),
    )  # fmt: skip
    assert robot.spec.action.names == (*joints, "gripper") and robot.spec.grippers == (5,)
    with pytest.raises(DeviceError, match="ttyACM99"):
        robot.connect()


class Bus:
    """Stands for the motors on LeRobot's bus, in degrees; what is done to it is what its arm does."""

    def __init__(self, port, motors, calibration=None):
        self.port, self.motors, self.is_connected = port, motors, False
        self.at = dict.fromkeys(motors, 0.0)
        self.is_calibrated = True

    def connect(self):
        self.is_connected = True

    def disconnect(self, disable_torque=True):
        self.is_connected = False

    def sync_read(self, what, **options):
        assert what == "Present_Position"
        return dict(self.at)

    def sync_write(self, what, goal):
        assert what == "Goal_Position"
        self.at.update(goal)

    def torque_disabled(self):
        return contextlib.nullcontext()

    def configure_motors(self):
        pass

    def write(self, *what):
        pass


def test_lerobots_own_arm_keeps_the_promises_of_a_driver(says, tmp_path, monkeypatch):
    pytest.importorskip("scservo_sdk")
    so = pytest.importorskip("lerobot.robots.so_follower.so_follower")
    monkeypatch.setattr(so, "FeetechMotorsBus", Bus)
    params = yaml.safe_load(find_robot_file("so101_lerobot").read_text())["robot"]["params"]
    params["device"]["calibration_dir"] = str(tmp_path)
    robot = build("robots", ROBOT, {**params, "home_speed": 100.0})
    check_robot(robot, steps=5).require()
    robot.connect()
    np.testing.assert_allclose(
        robot.reset().arrays["joint_position"], [0.0, -1.2, 1.2, 0.9, 0.0], atol=1e-5
    )
    robot.close()


def test_calibrated_devices_are_found(says, tmp_path, monkeypatch):
    from user_hal.lerobot_devices import discovered

    constants = sys.modules["lerobot.utils.constants"]
    monkeypatch.setattr(constants, "HF_LEROBOT_CALIBRATION", tmp_path)
    (tmp_path / "robots/so_follower").mkdir(parents=True)
    (tmp_path / "robots/so_follower/left.json").write_text(json.dumps({}))
    (found,) = discovered("robot")
    assert found.name == "left" and found.params["device"]["id"] == "left"


ARM_SPEC = RobotSpec(
    "arm", {"joint_position": ArraySpec((2,), names=("pan", "lift")), "gripper": ArraySpec((1,))},
    ArraySpec((3,), low=(-2.0, -2.0, 0.0), high=(2.0, 2.0, 1.0), names=("pan", "lift", "gripper")),
    ActionKind.JOINT_POSITION, grippers=(2,),
)  # fmt: skip


def at(*joints):
    arrays = {
        "joint_position": np.array(joints, np.float32),
        "gripper": np.array([0.5], np.float32),
    }
    return Observation(arrays, time.time_ns())


def test_a_leader_leads_in_degrees(says, tmp_path):
    leader = made(
        "teleops", TELEOP, {"type": "spring_leader"}, tmp_path, scale=[0.0174533], gripper_joint="gripper",
        gripper_opened=100.0, poll_hz=200.0,
    )  # fmt: skip
    leader.connect(ARM_SPEC)
    try:
        wait_until(lambda: leader.inputs() and not leader.trouble())
        assert not leader.read(at(0.0, 0.0)).engaged
        angle = 0.0

        def leads():
            nonlocal angle
            angle += 0.5
            says.update({"pan.pos": angle, "gripper.pos": 100.0})
            time.sleep(0.01)
            command = leader.read(at(np.radians(angle), 0.0))
            return command if command.engaged else None

        command = wait_until(leads)
        assert command.action[0] == pytest.approx(np.radians(angle), abs=0.1)
        assert command.action[2] == 1.0
        says["broken"] = True
        wait_until(lambda: "bad packet" in str(leader.trouble()))
        says.clear()
        wait_until(lambda: not leader.trouble() or "stands at" in str(leader.trouble()))
    finally:
        leader.close()


def test_a_pad_moves_the_tool(says, tmp_path):
    spec = RobotSpec(
        "arm", {"tcp_pose": ArraySpec((7,)), "gripper": ArraySpec((1,))},
        ArraySpec((4,), low=(-0.1,) * 3 + (0.0,), high=(0.1,) * 3 + (1.0,), names=("dx", "dy", "dz", "gripper")),
        ActionKind.EE_DELTA, grippers=(3,),
    )  # fmt: skip
    pad = made("teleops", TELEOP, {"type": "spring_pad"}, tmp_path, poll_hz=200.0)
    pad.connect(spec)
    seen = Observation(
        {
            "tcp_pose": np.array([0, 0, 0, 0, 0, 0, 1], np.float32),
            "gripper": np.zeros(1, np.float32),
        },
        0,
    )
    try:
        says.update(held=True, x=1.0, success=True)
        command = wait_until(lambda: (c := pad.read(seen)).engaged and c.action[3] and c)
        np.testing.assert_allclose(command.action, [0.1, 0, 0, 1.0])
        says["held"] = False
        wait_until(lambda: not pad.read(seen).engaged)
    finally:
        pad.close()


def test_a_camera(says, tmp_path):
    camera = made(
        "cameras", CAMERA, {"type": "spring_camera", "width": 8, "height": 6, "fps": 100}, tmp_path,
        width=4, height=3, max_age_s=0.2,
    )  # fmt: skip
    assert camera.spec.shape == (3, 4, 3)
    camera.connect()
    try:
        first = camera.read()
        assert first.image_hwc.shape == (3, 4, 3)
        wait_until(lambda: camera.read().sequence > first.sequence)
        says["dark"] = True

        def stalled():
            try:
                camera.read()
            except DeviceError as error:
                return str(error)
            return ""

        assert "no frame" in wait_until(stalled)
    finally:
        camera.close()
