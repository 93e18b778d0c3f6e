"""What is wrong with a person's device is told while it lasts, also while no step is made."""

import io
import threading
import time
from types import SimpleNamespace

from rich.console import Console

from user_bringup import episode_display
from user_bringup.episode_display import EpisodeDisplay
from user_core.reasons import DEVICE_SILENT, NO_REASON, Reason
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, Outcome
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


def test_a_cause_that_comes_again_is_told_once_and_counted():
    text = io.StringIO()
    display = EpisodeDisplay("demonstrations", 3, HAL)
    display._progress.live.console = Console(file=text, width=200)
    with display:
        for why in ("force: tool feels 82.8 N", "force: tool feels 61 N", "joint elbow is lost"):
            key = EpisodeKey("demos", 1, 0)
            demonstration, aborted = EpisodeSource.DEMONSTRATION, Outcome.ABORTED
            result = EpisodeResult(key, demonstration, aborted, 3, 0.0, reason=why)
            display.ended(result, counts=False)
    told = text.getvalue()
    assert told.count("82.8 N") == 1 and "61 N" not in told
    assert told.count("aborted: joint elbow is lost") == 1 and "3 aborted" in told
    assert "aborted 2 times: force\n" in told
