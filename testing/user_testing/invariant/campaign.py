"""The campaign of the invariant: random sequences of commands and faults, world after world.

Every world follows from the seed and its number alone, so that a violation is seen again by
``--seed S --world N --steps K``. See ``benchmarks/control/safety_campaign.py``.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from user_testing.invariant.checks import Violation
from user_testing.invariant.faults import FAULTS, wish
from user_testing.invariant.robots import PERIOD_S, ROBOTS, CampaignRobot
from user_testing.invariant.world import PACKAGES, World
from user_testing.virtual_time import VirtualTime

#: Steps of one world; a new one has another robot and nothing of the one before.
WORLD_STEPS = 400
_FAULT_SHARE = 0.25


@dataclass(frozen=True)
class Found:
    """A violation, and how to see it again.

    Attributes:
        seed: Of the campaign.
        world: Number of the world.
        step: Its step.
        robot: Name of the robot.
        front: ``loop`` or ``LocalHal``.
        text: What does not hold.
        recent: The faults of the last steps, the newest last.
    """

    seed: int
    world: int
    step: int
    robot: str
    front: str
    text: str
    recent: tuple[str, ...]

    @property
    def replay(self) -> str:
        """The command that shows it again."""
        return f"--seed {self.seed} --world {self.world} --steps {self.step + 1}"


@dataclass
class Tally:
    """What a campaign did.

    Attributes:
        steps: Steps that were made.
        worlds: Worlds that were begun.
        commands: Commands that reached the driver.
        faults: Faults injected, by name.
        violated_after: Violations, by the newest fault before each.
        robots: Steps by robot.
        found: The violations.
    """

    steps: int = 0
    worlds: int = 0
    commands: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violated_after: Counter[str] = field(default_factory=Counter)
    robots: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)


@contextlib.contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    """The product lives in virtual time, and does not log what goes wrong on purpose."""
    log = logging.getLogger("user_hal")
    level, time = log.level, VirtualTime()
    log.setLevel(logging.CRITICAL + 1)
    try:
        with time.instead_of_time(*PACKAGES):
            yield time
    finally:
        log.setLevel(level)


def run_world(
    seed: int,
    number: int,
    steps: int,
    time: VirtualTime,
    tally: Tally,
    *,
    robots: Sequence[CampaignRobot] = ROBOTS,
    verbose: bool = False,
) -> Found | None:
    """Run one world for at most this many steps; returns the violation that ended it, if any."""
    rng = random.Random(f"{seed}/{number}")
    robot, local = robots[number % len(robots)], rng.random() < 0.5
    names, weights = list(FAULTS), [weight for _, weight in FAULTS.values()]
    recent: list[str] = []
    step = 0
    tally.worlds += 1
    world: World | None = None
    try:
        world = World(robot, time, local=local)
        for step in range(steps):
            tally.steps += 1
            tally.robots[robot.name] += 1
            world.regain()
            if rng.random() < _FAULT_SHARE:
                name = rng.choices(names, weights)[0]
                recent.append(name)
                tally.faults[name] += 1
                if verbose:
                    print(f"step {step}, {time.monotonic():.3f} s: {name}")
                FAULTS[name][0](world, rng)
            if rng.random() < 0.92:
                world.send(np.array([wish(world, rng)]))
            world.run(PERIOD_S if rng.random() < 0.8 else rng.uniform(0.005, 0.25))
        world.close()
    except Violation as violation:
        found = Found(
            seed, number, step, robot.name, "LocalHal" if local else "loop", str(violation),
            tuple(recent[-5:]),
        )  # fmt: skip
        tally.found.append(found)
        tally.violated_after[recent[-1] if recent else "no fault"] += 1
        return found
    finally:
        tally.commands += world.commands if world is not None else 0
    return None


def run(
    seed: int,
    steps: int,
    *,
    first_world: int = 0,
    every: int = 1,
    stop_at: int = 20,
    robots: Sequence[CampaignRobot] = ROBOTS,
    steps_a_world: int = WORLD_STEPS,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Run a campaign.

    Args:
        seed: Of all random numbers.
        steps: How many steps.
        first_world: Number of the first world.
        every: Distance to the next one: several processes share a campaign.
        stop_at: After this many violations it ends.
        robots: Whose turn it is, world by world.
        steps_a_world: How long a world lasts.
        on_progress: Called after each world.
    """
    tally = Tally()
    number = first_world
    with virtual_time() as time:
        while tally.steps < steps and len(tally.found) < stop_at:
            left = min(steps_a_world, steps - tally.steps)
            run_world(seed, number, left, time, tally, robots=robots)
            number += every
            on_progress(tally)
    return tally
