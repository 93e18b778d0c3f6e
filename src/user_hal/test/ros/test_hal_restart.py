"""What must outlive the process of the hal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from std_srvs.srv import Trigger
from user_msgs.msg import SafetyStatus

from user_testing.worlds.robots.hal_node import Client, HalProcess

STILL = np.zeros((1, 7), np.float32)


def test_an_emergency_stop_stays_latched_through_kill_9(tmp_path: Path) -> None:
    client = Client()
    state = tmp_path / "state"
    hal = HalProcess(tmp_path, {"state_dir": str(state)})
    try:
        with hal:
            client.drive(STILL)
            client.wait_for(lambda: client.statuses, 60.0)
            client.wait_active()
            assert client.call("emergency_stop", Trigger).success
            assert (state / "emergency_stop").exists()
            hal.kill()
        client.statuses.clear()
        commands = len(hal.reached("command"))
        with hal:  # as whoever supervises it does
            client.wait_for(lambda: client.statuses, 60.0)
            client.wait_for(lambda: "emergency_stop" in client.status.reasons, 60.0)
            assert client.status.state == SafetyStatus.EMERGENCY
            assert "a call of the service" in client.status.detail
            assert len(hal.reached("command")) == commands, "a command reached the robot"
            client._clients.clear()  # those of before may be talking to the dead
            assert client.call("reset_emergency_stop", Trigger).success
            client.wait_active()
        assert not (state / "emergency_stop").exists()
    finally:
        client.close()


def test_a_latch_that_cannot_be_kept_or_released_is_said(tmp_path: Path) -> None:
    from user_core.errors import SafetyError
    from user_hal.safety.emergency_stop import LatchFile, state_folder

    latch = LatchFile(tmp_path / "r0")
    assert latch.pressed_by == ""
    latch.release()
    latch.press("a person")
    assert latch.pressed_by.startswith("a person at ")
    latch.release()
    assert LatchFile(tmp_path / "r0").pressed_by == ""
    (tmp_path / "file").write_text("")
    with pytest.raises(SafetyError, match="outlives"):
        LatchFile(tmp_path / "file").press("a person")
    (tmp_path / "r0" / "emergency_stop").write_bytes(b"\xff\xfe")
    assert "somebody" in latch.pressed_by
    (tmp_path / "r1" / "emergency_stop").mkdir(parents=True)  # fails safe
    assert LatchFile(tmp_path / "r1").pressed_by
    with pytest.raises(SafetyError, match="removed"):
        LatchFile(tmp_path / "r1").release()
    assert state_folder("", "r0").name == "r0"
    assert state_folder("~/robots/a", "r0").name == "a"
