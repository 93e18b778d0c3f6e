"""Random kills of agents and schedulers while experiments run: nothing is doubled, and it goes on by itself."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from user_core.config import to_mapping
from user_fleet.scheduling.experiment import Experiment
from user_testing.processes import Process
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.scheduler_and_hosts import FleetWorld

HOSTS = ("h1", "h2", "h3")
FAULTS = 30
#: Drives the robot of a host: says so, and notices when anybody else does at the same time.
DRIVER = """
cd {folder}; robot=$HOST; exec 9> lock.$robot
flock -n 9 || echo $FENCING >> overlaps.$robot
echo $FENCING >> driven.$robot
trap 'exit 0' INT TERM
while true; do test -e finish && exit 0; sleep 0.05; done
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FleetWorld]:
    made = FleetWorld(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_thirty_faults_and_every_robot_had_one_driver_at_a_time(world: FleetWorld) -> None:
    chance = random.Random(14)
    agents = {host: world.agent(host, "--start") for host in HOSTS}
    schedulers: list[Process] = [world.scheduler, world.start_scheduler("standby")]
    world.is_there(*HOSTS)
    submitted = 0

    def submit() -> None:
        nonlocal submitted
        submitted += 1
        run = {"deployment": "script", "set": {"command": DRIVER.format(folder=world.folder)}}
        roles: dict[str, Any] = {
            "robots": {"kind": "robot", "count": chance.randint(1, 2), "run": run}
        }
        experiment = Experiment(name=f"e{submitted}", priority=chance.randint(0, 3), roles=roles)
        world.store.ask({"do": "submit", "experiment": to_mapping(experiment)})

    for _ in range(3):
        submit()
    for _ in range(FAULTS):
        time.sleep(chance.uniform(0.2, 1.5))  # faults at any moment, also while others heal
        what = chance.choice(["agent", "agent", "scheduler", "hang", "submit", "cancel"])
        if what == "agent":
            victim = agents[chance.choice(HOSTS)]
            victim.signal(signal.SIGKILL)
            victim.wait()
            victim.start()
        elif what == "scheduler":
            victim = chance.choice(schedulers)
            victim.kill()
            victim.start()
        elif what == "hang":
            victim = chance.choice(schedulers)
            victim.signal(signal.SIGSTOP)
            time.sleep(chance.uniform(1.0, 5.0))
            victim.signal(signal.SIGCONT)
        elif what == "submit" and submitted < 8:
            submit()
        else:
            world.store.ask({"do": "cancel", "name": f"e{chance.randint(1, submitted)}"})
    world.is_there(*HOSTS)

    def settled() -> bool:
        return not world.store.requests() and len(world.store.entries()) == submitted

    wait_until(settled, "every request is answered", seen=world.store.requests)
    (world.folder / "finish").touch()

    def all_over() -> bool:
        return all(entry.state in ("done", "cancelled") for entry in world.store.entries())

    wait_until(all_over, "all experiments are over", 180.0, seen=world.store.entries)
    assert not list(world.folder.glob("overlaps.*"))
    granted = {g.fencing: g.resource for g in world.store.grants(ended=True)}
    driven = 0
    for host in HOSTS:
        file = world.folder / f"driven.{host}"
        numbers = [int(word) for word in file.read_text().split()] if file.exists() else []
        driven += len(numbers)
        assert numbers == sorted(numbers)  # never an older grant after a newer one
        assert {granted[number] for number in numbers} <= {f"{host}/robot/arm"}
    assert driven >= 3
    reasons = [entry.reason.code for entry in world.store.entries()]
    assert "experiment_failed" not in reasons
