"""Small, complete implementations of every interface, without hardware, ROS or torch.

They are for wiring tests and for reading: each is the shortest honest example of its kind.
"""

from user_core.fakes.algorithm import RewardWeightedRegression
from user_core.fakes.camera import FakeCamera
from user_core.fakes.mailbox import PolicyMailbox
from user_core.fakes.memory import MemoryReplay
from user_core.fakes.policy import LinearGaussianPolicy
from user_core.fakes.robot import FakeRobot
from user_core.fakes.teleop import FakeTeleop

__all__ = [
    "FakeCamera",
    "FakeRobot",
    "FakeTeleop",
    "LinearGaussianPolicy",
    "MemoryReplay",
    "PolicyMailbox",
    "RewardWeightedRegression",
]
