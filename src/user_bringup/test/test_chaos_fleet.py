"""A fleet for `user chaos --fleet`: what is started, who is hit, and who was obeyed."""

import json
import socket
import time
from dataclasses import asdict, replace

import pytest

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.fleet import LEARNER_HOST, SITES, FleetTrial, made_fleet, obeyed_one
from user_bringup.chaos.links import LinkProcess
from user_bringup.cli.chaos import chaos
from user_bringup.cli.chaos.fleet import victims_of
from user_core.config import file_meant
from user_core.errors import ConfigError
from user_fleet.deployment import ProcessSpec, load_deployment
from user_fleet.scheduling.experiment import load_experiment
from user_fleet.scheduling.store import FleetStore
from user_hal.runtime.obeyed import Obeyed
from user_testing.waiting import wait_until

DOMAINS = [60, 61, 62, 63, 64]


@pytest.fixture
def fleet(tmp_path):
    with made_fleet(tmp_path, DOMAINS) as made:
        yield made


def test_it_has_three_robots_at_two_sites_and_two_schedulers(fleet):
    deployment = load_deployment(fleet.file)
    names = [process.name for process in deployment.processes]
    assert names == [
        "fleet_router", "agent_west0", "agent_west1", "agent_east0", "agent_hall",
        "scheduler", "scheduler_standby",
    ]  # fmt: skip
    states = {
        process.parameters["state"]
        for process in deployment.processes
        if process.executable == "scheduler"
    }
    assert len(states) == 1
    domains = [
        process.environment["ROS_DOMAIN_ID"]
        for process in deployment.processes
        if process.executable == "resource_agent"
    ]
    assert domains == ["61", "62", "63", "64"]
    assert set(fleet.links) == {"link_west", "link_east"}
    assert not any(process.restart.has_standby for process in deployment.processes)


def test_agents_and_schedulers_are_hit_twice_as_often(fleet):
    victims = victims_of(load_deployment(fleet.file).processes)
    assert victims.count("scheduler_standby") == victims.count("agent_hall") == 2
    assert victims.count("fleet_router") == 1


def log(fleet, host, *records):
    folder = fleet.runs(host) / "run" / "arm"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(asdict(record)) + "\n" for record in records)
    (folder / "obeyed.jsonl").write_text(text)


FIRST = Obeyed(token=1, holder="a", grant=7, first_ns=10, last_ns=20, commands=5)


@pytest.mark.parametrize(
    ("second", "good"),
    [
        (replace(FIRST, token=2, holder="b", grant=8, first_ns=21, last_ns=30), True),
        (replace(FIRST, token=2, holder="b", grant=8, first_ns=15, last_ns=30), False),
        (replace(FIRST, token=2, holder="b", grant=6, first_ns=21, last_ns=30), False),
    ],
)
def test_two_holders_at_a_time_and_older_grants_are_found(fleet, second, good):
    for hosts in SITES.values():
        for host in hosts:
            log(fleet, host, FIRST, second)
    assert obeyed_one(fleet).good is good


def test_no_log_is_no_proof(fleet):
    assert not obeyed_one(fleet).good
    assert LEARNER_HOST not in obeyed_one(fleet).detail


def test_what_a_fleet_cannot_have_is_refused():
    with pytest.raises(ConfigError, match="--fleet"):
        chaos(["three_arms", "--fleet", "--pairs", "3"])


def test_links_in_another_process_carry_are_cut_and_end_with_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with LinkProcess([server.getsockname()] * 2) as process:
            first, second = process.links
            assert first.port != second.port
            with socket.create_connection(("127.0.0.1", first.port), 5) as near:
                far, _ = server.accept()
                with far:
                    near.settimeout(0.3)
                    near.sendall(b"one")
                    assert far.recv(9) == b"one"
                    first.cut()
                    assert (first.is_cut, second.is_cut) == (True, False)
                    time.sleep(0.1)  # the order is carried out
                    far.sendall(b"two")
                    with pytest.raises(TimeoutError):
                        near.recv(9)
                    first.restore()
                    near.settimeout(5.0)
                    assert near.recv(9) == b"two"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first.port), 1).close()


@pytest.fixture
def trial(fleet, tmp_path):
    experiment = load_experiment(file_meant("experiments", "three_arms"))
    made = FleetTrial(fleet, experiment, tmp_path / "f", Evidence(), print)
    made.deployment = load_deployment(fleet.file)
    learner = ProcessSpec(name="learner", package="user_learner", executable="learner_node")
    made._own["hall_learner"] = (learner, [learner])
    return made


@pytest.mark.parametrize("later_s", [0.05, 0.2, 0.9])
def test_an_agent_works_whenever_between_its_heartbeats_the_learner_says_that_it_trains(
    trial, later_s
):
    """Both speak once a second, and may keep their distance for as long as they run."""
    agent, evidence = trial.deployment.process("agent_hall"), trial.evidence
    evidence.trained_s["learner/learner_status"] = 105.0
    assert trial._works_since(agent, 100.0) is None  # the agent is not heard of
    seen = []
    for beat_s in (110.0, 111.0, 112.0):
        evidence.active_s["hall/agent_hall"] = beat_s
        seen.append(trial._works_since(agent, 100.0))
        evidence.trained_s["learner/learner_status"] = beat_s + later_s
        seen.append(trial._works_since(agent, 100.0))
    assert seen[0] is None
    assert seen[-1] == 112.0 + later_s
    assert None not in seen[3:]  # once it works it goes on to do so
    evidence.active_s["hall/agent_hall"] = 130.0
    assert (
        trial._works_since(agent, 120.0) is None
    )  # after a kill: the learner was not heard of since


def test_hosts_that_are_here_are_so_however_often_it_is_asked(trial, fleet):
    store, router = FleetStore(fleet.state), trial.deployment.process("fleet_router")
    try:
        store.take_over()
        hosts = sorted(fleet.domains)

        def say(state, *names):
            with store.transaction():
                for name in names:
                    store.note_host(name, state, "", None)

        def all_here():
            return trial._works_since(router, since_s)

        since_s = time.monotonic() - 10.0
        say("here", *hosts[1:])
        assert all_here() is None
        say("here", hosts[0])
        wait_until(all_here, "all are here")
        assert None not in [all_here() for _ in range(5)]
        assert trial._works_since(router, time.monotonic()) is None  # it may be the last to know
        say("gone", hosts[0])
        wait_until(lambda: all_here() is None, "one is gone")
    finally:
        store.close()
        trial._fleet_store().close()
