"""Updates of a small network with one and with two threads an operation, beside busy processes.

    tools/run python benchmarks/control/torch_threads.py --seconds 6 --rounds 3

*busy*: threads of one operation wait for each other in loops; *default*: as OpenMP decides where nothing is said;
*asleep*: OMP_WAIT_POLICY=PASSIVE, which all our processes have; *one*: one thread. The four take turns, beside 0, 2
and 4 processes that keep a core busy each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

from user_core.command_line import Parser
from user_testing import systems

SIDES = {
    "busy": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "default": {"OMP_NUM_THREADS": "2"},
    "asleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "one": {"OMP_NUM_THREADS": "1"},
}
NETWORK = """
import sys, time, torch
width, batch, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
parts = [part for _ in range(4) for part in (torch.nn.Linear(width, width), torch.nn.Mish())]
network, seen = torch.nn.Sequential(*parts), torch.randn(batch, width)
optimizer = torch.optim.Adam(network.parameters())
updates, end = -20, None
while end is None or time.monotonic() < end:
    loss = network(seen).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    updates += 1
    if updates == 0:
        end = time.monotonic() + seconds
print(updates / seconds)
"""


def updates_per_s(side: str, options: argparse.Namespace) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    words = [str(options.width), str(options.batch), str(options.seconds)]
    done = systems.run_to_end(
        [sys.executable, "-c", NETWORK, *words], env={**environment, **SIDES[side]},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=int, nargs="*", default=[0, 2, 4], help="busy processes")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; updates/s, median of {options.rounds}"
    )
    print("| busy processes beside | " + " | ".join(SIDES) + " |\n|---|" + "---|" * len(SIDES))
    for beside in options.beside:
        others = [systems.start([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
        try:
            found: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side in SIDES:
                    found[side].append(updates_per_s(side, options))
        finally:
            for process in others:
                process.kill()
                process.wait()
        row = " | ".join(f"{statistics.median(values):.1f}" for values in found.values())
        print(f"| {beside} | {row} |", flush=True)


if __name__ == "__main__":
    main()
