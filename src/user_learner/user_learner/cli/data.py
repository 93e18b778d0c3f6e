"""``user data``: import, export, inspect and verify data sets of other formats; keep a store for weeks."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from user_core.command_line import Parser, many
from user_core.errors import StoreFull, SuiteError
from user_core.meaning import MEANINGS
from user_core.types import EpisodeSource, Outcome
from user_learner.cli.data_check import add_check
from user_learner.cli.data_upkeep import add_upkeep
from user_learner.cli.running import add_format, counting, folding, format_options, list_lines, run
from user_learner.data.exporting import (
    Choice,
    export_hdf5,
    export_lerobot,
    export_mcap,
    export_minari,
)
from user_learner.data.extras import library
from user_learner.data.importing import import_data
from user_learner.data.lerobot.video import CODINGS
from user_learner.data.lerobot.writer import FILE_STEPS
from user_learner.data.mapping import load_mapping, propose, to_yaml
from user_learner.data.source import Description, in_one_line, open_source
from user_learner.edits import EditedEpisodes
from user_learner.replay.config import CompressionConfig
from user_learner.replay.index import is_full
from user_learner.replay.writer import StoreWriter
from user_learner.upkeep.compression import waits

_SOURCES = {source.name.lower(): source for source in EpisodeSource}
#: Formats that are written as a whole, and have no choices of their own.
_WHOLE = {"hdf5": export_hdf5, "mcap": export_mcap, "minari": export_minari}
_OUTCOMES = {outcome.name.lower(): outcome for outcome in Outcome}


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; return the exit status: 0, 1 when something was left out or found, 2 when it could not be
    done."""
    options = parser().parse_args(arguments)
    return run(partial(options.run, options), console)


def parser() -> Parser:
    """The command line."""
    whole = Parser(prog="user data", description=__doc__)
    commands = whole.add_subparsers(metavar="COMMAND", required=True)

    look = commands.add_parser(
        "inspect", help="what a data set holds, and a mapping (of a bag: a contract) for it"
    )
    look.add_argument("data", help="a file or directory")
    add_format(look)
    look.add_argument("--write", metavar="FILE", help="write what is proposed to a file")
    look.set_defaults(run=_inspect)

    load = commands.add_parser("import", help="take episodes of data sets into a store, each once")
    load.add_argument("data", nargs="+", help="files or directories")
    load.add_argument("--into", required=True, help="store to write; made when it is not there")
    load.add_argument("--map", dest="mapping", metavar="FILE", help="what the arrays are, in YAML")
    load.add_argument("--as", dest="source", choices=_SOURCES, help="count them as this source")
    load.add_argument(
        "--accept", default="", metavar="NAMES",
        help="take data that mean something else as if they did not: names of differences, "
        f"separated by commas ({', '.join(MEANINGS)})",
    )  # fmt: skip
    add_format(load)
    load.add_argument(
        "--processes", type=int, default=None,
        help="how many processes read; without it as many as there are cores, where there is much to read",
    )  # fmt: skip
    load.set_defaults(run=_import)

    give = commands.add_parser("export", help="write episodes of a store as a data set")
    give.add_argument("store", help="directory of the store")
    give.add_argument("data", help="directory (of hdf5: file) to write")
    give.add_argument(
        "--format", default="lerobot-v3", choices=["lerobot-v3", "hdf5", "mcap", "minari"]
    )
    give.add_argument("--source", action="append", choices=_SOURCES, help="only this source")
    give.add_argument("--outcome", action="append", choices=_OUTCOMES, help="only this outcome")
    give.add_argument("--robot", action="append", help="only of this robot")
    give.add_argument("--task", action="append", help="only of this task")
    give.add_argument("--least-return", type=float, help="only with at least this return")
    give.add_argument(
        "--images", default="h264", choices=CODINGS,
        help="how images are kept: h264 and av1 lose a little, lossless (H.264) and png nothing",
    )  # fmt: skip
    give.add_argument("--file-steps", type=int, default=FILE_STEPS, help="steps of one file")
    give.set_defaults(run=_export)

    check = commands.add_parser("verify", help="read all of a data set and say what is damaged")
    check.add_argument("data", nargs="+", help="files or directories")
    add_format(check)
    check.set_defaults(run=_verify)

    push = commands.add_parser("push", help="upload a data set to a hub (Hugging Face)")
    push.add_argument("data", help="directory of a LeRobotDataset")
    push.add_argument("repository", help="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="make it private")
    push.set_defaults(run=_push)
    add_check(commands)
    add_upkeep(commands)
    return whole


def _inspect(options: argparse.Namespace, console: Console) -> int:
    with open_source(options.data, options.format, format_options(options)) as source:
        description = source.describe()
    _describe(description, options.data, console)
    if description.as_it_was is not None:
        console.print("its robot is known: it is imported as it was, without a mapping")
        if not options.write:
            return 0
    if not description.roles and not description.contract:
        return 0  # topics, and nobody knows what they mean
    what, text = "contract", description.contract
    if not text:
        what, text = "mapping", to_yaml(propose(description), description)
    if options.write:
        Path(options.write).write_text(text, encoding="utf-8")
        console.print(f"{what} written to {options.write}")
    else:
        console.print(f"\nproposed {what} (--write FILE keeps it):\n")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _describe(description: Description, title: str, console: Console) -> None:
    table = folding("", "", show_header=False, title=escape(title))
    table.add_row("format", description.format)
    table.add_row("robot", escape(description.robot) or "unknown")
    rate = f"{1 / description.period_s:.6g} Hz" if description.period_s else "unknown"
    table.add_row("rate", rate)
    table.add_row("episodes", f"{description.episodes:,}")
    table.add_row("steps", f"{description.steps:,}" if description.steps >= 0 else "unknown")
    table.add_row("tasks", escape("; ".join(description.tasks[:20])) or "unknown")
    console.print(table)
    roles = {name: role for role, name in description.roles.items()}
    rows = []
    for name, field in description.fields.items():
        role = roles.get(name, "image" if field.is_image else "")
        if not role and field.is_observation:
            role = "observation"
        shape = str(list(field.shape)) if field.shape or description.roles else ""
        rows.append((
            escape(name), escape(f"{field.dtype}{shape}"), field.unit,
            escape(", ".join(field.names[:12])), role, escape(field.note),
        ))  # fmt: skip
    titles = ("field", "type", "unit", "elements", "role", "")
    shown = [i for i in range(len(titles)) if i < 2 or any(row[i] for row in rows)]
    if description.roles and 2 not in shown:
        shown.insert(2, 2)  # that no unit is known is worth knowing
    table = folding(*(titles[i] for i in shown))
    for row in rows:
        table.add_row(*(row[i] or ("unknown" if i == 2 else "") for i in shown))
    console.print(table)
    list_lines(console, "note", description.notes, "yellow")


def _import(options: argparse.Namespace, console: Console) -> int:
    mapping = load_mapping(options.mapping) if options.mapping else None
    source = _SOURCES[options.source] if options.source else None
    accepted = [name.strip() for name in options.accept.strip("[]").split(",") if name.strip()]
    table = folding("data", "episodes taken", "rows", "already there", "left out")
    skipped: list[str] = []
    notes: list[str] = []
    failed = False
    before = Path(options.into).exists()
    try:
        with StoreWriter(options.into) as target:
            for path in options.data:
                try:
                    with counting(console, f"importing {path}") as update:
                        report = import_data(
                            path, target, mapping, format_name=options.format, source=source,
                            progress=update, accepted=accepted, options=format_options(options),
                            processes=options.processes,
                        )  # fmt: skip
                except SuiteError as error:
                    if error.may_pass or error.code == "store_full":
                        console.print(
                            "[yellow]stopped[/]: what was taken stays; the same command goes on there"
                        )
                        raise
                    failed = True
                    console.print(
                        f"[bold red]{error.code}[/]: {escape(str(error))}", soft_wrap=True
                    )
                    continue
                numbers = (report.episodes, report.rows, report.duplicates, len(report.skipped))
                table.add_row(escape(path), *(f"{n:,}" for n in numbers))
                skipped += [f"{path}: {line}" for line in report.skipped]
                notes += report.notes
                if report.mapping is not None and mapping is None:
                    kind = report.mapping.action.kind.value
                    notes.append(
                        f"{path} was taken by the proposed mapping, its action as {kind}: "
                        "`user data inspect` shows it, --map takes yours"
                    )
            is_empty = target.schema is None
        if not is_empty and waits(options.into, CompressionConfig()):
            notes.append(
                f"images in {options.into} are as they came: `user data compress {options.into}` makes them smaller, "
                "without loss"
            )
    finally:
        console.print(table)
        list_lines(console, "note", notes, "yellow")
        list_lines(console, "left out", skipped, "yellow")
    if is_empty and not before:
        _remove_empty(Path(options.into))
    return 2 if failed else (1 if skipped else 0)


def _remove_empty(store: Path) -> None:
    """Remove a store that was made for data of which nothing could be taken."""
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    store.rmdir()


def _export(options: argparse.Namespace, console: Console) -> int:
    choice = Choice(
        sources=[_SOURCES[name] for name in options.source or ()],
        outcomes=[_OUTCOMES[name] for name in options.outcome or ()],
        robots=options.robot or (), tasks=options.task or (), least_return=options.least_return,
    )  # fmt: skip
    with EditedEpisodes(options.store) as episodes:
        there = Counter(one.outcome.name.lower() for one in episodes.episodes())
        if not any(choice.takes(one) for one in episodes.episodes()):
            raise SuiteError(
                f"export of {options.store}",
                got="no episode that is chosen; outcomes: "
                + (", ".join(f"{count} {name}" for name, count in there.items()) or "none"),
                expected="at least one", hint="`user episodes ls` shows them",
            )  # fmt: skip
    try:
        with counting(console, "exporting episodes") as update:
            if options.format in _WHOLE:
                report = _WHOLE[options.format](options.store, options.data, choice, update)
            else:
                report = export_lerobot(
                    options.store, options.data, choice, options.images, update, options.file_steps
                )
    except OSError as error:
        if not is_full(error):
            raise
        raise StoreFull(
            f"export to {options.data}", got="a full disk", expected="room for it",
            hint="Make room, then run the same command again: it continues, or begins anew where a format is one file",
        ) from error  # fmt: skip
    console.print(
        f"{many(report.episodes, 'episode')}, {many(report.rows, 'row')} written to {report.path}; "
        f"{report.duplicates:,} were there"
    )
    if report.psnr_db != float("inf"):
        console.print(f"images: {report.psnr_db:.1f} dB PSNR (--images lossless keeps all)")
    list_lines(console, "note", report.notes, "yellow")
    list_lines(console, "left out", report.skipped, "yellow")
    return 1 if report.skipped else 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    damaged: list[str] = []
    table = folding("data", "format", "episodes", "steps", "damaged")
    for path in options.data:
        with (
            open_source(path, options.format, format_options(options)) as source,
            counting(console, "reading") as update,
        ):
            refs = source.episodes()
            steps = bad = 0
            for done, ref in enumerate(refs):
                update(done, len(refs))
                try:
                    steps += source.read(ref).steps
                except SuiteError as error:
                    bad += 1
                    damaged.append(f"{path}: episode {ref.number}: {in_one_line(error)}")
            name = source.describe().format
            table.add_row(escape(path), name, f"{len(refs):,}", f"{steps:,}", f"{bad:,}")
    console.print(table)
    list_lines(console, "damaged", damaged, "red")
    return 1 if damaged else 0


def _push(options: argparse.Namespace, console: Console) -> int:
    with open_source(options.data, "lerobot") as source:
        description = source.describe()
    hub = library("huggingface_hub", "upload to a hub", listed=False)
    api = hub.HfApi()
    try:
        api.create_repo(
            options.repository, repo_type="dataset", private=options.private, exist_ok=True
        )
        api.upload_folder(
            repo_id=options.repository, repo_type="dataset", folder_path=options.data,
            commit_message=many(description.episodes, "episode"),
        )  # fmt: skip
        api.create_tag(options.repository, tag="v3.0", repo_type="dataset", exist_ok=True)
    except Exception as error:  # of the hub's client, of many kinds
        raise SuiteError(
            f"upload of {options.data} to {options.repository}", got=in_one_line(error),
            expected="a hub that takes it", hint="`hf auth login` says who you are",
        ) from error  # fmt: skip
    console.print(f"{many(description.episodes, 'episode')} pushed to {options.repository}")
    return 0
