"""Which known contracts a running ROS graph fits: robots that nobody has told us of.

A contract is a robot file for driver ``ros2``: it names the topics, actions and services of a
robot's own driver. Where enough of them appear in the graph, under any namespace, the robot is offered
under the name of the contract, with what is missing for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.config import load_yaml
from user_core.errors import SuiteError
from user_core.reasons import TOPICS_MISSING, Reason
from user_fleet.resources.model import Problem

#: A topic of as many contracts as this says nothing about which robot it is (joint_states).
_COMMON = 3
#: At least this share of a contract's topics must be there for it to be offered.
_ENOUGH = 0.5
_SHOWN = 4


@dataclass(frozen=True)
class Contract:
    """What a robot file for driver ``ros2`` expects of the graph.

    Attributes:
        name: Name of the file.
        path: Where it is.
        topics: Each topic or action with its type; an empty type: any.
        services: Names of services.
    """

    name: str
    path: Path
    topics: Mapping[str, str]
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A contract that a part of the graph fits.

    Attributes:
        contract: Which.
        namespace: What stands before its topics; empty: nothing.
        there: Topics, actions and services of the contract that are in the graph.
        missing: Those that are not, each with what is wrong.
    """

    contract: Contract
    namespace: str
    there: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """``CONTRACT`` or ``CONTRACT@NAMESPACE``."""
        inside = self.namespace.strip("/").replace("/", ".")
        return f"{self.contract.name}@{inside}" if inside else self.contract.name

    def why_incomplete(self) -> Reason:
        """What is missing; false when nothing is."""
        if not self.missing:
            return Reason()
        more = f" and {len(self.missing) - _SHOWN} more" if len(self.missing) > _SHOWN else ""
        return Reason(
            TOPICS_MISSING, f"missing in the graph: {', '.join(self.missing[:_SHOWN])}{more}"
        )


def read_contracts(files: Mapping[str, Path]) -> tuple[list[Contract], list[Problem]]:
    """The contracts among robot files, by their names; what cannot be read is a problem."""
    contracts, problems = [], []
    for name, path in sorted(files.items()):
        try:
            robot = load_yaml(path).get("robot")
        except SuiteError as error:
            problems.append(Problem.of(str(path), error))
            continue
        if not isinstance(robot, Mapping) or robot.get("plugin") != "ros2":
            continue
        topics, services = {}, []
        for entry in _entries(robot.get("params")):
            if isinstance(topic := entry.get("topic"), str):
                topics[_full(topic)] = str(entry.get("type", ""))
            if isinstance(service := entry.get("service"), str):
                services.append(_full(service))
        if topics:
            contracts.append(Contract(name, path, topics, tuple(dict.fromkeys(services))))
    return contracts, problems


def offers(
    contracts: Iterable[Contract],
    topics: Mapping[str, Sequence[str]],
    services: Iterable[str] = (),
) -> list[Offer]:
    """Contracts that the graph fits best.

    Args:
        contracts: Those that are known.
        topics: The graph's topics with their types.
        services: The graph's services.
    """
    known = list(contracts)
    common = Counter(topic for contract in known for topic in contract.topics)
    graph, offered = _with_actions(topics), set(services)
    found = []
    for contract in known:
        for namespace in _namespaces(contract, graph):
            offer = _compare(contract, namespace, graph, offered)
            telling = [t for t in offer.there if t in contract.topics and common[t] < _COMMON]
            wanted = len(contract.topics) + len(contract.services)
            if telling and len(offer.there) >= _ENOUGH * wanted:
                found.append(offer)
    return [offer for offer in found if not any(_covers(other, offer) for other in found)]


def _covers(better: Offer, offer: Offer) -> bool:
    return better.namespace == offer.namespace and set(better.there) > set(offer.there)


def _compare(
    contract: Contract, namespace: str, graph: Mapping[str, Sequence[str]], services: set[str]
) -> Offer:
    there, missing = [], []
    for topic, kind in contract.topics.items():
        full = namespace + topic
        if full not in graph:
            missing.append(f"{full} ({kind})" if kind else full)
        elif kind and kind not in graph[full]:
            missing.append(f"{full} as {kind} (it is {', '.join(graph[full])})")
        else:
            there.append(topic)
    for service in contract.services:
        (there if namespace + service in services else missing).append(
            service if namespace + service in services else f"service {namespace + service}"
        )
    return Offer(contract, namespace, tuple(there), tuple(missing))


def _namespaces(contract: Contract, graph: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted(
        {
            full.removesuffix(topic)
            for topic in contract.topics
            for full in graph
            if full.endswith(topic)
        }
    )


def _with_actions(topics: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Topics and actions: an action is known by the feedback that it publishes."""
    graph: dict[str, Sequence[str]] = dict(topics)
    for name, types in topics.items():
        if name.endswith("/_action/feedback"):
            kinds = [kind.removesuffix("_FeedbackMessage") for kind in types]
            graph[name.removesuffix("/_action/feedback")] = kinds
    return graph


def _entries(data: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings within plain data."""
    if isinstance(data, Mapping):
        yield data
        for value in data.values():
            yield from _entries(value)
    elif isinstance(data, list):
        for value in data:
            yield from _entries(value)


def _full(name: str) -> str:
    return name if name.startswith("/") else f"/{name}"
