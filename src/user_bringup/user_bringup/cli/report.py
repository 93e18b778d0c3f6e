"""Draw the report of a run: plots and figures, as a page of Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Write the report; print where it is."""
    parser = argparse.ArgumentParser(prog="user report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, runs/<id>")
    arguments = parser.parse_args(argv)
    from user_bringup.report import write_report  # matplotlib takes a second to import

    print(write_report(arguments.run))
    return 0
