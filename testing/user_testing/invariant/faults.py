"""What goes wrong in the campaign, by name. Each takes a world and random numbers, and does it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from user_core.specs import Array
from user_testing.invariant.robots import PERIOD_S
from user_testing.invariant.stand_in import ReadingFault
from user_testing.invariant.world import World

Fault = Callable[[World, random.Random], None]


def wish(world: World, rng: random.Random) -> Array:
    """An action as a policy might want it: mostly sensible, at full speed now and then, (A,)."""
    return np.concatenate([_wish(world, i, rng) for i in range(len(world.arms))])


def _wish(world: World, which: int, rng: random.Random) -> Array:
    arm = world.arms[which]
    robot, bounds = arm.robot, np.array(arm.robot.bounds)
    if robot.absolute:
        far = rng.choice((0.01, 0.03, 0.03, 0.1, 1.0))
        here = np.array(arm.here)
        action = here + np.array([rng.uniform(-far, far) for _ in bounds])
        if robot.pose:
            action[3:7] = here[3:7] + [rng.gauss(0, min(far, 0.3)) for _ in range(4)]
        action = np.clip(action, -bounds, bounds)
    else:
        share = rng.choice((0.0, 0.1, 0.1, 0.3, 1.0, 1.0))
        if rng.random() < 0.5:  # else on into the direction of before, as a person pushes
            world.directions[which] = np.array([rng.uniform(-1, 1) for _ in bounds])
        action = world.directions[which] * bounds * share
    if robot.gripper:
        action = np.append(action, rng.choice((0.0, 1.0, rng.random())))
    return action.astype(np.float32)


def _bounds(world: World) -> list[float]:
    """The largest action, with the grippers open."""
    return [b for arm in world.arms for b in (*arm.robot.bounds, *[1.0] * arm.robot.gripper)]


def _reading(kind: str, most: int = 4) -> Fault:
    def inject(world: World, rng: random.Random) -> None:
        values: tuple[float, ...] = ()
        which = rng.randrange(2)
        if kind == "jump":
            here = world.arms[which % len(world.arms)].here
            far = rng.choice((0.1, 0.19, 0.25, 1.0, 4.0))
            values = tuple(value + rng.uniform(-far, far) for value in here[:3])
            values += tuple(here[3:])
        amount_s = rng.choice((-3.0, -0.5, -0.12, -0.03, 0.03, 0.2, 5.0)) if kind == "stamp" else 0
        world.reading_faults.append(
            ReadingFault(kind, rng.randint(1, most), values, amount_s, which)
        )

    return inject


def _driver(work: str, *kinds: str) -> Fault:
    def inject(world: World, rng: random.Random) -> None:
        world.driver_faults.setdefault(work, []).extend(
            [rng.choice(kinds)] * rng.choice((1, 1, 1, 2, 6))
        )

    return inject


def _chunk(change: Callable[[World, random.Random, dict[str, Any]], None]) -> Fault:
    def inject(world: World, rng: random.Random) -> None:
        options: dict[str, Any] = {"rows": np.array([wish(world, rng)])}
        change(world, rng, options)
        world.send(options.pop("rows"), **options)

    return inject


def _shape(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    rows = chunk["rows"]
    chunk["rows"] = rng.choice(
        (rows[:, :-1], np.hstack([rows, rows]), rows.astype(np.float64), rows.astype(np.int64))
    )


def _not_finite(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["rows"][0, rng.randrange(chunk["rows"].shape[1])] = rng.choice((np.nan, np.inf, -np.inf))


def _far_out(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["rows"] *= rng.choice((1.5, -3.0, 50.0, 1e9))
    chunk["rows"] += np.float32(rng.choice((0.0, 5.0)))


def _a_little_out(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    rows = [[b * rng.choice((-1.05, 0.0, 1.05)) for b in _bounds(world)]]
    chunk["rows"] = np.array(rows, np.float32)


def _stale(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["start_ns"] = world.time.wall_ns() - rng.choice((20, 150, 5000)) * 1_000_000


def _ahead(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["start_ns"] = world.time.wall_ns() + rng.choice((20, 90, 400, 9000)) * 1_000_000
    _many_rows(world, rng, chunk)


def _many_rows(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["rows"] = np.array([wish(world, rng) for _ in range(rng.randint(2, 8))])
    chunk["period_ns"] = rng.choice((1, 10, 50, 100, 100, 300)) * 1_000_000


def _again(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["sequence"] = max(0, world.sequence - rng.choice((0, 0, 1, 5)))


def _old_lease(world: World, rng: random.Random, chunk: dict[str, Any]) -> None:
    chunk["token"] = max(0, world.token - rng.choice((0, 1, world.token)))


def _hurry(world: World, rng: random.Random) -> None:
    """Many commands at once, faster than the robot's period."""
    for _ in range(rng.randint(3, 8)):
        world.send(np.array([wish(world, rng)]), period_ns=20_000_000)
        world.run(rng.choice((0.001, 0.02, 0.05)))


def _refused_in_between(world: World, rng: random.Random) -> None:
    """Commands in turns with such that stop the robot: stops must not win it speed."""
    for _ in range(rng.randint(2, 6)):
        row = np.array(_bounds(world), np.float32)
        if any(arm.robot.absolute for arm in world.arms):
            row = wish(world, rng)
        world.send(row[None])
        world.run(rng.choice((0.02, 0.05, 0.06)))
        world.send((row * 90)[None])
        world.run(rng.choice((0.01, 0.02, 0.05)))


def _press(world: World, rng: random.Random) -> None:
    world.press()
    _later(world, rng.uniform(0.05, 1.0), world.release)


def _press_later(world: World, rng: random.Random) -> None:
    """At any moment: in a reset, in a call, between a reading and a command."""
    delay_s = rng.uniform(0.0, 1.5)
    _later(world, delay_s, world.press)
    _later(world, delay_s + rng.uniform(0.05, 0.6), world.release)


def _later(world: World, delay_s: float, event: Callable[[], None]) -> None:
    world.schedule.append((world.time.monotonic() + delay_s, event))
    world.schedule.sort(key=lambda item: item[0])


def _reset(world: World, rng: random.Random) -> None:
    world.reset()


def _reset_with_trouble(world: World, rng: random.Random) -> None:
    """Readings that jump, or a stop, while the robot goes home."""
    kind = rng.choice(("jump", "zeros", "swap", "not_finite", "gap", "press", "home"))
    if kind == "press":
        _press_later(world, rng)
    else:
        fault = ReadingFault(kind, rng.randint(1, 4))
        if kind in ("jump", "home"):
            fault.kind = "jump"
            home = world.arms[0].robot.contract["home"]
            goal = home.get("pose") or home.get("joints")
            fault.values = goal if kind == "home" else [v + rng.uniform(-1, 1) for v in goal[:3]]
            fault.values = [*fault.values, *goal[len(fault.values) :]]
        delay_s = rng.uniform(0.0, 1.0)
        _later(world, delay_s, lambda: world.reading_faults.append(fault))
    world.reset()


def _lease_lost(world: World, rng: random.Random) -> None:
    world.run(rng.choice((0.0, 1.2)))
    world.lose_lease(0.2)
    if rng.random() < 0.5:
        world.run(0.25)


def _lease_given_back(world: World, rng: random.Random) -> None:
    world.give_lease_back()


def _clock_step(world: World, rng: random.Random) -> None:
    world.time.wall_offset_ns += int(rng.choice((-3600.0, -2.0, -0.3, 0.3, 2.0, 3600.0)) * 1e9)


def _blocked(world: World, rng: random.Random) -> None:
    arm = rng.choice(world.arms)
    arm.blocked = True

    def free() -> None:
        arm.blocked = False

    _later(world, rng.uniform(0.2, 2.0), free)


def _pushes(world: World, rng: random.Random) -> None:
    """It is led on in one direction although something is in its way; then nobody commands."""
    row = np.array([b * rng.choice((-1.0, 1.0)) for b in _bounds(world)])
    if any(arm.robot.absolute for arm in world.arms):
        row = wish(world, rng)
    arm = rng.choice(world.arms)
    arm.blocked = True
    for _ in range(rng.randint(3, 20)):
        world.regain()
        world.send(row.astype(np.float32)[None])
        world.run(PERIOD_S)
    world.run(0.6)
    arm.blocked = False


def _held_up(world: World, rng: random.Random) -> None:
    """The whole process stood still; the robot moved on."""
    duration_s = rng.uniform(0.05, 0.6)
    for arm in world.arms:
        arm.advance(duration_s)
    world.time.move(duration_s)


def _nobody_commands(world: World, rng: random.Random) -> None:
    world.run(rng.choice((0.3, 0.6, 1.3)))


def _dies(world: World, rng: random.Random) -> None:
    """The robot says nothing any more, and its commander goes on."""
    which = rng.randrange(2)
    world.reading_faults.append(ReadingFault("gap", rng.randint(20, 40), (), 0.0, which))
    for _ in range(20):
        world.regain()
        world.send(np.array([wish(world, rng)]))
        world.run(PERIOD_S)


def _gripper_rejects(world: World, rng: random.Random) -> None:
    for arm in world.arms:
        arm.gripper_accepts = rng.random() < 0.5


def _late_stops(world: World, rng: random.Random) -> None:
    world.stopper.delayed = not world.stopper.delayed


def _pushed(world: World, rng: random.Random) -> None:
    """Somebody moves the robot while it is stopped and its controller is off."""
    world.run(PERIOD_S + 0.4)  # the watchdog stops it
    world.reading_faults.clear()  # it is seen where it is before anybody commands it
    world.pushed([rng.uniform(-0.5, 0.5) for _ in range(3)])
    world.run(0.4)
    if rng.random() < 0.7:
        world.reset()


def _restart(world: World, rng: random.Random) -> None:
    world.restart()


#: Name to injection, and how often it is drawn.
FAULTS: dict[str, tuple[Fault, int]] = {
    "reading jumps": (_reading("jump"), 12),
    "reading is zero": (_reading("zeros"), 8),
    "joints swapped": (_reading("swap"), 8),
    "reading repeated": (_reading("repeat", 8), 5),
    "readings missing": (_reading("gap", 12), 6),
    "robot dies for a while": (_dies, 1),
    "reading not finite": (_reading("not_finite"), 5),
    "reading in another frame": (_reading("frame"), 5),
    "reading of other joints": (_reading("names"), 3),
    "reading too short, or no rotation": (_reading("short"), 2),
    "quaternion of length zero": (_reading("quaternion"), 2),
    "stamps late or ahead": (_reading("stamp"), 6),
    "clock stepped": (_clock_step, 2),
    "chunk of wrong shape or type": (_chunk(_shape), 4),
    "chunk not finite": (_chunk(_not_finite), 3),
    "chunk far out of bounds": (_chunk(_far_out), 5),
    "chunk a little out of bounds": (_chunk(_a_little_out), 4),
    "chunk stale": (_chunk(_stale), 3),
    "chunk ahead": (_chunk(_ahead), 5),
    "chunk of many rows": (_chunk(_many_rows), 6),
    "chunk again, or out of order": (_chunk(_again), 5),
    "chunk of an old lease": (_chunk(_old_lease), 4),
    "commands in a hurry": (_hurry, 4),
    "commands in turns with refusals": (_refused_in_between, 4),
    "lease lost": (_lease_lost, 3),
    "lease given back": (_lease_given_back, 3),
    "emergency stop": (_press, 3),
    "emergency stop at any moment": (_press_later, 3),
    "nobody commands": (_nobody_commands, 3),
    "read fails": (_driver("read", "fault", "lost", "odd", "slow"), 4),
    "command fails": (_driver("command", "fault", "lost", "odd", "slow", "odd after"), 5),
    "stop fails": (_driver("stop", "fault", "odd"), 3),
    "connect fails": (_driver("connect", "fault", "slow"), 2),
    "stops come late": (_late_stops, 3),
    "robot blocked": (_blocked, 4),
    "robot pushes against something": (_pushes, 2),
    "process held up": (_held_up, 3),
    "gripper rejects or accepts": (_gripper_rejects, 4),
    "reset": (_reset, 2),
    "trouble in a reset": (_reset_with_trouble, 3),
    "robot moved by hand": (_pushed, 1),
    "hal restarted": (_restart, 1),
}
