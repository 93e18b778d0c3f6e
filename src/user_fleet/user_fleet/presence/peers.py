"""What a role is told of the others of its experiment, so that they find each other: addresses, ports, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from user_fleet.scheduling.experiment import Run
from user_fleet.scheduling.store import Grant

_FIRST_PORT = 20000
_PORTS = 10000
_DOMAINS = 100


@dataclass(frozen=True)
class Place:
    """Where a host is.

    Attributes:
        address: Where others reach it.
        site: Its site.
    """

    address: str = ""
    site: str = ""


def port_of(fencing: int) -> int:
    """A port for what is started for a grant: below those that systems give away, and of another grant only after
    10,000 more."""
    return _FIRST_PORT + fencing % _PORTS


def domain_of(fencing: int, of_agent: str) -> str:
    """A ROS domain for what is started for a grant, of those that every system has; never that of the agent."""
    found = str(1 + fencing % _DOMAINS)
    return found if found != of_agent else str(_DOMAINS + 1)


def peers_of(
    run: Run, grants: Sequence[Grant], runs: Mapping[int, Run], places: Mapping[str, Place]
) -> dict[str, str]:
    """What is known of what a run asks of other roles.

    Args:
        run: What is started.
        grants: All grants of the experiment.
        runs: What is started for which of them.
        places: Where hosts are.

    Returns:
        ``learner.address`` to ``10.0.0.7``. What is not known yet is not in it.
    """
    found = {}
    for role, what in run.references():
        # That which runs, where it is one process for several resources; else the oldest.
        mine = sorted(
            (g for g in grants if g.role == role), key=lambda g: (g.fencing not in runs, g.fencing)
        )
        if not mine:
            continue
        host = mine[0].resource.partition("/")[0]
        place = places.get(host, Place())
        value = {
            "address": place.address, "port": str(port_of(mine[0].fencing)), "host": host,
            "site": place.site, "name": mine[0].resource.rpartition("/")[2],
        }.get(what, "")  # fmt: skip
        if value:
            found[f"{role}.{what}"] = value
    return found


def where_it_is(peers: Mapping[str, str]) -> dict[str, str]:
    """Of what is known of others, that with which something has to be started again when it changes: where they are,
    not how they are called."""
    return {
        key: value for key, value in peers.items() if key.rpartition(".")[2] in ("address", "port")
    }
