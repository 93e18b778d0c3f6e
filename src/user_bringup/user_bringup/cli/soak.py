"""Let a deployment run for long, and see whether anything grows: `user soak DEPLOYMENT --minutes 60`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from user_bringup.chaos.growth import describe_growth, draw_growth
from user_bringup.chaos.plan import PlanSize
from user_bringup.cli.chaos import add_common, run_trial
from user_bringup.running import find_deployment


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when every promise was kept."""
    arguments = _parser().parse_intermixed_args(argv)
    find_deployment(arguments.deployment)
    run = arguments.run or f"soak-{time.strftime('%Y%m%d-%H%M%S')}"
    size = PlanSize(60 * arguments.minutes, 0)
    _, checks = run_trial(arguments, run, size, resource_period_s=arguments.period)
    folder = (arguments.runs / run).resolve()
    rows = [f"| {'yes' if c.good else '**NO**'} | {c.name} | {c.detail} |" for c in checks]
    text = "\n\n".join(
        [
            f"# Soak of {arguments.minutes:g} minutes",
            "\n".join(["| kept | promise | seen |", "|---|---|---|", *rows]),
            describe_growth(folder),
            "![resources](soak.png)",
        ]
    )
    (folder / "soak.md").write_text(text + "\n", encoding="utf-8")
    draw_growth(folder, folder / "soak.png")
    print(text)
    return 0 if all(check.good for check in checks) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user soak", description=__doc__)
    add_common(parser)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--period", type=float, default=10.0, help="seconds between two looks")
    parser.set_defaults(seed=0)
    return parser
