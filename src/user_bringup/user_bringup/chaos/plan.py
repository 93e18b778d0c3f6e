"""What happens to whom and when, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from user_bringup.chaos.link import LINK

FaultKind = Literal["kill", "suspend", "disk", "network", "memory"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: When, seconds after everything worked for the first time.
        kind: ``kill`` (SIGKILL), ``suspend`` (SIGSTOP, then SIGCONT), ``disk`` (none of its
            files can grow, as on a full disk), ``network`` (nothing moves over the link between
            the hosts, and nobody is told), ``memory`` (it gets no more than it has).
        victim: Name of the process; of the link for a cut.
        duration_s: How long it lasts; 0 for a kill.
    """

    at_s: float
    kind: FaultKind
    victim: str
    duration_s: float = 0.0


@dataclass(frozen=True)
class PlanSize:
    """How much goes wrong.

    Attributes:
        seconds: Time over which it is spread.
        kills: How many processes are killed.
        suspends: How many are suspended for a while.
        disks: How often the disk of one is full for a while.
        networks: How often the link between the hosts is cut for a while.
        memories: How often one gets no more memory for a while.
        longest_s: Longest time of any of these.
        apart_s: Shortest time from one fault to the next; with 0 some fall into the recovery
            from the one before.
    """

    seconds: float
    kills: int
    suspends: int = 0
    disks: int = 0
    networks: int = 0
    memories: int = 0
    longest_s: float = 6.0
    apart_s: float = 0.0


def make_plan(
    seed: int,
    victims: Sequence[str],
    writers: Sequence[str],
    size: PlanSize,
    hungry: Sequence[str] = (),
) -> list[Fault]:
    """A plan: the same for the same arguments, everywhere.

    Kills are dealt out evenly, in random order, at random moments.

    Args:
        seed: Chooses.
        victims: Who may be killed and suspended.
        writers: Whose disk may be full.
        size: How much.
        hungry: Who may get no more memory.
    """
    dice = random.Random(seed)
    kinds: list[FaultKind] = ["kill"] * size.kills
    kinds += ["suspend"] * size.suspends
    kinds += ["disk"] * (size.disks if writers else 0)
    kinds += ["network"] * size.networks
    kinds += ["memory"] * (size.memories if hungry else 0)
    dice.shuffle(kinds)
    free_s = max(0.0, size.seconds - size.apart_s * (len(kinds) - 1))
    times = sorted(dice.uniform(0, free_s) for _ in kinds)
    times = [time_s + i * size.apart_s for i, time_s in enumerate(times)]
    pools = {"disk": writers, "network": [LINK], "memory": hungry}
    decks: dict[str, list[str]] = {}
    plan = []
    for at_s, kind in zip(times, kinds, strict=True):
        pool = list(pools.get(kind, victims))
        deck = decks.setdefault(kind, [])
        if not deck:
            deck += dice.sample(pool, len(pool))
        lasts_s = 0.0 if kind == "kill" else dice.uniform(1.0, size.longest_s)
        plan.append(Fault(round(at_s, 3), kind, deck.pop(), round(lasts_s, 3)))
    return plan
