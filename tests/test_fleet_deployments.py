"""Agents start real deployments for what the scheduler grants: preempted, drained, replaced, continued."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from user_comm.net.network import Members, Network
from user_core.reasons import ASKED_BACK, STOPPING
from user_core.types import Outcome
from user_hal.runtime.obeyed import out_of_order, overlaps
from user_learner.replay.reader import StoreReader
from user_testing.ports import free_port
from user_testing.worlds.fleets.fleet_deployments import DeployingFleet, stored

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., DeployingFleet]]:
    with ExitStack() as stack:
        yield lambda **options: DeployingFleet(tmp_path, stack, **options)


def collects(steps: int, finish_s: float = 60.0) -> dict[str, object]:
    values = {"name": "${resource}", "speed": 4.0, "steps": steps}
    return {
        "kind": "robot",
        "run": {"deployment": "collecting", "set": values, "finish_s": finish_s},
    }


def test_a_robot_is_given_back_at_the_end_of_its_episode_and_the_run_goes_on_later(make) -> None:
    fleet = make()
    fleet.host("h1", "arm")
    fleet.is_there("h1")
    low, high = (fleet.run_folder("h1", f"{name}.robots.arm") for name in ("low", "high"))
    fleet.ask_for("low", robots=collects(60))
    fleet.until(lambda: stored(low) > 70, "low collects")

    fleet.ask_for("high", 5, robots=collects(0, finish_s=1.0))  # its episodes have no end
    fleet.until(lambda: stored(high) > 30, "high collects")
    assert fleet.why("low").code in ("preempted", "waits_for_resources")
    before = stored(low)

    # Drained: the same way, but its episode is cut, since it would go on for ever.
    assert fleet.ask(do="drain", resource="h1/robot/arm", text="new gripper")["ok"]
    fleet.until(lambda: not fleet.store.grants(), "high has given it back")
    steps = stored(high)
    assert fleet.ask(do="release", resource="h1/robot/arm")["ok"]
    fleet.until(lambda: stored(high) > steps + 30, "high goes on with the same run")
    assert fleet.ask(do="cancel", name="high")["ok"]
    fleet.until(lambda: stored(low) > before + 70, "low goes on with its run")
    assert fleet.ask(do="cancel", name="low")["ok"]
    fleet.until(lambda: not fleet.store.grants(), "all is given back")

    for folder, whole in ((low, True), (high, False)):
        reader = StoreReader(folder / "replay")
        episodes = list(reader.episodes())
        reader.close()
        results = [episode.result for episode in episodes]
        assert all(result is not None for result in results)
        assert all(episode.gaps == 0 for episode in episodes)
        assert len({result.key.producer for result in results}) == 1  # its outbox was continued
        assert not any(
            r.outcome is Outcome.UNFINISHED or r.reason_code == STOPPING for r in results
        )
        cut = [r for r in results if r.reason_code == ASKED_BACK]
        assert len(cut) == (0 if whole else 2)
        if whole:
            assert {r.length for r in results if r.outcome is Outcome.TIMEOUT} <= {60}
    obeyed = fleet.obeyed()
    assert overlaps(obeyed) == [] and out_of_order(obeyed) == []
    numbers = {grant.fencing for grant in fleet.store.grants(ended=True)}
    assert {one.grant for one in obeyed} == numbers and len(numbers) == 4
    assert "the episodes have ended, and all is delivered" in fleet.output("h1")


def test_a_robot_that_fails_is_replaced_while_the_learner_and_a_dead_scheduler_hurt_nobody(
    make,
) -> None:
    fleet = make(lease_s=4.0)
    fleet.host("hub")
    fleet.host("h1", "arm1")
    fleet.host("h2", "arm2")
    fleet.is_there("hub", "h1", "h2")
    moving = {"name": "${resource}", "speed": 2.0, "steps": 40}
    fleet.ask_for(
        "one",
        robots={"kind": "robot", "run": {"deployment": "moving", "set": moving}},
        learner={"kind": "cpu", "hosts": ["hub"], "run": {"deployment": "learning"}},
    )
    run = fleet.run_folder("hub", "one.learner")

    def grows(what: str) -> None:
        steps = stored(run)
        fleet.until(lambda: stored(run) > steps + 60, what)

    def robot() -> str:
        return next((name for name in fleet.grants("one") if "/robot/" in name), "")

    def process(host: str, resource: str) -> int:
        note = fleet.folder / host / "state" / "uses" / f"{resource.replace('/', '.')}.pid"
        return int(note.read_text().split()[0]) if note.exists() else 0

    grows("the first robot's steps arrive")
    learner, first = process("hub", "hub/cpu/cpu"), robot()
    assert learner
    fleet.scheduler.kill()
    pid = process(first.split("/")[0], first)
    grows("nobody needs the scheduler for that")
    fleet.scheduler.start()
    fleet.is_there("hub", "h1", "h2")
    numbers = fleet.grants("one")
    grows("the scheduler is back")
    assert fleet.grants("one") == numbers
    assert process(first.split("/")[0], first) == pid

    os.kill(pid, signal.SIGKILL)  # the launcher of the robot fails
    fleet.until(lambda: robot() not in ("", first), "it is replaced")
    grows("the second robot's steps arrive")
    second = robot()
    fleet.agents[second.split("/")[0]].kill()  # its host is gone
    fleet.until(lambda: robot() == first, "the first one is tried again")
    grows("it goes on")
    assert process("hub", "hub/cpu/cpu") == learner
    assert fleet.ask(do="cancel", name="one")["ok"]
    fleet.until(lambda: not fleet.store.grants(), "all is given back")
    by_robot: dict[str, list[object]] = {}
    for one in fleet.obeyed():
        by_robot.setdefault(one.holder, []).append(one)
    for records in by_robot.values():
        assert overlaps(records) == [] and out_of_order(records) == []


def test_each_host_names_its_own_certificates_and_experiments_ask_for_them(make, tmp_path) -> None:
    endpoint = f"tls/localhost:{free_port()}"
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    of_arm, of_learner = network.add("robot", "arm"), network.add("learner", "learner")
    fleet = make()
    data = {"data_router": endpoint}
    fleet.host("hub", **data, network=str(network.folder), certificate=str(of_learner.folder))
    fleet.host("h1", "arm", **data, certificate=str(of_arm.folder))
    fleet.is_there("hub", "h1")
    meets = {"router": "${data_router}", "credentials": "${certificate}", "standby": False}
    learner = {**meets, "network": "${network}", "robot": "arm", "algorithm": "rlpd_cpu"}
    arm = {**meets, "name": "${resource}", "speed": 2.0}
    fleet.ask_for(
        "far",
        robots={"kind": "robot", "run": _alone("edge_simulated", arm)},
        learner={"kind": "cpu", "hosts": ["hub"], "run": _alone("cloud", learner)},
    )
    run = fleet.run_folder("hub", "far.learner")
    fleet.until(lambda: stored(run) > 60, "steps arrive over TLS")
    assert fleet.ask(do="cancel", name="far")["ok"]
    fleet.until(lambda: not fleet.store.grants(), "all is given back")


def _alone(deployment: str, values: dict[str, object]) -> dict[str, object]:
    """In a ROS domain of its own: what meets has met over the network."""
    return {"deployment": deployment, "set": values, "own_domain": True}
