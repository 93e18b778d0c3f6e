"""A robot's host and the learner's, through bridges and the router over mTLS: nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from user_core.types import Outcome
from user_learner.replay.reader import StoreReader
from user_testing.link_emulator import LinkQuality, unavailable
from user_testing.worlds.acting import committed_steps
from user_testing.worlds.remote import TwoHosts

pytestmark = pytest.mark.timeout(180)


class World(TwoHosts):
    """Two hosts: by their ROS domains alone, or also by network namespaces and a bad link."""

    def __init__(self, folder: Path, stack: ExitStack, quality: LinkQuality | None = None) -> None:
        actor = {
            "policy": {"plugin": "linear_gaussian"},
            "loop": {"exploration": {"before_first_version": "initial"}, "retry_s": 0.2},
        }
        super().__init__(folder, stack, quality, True, {"robot": {"plugin": "fake"}}, actor)

    @property
    def stored(self) -> int:
        """Steps in the store."""
        if not (self.store / "index.sqlite").exists() and not list(self.store.glob("*.sqlite")):
            return 0
        reader = StoreReader(self.store)
        try:
            return sum(reader.meta.steps.values())
        finally:
            reader.close()

    @property
    def committed(self) -> int:
        return committed_steps(self.outbox)[0]

    def grows(self) -> None:
        steps = self.stored
        self.until(lambda: self.stored > steps + 40, "the store grows")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:
        yield lambda quality=None: World(tmp_path, stack, quality)


def start_all(world: World) -> None:
    for node in (world.above, world.below, world.replay, world.hal, world.actor, world.router):
        node.start()  # the router last: everybody waits for it
    world.until(lambda: world.stored > 40, "steps arrive")


def check(world: World) -> None:
    """What was committed is in the store, once, in whole episodes."""
    steps, chunks = world.settle()
    assert chunks == 0
    reader = StoreReader(world.store)
    rows = finals = 0
    for episode in reader.episodes():
        assert episode.gaps == 0
        assert episode.result is not None
        rows += episode.rows
        finals += episode.result.outcome is not Outcome.UNFINISHED
    reader.close()
    assert rows - finals == steps
    assert steps > 100


def test_steps_committed_are_steps_stored_whatever_dies_between(make: Callable[..., World]) -> None:
    world = make()
    start_all(world)
    world.router.kill()
    time.sleep(0.5)
    world.router.start()
    world.grows()
    for bridge in (world.below, world.above):
        bridge.kill()
        bridge.start()
        world.grows()
    check(world)


@pytest.mark.slow
def test_steps_committed_are_steps_stored_over_a_bad_link_that_is_cut(
    make: Callable[..., World],
) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    world = make(LinkQuality(rate_mbit_s=20, delay_ms=40, loss=0.002))
    start_all(world)
    assert world.link is not None
    for cut_s in (1.0, 4.0):  # shorter and longer than Zenoh's lease
        world.link.cut()
        committed = world.committed
        time.sleep(cut_s)
        assert world.committed > committed  # collection does not pause
        world.link.restore()
        world.grows()
    check(world)
    there, back = world.link.traffic()
    assert there.bytes > 1000 and back.bytes > 1000  # it did go over the link
