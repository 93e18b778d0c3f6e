"""A scheduler and its hosts as processes, over real Zenoh sessions: death, cuts, restarts, forgers."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from user_comm.net.network import Members, Network
from user_comm.net.sessions import ZenohConfig, open_session
from user_core.config import to_mapping
from user_fleet.presence.messages import Assignment, Granted, assignment_key
from user_fleet.resources.model import HostReport
from user_fleet.scheduling.experiment import Experiment
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.link_proxy import LinkProxy
from user_testing.ports import free_port
from user_testing.processes import Process
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.scheduler_and_hosts import FleetWorld, told


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FleetWorld]:
    made = FleetWorld(tmp_path)
    yield made
    made.close()


def test_hosts_die_are_cut_off_and_come_back(world: FleetWorld) -> None:
    with LinkProxy(free_port(), world.port, LinkQuality()) as link:
        agents = {host: world.agent(host) for host in ("h1", "h2")}
        behind = f"tcp/127.0.0.1:{link._listen_port}"
        agents["h3"] = world.agent("h3", endpoint=behind)
        world.is_there("h1", "h2", "h3")
        world.submit("one", 3)
        wait_until(lambda: len(world.grants("one")) == 3)
        numbers = world.grants("one")
        for host, agent in agents.items():
            wait_until(lambda a=agent, h=host: told(a, numbers[f"{h}/robot/arm"]))

        link.cut()
        wait_until(lambda: world.state("h3") in ("host_unreachable", "host_gone"))
        agents["h1"].kill()
        wait_until(lambda: world.state("h1") in ("host_gone", "host_unreachable"))
        assert world.state("h2") == "here"
        world.submit("two", 1)
        assert world.why("two").code == "waits_for_resources"
        assert world.grants("two") == {}  # what is away is not free
        assert world.grants("one") == numbers

        link.restore()
        agents["h1"].start()
        world.is_there("h1", "h2", "h3")
        assert world.grants("one") == numbers
        # Nobody was told of anything else meanwhile: h3 goes on as if nothing had been.
        lines = [line for line in agents["h3"].log.splitlines() if line.startswith("told h3 ")]
        assert len(lines) == 1
        wait_until(lambda: told(agents["h1"], numbers["h1/robot/arm"]))

        assert world.ask(do="finish", name="one")["ok"]
        wait_until(lambda: len(world.grants("two")) == 1)
        assert min(world.grants("two").values()) > max(numbers.values())


def test_a_scheduler_that_is_killed_loses_no_grant_and_one_that_hangs_is_fenced(
    world: FleetWorld,
) -> None:
    agent = world.agent("h1")
    world.is_there("h1")
    world.submit("one", 1)
    (number,) = wait_until(lambda: list(world.grants("one").values()))
    wait_until(lambda: told(agent, number))

    world.scheduler.kill()
    waiting = world.store.ask({"do": "submit", "experiment": {"name": "two", "roles": {"robots": {"kind": "robot"}}}})  # fmt: skip
    second = world.start_scheduler("second")
    world.works(second)
    wait_until(lambda: world.store.answer_of(waiting))  # asked while nobody worked
    world.is_there("h1")
    assert list(world.grants("one").values()) == [number]

    third = world.start_scheduler("third")
    wait_until(lambda: "stands by" in third.log)
    second.signal(signal.SIGSTOP)
    world.works(third)
    assert world.ask(do="finish", name="one")["ok"]
    (newer,) = wait_until(lambda: list(world.grants("two").values()))
    wait_until(lambda: told(agent, newer))
    second.signal(signal.SIGCONT)
    wait_until(lambda: second.log.count("stands by") >= 1, seen=lambda: second.log)
    assert "has taken over" in second.log
    assert world.grants("two") == {"h1/robot/arm": newer}
    assert told(agent, newer)
    lines = [line for line in agent.log.splitlines() if line.startswith("told h1 ")]
    assert [line.split()[2] for line in lines if len(line.split()) > 2] == [
        f"{number}:h1/robot/arm:one",
        f"{newer}:h1/robot/arm:two",
    ]


#: Writes who drives a robot, and until when, into a file of the robot: like the log of its HAL.
DRIVES = (
    "echo begin $FENCING >> {folder}/driven;"
    "trap 'echo end $FENCING >> {folder}/driven; exit 0' INT TERM;"
    "while true; do test -e {folder}/finish && {{ echo end $FENCING >> {folder}/driven; exit 0; }}; sleep 0.05; done"
)


def test_experiments_are_started_preempted_and_end_and_a_robot_has_one_driver(
    world: FleetWorld,
) -> None:
    agent = world.agent("h1", "--start", "--alone", "2")
    world.is_there("h1")
    driven = world.folder / "driven"
    command = DRIVES.format(folder=world.folder)

    def submit(name: str, priority: int, script: str = command) -> None:
        run = {"deployment": "script", "set": {"command": script}}
        roles = {"robots": {"kind": "robot", "run": run}}
        experiment = to_mapping(Experiment(name=name, priority=priority, roles=roles))
        assert world.ask(do="submit", experiment=experiment)["ok"]

    def lines() -> list[str]:
        return driven.read_text().splitlines() if driven.exists() else []

    submit("low", 0)
    wait_until(lambda: len(lines()) == 1)
    submit("high", 5)
    wait_until(lambda: len(lines()) == 3, seen=lines)
    agent.kill()  # what it has started ends when no agent has come back for some time
    wait_until(lambda: len(lines()) == 4, seen=lines)
    agent.start()
    wait_until(lambda: len(lines()) == 5, seen=lines)  # the same grant again
    world.scheduler.kill()
    world.scheduler.start()
    submit("broken", 9, "echo no bus; exit 3")  # fails wherever it is started, and is given up
    wait_until(lambda: (e := world.store.find("broken")) and e.state == "cancelled")
    assert "no bus" in world.why("broken").text
    assert world.store.held_back() == {}  # it was not the robot's fault
    wait_until(lambda: lines()[-1].startswith("begin"), seen=lines)
    (world.folder / "finish").touch()
    for name in ("high", "low"):
        wait_until(lambda n=name: (e := world.store.find(n)) and e.state == "done")
    numbers = [int(line.split()[1]) for line in lines()]
    kinds = [line.split()[0] for line in lines()]
    assert kinds == ["begin", "end"] * (len(kinds) // 2)  # never two at once
    assert numbers == sorted(numbers)  # never an older one after a newer one
    agent.interrupt()


def test_two_of_one_name_a_clock_that_is_off_and_forgers_hurt_nobody(world: FleetWorld) -> None:
    first = world.agent("h1")
    world.is_there("h1")
    twin = world.agent("h1", name="twin")
    world.agent("h2", "--clock-offset", "3600")
    world.agent("h4", "--as", "h1", name="forger")
    world.becomes("h1", "two_agents")
    world.becomes("h2", "clock_off")
    text = {known.name: known.text for known in world.store.hosts()}
    assert "two agents call themselves h1" in text["h1"]
    assert "3600 s ahead" in text["h2"]
    wait_until(lambda: "refused h1 a heartbeat that names 'h4'" in world.scheduler.log)
    wait_until(lambda: "refused h1 another agent of this name" in world.scheduler.log)
    world.submit("one", 1)
    wait_until(lambda: world.grants("one"))
    assert set(world.grants("one")) == {"h1/robot/arm"}  # the first of the two goes on
    wait_until(lambda: told(first, *world.grants("one").values()))
    wait_until(lambda: "another agent of this name" in twin.log)
    twin.interrupt()
    assert "told" not in twin.log.split()  # it obeys nobody: what it was told was for the first
    world.submit("two", 2)
    wait_until(lambda: "3600 s ahead" in world.why("two").text, seen=lambda: world.why("two"))


def test_access_control_keeps_a_host_from_speaking_for_another(tmp_path: Path) -> None:
    endpoint = f"tls/127.0.0.1:{free_port()}"
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    network.add("learner", "scheduler")
    for host in ("h1", "h2"):
        network.add("robot", host)
    world = FleetWorld(tmp_path, network)
    try:
        world.agent("h1")
        world.is_there("h1")
        # With the certificate of h1, under the keys of h2: neither heard nor believed.
        who = ["--credentials", str(network.credentials("robot", "h1").folder)]
        program = ["-m", "user_testing.programs.fleet_agent", endpoint, "h2"]
        forger = world.start("forger", [*program, *who])
        wait_until(lambda: "there" in forger.log.split())
        wait_until(
            lambda: "h1" in world.router.log and "h2/fleet/heartbeat" in world.router.log,
            seen=lambda: world.router.log,
        )
        assert world.state("h2") == ""
        world.agent("h2")
        world.is_there("h1", "h2")
    finally:
        world.close()


def test_a_forged_assignment_is_refused_by_the_router_and_reaches_no_host(tmp_path: Path) -> None:
    endpoint = f"tls/127.0.0.1:{free_port()}"
    network = Network.create(tmp_path / "net", Members(endpoints=(endpoint,)))
    network.add("learner", "scheduler")
    for host in ("h1", "h2"):
        network.add("robot", host)
    world = FleetWorld(tmp_path, network)
    try:
        agent = world.agent("h1")
        world.is_there("h1")
        life = next(k.report for k in world.store.hosts() if k.name == "h1")
        forged = Assignment(
            host="h1", life=HostReport.from_json(life).life, epoch=2**40, sequence=1,
            grants=(Granted(fencing=2**40, resource="h1/robot/arm", experiment="x", role="r"),),
        )  # fmt: skip
        who = str(network.credentials("robot", "h2").folder)
        config = ZenohConfig(connect=(endpoint,), credentials=who, shared_memory=False)
        key = assignment_key("scheduler", "h1")
        with open_session(config) as session:

            def refused() -> bool:
                session.put(key, forged.to_json())
                return "h2" in world.router.log and key in world.router.log

            wait_until(refused, seen=lambda: world.router.log)
        world.submit("one", 1)
        (number,) = wait_until(lambda: list(world.grants("one").values()))
        wait_until(lambda: told(agent, number))  # it obeys the right one
        assert str(2**40) not in agent.log
    finally:
        world.close()


class ApartWorld(FleetWorld):
    """The scheduler on one host, agents on others, with a link to each: network namespaces."""

    def __init__(self, folder: Path, stack: ExitStack, *hosts: str) -> None:
        self.hub = stack.enter_context(Host("hub"))
        self.places = {name: stack.enter_context(Host(name)) for name in hosts}
        self.links = {
            name: stack.enter_context(Link(self.hub, place, LinkQuality()))
            for name, place in self.places.items()
        }
        self._place: Host = self.hub
        super().__init__(folder)
        stack.callback(self.close)

    def start(self, name: str, words: list[str]) -> Process:
        if name == "router":
            words = [*words[:-1], f"tcp/0.0.0.0:{self.port}"]
        command = self._place.command(sys.executable, *words)
        process = Process(command, self.folder / f"{name}.log").start()
        self.processes.append(process)
        return process

    def agent_of(self, host: str) -> Process:
        self._place = self.places[host]
        address = self.links[host].address_of(self.hub)
        try:
            return self.agent(host, endpoint=f"tcp/{address}:{self.port}")
        finally:
            self._place = self.hub


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_hosts_that_are_really_apart_are_unreachable_behind_a_cut_and_keep_their_robots(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        world = ApartWorld(tmp_path, stack, "h1", "h2", "h3")
        agents = {host: world.agent_of(host) for host in ("h1", "h2", "h3")}
        world.is_there("h1", "h2", "h3")
        world.submit("one", 3)
        wait_until(lambda: len(world.grants("one")) == 3, seen=lambda: world.why("one"))
        numbers = world.grants("one")
        for host, agent in agents.items():
            wait_until(lambda a=agent, h=host: told(a, numbers[f"{h}/robot/arm"]))
        world.links["h2"].cut()
        world.becomes("h2", "host_unreachable")
        world.submit("two", 1)
        assert world.why("two").code == "waits_for_resources"
        assert (world.state("h1"), world.state("h3")) == ("here", "here")
        assert world.grants("one") == numbers and world.grants("two") == {}
        world.links["h2"].restore()
        world.is_there("h1", "h2", "h3")
        assert world.grants("one") == numbers
        lines = [line for line in agents["h2"].log.splitlines() if line.startswith("told h2 ")]
        assert len(lines) == 1  # it has gone on as if nothing had been
        assert world.ask(do="finish", name="one")["ok"]
        wait_until(lambda: len(world.grants("two")) == 1)
