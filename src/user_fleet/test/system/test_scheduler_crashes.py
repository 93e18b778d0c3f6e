"""The scheduler's state after kill -9: at every statement, and at random moments of a process that works."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

from user_fleet.resources.model import Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.scheduler import FleetView, Scheduler
from user_fleet.scheduling.store import FleetStore

ROBOTS = [Resource(id=f"h{i}/robot/r", kind="robot") for i in range(6)]
KILLS = 6

WORKER = """
    import random, sys
    from pathlib import Path
    from user_fleet.resources.model import Resource
    from user_fleet.scheduling.experiment import Experiment
    from user_fleet.scheduling.scheduler import FleetView, Scheduler
    from user_fleet.scheduling.store import FleetStore

    robots = [Resource(id=f"h{i}/robot/r", kind="robot") for i in range(6)]
    store = FleetStore(Path(sys.argv[1]))
    epoch = store.take_over()
    scheduler = Scheduler(store)
    chance = random.Random(epoch)
    print("epoch", epoch, flush=True)
    known = {g.fencing for g in store.grants()}
    while True:
        number = len(store.entries())
        roles = {"robots": {"kind": "robot", "count": chance.randint(1, 4)}}
        scheduler.submit(Experiment(name=f"e{number}", priority=chance.randint(0, 3), roles=roles))
        scheduler.step(FleetView(robots))
        for grant in store.grants():  # only what is committed is said
            if grant.fencing not in known:
                known.add(grant.fencing)
                print("grant", grant.fencing, grant.resource, grant.experiment, flush=True)
        scheduler.given_back([g.fencing for g in store.grants() if g.yields])
        running = store.entries("running")
        if running and chance.random() < 0.7:
            scheduler.finished(chance.choice(running).experiment.name)
        if chance.random() < 0.1:
            for grant in store.grants()[:1]:
                scheduler.failed(grant.fencing, "broke")
"""


def check(path: Path) -> FleetStore:
    """Open the file as the next scheduler would; whatever it says makes sense."""
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = FleetStore(path)
    held = [g.resource for g in store.grants()]
    assert len(held) == len(set(held))
    numbers = [g.fencing for g in store.grants(ended=True)]
    assert numbers == sorted(set(numbers))
    assert not numbers or store.newest_fencing() >= numbers[-1]
    for entry in store.entries():
        mine = [g for g in store.grants() if g.experiment == entry.experiment.name]
        if entry.state in ("queued", "done", "cancelled"):
            assert not mine, entry  # never a part of what it needs
    return store


def test_a_crash_at_any_statement_leaves_all_of_a_change_or_nothing(tmp_path: Path) -> None:
    # In a process of one thread: it forks, and a child of one with several may wait for a lock that nobody has any
    # more.
    subprocess.run([sys.executable, __file__, str(tmp_path / "fleet.sqlite")], check=True)


def crash_everywhere(path: Path) -> None:
    """Kill a scheduler at each of its statements, one after the other, and look at what it leaves."""
    store = FleetStore(path)
    store.take_over()
    Scheduler(store).submit(Experiment(name="low", roles={"robots": {"kind": "robot", "count": 4}}))
    Scheduler(store).step(FleetView(ROBOTS))
    store.close()
    seen, statements = set(), 0
    while True:
        statements += 1
        child = os.fork()
        if child == 0:
            _crash_at(path, statements)
        _, status = os.waitpid(child, 0)
        store = check(path)
        high = store.find("high")
        mine = [g for g in store.grants() if g.experiment == "high"]
        seen.add((high.state if high else "", len(mine)))
        assert len(mine) in (0, 2)
        store.close()
        if not os.WIFSIGNALED(status):  # it came to its end before its time
            assert os.WEXITSTATUS(status) == 0
            break
        assert statements < 500
    assert statements > 20
    assert seen >= {("", 0), ("queued", 0), ("running", 2)}


def _crash_at(path: Path, number: int) -> None:
    """In a child process: submit, step; kill -9 at the start of a statement."""
    code = 1
    try:
        store = FleetStore(path)
        left = [number]

        def count(statement: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        store._db.set_trace_callback(count)
        store.take_over()
        scheduler = Scheduler(store)
        if store.find("high") is None:
            scheduler.submit(
                Experiment(name="high", roles={"robots": {"kind": "robot", "count": 2}})
            )
        scheduler.step(FleetView(ROBOTS))
        code = 0
    finally:
        os._exit(code)


def test_nothing_that_was_said_is_lost_by_kill_9_at_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    worker = tmp_path / "worker.py"
    worker.write_text(textwrap.dedent(WORKER))
    chance = random.Random(14)
    said: dict[int, tuple[str, str]] = {}
    epochs: list[int] = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, str(worker), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        early: list[str] = []
        try:
            words = process.stdout.readline().split()
            assert words[0] == "epoch"
            epochs.append(int(words[1]))
            early = [process.stdout.readline() for _ in range(chance.randint(0, 25))]
        finally:
            process.kill()  # at whatever it is doing now
            rest = process.stdout.read()
            process.wait()
            process.stdout.close()
        for line in (*early, *rest.splitlines()):
            kind, *words = line.split()
            if kind == "grant" and len(words) == 3:
                assert int(words[0]) not in said
                said[int(words[0])] = (words[1], words[2])
        store = check(path)
        there = {g.fencing: (g.resource, g.experiment) for g in store.grants(ended=True)}
        assert said.items() <= there.items()
        store.close()
    assert epochs == sorted(set(epochs))
    assert len(said) > 5 * KILLS


if __name__ == "__main__":
    crash_everywhere(Path(sys.argv[1]))
