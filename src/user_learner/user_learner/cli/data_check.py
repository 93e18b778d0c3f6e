"""``user data check DATA``: what of episodes a person should look at, in a store or a data set of another format."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape

from user_core.command_line import many
from user_learner.cli.running import (
    add_format,
    counting,
    folding,
    format_options,
    list_lines,
    progress,
)
from user_learner.data.importing import stores_of
from user_learner.edits.listing import list_all
from user_learner.edits.view import EditedEpisodes
from user_learner.quality.findings import KINDS
from user_learner.quality.report import examine, write_json, write_page
from user_learner.quality.statistics import StatisticsCache


def add_check(commands: Any) -> None:
    """Add the command to those of ``user data``."""
    check = commands.add_parser(
        "check",
        help="what should be looked at: gaps, cameras, jumps, labels, copies; changes nothing",
    )
    check.add_argument(
        "store", metavar="DATA",
        help="directory of a store, which may be in use, or of a run; or a data set of another format",
    )  # fmt: skip
    check.add_argument(
        "--map", default="", metavar="FILE", help="what the arrays of a data set are, in YAML"
    )
    check.add_argument(
        "--edits", default="", metavar="FILE", help="where the edits are, if not in it"
    )
    check.add_argument(
        "--out", default="", metavar="FOLDER", help="write a page with pictures, and report.json"
    )
    check.add_argument("--all", action="store_true", help="also episodes that edits exclude")
    check.add_argument("--json", action="store_true", help="for programs")
    add_format(check)
    check.set_defaults(run=run_check)


def run_check(options: argparse.Namespace, console: Console) -> int:
    """Check a store; return 0 when there is nothing to look at, else 1.

    A data set of another format is looked at as an import would take it, in a folder that is gone afterwards.
    """
    with TemporaryDirectory(prefix="user-check-") as folder:
        with counting(console, "reading") as update:
            stores, notes = stores_of(
                [options.store], Path(folder) / "data", options.map, update,
                options.format, format_options(options),
            )  # fmt: skip
        if not options.json:
            list_lines(console, "note", notes, "yellow")
        return _check(stores[0], options, console)


def _check(store: Path, options: argparse.Namespace, console: Console) -> int:
    with EditedEpisodes(store, options.edits) as view:
        listed = [i for i in list_all(view) if options.all or not i.episode.edits.excluded]
        cache = StatisticsCache(view.reader.path)
        with progress(console, "measuring episodes") as update:
            skipped = cache.update(view.reader, [item.episode.info for item in listed], update)
        report = examine(listed, cache.found, options.store, skipped)
        if options.out:
            page = write_page(report, view.reader, listed, Path(options.out))
            write_json(report, Path(options.out) / "report.json")
    if options.json:
        print(json.dumps({"episodes": report.episodes, "counts": dict(report.counts),
                          "findings": [{"kind": f.kind, "number": report.numbers.get(f.episode),
                                        "episode": str(f.episode), "text": f.text, "step": f.step}
                                       for f in report.findings]}))  # fmt: skip
        return 1 if report.findings else 0
    table = folding("finding", "episodes", "which (the largest first)", "for instance", "means")
    for kind, meaning in KINDS.items():
        found = report.of_kind(kind)
        if found:
            numbers = " ".join(str(report.numbers.get(f.episode, "?")) for f in found[:8])
            more = " ..." if len(found) > 8 else ""
            table.add_row(kind, f"{len(found):,}", numbers + more, escape(found[0].text), meaning)
    console.print(table if report.findings else "nothing was found")
    for line in skipped[:20]:
        console.print(f"[yellow]left out:[/] {escape(line)}", soft_wrap=True)
    console.print(
        f"{many(report.episodes, 'episode')} looked at; nothing was changed", soft_wrap=True
    )
    if options.out:
        console.print(f"pictures: {page}", soft_wrap=True)
    return 1 if report.findings else 0
