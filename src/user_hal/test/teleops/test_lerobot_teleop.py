"""What a teleoperator of LeRobot says of an episode, without LeRobot."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from user_hal.teleops.lerobot import LeRobotTeleop


def test_a_button_that_stays_down_judges_one_episode() -> None:
    closing, labels, fails = threading.Event(), [], [True]
    presses = iter([False, True, True, True, False, True, True])

    class Device:
        def get_action(self):
            if fails.pop() if fails else False:
                raise ConnectionError("unplugged")
            return {}

        def get_teleop_events(self):
            try:
                return {"success": next(presses), "is_intervention": True}
            except StopIteration:
                closing.set()
                return {"success": True}

    teleop = LeRobotTeleop.__new__(LeRobotTeleop)
    teleop._device, teleop._config, teleop._fault = Device(), SimpleNamespace(poll_hz=1000.0), ""
    teleop._inner = SimpleNamespace(said=lambda action, events: None, label=labels.append)
    teleop._run(closing)
    assert labels == ["success", "success"]
    assert not teleop._fault
