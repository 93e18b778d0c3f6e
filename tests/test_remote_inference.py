"""A robot that is driven by a policy on another host, over mTLS and a link with 80 ms."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("cv2", reason="lossy pictures need OpenCV")
sys.path.insert(0, str(Path(__file__).parent))

from link_emulator import LinkQuality  # noqa: E402
from remote_parts import is_raw  # noqa: E402
from remote_world import WATCHDOG_S, DriverLog, RemoteWorld  # noqa: E402

from user_core.types import Outcome  # noqa: E402
from user_learner.replay.reader import StoreReader  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
PERIOD_S = 0.05
LINK = LinkQuality(rate_mbit_s=20, delay_ms=40)


@pytest.fixture
def world(tmp_path: Path, ros_domain: int) -> Iterator[RemoteWorld]:
    robot = {"log_file": str(tmp_path / "driver.jsonl"), "period_s": PERIOD_S}
    with ExitStack() as stack:
        yield RemoteWorld(
            tmp_path, ros_domain, stack, LINK,
            hal={
                "driver": "remote_parts:PictureRobot", "params": robot,
                "safety": {"watchdog_s": WATCHDOG_S}, "loop": {"blend_rows": 2},
            },
            policy={"plugin": "remote_parts:GoThere", "params": {"rows": 16}},
            remote={"coding": "jpeg60"},
        )  # fmt: skip


def check_stop(driver: DriverLog, cut_s: float) -> float:
    """The driver was stopped, and in time; when it was commanded last."""
    commanded_s = driver.last("command")
    stopped_s = min(at for what, at in driver.entries() if what == "stop" and at > commanded_s)
    assert stopped_s - commanded_s < 2 * WATCHDOG_S
    assert commanded_s - cut_s < 16 * PERIOD_S + 0.5  # no chunk lasts longer than its rows
    return commanded_s


def test_it_reaches_its_goals_stops_when_answers_stop_and_all_is_stored_once_as_it_was_seen(
    world: RemoteWorld, tmp_path: Path
) -> None:
    driver = DriverLog(tmp_path / "driver.jsonl")
    world.start()
    world.until(lambda: world.episodes(Outcome.SUCCESS) >= 2, "it reaches goals over the link")

    def drives() -> bool:
        return time.monotonic() - driver.last("command") < 2 * PERIOD_S

    world.until(drives, "it moves")
    world.link.cut()
    cut_s = time.monotonic()
    world.until(lambda: driver.last("stop") > driver.last("command") > 0, "it is stopped")
    commanded_s = check_stop(driver, cut_s)
    time.sleep(2 * WATCHDOG_S)
    assert driver.last("command") == commanded_s  # and stays so
    world.link.restore()
    successes = world.episodes(Outcome.SUCCESS)
    world.until(lambda: world.episodes(Outcome.SUCCESS) > successes + 1, "it goes on")

    world.until(drives, "it moves")
    world.inference.kill()
    killed_s = time.monotonic()
    world.until(lambda: driver.last("stop") > driver.last("command"), "it is stopped")
    check_stop(driver, killed_s)
    world.inference.start()
    successes = world.episodes(Outcome.SUCCESS)
    world.until(lambda: world.episodes(Outcome.SUCCESS) > successes + 1, "it goes on")

    steps, chunks = world.settle()
    assert chunks == 0
    check_store(world.store, steps)


def check_store(store: Path, committed: int) -> None:
    """All that was committed, once, as it was seen; aborted episodes are cut, not ended."""
    reader = StoreReader(store)
    rows = finals = 0
    stamps: list[int] = []
    pictures: list[bytes] = []
    gaps: list[float] = []
    for episode in reader.episodes():
        assert episode.gaps == 0
        assert episode.result is not None
        rows += episode.rows
        finals += episode.result.outcome is not Outcome.UNFINISHED
        columns = reader.read_episode(episode)
        images = columns["observation.image_front"]
        assert all(is_raw(image) for image in images)
        pictures += [image.tobytes()[:4] for image in images]
        stamps += columns["stamp_ns"].tolist()
        gaps += np.diff(columns["stamp_ns"]).tolist()
        if episode.result.outcome is Outcome.ABORTED:
            assert columns["truncated"].any() and not columns["terminated"].any()
    reader.close()
    assert rows - finals == committed > 50
    assert len(set(stamps)) == len(stamps) and len(set(pictures)) == len(pictures)
    assert np.median(gaps) < 1.5 * PERIOD_S * 1e9  # chunks bridge the round trip of 80 ms
