"""A robot that is driven by a policy on another host, over mTLS and a link with 80 ms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from user_core.types import Outcome
from user_learner.replay.reader import StoreReader
from user_testing.link_emulator import LinkQuality, unavailable
from user_testing.worlds.remote import WATCHDOG_S, DriverLog, RemoteWorld, stop_answers
from user_testing.worlds.remote_parts import is_raw

pytest.importorskip("cv2", reason="lossy images need OpenCV")

pytestmark = pytest.mark.timeout(900)
PERIOD_S = 0.05
#: On a busy machine answers come late, and the robot is long on its way.
PATIENCE_S = 200.0
LINK = LinkQuality(rate_mbit_s=20, delay_ms=40)


Make = Callable[..., RemoteWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    robot = {"log_file": str(tmp_path / "driver.jsonl"), "period_s": PERIOD_S, "max_step_m": 0.02}
    with ExitStack() as stack:
        yield lambda quality=LINK, apart=False: RemoteWorld(
            tmp_path, stack, quality, apart=apart,
            hal={
                "robot": {"plugin": "user_testing.worlds.remote_parts:PictureRobot", "params": robot},
                "safety": {"watchdog_s": WATCHDOG_S}, "loop": {"blend_rows": 2},
            },
            policy={"plugin": "user_testing.worlds.remote_parts:GoThere", "params": {"rows": 16}},
            remote={"coding": "jpeg60"},
        )  # fmt: skip


def check_stop(done_s: float, commanded_s: float, stopped_s: float) -> None:
    assert stopped_s - commanded_s < 2 * WATCHDOG_S
    assert commanded_s - done_s < 16 * PERIOD_S + 0.5  # no chunk lasts longer than its rows


def test_it_reaches_its_goals_stops_when_answers_stop_and_all_is_stored_once_as_it_was_seen(
    make: Make, tmp_path: Path
) -> None:
    world = make()
    driver = DriverLog(tmp_path / "driver.jsonl")
    world.start()
    arrives = lambda: world.episodes(Outcome.SUCCESS) >= 2  # noqa: E731
    world.until(arrives, "it reaches goals over the link", PATIENCE_S)

    link, inference = world.link, world.inference
    check_stop(*stop_answers(world, driver, link.cut, link.restore))
    commanded_s = driver.last("command")
    time.sleep(2 * WATCHDOG_S)
    assert driver.last("command") == commanded_s  # it stays so
    link.restore()
    goes_on(world)

    check_stop(*stop_answers(world, driver, inference.kill, inference.start))
    inference.start()
    goes_on(world)

    steps, chunks = world.settle()
    assert chunks == 0
    check_store(world.store, steps)


@pytest.mark.slow
def test_the_same_over_a_link_that_loses_packets_and_falls_silent(
    make: Make, tmp_path: Path
) -> None:
    """Hosts in network namespaces. A silent link keeps its connections: what was under way comes
    late, and must not be played."""
    if reason := unavailable():
        pytest.skip(reason)
    world = make(LinkQuality(rate_mbit_s=20, delay_ms=40, loss=0.002), apart=True)
    driver = DriverLog(tmp_path / "driver.jsonl")
    world.start()
    world.until(lambda: world.episodes(Outcome.SUCCESS) >= 2, "it reaches goals over the link")
    for silent_s in (1.5, 5.0):  # shorter and longer than Zenoh's lease
        stopped = stop_answers(world, driver, world.link.cut, world.link.restore)
        check_stop(*stopped)
        time.sleep(max(0.0, stopped[0] + silent_s - time.monotonic()))
        world.link.restore()
        goes_on(world)
    steps, chunks = world.settle()
    assert chunks == 0
    check_store(world.store, steps)


def goes_on(world: RemoteWorld) -> None:
    successes = world.episodes(Outcome.SUCCESS)
    world.until(lambda: world.episodes(Outcome.SUCCESS) > successes + 1, "it goes on", PATIENCE_S)


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
