"""What is measured of a simulated scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_core.specs import Array

#: Range of the simulated wrist force sensor, N and N m; readings saturate there.
WRENCH_RANGE = np.array([200.0, 200.0, 200.0, 20.0, 20.0, 20.0])


@dataclass(frozen=True)
class SceneState:
    """What is measured at one moment. All float64, all copies, base frame, SI units.

    Attributes:
        joint_position: (n,) rad.
        joint_velocity: (n,) rad/s.
        tcp_pose: (7,) x y z qx qy qz qw.
        tcp_velocity: (6,) m/s and rad/s.
        wrench: (6,) what the surroundings do to the tool, at the tool centre point; the
            weight of the gripper is subtracted, its inertia is not, as with a real sensor.
        gripper: Opening, 0 to 1.
        features: The task's arrays, float32.
        time_s: Simulated time since the reset.
    """

    joint_position: Array
    joint_velocity: Array
    tcp_pose: Array
    tcp_velocity: Array
    wrench: Array
    gripper: float
    features: dict[str, Array]
    time_s: float
