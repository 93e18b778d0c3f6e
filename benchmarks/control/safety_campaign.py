"""The invariant of motion under random faults: a million steps, each of which may break something.

A step is a control period of one robot on topics behind the whole HAL (driver, gate, leases,
control loop, and ``LocalHal`` in half of the worlds), in virtual time. What reached the robot is
compared with docs/explanation/safety.md. A world lasts for 400 steps; the next one has another robot.

    tools/run python benchmarks/control/safety_campaign.py [--steps 1000000] [--seed 1] [--jobs 1]
    tools/run python benchmarks/control/safety_campaign.py --seed 1 --world 38 --steps 72    # see one again

Ends with exit status 1 if the invariant was violated, with what shows each violation again; also if
fewer than a third of the steps carried a command to the robot: such a campaign would prove nothing.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from user_core.command_line import Parser
from user_testing import systems
from user_testing.invariant.campaign import WORLD_STEPS, Found, Tally, run, run_world, virtual_time

#: Worlds of one piece of work, so that several processes share a campaign evenly.
_PIECE = 25


def piece(seed: int, first_world: int, steps: int) -> Tally:
    """Some worlds of a campaign."""
    return run(seed, steps, first_world=first_world)


def add(total: Tally, part: Tally) -> None:
    """Add what a part of the campaign did."""
    total.steps += part.steps
    total.worlds += part.worlds
    total.commands += part.commands
    total.found += part.found
    total.faults.update(part.faults)
    total.violated_after.update(part.violated_after)
    total.robots.update(part.robots)


def campaign(console: Console, seed: int, steps: int, jobs: int) -> Tally:
    """Run it, with a bar."""
    total = Tally()
    size = _PIECE * WORLD_STEPS
    pieces = [(first // WORLD_STEPS, min(size, steps - first)) for first in range(0, steps, size)]
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("steps", total=steps)

        def done(part: Tally) -> None:
            add(total, part)
            for found in part.found:
                show(console, found)
            text = f"steps, {len(total.found)} violations"
            progress.update(bar, completed=total.steps, description=text)

        if jobs == 1:
            try:
                for first, count in pieces:
                    done(piece(seed, first, count))
            except KeyboardInterrupt:
                console.print("ended early", style="bold red")
        else:
            with ProcessPoolExecutor(jobs, initializer=systems.end_with_pool) as pool:
                for part in pool.map(piece, [seed] * len(pieces), *zip(*pieces)):
                    done(part)
    return total


def show(console: Console, found: Found) -> None:
    """Print a violation, and how to see it again."""
    console.print(
        f"[bold]{found.robot} ({found.front}), step {found.step}[/bold]: {found.text}\n"
        f"  after: {', '.join(found.recent)}\n  again: {found.replay}",
        highlight=False,
    )


def report(console: Console, total: Tally, took_s: float) -> int:
    """Print what happened; return the exit status."""
    table = Table(title="What was injected", title_justify="left")
    table.add_column("fault")
    table.add_column("times", justify="right")
    table.add_column("violations after it", justify="right")
    for name, count in sorted(total.faults.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{count:,}", str(total.violated_after[name]))
    console.print(table)
    robots = Table(title="Robots", title_justify="left")
    robots.add_column("robot")
    robots.add_column("steps", justify="right")
    for name, count in sorted(total.robots.items()):
        robots.add_row(name, f"{count:,}")
    console.print(robots)
    console.print(
        f"{total.steps:,} steps in {total.worlds:,} worlds, {total.commands:,} commands reached a "
        f"robot, {sum(total.faults.values()):,} faults; {took_s:.0f} s, of which this process "
        f"computed {time.process_time():.0f} s"
    )
    if total.found:
        console.print(f"\n{len(total.found)} violations", style="bold red")
        return 1
    if total.commands * 3 < total.steps:
        console.print("\ntoo few commands reached a robot", style="bold red")
        return 1
    console.print("\nno violation", style="bold green")
    return 0


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--world", type=int, help="run this world alone, and tell its faults")
    args = parser.parse_args()
    console = Console(soft_wrap=True)
    began_s = time.monotonic()
    if args.world is None:
        total = campaign(console, args.seed, args.steps, args.jobs)
    else:
        total = Tally()
        with virtual_time() as clock:
            found = run_world(args.seed, args.world, args.steps, clock, total, verbose=True)
        if found is not None:
            show(console, found)
    return report(console, total, time.monotonic() - began_s)


if __name__ == "__main__":
    sys.exit(main())
