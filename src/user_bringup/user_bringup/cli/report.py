"""Draw the report of a run: plots and figures, as a page of Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run."""
    parser.add_argument("run", type=Path, help="folder of the run, runs/<id>")


def run(arguments: argparse.Namespace) -> int:
    """Write the report; print where it is."""
    from user_bringup.report import write_report  # matplotlib takes a second to import

    print(write_report(arguments.run))
    return 0
