"""A robot that is driven by a policy on another host, over mTLS and a link with 80 ms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from user_core.codecs.weights import encode_version
from user_core.config import from_mapping
from user_core.policies import policy_config_hash
from user_core.types import ActedBy, Outcome, PolicyVersion
from user_hal.node_configs import HalConfig
from user_hal.robot_file import build_robot, spec_of
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
        yield lambda quality=LINK, apart=False, **remote: RemoteWorld(
            tmp_path, stack, quality, apart=apart,
            hal={
                "robot": {"plugin": "user_testing.worlds.remote_parts:PictureRobot", "params": robot},
                "safety": {"watchdog_s": WATCHDOG_S}, "loop": {"blend_rows": 2},
            },
            policy={"plugin": "user_testing.worlds.remote_parts:GoThere", "params": {"rows": 16}},
            remote={"coding": "jpeg60", **remote},
        )  # fmt: skip


def check_stop(done_s: float, commanded_s: float, stopped_s: float, late_s: float) -> None:
    assert stopped_s - commanded_s < 2 * WATCHDOG_S + late_s
    assert (
        commanded_s - done_s < 16 * PERIOD_S + 0.5 + late_s
    )  # no chunk lasts longer than its rows


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


def test_a_policy_on_the_robot_goes_on_while_the_other_host_is_gone(
    make: Make, tmp_path: Path
) -> None:
    """As a process: with the file of a smaller policy, and the other host's again by itself."""
    smaller = {"plugin": "user_testing.worlds.remote_parts:GoThere", "params": {"rows": 2}}
    robot = {"plugin": "user_testing.worlds.remote_parts:PictureRobot",
             "params": {"period_s": PERIOD_S, "max_step_m": 0.02}}  # fmt: skip
    described = from_mapping(HalConfig, {"robot": robot}).expand({"robot": robot})
    spec = spec_of(described, build_robot(described))
    config_hash = policy_config_hash(smaller["plugin"], smaller["params"], spec)
    file = tmp_path / "policy.safetensors"
    file.write_bytes(encode_version(PolicyVersion(7, {}, config_hash, created_ns=1)))
    world = make(fallback={"weights": str(file), **smaller, "back_after_s": 0.5})
    world.start()
    world.until(lambda: world.episodes(Outcome.SUCCESS) >= 1, "it reaches a goal", PATIENCE_S)
    world.inference.kill()
    world.until(lambda: who_succeeds(world.store)[-1:] == [7], "the one here does", PATIENCE_S)
    world.inference.start()
    world.until(lambda: who_succeeds(world.store)[-1:] == [0], "and the other again", PATIENCE_S)
    steps, chunks = world.settle()
    assert chunks == 0
    check_store(world.store, steps)


def who_succeeds(store: Path) -> list[int]:
    """Version that took the last step of each episode that succeeded; who that was fits to it."""
    reader, found = StoreReader(store), []
    for episode in reader.episodes():
        if episode.result is not None and episode.result.outcome is Outcome.SUCCESS:
            columns = reader.read_episode(episode)
            here = columns["acted_by"][:-1] == ActedBy.FALLBACK
            assert (columns["policy_version"][:-1] == 7 * here).all()
            found.append(int(columns["policy_version"][-2]))
    reader.close()
    return found


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
