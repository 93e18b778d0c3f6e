"""Processes that train together find each other, compare their software, and make a process group.

Where to meet stands in the environment, as ``torchrun`` puts it there: RANK, LOCAL_RANK,
WORLD_SIZE, MASTER_ADDR and MASTER_PORT. This module imports torch when it is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from user_core.errors import ConfigError, RankLost

#: Longest time that one may keep the others waiting: to open a large store, to load a checkpoint.
TIMEOUT_S = 300.0
#: Longest time until all have come: on a machine at work each imports torch first.
MEET_S = 120.0
#: Counts changes of what is said among them.
PROTOCOL = 1
#: Key in the store: whether they train on GPUs.
CUDA = "cuda"
_PACKAGES = ("user_core", "user_learner", "torch", "numpy")


@dataclass(frozen=True)
class Place:
    """Which of the processes this is.

    Attributes:
        rank: Number among all.
        local: Number among those of this host: that of its GPU.
        world: How many there are.
        here: How many are on this host.
    """

    rank: int
    local: int
    world: int
    here: int

    @classmethod
    def of_environment(cls) -> Place | None:
        """As ``torchrun`` says; None where it has not started this process, or this one alone.

        Raises ConfigError where a value is no number.
        """
        environment = os.environ
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return None
        try:
            rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", rank))
            here = int(environment.get("LOCAL_WORLD_SIZE", world))
        except ValueError as error:
            raise ConfigError(
                "RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE of the environment", got=str(error),
                expected="numbers, as torchrun sets them",
            ) from error  # fmt: skip
        return cls(rank, local, world, here) if world > 1 else None


def software() -> dict[str, str]:
    """What all that train together must have alike."""
    found = {"protocol": str(PROTOCOL)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def what_differs(its: Mapping[str, str], mine: Mapping[str, str]) -> tuple[str, str] | None:
    """What another has instead of what one has oneself, for people; None where it is the same."""
    names = sorted(name for name in {*mine, *its} if mine.get(name) != its.get(name))
    if not names:
        return None
    one, other = (", ".join(f"{name} {has.get(name)}" for name in names) for has in (its, mine))
    return one, other


def compare(store: Any, place: Place) -> None:
    """Refuse to train with processes of another software.

    Args:
        store: A ``torch.distributed`` store that all have.
        place: Which of them this is.

    Raises:
        ConfigError: Another has other software; says which and what.
        RankLost: One has not come within :data:`MEET_S`.
    """
    mine = software()
    store.set(f"software/{place.rank}", json.dumps(mine))
    for rank in range(place.world) if place.rank == 0 else (0,):
        try:
            store.wait([f"software/{rank}"], timedelta(seconds=MEET_S))
        except RuntimeError as error:  # of the store: a timeout, or the end of who keeps it
            raise RankLost(
                f"rank {rank} of {place.world}", got=f"nothing of it within {MEET_S:g} s",
                expected="that it meets the others",
            ) from error  # fmt: skip
        its = json.loads(store.get(f"software/{rank}"))
        if differing := what_differs(its, mine):
            raise ConfigError(
                f"software of rank {rank} of {place.world}",
                got=differing[0],
                expected=differing[1],
                hint=f"as rank {place.rank} has: install the same on all hosts",
            )


def join(store: Any, place: Place, cuda: bool) -> None:
    """Become one process group, after :func:`compare`.

    Args:
        store: As above.
        place: Which of them this is.
        cuda: Whether tensors on GPUs travel too: by NCCL, those on CPUs by gloo.
    """
    import torch

    if cuda:
        torch.cuda.set_device(place.local)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=torch.distributed.PrefixStore("group", store),
        rank=place.rank,
        world_size=place.world,
        timeout=timedelta(seconds=TIMEOUT_S),
    )


def open_store(place: Place) -> Any:
    """The store that the environment names; torchrun's own process keeps it, or the first."""
    import torch.distributed as dist

    keeps = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place.world, keeps,
            timedelta(seconds=MEET_S), wait_for_workers=False,
        )  # fmt: skip
    except (RuntimeError, KeyError, ValueError) as error:
        raise RankLost(
            "the place where ranks meet", got=f"{type(error).__name__}: {error}",
            expected="MASTER_ADDR and MASTER_PORT that answer",
        ) from error  # fmt: skip


def leave() -> None:
    """Let go of the process group. Idempotent; where others are gone it does not wait for them."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
