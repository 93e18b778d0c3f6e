"""What a simulated robot shows: specs and arrays by their standard names."""

from __future__ import annotations

import numpy as np

from user_core.specs import Array, ArraySpec
from user_hal.sim.scene import Scene
from user_hal.sim.scene_state import WRENCH_RANGE, SceneState

POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")
TWIST_NAMES = ("vx", "vy", "vz", "wx", "wy", "wz")
WRENCH_NAMES = ("fx", "fy", "fz", "tx", "ty", "tz")


def observation_specs(
    scene: Scene, cameras: tuple[str, ...] = (), image_hw: tuple[int, int] = (128, 128)
) -> dict[str, ArraySpec]:
    """Specs of all arrays, those of the task and the pictures included."""
    kinematics, base, n = scene.kinematics, scene.arm.base.name, (scene.joint_count,)
    joints = scene.arm.joint_names
    speed = kinematics.velocity_rad_s
    specs = {
        "joint_position": ArraySpec(
            n,
            low=tuple(kinematics.lower_rad.tolist()),
            high=tuple(kinematics.upper_rad.tolist()),
            unit="rad",
            names=joints,
        ),
        "joint_velocity": ArraySpec(
            n, low=tuple((-speed).tolist()), high=tuple(speed.tolist()), unit="rad/s", names=joints
        ),
        "tcp_pose": ArraySpec((7,), low=-1.0, high=1.0, unit="m", frame=base, names=POSE_NAMES),
        "tcp_velocity": ArraySpec(
            (6,), low=-1.0, high=1.0, unit="m/s", frame=base, names=TWIST_NAMES
        ),
        "wrench": ArraySpec(
            (6,),
            low=tuple((-WRENCH_RANGE).tolist()),
            high=tuple(WRENCH_RANGE.tolist()),
            unit="N",
            frame=base,
            names=WRENCH_NAMES,
        ),
    }
    if scene.has_gripper:
        specs["gripper"] = ArraySpec((1,), low=0.0, high=1.0, names=("gripper",))
    specs.update(scene.task.feature_specs(base))
    for camera in cameras:
        specs[f"image_{camera}"] = ArraySpec(
            (*image_hw, 3), "uint8", frame=f"camera_{camera}_optical_frame"
        )
    return specs


def observation_arrays(state: SceneState, *, gripper: bool) -> dict[str, Array]:
    """The arrays of :func:`observation_specs`, pictures apart. Each is new; nobody writes to it."""
    arrays = {
        "joint_position": state.joint_position.astype(np.float32),
        "joint_velocity": state.joint_velocity.astype(np.float32),
        "tcp_pose": state.tcp_pose.astype(np.float32),
        "tcp_velocity": state.tcp_velocity.astype(np.float32),
        "wrench": state.wrench.astype(np.float32),
    }
    if gripper:
        arrays["gripper"] = np.array([state.gripper], dtype=np.float32)
    arrays.update(state.features)
    return arrays
