"""What the operator's page costs, and how soon a key reaches the driver, in a real Chromium::

    python benchmarks/console.py keys [--presses 60]      # from a key to the driver's command
    python benchmarks/console.py list [--episodes 20000]  # how long the page of a large store takes
    python benchmarks/console.py store [--episodes 20000] [--steps 50]   # likewise, of a store with all its rows
    python benchmarks/console.py cost [--rounds 3] [--seconds 20]   # control loop and learner, without and with a page open

``keys`` runs hal, actor, store and console with a robot that notes when a command reaches its driver. ``cost`` is told of
in :mod:`console_cost`; with ``--apart`` the browser has the machine's last core for itself, and all else the others: as
a tablet beside the robot's host.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from console_cost import RATE_HZ, chromium, cost, until_served

from user_core.command_line import Parser
from user_testing.domains import claim_domain
from user_testing.ports import free_port
from user_testing.systems import started, words_of_run

_KEYS = """
name: keys
roles: [replay]
robots: {robot0: robot}
processes:
  hal: {parameters: {robot: {plugin: "user_testing.worlds.noting_robot:NotingRobot", params: {robot: panda, task: reach, real_time: true, rate_hz: %g, times: %s}}, task: reach}}
  actor: {parameters: {loop: {mode: demonstration, max_episode_steps: 100000, evaluation: {every: 0}}}}
"""


def _goto(page: Any, address: str) -> None:
    until_served(address)
    page.goto(address)


def keys(presses: int) -> None:
    """From a key to the driver."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        times, file, port = Path(folder) / "times", Path(folder) / "keys.yaml", free_port()
        file.write_text(_KEYS % (RATE_HZ, times), encoding="utf-8")
        words = words_of_run(str(file), "console:=true", f"console_port:={port}", runs=folder)
        with started(words, stdout=open(os.devnull, "w")):  # noqa: SIM115
            page = browser.new_page()
            _goto(page, f"http://127.0.0.1:{port}/drive_robot?robot=/robot0")
            page.wait_for_function(
                "() => window.userDrive && document.querySelector('[data-testid=take]')",
                timeout=60_000,
            )
            while not page.evaluate(
                "userDrive.state.answered > 0 && Boolean(userDrive.state.socket)"
            ):
                page.get_by_test_id("take").click()  # the robot may not be heard of yet
                time.sleep(1.0)
            _engage(page)
            _press(page, times, 30.0)  # the first episode begins
            lines = [_press(page, times) for _ in range(presses)]
            trips = page.evaluate("userDrive.state.rtt")
        took_ms = [ms for ms in lines if ms is not None]
        if len(took_ms) < 2:
            sys.exit(f"{len(took_ms)} of {presses} keys reached the driver")
        cut = statistics.quantiles(took_ms, n=20)
        print(
            f"{len(took_ms)} of {presses} keys reached the driver: p50 {statistics.median(took_ms):.1f} ms, p95 {cut[-1]:.1f} ms; "
            f"a control period is {1000 / RATE_HZ:g} ms; wanted p50: {1000 / RATE_HZ + 20:g} ms. Round trip of the page "
            f"p50 {statistics.median(trips):.1f} ms. Load {os.getloadavg()[0]:.1f}"
        )


def _engage(page: Any, patience_s: float = 120.0) -> None:
    """Hold the switch. On a busy machine a page may be silent for a second; then it must be held anew."""
    end_s = time.monotonic() + patience_s
    while not page.evaluate("userDrive.state.engaged"):
        if time.monotonic() > end_s:
            sys.exit(f"nobody drives: {page.evaluate('JSON.stringify(userDrive.state.message)')}")
        page.keyboard.up("Space")
        page.wait_for_timeout(300)
        page.keyboard.down("Space")
        page.wait_for_timeout(2000)


def _press(page: Any, times: Path, patience_s: float = 2.0) -> float | None:
    """Milliseconds from a key to the driver's first command that moves."""
    time.sleep(random.uniform(0.15, 0.25))  # in no step with the control loop
    before_ns = time.monotonic_ns()
    page.keyboard.down("w")
    end_s, found = time.monotonic() + patience_s, None
    while found is None and time.monotonic() < end_s:
        rows = [line.split() for line in times.read_text().splitlines()] if times.exists() else []
        found = next((int(t) for t, value in rows if int(t) > before_ns and float(value)), None)
        time.sleep(0.005)
    page.keyboard.up("w")
    return None if found is None else (found - before_ns) / 1e6


def list_of(episodes: int, steps: int = 0) -> None:
    """The list of a large store: until its rows are on the page, until a filter has changed them, and until an
    episode with its plot is there. With ``steps`` all rows of all episodes are written; else the index says so."""
    from user_learner.replay import StoreWriter
    from user_testing.worlds.replay import QUICK, Actor, Plan, fill, many_episodes

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        if steps:
            with StoreWriter(Path(folder), config=QUICK) as writer:
                actor = Actor(chunk_rows=steps + 1)
                for _ in range(0, episodes, 500):
                    fill(writer, actor, [Plan(steps)] * min(500, episodes))
        else:
            many_episodes(Path(folder), episodes)
        port = free_port()
        words = [
            "user",
            "console",
            folder,
            "--finished",
            "--port",
            str(port),
            "--tokens",
            f"{folder}/tokens",
        ]
        with started(words, stdout=open(os.devnull, "w")):  # noqa: SIM115
            page = browser.new_page()
            _goto(page, f"http://127.0.0.1:{port}/acts")
            opened, filtered, shown = [], [], []
            for _ in range(5):
                began_s = time.monotonic()
                page.goto(f"http://127.0.0.1:{port}/episodes")
                page.wait_for_selector("[data-testid=episodes] tbody tr")
                opened.append(time.monotonic() - began_s)
                began_s = time.monotonic()
                page.get_by_label("text").fill("no such episode")
                page.get_by_text(f"0 of {episodes} episodes").wait_for()
                filtered.append(time.monotonic() - began_s)
            for number in random.sample(range(episodes), 5) if steps else [0] * 5:
                began_s = time.monotonic()
                page.goto(f"http://127.0.0.1:{port}/episode?key=actor1~1~{number}")
                page.wait_for_selector("[data-testid=plot] canvas")
                shown.append(time.monotonic() - began_s)
        print(
            f"{episodes} episodes of {steps or 'no stored'} steps: the list first after {opened[0]:.2f} s, then "
            f"{statistics.median(opened[1:]):.2f} s (wanted 1 s); a filter {statistics.median(filtered):.2f} s (wanted 0.5 s); "
            f"an episode {statistics.median(shown):.2f} s (wanted 0.5 s). Medians of 4 or 5. Load {os.getloadavg()[0]:.1f}"
        )


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", choices=["keys", "list", "store", "cost"], default="keys"
    )
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--apart", action="store_true", help="of cost: a core for the browser")
    arguments = parser.parse_args()
    domain = claim_domain()  # no robot of somebody else on this machine is met
    os.environ["ROS_DOMAIN_ID"] = str(domain.number)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if arguments.what == "keys":
        keys(arguments.presses)
    elif arguments.what in ("list", "store"):
        list_of(arguments.episodes, arguments.steps if arguments.what == "store" else 0)
    else:
        cost(arguments.rounds, arguments.seconds, arguments.apart)


if __name__ == "__main__":
    main()
