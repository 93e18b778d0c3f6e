"""What the scheduler decides: queue, priorities, failures, reservations, and who may write."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from user_core.errors import ConfigError, LeaseError, StoreCorrupt, StoreError
from user_core.reasons import Reason
from user_fleet.resources.model import Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.reservation import Reservation
from user_fleet.scheduling.scheduler import FleetView, Scheduler, SchedulerConfig
from user_fleet.scheduling.store import FleetStore
from user_testing.virtual_time import VirtualTime

BROKEN = Reason("device", "no bus")


def robot(name: str, **changes) -> Resource:
    return Resource(id=f"{name[0]}/robot/{name}", kind="robot", joints=7, **changes)


#: Robots a1, a2 of host a; b1 of host b; c1 of host c.
LAB = [robot("a1", tags=("cell-a",)), robot("a2"), robot("b1"), robot("c1")]


def wants(name: str, count: int = 1, **changes) -> Experiment:
    return Experiment(name=name, roles={"robots": {"kind": "robot", "count": count}}, **changes)


class Fleet:
    """A scheduler over a store, and hosts that do what they are asked to."""

    def __init__(self, path: Path, clock: VirtualTime) -> None:
        self.clock, self.path = clock, path
        self.view = FleetView(LAB)
        self.restart()

    def restart(self) -> None:
        """As after a crash of the scheduler."""
        self.store = FleetStore(self.path, self.clock)
        self.store.take_over()
        self.scheduler = Scheduler(self.store, SchedulerConfig(max_failures=3), self.clock)

    def submit(self, *experiments: Experiment) -> "Fleet":
        for experiment in experiments:
            self.scheduler.submit(experiment)
        return self.step()

    def step(self) -> "Fleet":
        self.scheduler.step(self.view)
        self.scheduler.step(self.view)
        self.check()
        return self

    def end_episodes(self) -> "Fleet":
        """Hosts give back what they were asked for."""
        self.scheduler.given_back([g.fencing for g in self.store.grants() if g.yields])
        return self.step()

    def state(self, name: str) -> str:
        entry = self.store.find(name)
        assert entry is not None
        return entry.state

    def why(self, name: str) -> Reason:
        entry = self.store.find(name)
        assert entry is not None
        return entry.reason

    def has(self, name: str) -> set[str]:
        return {g.resource.rpartition("/")[2] for g in self.store.grants() if g.experiment == name}

    def set(self, *resources: Resource, **changes) -> "Fleet":
        by_id = {item.id: item for item in (*LAB, *resources)}
        self.view = FleetView(list(by_id.values()), **changes)
        return self.step()

    def check(self) -> None:
        held = [g.resource for g in self.store.grants() if not g.share]
        assert len(held) == len(set(held))
        numbers = [g.fencing for g in self.store.grants(ended=True)]
        assert numbers == sorted(set(numbers))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "fleet.sqlite", VirtualTime())
    yield made
    made.store.close()


def test_what_fits_begins_and_what_does_not_waits_its_turn(fleet: Fleet) -> None:
    fleet.submit(wants("one", 2), wants("two", 2), wants("three", 1))
    assert [fleet.state(n) for n in ("one", "two", "three")] == ["running", "running", "queued"]
    assert fleet.why("three").code == "waits_for_resources"
    assert "held by" in fleet.why("three").text
    fleet.scheduler.finished("one")
    fleet.step()
    assert fleet.state("three") == "running"
    assert fleet.has("three") <= {"a1", "a2", "b1", "c1"}


def test_a_small_one_behind_does_not_starve_a_large_one_that_waits_for_others(fleet: Fleet) -> None:
    fleet.submit(wants("one", 2), wants("large", 4), wants("small", 1))
    assert fleet.state("small") == "queued"  # although two robots are free
    assert len(fleet.store.grants()) == 2
    fleet.scheduler.finished("one")
    fleet.step()
    assert (fleet.state("large"), fleet.state("small")) == ("running", "queued")


def test_what_can_never_be_met_holds_up_nobody(fleet: Fleet) -> None:
    fleet.submit(wants("huge", 9, priority=5), wants("small"))
    assert fleet.why("huge").code == "never_fits"
    assert "4 fit" in fleet.why("huge").text
    assert fleet.state("small") == "running"
    more = [robot(f"d{i}") for i in range(5)]
    fleet.scheduler.finished("small")
    fleet.set(*more)
    assert fleet.state("huge") == "running"


def test_a_higher_priority_gets_what_it_needs_at_the_end_of_the_episode(fleet: Fleet) -> None:
    fleet.submit(wants("low", 3), wants("mid", 1, priority=1))
    fleet.submit(wants("high", 2, priority=5))
    # Somebody must yield: the cheapest is the one of the lowest priority.
    assert (fleet.state("low"), fleet.state("mid")) == ("ending", "running")
    assert fleet.why("low").code == "preempted"
    assert "low has given back" in fleet.why("high").text
    assert len(fleet.has("low")) == 3  # until its episodes have ended
    fleet.end_episodes()
    assert (fleet.state("high"), fleet.state("low")) == ("running", "queued")
    fleet.scheduler.finished("high")
    fleet.step()
    assert fleet.state("low") == "running"


def test_no_more_than_needed_must_yield(fleet: Fleet) -> None:
    fleet.submit(wants("old", 1), wants("pair", 2), wants("young", 1))
    fleet.submit(wants("high", 2, priority=1))
    # The youngest first; with it one more is needed, and of these the pair alone would do.
    assert [fleet.state(n) for n in ("old", "pair", "young")] == ["running", "ending", "running"]


def test_equal_priorities_go_by_deadline(fleet: Fleet) -> None:
    fleet.submit(wants("all", 4))
    fleet.submit(
        wants("whenever", 4),
        wants("later", 4, deadline="2030-01-02T00:00"),
        wants("sooner", 4, deadline="2030-01-01T00:00"),
    )
    for name in ("sooner", "later", "whenever"):
        fleet.scheduler.finished(next(e.experiment.name for e in fleet.store.entries("running")))
        fleet.step()
        assert fleet.state(name) == "running"


def test_a_robot_that_fails_is_replaced_while_the_others_go_on(fleet: Fleet) -> None:
    fleet.submit(wants("one", 2))
    before = {g.resource: g.fencing for g in fleet.store.grants()}
    failed = next(item for item in LAB if item.id in before)
    fleet.set(failed.unwell("faulty", BROKEN))
    after = {g.resource: g.fencing for g in fleet.store.grants()}
    kept = before.keys() & after.keys()
    assert len(after) == 2 and len(kept) == 1
    assert all(before[item] == after[item] for item in kept)
    assert max(after.values()) > max(before.values())
    assert fleet.state("one") == "running"
    ended = [g for g in fleet.store.grants(ended=True) if g.ended_ns is not None]
    assert [(g.resource, g.ending.code) for g in ended] == [(failed.id, "resource_failed")]


def test_without_a_fitting_one_the_rest_goes_on_and_says_what_it_waits_for(fleet: Fleet) -> None:
    fleet.submit(wants("one", 4))
    fleet.set(LAB[0].unwell("absent", BROKEN))
    assert fleet.state("one") == "running"
    assert fleet.has("one") == {"a2", "b1", "c1"}
    assert "no bus" in fleet.why("one").text
    fleet.set()
    assert fleet.has("one") == {"a1", "a2", "b1", "c1"}
    assert not fleet.why("one")


def test_what_keeps_failing_is_given_to_nobody_until_a_person_releases_it(fleet: Fleet) -> None:
    fleet.view = FleetView([LAB[0]])
    for name in ("one", "two", "three"):
        fleet.submit(wants(name))
        (grant,) = fleet.store.grants()
        fleet.scheduler.failed(grant.fencing, "arm does not answer")
        fleet.scheduler.finished(name)
        fleet.step()
    fleet.submit(wants("four"))
    assert fleet.has("four") == set()
    assert "quarantined: 3 failures" in fleet.why("four").text
    assert fleet.scheduler.release(LAB[0].id)
    fleet.step()
    assert fleet.has("four") == {"a1"}


def test_a_device_that_comes_and_goes_is_quarantined(fleet: Fleet) -> None:
    fleet.submit(wants("one", 4))
    for _ in range(3):
        fleet.set(LAB[0].unwell("absent", BROKEN))
        fleet.set()
        fleet.clock.move(1.0)
    assert fleet.has("one") == {"a2", "b1", "c1"}
    assert "quarantined: 3 failures" in fleet.why("one").text


def test_failures_of_long_ago_do_not_count(fleet: Fleet) -> None:
    fleet.submit(wants("one", 4))
    for _ in range(5):
        fleet.set(LAB[0].unwell("absent", BROKEN))
        fleet.set()
        fleet.clock.move(3601.0)
    assert fleet.has("one") == {"a1", "a2", "b1", "c1"}


def test_an_experiment_that_fails_everywhere_is_ended_and_costs_nobody_a_robot(
    fleet: Fleet,
) -> None:
    fleet.submit(wants("one"))
    tried = []
    for _ in range(5):
        (grant,) = fleet.store.grants()
        tried.append(grant.resource)
        fleet.scheduler.failed(grant.fencing, "no such file")
        fleet.step()
    assert set(tried[:4]) == {item.id for item in LAB}  # what has failed is not tried first
    assert (fleet.state("one"), fleet.why("one").code) == ("cancelled", "experiment_failed")
    assert "5 failures" in fleet.why("one").text and "no such file" in fleet.why("one").text
    assert fleet.store.held_back() == {}
    fleet.submit(wants("one"))  # mended, and submitted again
    (grant,) = fleet.store.grants()
    fleet.scheduler.failed(grant.fencing, "no such file")
    assert fleet.step().state("one") == "running"


def test_draining_waits_for_the_episode_and_replaces(fleet: Fleet) -> None:
    fleet.submit(wants("one", 2))
    first = fleet.store.grants()[0].resource
    fleet.scheduler.drain(first, "new gripper")
    fleet.step()
    assert first.rpartition("/")[2] in fleet.has("one")
    fleet.end_episodes()
    assert first.rpartition("/")[2] not in fleet.has("one")
    assert len(fleet.has("one")) == 2
    fleet.submit(wants("two", 3))
    assert "drained: new gripper" in fleet.why("two").text
    assert fleet.scheduler.release(first)
    assert not fleet.scheduler.release(first)


def test_a_host_behind_a_cut_keeps_its_grants_until_its_lease_has_run_out(fleet: Fleet) -> None:
    fleet.submit(wants("one", 4))
    away = {"a": Reason("host_unreachable", "nothing heard of a for 2 s")}
    numbers = {g.resource: g.fencing for g in fleet.store.grants()}
    fleet.set(away=away)
    assert fleet.has("one") == {"a1", "a2", "b1", "c1"}
    fleet.submit(wants("two"))
    assert fleet.state("two") == "queued"
    fleet.set(robot("d1"), robot("d2"), away=away, lost=frozenset("a"))
    assert fleet.has("one") == {"b1", "c1", "d1", "d2"}
    fleet.set(robot("d1"), robot("d2"))  # it is back: what it has is given anew, by larger numbers
    assert fleet.state("two") == "running"
    assert min(g.fencing for g in fleet.store.grants() if g.experiment == "two") > max(
        numbers.values()
    )


def test_reserved_resources_are_given_back_in_time_and_to_whom_they_are_for(fleet: Fleet) -> None:
    with fleet.store.transaction():
        fleet.store.reserve(
            Reservation(
                name="night",
                tags=["cell-a"],
                begin="20:00",
                end="06:00",
                zone="UTC",
                experiments=["nightly"],
            )
        )
    fleet.clock.wall_offset_ns = 12 * 3600 * 10**9  # noon of the first day of 1970
    fleet.submit(wants("daily", 4))
    assert fleet.state("daily") == "running"
    fleet.clock.move(8.0 * 3600)
    fleet.step()
    assert (fleet.state("daily"), fleet.why("daily").code) == ("ending", "reserved")
    fleet.end_episodes()
    assert "reserved until 06:00 (night)" in fleet.why("daily").text
    fleet.submit(wants("nightly", 4, priority=-1))
    assert fleet.state("nightly") == "running"
    fleet.clock.move(11.0 * 3600)
    fleet.scheduler.finished("nightly")
    fleet.step()
    assert fleet.state("daily") == "running"


def test_experiments_begin_after_others(fleet: Fleet) -> None:
    fleet.submit(wants("train"), wants("evaluate", after=["train"]), wants("x", after=["nobody"]))
    assert fleet.why("evaluate") == Reason("after_others", "after train")
    assert "nobody has submitted nobody" in fleet.why("x").text
    fleet.scheduler.finished("train")
    fleet.step()
    assert fleet.state("evaluate") == "running"


def test_a_cycle_of_waiting_experiments_is_refused_by_name(fleet: Fleet) -> None:
    fleet.submit(wants("a", after=["c"]), wants("b", after=["a"]))
    with pytest.raises(ConfigError, match="a → c → b → a"):
        fleet.scheduler.submit(wants("c", after=["b"]))
    assert fleet.store.find("c") is None


def test_running_experiments_that_wait_for_each_other_are_told(fleet: Fleet) -> None:
    fleet.submit(wants("one", 2), wants("two", 2))
    mine = {name: sorted(fleet.has(name)) for name in ("one", "two")}
    broken = [
        next(item for item in LAB if item.name == mine[name][0]).unwell("faulty", BROKEN)
        for name in mine
    ]
    fleet.set(*broken)  # each has one left, and could go on with the other's
    fleet.view = FleetView([item for item in LAB if item.name in (mine["one"][1], mine["two"][1])])
    fleet.step()
    assert fleet.state("one") == fleet.state("two") == "running"
    assert "replacement" in fleet.why("one").text or fleet.why("one").code == "waits_in_a_cycle"


def test_cancelling_ends_at_once_what_waits_and_politely_what_runs(fleet: Fleet) -> None:
    fleet.submit(wants("one", 4), wants("two"))
    fleet.scheduler.cancel("two")
    assert fleet.state("two") == "cancelled"
    fleet.scheduler.cancel("one")
    assert fleet.state("one") == "ending"
    fleet.end_episodes()
    assert fleet.state("one") == "cancelled"
    assert fleet.store.grants() == []
    with pytest.raises(StoreError, match="no such"):
        fleet.scheduler.cancel("three")
    fleet.submit(wants("one"))  # the name is free again
    fleet.scheduler.cancel("one", at_once=True)
    assert fleet.state("one") == "cancelled"


def test_two_experiments_of_one_name_are_refused(fleet: Fleet) -> None:
    fleet.submit(wants("one"))
    with pytest.raises(StoreError, match="one that is running"):
        fleet.scheduler.submit(wants("one"))


def test_what_is_shared_is_given_to_several_and_never_beside_an_exclusive_one(fleet: Fleet) -> None:
    store = Resource(id="a/cpu/cpu", kind="cpu")
    fleet.view = FleetView([store])

    def shares(name: str, share: bool) -> Experiment:
        return Experiment(name=name, roles={"store": {"kind": "cpu", "share": share}})

    fleet.submit(shares("one", True), shares("two", True), shares("three", False))
    assert [fleet.state(n) for n in ("one", "two", "three")] == ["running", "running", "queued"]
    fleet.scheduler.finished("one")
    fleet.scheduler.finished("two")
    fleet.step()
    assert fleet.state("three") == "running"
    fleet.submit(shares("four", True))
    assert fleet.state("four") == "queued"


def test_nothing_is_lost_or_renumbered_by_a_restart(fleet: Fleet) -> None:
    fleet.submit(wants("one", 3), wants("two", 2))
    before = fleet.store.grants()
    fleet.store.close()
    fleet.restart()
    fleet.view = FleetView([])  # no host has said anything yet
    fleet.step()
    assert fleet.store.grants() == before
    assert fleet.state("one") == "running"
    fleet.set()
    assert fleet.store.grants() == before


def test_a_scheduler_whose_place_was_taken_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.submit(wants("one"))
    old, before = fleet.scheduler, fleet.store.grants()
    second = FleetStore(fleet.path, fleet.clock)
    second.take_over()
    for call in (
        lambda: old.submit(wants("two")),
        lambda: old.finished("one"),
        lambda: old.step(FleetView(LAB)),
        lambda: old.drain("a/robot/a1"),
    ):
        with pytest.raises(LeaseError, match="has taken over"):
            call()
    assert second.grants() == before
    Scheduler(second, clock=fleet.clock).submit(wants("two"))
    second.close()


def test_a_standby_knows_since_when_nobody_works(fleet: Fleet) -> None:
    fleet.store.say_alive()
    fleet.clock.move(3.0)
    assert fleet.store.silent_s() == pytest.approx(3.0)


def test_foreign_and_newer_files_are_left_alone(tmp_path: Path) -> None:
    foreign, newer, text = tmp_path / "a.sqlite", tmp_path / "b.sqlite", tmp_path / "c.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE x (y)")
    FleetStore(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    text.write_text("this is no database at all, it is a text" * 100)
    with pytest.raises(StoreCorrupt, match="something else"):
        FleetStore(foreign)
    with pytest.raises(StoreError, match="newer version"):
        FleetStore(newer)
    with pytest.raises(StoreCorrupt):
        FleetStore(text)


def test_transactions_of_several_threads_wait_for_each_other(fleet: Fleet) -> None:
    """One store in two threads: `cannot start a transaction within a transaction` ended a scheduler's."""
    within, goes_on, numbers = threading.Event(), threading.Event(), []

    def holds() -> None:
        with fleet.store.transaction():
            within.set()
            assert goes_on.wait(60)
            fleet.store.hold_back("a/robot/a1", "drained", "by the first")

    def asks() -> None:
        numbers.append(fleet.store.ask({"do": "drain", "resource": "a/robot/a2"}))

    first, second = threading.Thread(target=holds), threading.Thread(target=asks)
    first.start()
    assert within.wait(60)
    second.start()
    second.join(0.1)
    assert not numbers, "it did not wait"
    goes_on.set()
    first.join()
    second.join()
    assert [number for number, _ in fleet.store.requests()] == numbers
    assert list(fleet.store.held_back()) == ["a/robot/a1"]


def test_a_file_that_others_keep_locked_is_said(fleet: Fleet) -> None:
    fleet.store._db.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(fleet.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            fleet.store.ask({"do": "drain"})
        other.execute("ROLLBACK")
    assert fleet.store.ask({"do": "drain"}) > 0
