"""What the operator's page costs, and how soon a key reaches the driver, in a real Chromium::

    python benchmarks/system/console.py keys [--presses 60]      # from a key to the driver's command
    python benchmarks/system/console.py stop [--presses 20] [--busy 6] [--pages 2]   # from the stop's key to the latch, on a full machine
    python benchmarks/system/console.py list [--episodes 20000]  # how long the page of a large store takes
    python benchmarks/system/console.py store [--episodes 20000] [--steps 50]   # likewise, of a store with all its rows
    python benchmarks/system/console.py cost [--minutes 6.5] [--kinds "no console" "light page"]   # control loop and learner, without and with a page
    python benchmarks/system/console.py cost --paired [--minutes 5.5] [--seconds 6]   # the same, in neighbouring turns: tighter

``keys`` runs hal, actor, store and console with a robot that notes when a command reaches its driver. ``cost`` is told
of in :mod:`console_cost`; with ``--apart`` the browser has the machine's last core for itself, and all else the others:
as a tablet beside the robot's host.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from console_cost import KINDS, RATE_HZ, chromium, cost, paired, until_served
from user_core.command_line import Parser
from user_testing.ports import claim_domain, free_port
from user_testing.systems import started, words_of_run

_KEYS = """
name: keys
roles: [replay]
robots: {robot0: robot}
processes:
  hal: {parameters: {robot: {plugin: "user_testing.worlds.robots.noting_robot:NotingRobot", params: {robot: panda, task: reach, real_time: true, rate_hz: %g, times: %s}}, task: reach}}
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


#: Asks for pages of the console one after the other, without end.
_PAGES = """import sys, urllib.request
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=60).read()
    except OSError:
        pass
"""


def stop(presses: int, busy: int, pages: int) -> None:
    """From the key of the emergency stop to the latch of the robot, while other processes want all cores, and some of
    these ask for pages without end (of which the console makes two a second for one person).

    The robot is stopped before its latch is written, so that the time of that file is a little late.
    """
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, ExitStack() as load:
        file, port = Path(folder) / "stop.yaml", free_port()
        file.write_text(_KEYS % (RATE_HZ, Path(folder) / "times"), encoding="utf-8")
        words = words_of_run(str(file), "console:=true", f"console_port:={port}", runs=folder)
        environment = {**os.environ, "ROS_HOME": folder}
        with started(words, stdout=subprocess.DEVNULL, env=environment):
            page = browser.new_page()
            _goto(page, f"http://127.0.0.1:{port}/")
            page.wait_for_selector('[data-robot="robot0"]', timeout=120_000)
            page.evaluate(_NOTE_STOP)
            for _ in range(busy):  # each in a session of its own, as the nodes of a learner are
                load.enter_context(started(["sh", "-c", "while :; do :; done"]))
            asks = [sys.executable, "-c", _PAGES, f"http://127.0.0.1:{port}/"]
            for _ in range(pages):
                load.enter_context(started(asks))
            time.sleep(10.0)
            found = np.array([_stop_once(page, Path(folder)) for _ in range(presses)])
        print(
            f"{presses} emergency stops beside {busy} busy processes and {pages} that ask for pages, wanted: 200 ms. "
            f"Load {os.getloadavg()[0]:.1f}"
        )
        for name, ms in zip(("key to latch", "page to latch"), found.T, strict=True):
            p50, p90 = np.percentile(ms, [50, 90])
            print(f"{name:14} p50 {p50:.0f} ms, p90 {p90:.0f} ms, longest {ms.max():.0f} ms")


#: Notes when the page asks for the emergency stop, wall time in ms.
_NOTE_STOP = """() => {
    const asks = window.fetch;
    window.fetch = (...what) => {
        if (what[0] === "/emergency_stop") window.stopMs = performance.timeOrigin + performance.now();
        return asks(...what);
    };
}"""


def _stop_once(page: Any, folder: Path) -> tuple[float, float]:
    """Milliseconds from the key to the latch, and from the page's request; then it is released again."""
    time.sleep(random.uniform(3.0, 4.0))  # what the stop before it raised is over
    before_ns = time.time_ns()
    page.keyboard.press("Escape")
    end_s = time.monotonic() + 60
    while not (found := list(folder.glob("**/emergency_stop"))):
        if time.monotonic() > end_s:
            sys.exit("the robot was not stopped within 60 s")
        time.sleep(0.01)
    latched_ns = found[0].stat().st_mtime_ns
    took_ms = (latched_ns - before_ns) / 1e6, latched_ns / 1e6 - page.evaluate("stopMs")
    page.get_by_test_id("reset").click(timeout=60_000)
    page.get_by_test_id("sure").click(timeout=60_000)
    while found[0].exists():
        time.sleep(0.05)
    return took_ms


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
        "what", nargs="?", choices=["keys", "stop", "list", "store", "cost"], default="keys"
    )
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument(
        "--busy", type=int, default=6, help="of stop: processes that want a core each"
    )
    parser.add_argument("--pages", type=int, default=0, help="of stop: that ask for pages")
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=6.5, help="of cost: all turns together")
    parser.add_argument("--seconds", type=float, default=8.0, help="of cost: one turn")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        help="of cost, the first without a console",
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help="of cost: neighbouring turns, the console frozen between",
    )
    parser.add_argument("--apart", action="store_true", help="of cost: a core for the browser")
    arguments = parser.parse_args()
    domain = claim_domain()  # no robot of somebody else on this machine is met
    os.environ["ROS_DOMAIN_ID"] = str(domain.number)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if arguments.what == "keys":
        keys(arguments.presses)
    elif arguments.what == "stop":
        stop(arguments.presses, arguments.busy, arguments.pages)
    elif arguments.what in ("list", "store"):
        list_of(arguments.episodes, arguments.steps if arguments.what == "store" else 0)
    elif arguments.paired:
        paired(60 * arguments.minutes, arguments.seconds)
    else:
        cost(arguments.kinds, 60 * arguments.minutes, arguments.seconds, arguments.apart)


if __name__ == "__main__":
    main()
