"""``user replay``: look at, verify, merge, export, import and convert replay stores."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from user_core.command_line import Parser, many
from user_core.meaning import MEANINGS, describe_meaning, outside_bounds
from user_core.types import EpisodeSource, Outcome
from user_learner.cli.running import counting, folding, list_lines, run
from user_learner.data.conversion import convert
from user_learner.edits.log import EditLog
from user_learner.edits.view import as_edited
from user_learner.replay.maintenance import Report, verify
from user_learner.replay.meaning import find_meaning, read_meaning
from user_learner.replay.reader import EpisodeInfo, StoreReader
from user_learner.replay.transfer import export_episodes, import_episodes, merge
from user_learner.replay.writer import StoreWriter

#: Rows that are looked through at once.
_ROWS_AT_ONCE = 1024
#: Share of actions outside the bounds that a person should look at.
_MANY_OUTSIDE = 0.01
_SOURCES = {source.name.lower(): source for source in EpisodeSource}


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; return the exit status: 0, 1 when something was found, 2 when it could not be done."""
    options = _parser().parse_args(arguments)
    return run(partial(options.run, options), console)


def _parser() -> Parser:
    parser = Parser(prog="user replay", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="what a store holds")
    info.add_argument("store", help="directory of the store")
    info.add_argument("--episodes", type=int, default=0, metavar="N", help="list the last N")
    info.set_defaults(run=_info)

    check = commands.add_parser("verify", help="check every promise of a store")
    check.add_argument("store", help="directory of the store; it may be in use")
    check.add_argument(
        "--repair",
        action="store_true",
        help="set damaged rows aside, rebuild a damaged index; no other process may be writing",
    )
    check.set_defaults(run=_verify)

    join = commands.add_parser(
        "merge", help="copy what other stores hold into a store, each chunk once"
    )
    join.add_argument("stores", nargs="+", help="stores to take from; they are only read")
    join.add_argument("--into", required=True, help="store to write; made when it is not there")
    _add_accept(join)
    join.set_defaults(run=_merge)

    export = commands.add_parser("export", help="write episodes to a portable file")
    export.add_argument("store", help="directory of the store")
    export.add_argument("file", help="episode file to write (a zip archive of .npy arrays)")
    export.add_argument(
        "--source", action="append", choices=_SOURCES, help="only episodes of this source"
    )
    export.add_argument("--compress", action="store_true", help="smaller, and slow")
    export.add_argument(
        "--as-recorded", action="store_true", help="all of it, whatever edits say (user episodes)"
    )
    export.set_defaults(run=_export)

    load = commands.add_parser("import", help="take episodes from portable files, each once")
    load.add_argument("files", nargs="+", help="episode files")
    load.add_argument("--into", required=True, help="store to write; made when it is not there")
    load.add_argument("--as", dest="source", choices=_SOURCES, help="count them as this source")
    _add_accept(load)
    load.set_defaults(run=_import)

    turn = commands.add_parser(
        "convert",
        help="copy a store as data of another meaning: lower rate, units, order and subsets of "
        "names, joint targets to changes and back",
    )
    turn.add_argument("store", help="store to take from; it is only read")
    turn.add_argument("--into", required=True, help="store to write; made when it is not there")
    turn.add_argument(
        "--like", required=True, metavar="WHAT",
        help="what it is to mean: a store, the folder of a run, or its robot_spec.json",
    )  # fmt: skip
    turn.add_argument(
        "--from", dest="data", default="", metavar="SPEC",
        help="what it means, where the store does not say: likewise",
    )  # fmt: skip
    turn.set_defaults(run=_convert)
    return parser


def _add_accept(command: Parser) -> None:
    command.add_argument(
        "--accept", default="", metavar="NAMES",
        help="take data that mean something else as if they did not: names of differences, "
        f"separated by commas ({', '.join(MEANINGS)})",
    )  # fmt: skip


def _accepted(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in options.accept.strip("[]").split(",") if name.strip()]


def _info(options: argparse.Namespace, console: Console) -> int:
    show(options.store, options.episodes, console)
    return 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    if options.repair:
        with StoreWriter(options.store) as writer:  # its opening mends what it can
            list_lines(console, "repaired", writer.warnings, "yellow")
            report = _verify_once(options.store, console)
            if report.damages:
                writer.set_aside(report.damages)
                console.print(f"[yellow]{len(report.damages)} blocks set aside[/yellow]")
                report = _verify_once(options.store, console)
    else:
        report = _verify_once(options.store, console)
    table = folding("segments", "rows", "chunks", "episodes", "errors", "warnings")
    table.add_row(*(f"{n:,}" for n in (
        report.segments, report.rows, report.chunks, report.episodes, len(report.errors),
        len(report.warnings))))  # fmt: skip
    console.print(table)
    list_lines(console, "error", report.errors, "red")
    list_lines(console, "warning", report.warnings, "yellow")
    list_lines(console, "not read", report.unread, "yellow")
    if report.errors:
        console.print("[red]damaged[/red]")
        return 1
    if report.unread:
        console.print(
            "[yellow]not all is here to be read; nothing that was read is damaged[/yellow]"
        )
        return 2
    console.print("[green]all promises hold[/green]")
    return 0


def _verify_once(store: str, console: Console) -> Report:
    with counting(console, "verifying rows") as update:
        return verify(store, update)


def _merge(options: argparse.Namespace, console: Console) -> int:
    table = folding("store", "chunks taken", "rows", "already there", "left out")
    skipped: list[str] = []
    notes: list[str] = []
    edits = 0
    with StoreWriter(options.into) as target:
        for store in options.stores:
            with counting(console, f"merging {store}") as update:
                report = merge(store, target, update, _accepted(options))
            edits += EditLog(options.into).merge(EditLog(store))
            numbers = (report.chunks, report.rows, report.duplicates, len(report.skipped))
            table.add_row(store, *(f"{n:,}" for n in numbers))
            skipped += report.skipped
            notes += report.notes
    console.print(table)
    if edits:
        console.print(f"{edits:,} edits came with them")
    list_lines(console, "meaning", notes, "yellow")
    list_lines(console, "left out", skipped, "yellow")
    return 1 if skipped else 0


def _export(options: argparse.Namespace, console: Console) -> int:
    sources = [_SOURCES[name] for name in options.source or _SOURCES]
    with counting(console, "exporting episodes") as update:
        edited = None if options.as_recorded else as_edited()
        report = export_episodes(
            options.store, options.file, sources, options.compress, update, edited
        )
    console.print(
        f"{many(report.episodes, 'episode')}, {many(report.rows, 'row')} written to {options.file}"
    )
    list_lines(console, "left out", report.skipped, "yellow")
    return 1 if report.skipped else 0


def _convert(options: argparse.Namespace, console: Console) -> int:
    data = find_meaning(options.data) if options.data else None
    wanted = find_meaning(options.like)
    with StoreWriter(options.into) as target:
        report = convert(options.store, target, wanted, data)
    list_lines(console, "meaning", report.notes, "yellow")
    console.print(
        f"{many(report.episodes, 'episode')}, {many(report.rows, 'row')} written to {options.into}; "
        f"{report.duplicates:,} were there"
    )
    list_lines(console, "left out", report.skipped, "yellow")
    return 1 if report.skipped else 0


def _import(options: argparse.Namespace, console: Console) -> int:
    source = _SOURCES[options.source] if options.source else None
    table = folding("file", "episodes taken", "rows", "already there", "left out")
    skipped: list[str] = []
    notes: list[str] = []
    with StoreWriter(options.into) as target:
        for file in options.files:
            with counting(console, f"importing {file}") as update:
                report = import_episodes(file, target, source, update, _accepted(options))
            numbers = (report.episodes, report.rows, report.duplicates, len(report.skipped))
            table.add_row(file, *(f"{n:,}" for n in numbers))
            skipped += report.skipped
            notes += report.notes
    console.print(table)
    list_lines(console, "meaning", notes, "yellow")
    list_lines(console, "left out", skipped, "yellow")
    return 1 if skipped else 0


def show(store: str | Path, last_episodes: int, console: Console) -> None:
    """Print what a store holds. Raises StoreError when there is none."""
    reader = StoreReader(store)
    try:
        _show_store(reader, console)
        episodes = list(reader.episodes())
        _show_sources(reader, episodes, console)
        _show_producers(reader, console)
        _show_columns(reader, console)
        _show_meaning(reader, console)
        if last_episodes:
            _show_episodes(episodes[-last_episodes:], console)
        for damage in reader.tables.damages:
            text = escape(f"segment {damage.segment}: {damage.reason}")
            console.print(f"[yellow]set aside:[/] {text}", soft_wrap=True)
    finally:
        reader.close()


def _show_store(reader: StoreReader, console: Console) -> None:
    used = sum(p.stat().st_blocks * 512 for p in reader.path.rglob("*") if p.is_file())
    retired = reader.connection.execute(
        "SELECT count(*), coalesce(sum(rows), 0) FROM retired"
    ).fetchone()
    table = folding("", "", show_header=False, title=str(reader.path))
    table.add_row("identity", reader.meta.store)
    table.add_row("schema", reader.schema.hash if reader.schema else "none yet")
    table.add_row("on disk", f"{used / 2**20:,.1f} MiB")
    table.add_row(
        "segments", f"{len(reader.tables.segments):,}, of {many(reader.meta.segment_rows, 'row')}"
    )
    table.add_row("commits", f"{reader.meta.commit_id:,}")
    table.add_row("retired", f"{retired[0]:,} segments, {many(retired[1], 'row')}")
    console.print(table)


def _show_sources(reader: StoreReader, episodes: list[EpisodeInfo], console: Console) -> None:
    rows: Counter[int] = Counter()
    for _, source, count in reader.tables.segments.tolist():
        rows[source] += count
    table = folding("source", "episodes", "rows", "steps ever", "success", "interventions")
    for source in EpisodeSource:
        mine = [episode for episode in episodes if episode.source == source]
        results = [episode.result for episode in mine if episode.result is not None]
        solved = sum(result.outcome == Outcome.SUCCESS for result in results)
        table.add_row(
            source.name.lower(),
            f"{len(mine):,}",
            f"{rows[source]:,}",
            f"{reader.meta.steps.get(int(source), 0):,}",
            f"{solved:,} of {len(results):,}",
            f"{sum(result.interventions for result in results):,}",
        )
    console.print(table)


def _show_producers(reader: StoreReader, console: Console) -> None:
    table = folding("producer", "incarnation", "chunks up to", "left out")
    for row in reader.connection.execute(
        "SELECT producer, incarnation, sequence, skipped FROM producers"
    ):
        table.add_row(row[0], str(row[1]), f"{row[2]:,}", f"{row[3]:,}")
    if table.row_count:
        console.print(table)


def _show_columns(reader: StoreReader, console: Console) -> None:
    if reader.schema is None:
        return
    table = folding("column", "type", "bytes a row", "unit", "frame")
    for name, spec in reader.schema.columns.items():
        kind = f"{spec.dtype}{list(spec.shape)}"
        table.add_row(name, kind, f"{spec.nbytes:,}", spec.unit, spec.frame)
    console.print(table)


def _show_meaning(reader: StoreReader, console: Console) -> None:
    """What the numbers mean, and how many actions lie outside the bounds that this gives."""
    if reader.schema is None:
        return
    meaning = read_meaning(reader.path, reader.schema)
    spec = meaning.spec
    if spec is None:
        console.print(f"[yellow]meaning {escape(meaning.known_from)}[/]", soft_wrap=True)
        return
    table = folding(
        "", "", show_header=False, title=f"meaning, as {escape(meaning.known_from)} says"
    )
    for name, value in describe_meaning(spec):
        table.add_row(name, escape(value))
    steps = outside = 0
    for segment, _, rows in reader.tables.segments.tolist():
        if any(damage.segment == segment for damage in reader.tables.damages):
            continue
        for start in range(0, rows, _ROWS_AT_ONCE):
            read = reader.read(segment, start, min(_ROWS_AT_ONCE, rows - start))
            action = read["action"][~read["final"]]
            steps += len(action)
            outside += int(outside_bounds(action, spec.action).sum())
    share = outside / steps if steps else 0.0
    colour = "yellow" if share > _MANY_OUTSIDE else "default"
    text = f"[{colour}]{outside:,} of {many(steps, 'step')} ({100 * share:.2g} %)[/]"
    table.add_row("actions outside the bounds", text)
    console.print(table)


def _show_episodes(episodes: list[EpisodeInfo], console: Console) -> None:
    table = folding("episode", "source", "robot", "task", "rows", "outcome", "return")
    for episode in episodes:
        result = episode.result
        table.add_row(
            str(episode.key),
            episode.source.name.lower(),
            episode.robot,
            episode.task,
            f"{episode.rows - episode.gaps:,}",
            result.outcome.name.lower() if result else "",
            f"{result.episode_return:.3f}" if result else "",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
