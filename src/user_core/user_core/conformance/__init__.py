"""Does a plugin keep the promises of its interface? Checks that its author can run.

Each ``check_*`` takes a ready plugin and returns a :class:`~user_core.conformance.report.Report`
with one line a promise; it does not stop at the first that is broken. ``user check robot`` runs
the robot's from the command line. In a test::

    def test_my_reward_keeps_its_promises():
        check_reward(MyReward(MyConfig()), spec).require()
"""

from user_core.conformance.devices import check_camera, check_robot, check_teleop
from user_core.conformance.learning import (
    check_algorithm,
    check_goal_reward,
    check_policy,
    check_reward,
)
from user_core.conformance.report import Check, Report

__all__ = [
    "Check",
    "Report",
    "check_algorithm",
    "check_camera",
    "check_goal_reward",
    "check_policy",
    "check_reward",
    "check_robot",
    "check_teleop",
]
