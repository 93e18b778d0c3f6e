"""What is wrong with a person's device is told while it lasts, also while no step is made."""

import io
import threading
import time
from types import SimpleNamespace

from rich.console import Console

from user_bringup import episode_display
from user_bringup.episode_display import EpisodeDisplay
from user_core.reasons import DEVICE_SILENT, NO_REASON, Reason
from user_testing.waiting import wait_until

HAL = SimpleNamespace(status=lambda: SimpleNamespace(limited=0, refused=0))
SILENT = Reason(DEVICE_SILENT, "nobody publishes /joy (sensor_msgs/msg/Joy)")


def test_it_is_told_once_and_that_it_is_over(monkeypatch):
    text, now = io.StringIO(), [SILENT]
    monkeypatch.setattr(episode_display, "_TROUBLE_S", 0.05)
    display = EpisodeDisplay("demonstrations", 3, HAL, lambda: now[0])
    display._progress.live.console = Console(file=text)
    with display:
        wait_until(lambda: "nobody publishes /joy" in text.getvalue(), "the trouble is told")
        time.sleep(0.5)
        now[0] = NO_REASON
        wait_until(lambda: "device: works" in text.getvalue(), "its end is told")
    assert text.getvalue().count("nobody publishes") == 1


def test_a_device_that_is_late_for_a_moment_is_not_told(monkeypatch):
    text, asked = io.StringIO(), threading.Event()

    def device():
        first = not asked.is_set()
        asked.set()
        return SILENT if first else NO_REASON

    display = EpisodeDisplay("demonstrations", 3, HAL, device)
    display._progress.live.console = Console(file=text)
    with display:
        assert asked.wait(60)
        time.sleep(0.5)
    assert "device" not in text.getvalue()
