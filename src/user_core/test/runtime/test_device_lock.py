"""One process at a time drives a device."""

from __future__ import annotations

import subprocess
import sys

import pytest

from user_core.errors import DeviceInUse
from user_core.runtime.locks import DeviceLock

HOLD = """
import sys
from user_core.runtime.locks import DeviceLock
lock = DeviceLock()
lock.acquire(["/dev/arm"], "arm")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_HOME", str(tmp_path))


def test_who_comes_second_is_told_who_drives(tmp_path):
    script = tmp_path / "the_first_driver.py"
    script.write_text(HOLD, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DeviceInUse, match=f"{other.pid}.*the_first_driver") as error:
            DeviceLock().acquire(["/dev/arm"], "arm 'left'")
        assert "arm 'left': /dev/arm" in str(error.value)
        other.kill()  # the kernel lets go, whatever became of the process
        other.wait()
        lock = DeviceLock()
        lock.acquire(["/dev/arm"], "arm")
        lock.release()


def test_all_names_are_locked_or_none():
    first, second, third = DeviceLock(), DeviceLock(), DeviceLock()
    first.acquire(["a"], "first")
    with pytest.raises(DeviceInUse, match="this one"):
        second.acquire(["c", "a", "b"], "second")
    third.acquire(["b", "c"], "third")
    first.release()
    first.release()
    second.acquire(["a"], "second")


def test_names_that_are_new_replace_those_before():
    lock, other = DeviceLock(), DeviceLock()
    lock.acquire(["a"], "arm")
    lock.acquire(["a", "b"], "arm")
    lock.acquire(["b"], "arm")
    other.acquire(["a"], "other")


def test_a_device_is_driven_although_nothing_can_be_locked(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROS_HOME", str(tmp_path / "file"))
    DeviceLock().acquire(["a"], "arm")
    assert "not locked" in caplog.text
