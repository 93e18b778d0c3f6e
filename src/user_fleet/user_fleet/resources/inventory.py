"""All that one host has, found without any configuration; what is configured is added to it."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from user_core.config import Config, setting
from user_core.errors import SuiteError
from user_core.reasons import Reason
from user_fleet.resources import devices, machine
from user_fleet.resources.contracts import Contract, offers
from user_fleet.resources.model import (
    MAX_RESOURCES,
    HostReport,
    Problem,
    Resource,
    clean_name,
    uniquely_named,
)
from user_fleet.resources.probing import (
    Answer,
    ask_drivers,
    ask_files,
    problems_of,
    robot_of_file,
    robots_of,
)


class HostRobot(Config):
    """A robot of a host that a file describes."""

    file: str = setting(doc="Robot file: a path, or the name of a ready one.", min_length=1)
    tags: tuple[str, ...] = setting((), doc="Words that requirements may ask for.")
    values: dict[str, str] = setting(
        factory=dict, doc="For ${name} in what experiments run on it, before those of the host."
    )


class HostConfig(Config):
    """How a host describes itself. Without any of it, everything that can be found is found."""

    host: str = setting("", doc="Its name, unique in the fleet; empty: the machine's.")
    site: str = setting("", doc="Place: hosts of one site share a fast network.")
    address: str = setting(
        "", doc="Where other hosts reach it; empty: its address in the network of the scheduler.",
        max_length=253,
    )  # fmt: skip
    tags: tuple[str, ...] = setting((), doc="Words that all its resources carry.")
    values: dict[str, str] = setting(
        factory=dict,
        doc="For ${name} in what experiments run here: {credentials: /etc/user/net/learners/learner}.",
    )
    robots: dict[str, HostRobot] = setting(
        factory=dict, doc="Robots that files describe, by the names that they are to have."
    )
    drivers: tuple[str, ...] | None = setting(
        None, doc="Drivers that are asked what robots they find; null: all that are installed."
    )
    probe_limit_s: float = setting(
        20.0, doc="Time that a driver has to answer.", unit="s", gt=0, le=600
    )
    folder: str = setting("~", doc="Folder of runs; the free space of its disk is reported.")

    @property
    def name(self) -> str:
        """Name of the host."""
        return self.host or clean_name(socket.gethostname(), "host")


#: What a ROS graph shows: topics with their types, and services.
Graph = tuple[Mapping[str, Sequence[str]], Iterable[str]]


class Inventory:
    """Finds the resources of this host, again and again.

    What is quick (devices, memory, GPUs) is looked at every time. Drivers and robot files are asked
    when ``ask`` says so, since each is a process; their answers are remembered in between.

    Args:
        config: How the host describes itself.
        find_file: Finds a robot file by what a configuration calls it; raises SuiteError.
        contracts: Contracts to look for in ROS graphs.
        root: Where ``dev`` and ``sys`` are.
        endpoint: Where the network is reached; tells which of the host's addresses others see.
    """

    def __init__(
        self,
        config: HostConfig,
        find_file: Callable[[str], Path] = Path,
        contracts: Sequence[Contract] = (),
        root: Path = Path("/"),
        endpoint: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.config, self._find_file = config, find_file
        self._contracts, self._root = list(contracts), root
        self.life = uuid.uuid4().hex
        self._sequence = 0
        self._robots: list[Resource] = []
        self._robot_problems: list[Problem] = []
        self._of_contracts: dict[Path, Answer] = {}
        self._known: dict[str, Resource] = {}

    def report(self, graph: Graph | None = None, ask: bool = True) -> HostReport:
        """What is there now.

        Args:
            graph: What the ROS graph of this host shows; None: it is not looked at.
            ask: Ask drivers and robot files anew.
        """
        if ask:
            self._ask()
        name, site = self.config.name, self.config.site
        found_gpus, problems = machine.gpus(name, site)
        found = [
            *machine.host_and_cpu(name, site, Path(self.config.folder).expanduser()),
            *found_gpus,
            *devices.cameras(name, site, self._root),
            *devices.teleops(name, site, self._root),
            *self._robots,
        ]
        problems += self._robot_problems
        if graph is not None:
            offered, more = self._offered(graph)
            found += offered
            problems += more
        resources = uniquely_named(self._tagged(found))
        if len(resources) > MAX_RESOURCES:
            left = len(resources) - MAX_RESOURCES
            text = f"{left} resources are left out; {MAX_RESOURCES} is the most of a host"
            problems.append(Problem(what=name, code="config", text=text))
            resources = resources[:MAX_RESOURCES]
        self._sequence += 1
        return HostReport(
            host=name,
            site=site,
            life=self.life,
            address=self.config.address or machine.address_toward(self.endpoint),
            version=_version(),
            wall_ns=time.time_ns(),
            sequence=self._sequence,
            resources=tuple(self._with_absent(resources)),
            problems=tuple(problems[:MAX_RESOURCES]),
        )

    def _ask(self) -> None:
        config = self.config
        name, site, limit_s = config.name, config.site, config.probe_limit_s
        problems: list[Problem] = []
        paths: dict[str, str] = {}
        for robot, entry in config.robots.items():
            try:
                paths[robot] = str(self._find_file(entry.file))
            except SuiteError as error:
                problems.append(Problem.of(robot, error))
        answers = dict(zip(paths, ask_files(paths.values(), limit_s), strict=True))
        robots = [
            robot_of_file(answer, robot, name, site, config.robots[robot].tags)
            for robot, answer in answers.items()
        ]
        asked = ask_drivers("robots", config.drivers, limit_s)
        for answer in asked:
            robots += robots_of(answer, name, site)
        problems += problems_of([*answers.values(), *asked])
        self._robots, self._robot_problems = robots, problems

    def _offered(self, graph: Graph) -> tuple[list[Resource], list[Problem]]:
        """Robots of the ROS graph for which there is a contract."""
        found = offers(self._contracts, *graph)
        new = {offer.contract.path for offer in found} - self._of_contracts.keys()
        limit_s = self.config.probe_limit_s
        asked = ask_files(map(str, sorted(new)), limit_s)
        self._of_contracts.update(zip(sorted(new), asked, strict=True))
        made: list[Resource] = []
        problems: list[Problem] = []
        for offer in found:
            answer = self._of_contracts[offer.contract.path]
            problems += problems_of([answer])
            host, site = self.config.name, self.config.site
            item = robot_of_file(answer, offer.name, host, site, ("ros_graph",))
            if item.health == "ready" and (missing := offer.why_incomplete()):
                item = item.unwell("incomplete", missing)
            made.append(item)
        return made, problems

    def _tagged(self, found: Iterable[Resource]) -> list[Resource]:
        tags = self.config.tags
        if not tags:
            return list(found)
        return [item.replace(tags=tuple(dict.fromkeys((*item.tags, *tags)))) for item in found]

    def _with_absent(self, present: list[Resource]) -> list[Resource]:
        """With what was there before in this life and is gone: unplugged, fallen off the bus."""
        here = {item.id for item in present}
        gone = [
            item.unwell("absent", Reason("device_not_connected", "it was there, and is not now"))
            for name, item in self._known.items()
            if name not in here and item.health != "absent"
        ]
        gone += [
            item
            for name, item in self._known.items()
            if name not in here and item.health == "absent"
        ]
        kept = [*present, *gone][:MAX_RESOURCES]
        self._known = {item.id: item for item in kept}
        return kept


def _version() -> str:
    try:
        return version_of("user_fleet")
    except PackageNotFoundError:  # run from a source tree
        return ""


def as_table(report: HostReport) -> list[tuple[str, str, str, str]]:
    """Rows for people: id without its host, what it is, how much, health with its reason."""
    return [
        (f"{item.kind}/{item.name}", item.model, amounts_in_words(item), _health(item))
        for item in report.resources
    ]


def amounts_in_words(item: Resource) -> str:
    """What requirements would ask of it, in one line."""
    words: list[Any] = []
    amounts = item.amounts
    if "cores" in amounts:
        words.append(f"{amounts['cores']:g} cores")
    if "memory_bytes" in amounts:
        words.append(f"{item.memory_gb:.1f} GiB")
    if "disk_free_bytes" in amounts:
        words.append(f"{amounts['disk_free_bytes'] / 2**30:.0f} GiB of disk free")
    if item.joints:
        words.append(f"{item.joints} joints")
    if item.action_kind:
        words.append(item.action_kind)
    if item.cameras:
        words.append(f"cameras {', '.join(item.cameras)}")
    words += [f"#{tag}" for tag in item.tags]
    return ", ".join(words)


def _health(item: Resource) -> str:
    return item.health if item.health == "ready" else f"{item.health}: {item.reason}"
