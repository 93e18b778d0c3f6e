"""How long a learner takes from `active` to its first update, in the running system.

Starts a deployment, reads from the learner's log when it became active, when it was ready to
train and when it made its first update, and ends the deployment. What it waits for steps that
the configuration asks for is not its latency: the log says how long the first update took after
there were enough steps.

    python benchmarks/learning/first_update.py [--runs 3] [--deployment gymnasium] [name:=value ...]
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from user_core.command_line import Parser
from user_testing.systems import started, words_of_run

_LINES = {
    "active": r"\[(\d+\.\d+)\].*state: active",
    "ready": r"\[(\d+\.\d+)\].*training from update",
    "first update": r"\[(\d+\.\d+)\].*first update, (\d+\.\d+) s after",
}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--deployment", default="gymnasium")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one run")
    parser.add_argument("arguments", nargs="*", metavar="name:=value")
    arguments = parser.parse_intermixed_args()
    print("| load | active to ready | enough steps to first update |")
    print("|---|---|---|")
    for _ in range(arguments.runs):
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            found = one_run(arguments.deployment, arguments.arguments, folder, arguments.timeout)
        ready_s = found["ready"][0] - found["active"][0]
        print(f"| {load:.1f} | {ready_s:.1f} s | {found['first update'][1]:.1f} s |", flush=True)


def one_run(
    deployment: str, overrides: list[str], folder: str, timeout_s: float
) -> dict[str, list[float]]:
    """The numbers in the lines of the learner's log that say how far it is."""
    command = words_of_run(deployment, *overrides, runs=folder)
    deadline_s = time.monotonic() + timeout_s
    with started(command, stdout=subprocess.DEVNULL) as process:
        while time.monotonic() < deadline_s and process.poll() is None:
            text = "".join(log.read_text() for log in Path(folder).glob("*/logs/*learner.log"))
            found = {name: re.search(pattern, text) for name, pattern in _LINES.items()}
            if all(found.values()):
                return {n: [float(g) for g in m.groups()] for n, m in found.items() if m}
            time.sleep(0.1)
        raise SystemExit(f"no first update within {timeout_s:g} s:\n{text}")


if __name__ == "__main__":
    main()
