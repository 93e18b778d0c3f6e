"""``user episodes``: list, look at and edit stored episodes: exclude, cut, tag, label, note, undo.

Edits lie beside the data, which never changes. Samplers of running learners honour them within seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_core.command_line import Parser, many
from user_core.errors import SpecError
from user_core.types import PLAN, EpisodeSource, Outcome
from user_learner.cli.running import folding, progress, run
from user_learner.edits.entries import OUTCOMES, Edit, label
from user_learner.edits.listing import EpisodeFilter, Listed, list_all, named, select
from user_learner.edits.view import EditedEpisodes
from user_learner.quality.findings import Finding, anomalous, judge
from user_learner.quality.statistics import StatisticsCache

_SOURCES = {source.name.lower(): source for source in EpisodeSource}
_OUTCOMES = {outcome.name.lower(): outcome for outcome in OUTCOMES}

#: Columns of a screen from which on a list has the keys of episodes, too; `show` says them.
_WIDE = 120


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; return the exit status: 0, 1 when nothing fits, 2 when it could not be done."""
    options = _parser().parse_args(arguments)

    def edited(console: Console) -> int:
        with EditedEpisodes(options.store, options.edits) as view:
            for warning in view.log.warnings:
                console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
            status: int = options.run(options, console, view)
            return status

    return run(edited, console)


def _parser() -> Parser:
    parser = Parser(prog="user episodes", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    store = Parser(add_help=False)
    store.add_argument("store", help="directory of the store; it may be in use")
    store.add_argument(
        "--edits", default="", metavar="FILE",
        help="where the edits are, for a store that cannot be written",
    )  # fmt: skip
    store.add_argument("--json", action="store_true", help="for programs")
    filters = Parser(add_help=False)
    _add_filters(filters)
    author = Parser(add_help=False)
    author.add_argument("--reason", default="", help="why, for others")
    author.add_argument("--author", default="", help="who; your account by default")

    def command(name: str, help_: str, run: Any, edits: bool = True) -> Parser:
        parents = [store, author, filters] if edits else [store, filters]
        made = commands.add_parser(name, help=help_, parents=parents)
        if edits:
            made.add_argument(
                "episodes", nargs="*", metavar="EPISODE",
                help="numbers, ranges (3-7) or keys as `ls` shows them; or filters instead",
            )  # fmt: skip
        made.set_defaults(run=run)
        return made

    command("ls", "list episodes", _list, edits=False)
    show = commands.add_parser("show", help="all that is known of episodes", parents=[store])
    show.add_argument("episodes", nargs="+", metavar="EPISODE")
    show.set_defaults(run=_show)
    command("exclude", "draw, count and export them no more", _exclude)
    command("include", "use them again", _include)
    tag = command("tag", "give and take tags", _tag)
    tag.add_argument("--add", action="append", default=[], metavar="TAG")
    tag.add_argument("--remove", action="append", default=[], metavar="TAG")
    relabel = command("relabel", "another outcome, and with it a reward of the last step", _relabel)
    relabel.add_argument("--as", dest="outcome", required=True, choices=_OUTCOMES)
    relabel.add_argument(
        "--reward", type=float, default=None,
        help="reward of the last step; by default 1 for a success and 0 for a failure",
    )  # fmt: skip
    relabel.add_argument(
        "--keep-rewards", action="store_true", help="change the outcome and nothing else"
    )
    relabel.add_argument(
        "--open", action="store_true",
        help="the task did not end with the last step: values beyond it count",
    )  # fmt: skip
    trim = command("trim", "keep a part of the steps", _trim)
    trim.add_argument("--start", type=int, default=0, help="first step to keep")
    trim.add_argument("--stop", type=int, default=None, help="first step not to keep any more")
    note = command("note", "write something about them", _note)
    note.add_argument("--text", required=True)
    undo = commands.add_parser("undo", help="take an edit back", parents=[store, author])
    undo.add_argument("number", type=int, nargs="?", help="its number; the last one by default")
    undo.set_defaults(run=_undo)
    log = commands.add_parser("log", help="all edits, who made them, when and why", parents=[store])
    log.set_defaults(run=_log)
    return parser


def _add_filters(parser: Parser) -> None:
    group = parser.add_argument_group("filters")
    group.add_argument("--failed", action="store_true", help="failures and time-outs")
    group.add_argument("--succeeded", action="store_true")
    group.add_argument("--intervened", action="store_true", help="a person overruled the policy")
    group.add_argument(
        "--gate-limited", action="store_true", help="the safety gate changed actions"
    )
    group.add_argument(
        "--low-success",
        action="store_true",
        help="of robots that succeed less often than the others",
    )
    group.add_argument("--anomalous", action="store_true", help="to be looked at (user data check)")
    group.add_argument(
        "--long", type=int, default=0, metavar="STEPS", help="of this many steps or more"
    )
    group.add_argument("--short", type=int, default=0, metavar="STEPS", help="of at most this many")
    group.add_argument("--tag", dest="tags", action="append", default=[], metavar="TAG")
    group.add_argument("--robot", default="")
    group.add_argument("--task", default="")
    group.add_argument("--source", action="append", default=[], choices=_SOURCES)
    group.add_argument("--excluded", action="store_true", help="only those that are excluded")
    group.add_argument("--all", action="store_true", help="also those that are excluded")
    group.add_argument("--last", type=int, default=0, metavar="N", help="only the newest")


def _filter(options: argparse.Namespace) -> EpisodeFilter:
    excluded = True if options.excluded else False if options.all else None
    return EpisodeFilter(
        failed=options.failed,
        succeeded=options.succeeded,
        intervened=options.intervened,
        gate_limited=options.gate_limited,
        low_success=options.low_success,
        anomalous=options.anomalous,
        excluded=excluded,
        min_steps=options.long,
        max_steps=options.short,
        tags=tuple(options.tags),
        robot=options.robot,
        task=options.task,
        sources=tuple(_SOURCES[name] for name in options.source),
        last=options.last,
    )


def _selected(
    options: argparse.Namespace, console: Console, view: EditedEpisodes
) -> tuple[list[Listed], list[Finding]]:
    listed, wanted = list_all(view), _filter(options)
    findings: list[Finding] = []
    gate: dict[Any, float] = {}
    if wanted.needs_statistics:
        cache = StatisticsCache(view.reader.path)
        infos = [item.episode.info for item in listed]
        with progress(console, "measuring episodes") as update:
            cache.update(view.reader, infos, update)
        there = {item.episode.key: item.episode.outcome for item in listed}
        statistics = {key: one for key, one in cache.found.items() if key in there}
        gate = {key: one.gate_changed for key, one in statistics.items()}
        findings = judge(statistics, there) if wanted.anomalous else []
    return select(listed, wanted, gate, anomalous(findings)), findings


def _list(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    found, findings = _selected(options, console, view)
    why = anomalous(findings)
    if options.json:
        print(json.dumps(
            [{**item.as_dict(), "anomalies": why.get(item.episode.key, [])} for item in found]
        ))  # fmt: skip
        return 0 if found else 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0))
    columns = ("#", "source", "robot", "task", "steps", "outcome", "return", "by hand", "")
    for column in columns:
        # what is cut short says nothing
        table.add_column(
            column, overflow="fold", no_wrap=column in ("#", "source", "steps", "return")
        )
    keys = console.width >= _WIDE
    if keys:
        table.add_column("episode", no_wrap=True)
    for item in found:
        values = item.as_dict()
        outcome = values["outcome"]
        if outcome != values["recorded_outcome"]:
            outcome += f" (was {values['recorded_outcome']})"
        said = [f"#{tag}" for tag in values["tags"]] + why.get(item.episode.key, [])
        said += ["excluded"] if values["excluded"] else []
        said += [f"cut {values['cut'][0]}:{values['cut'][1] or ''}"] if values["cut"] else []
        said += [f"{len(values['notes'])} notes"] if values["notes"] else []
        table.add_row(
            str(item.number), values["source"], values["robot"], values["task"],
            f"{values['steps']:,}", outcome,
            "" if values["return"] is None else f"{values['return']:.3f}",
            str(values["interventions"] or ""), escape(" ".join(said)),
            *((values["episode"],) if keys else ()),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{many(len(found), 'episode')}, {many(sum(i.episode.steps for i in found), 'step')}"
    )
    return 0 if found else 1


def _show(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    for item in named(list_all(view), options.episodes):
        values = item.as_dict()
        statistics = StatisticsCache(view.reader.path)
        statistics.update(view.reader, [item.episode.info])
        measured = statistics.found.get(item.episode.key)
        mine = [e for e in view.log.edits if item.episode.key in e.episodes]
        values["edits"] = [_entry(edit, view) for edit in mine]
        if measured is not None:
            values["measured"] = {
                "period_s": measured.period_s, "longest_gap_periods": measured.longest_gap,
                "gate_changed": measured.gate_changed, "clipped": measured.clipped,
                "lag_steps": measured.lag_steps, "frozen": list(measured.frozen),
                "black": list(measured.black), "jump": measured.jump,
            }  # fmt: skip
        result = item.episode.info.result
        values["reason"] = result.reason if result else ""
        values["plans"] = _plans(view, item)
        if options.json:
            print(json.dumps(values))
            continue
        table = folding("", "", show_header=False, title=f"{item.number}: {item.episode.key}")
        for name, value in values.items():
            if value not in ("", None, [], {}):
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                table.add_row(name, escape(text))
        console.print(table)
    return 0


def _plans(view: EditedEpisodes, item: Listed) -> int | None:
    """How many plans of the policy were carried out, where that is stored."""
    columns = view.reader.read_episode(item.episode.info)
    plan = columns.get(PLAN)
    return None if plan is None else int(plan[:, 0].max(initial=0)) or None


def _chosen(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> list[Listed]:
    """The episodes that are named, or that filters choose; one of the two must be given."""
    if options.episodes:
        if _filter(options) != EpisodeFilter():
            raise SpecError("which episodes", got="names and filters", expected="one of the two")
        return named(list_all(view), options.episodes)
    wanted = _filter(options)
    if wanted == EpisodeFilter():
        raise SpecError(
            "which episodes", got="none", expected="numbers, ranges, keys, or filters",
            hint="--all with another filter takes excluded ones too; user episodes ls shows numbers",
        )  # fmt: skip
    return _selected(options, console, view)[0]


def _keys(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> list[Any]:
    return [item.episode.key for item in _chosen(options, console, view)]


def _append(options: argparse.Namespace, console: Console, view: EditedEpisodes, edit: Edit) -> int:
    done = view.log.append(edit)
    if options.json:
        print(json.dumps(_entry(done, view)))
    else:
        count = len(done.episodes)
        what = f" of {count:,} episode{'s' if count > 1 else ''}" if count else ""
        console.print(f"edit {done.number}: {done.kind.value}{what} (undo: user episodes undo "
                      f"{options.store} {done.number})", soft_wrap=True)  # fmt: skip
    return 0


def _edit(options: argparse.Namespace, console: Console, view: EditedEpisodes, make: Any) -> int:
    keys = _keys(options, console, view)
    if not keys:
        console.print("no episode fits")
        return 1
    return _append(options, console, view, make(keys))


def _exclude(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    return _edit(options, console, view, lambda k: Edit.exclude(k, options.reason, options.author))


def _include(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    return _edit(options, console, view, lambda k: Edit.include(k, options.reason, options.author))


def _tag(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    return _edit(
        options, console, view,
        lambda k: Edit.tag(k, options.add, options.remove, options.reason, options.author),
    )  # fmt: skip


def _relabel(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    outcome = _OUTCOMES[options.outcome]
    edit = label(outcome, options.reward, options.keep_rewards, options.open)
    return _edit(
        options, console, view,
        lambda k: Edit.relabel(k, outcome, *edit, options.reason, options.author),
    )  # fmt: skip


def _trim(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    chosen = _chosen(options, console, view)
    for item in chosen:
        length = item.episode.info.rows - 1
        if options.start >= length or (options.stop is not None and options.stop > length):
            raise SpecError(
                f"steps to keep of episode {item.number}",
                got=f"{options.start} to {options.stop if options.stop is not None else 'the end'}",
                expected=f"within 0 to {length}",
            )
    return _edit(
        options, console, view,
        lambda k: Edit.cut(k, options.start, options.stop, options.reason, options.author),
    )  # fmt: skip


def _note(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    return _edit(options, console, view, lambda k: Edit.note(k, options.text, options.author))


def _undo(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    number = options.number
    if number is None:
        open_ = [e.number for e in view.log.edits if e.number not in view.state.undone]
        open_ = [n for n in open_ if not _is_undo(view, n)]
        if not open_:
            console.print("there is no edit to undo")
            return 1
        number = open_[-1]
    return _append(options, console, view, Edit.undo(number, options.reason, options.author))


def _is_undo(view: EditedEpisodes, number: int) -> bool:
    return any(e.number == number and "of" in e.values for e in view.log.edits)


def _log(options: argparse.Namespace, console: Console, view: EditedEpisodes) -> int:
    if options.json:
        print(json.dumps([_entry(edit, view) for edit in view.log.edits]))
        return 0
    if not view.log.edits:
        console.print("no edits: all is as it was recorded")
        return 0
    table = folding("#", "when", "who", "what", "episodes", "why")
    for edit in view.log.edits:
        when = datetime.datetime.fromtimestamp(edit.time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")
        what = _in_words(edit)
        if edit.number in view.state.undone:
            what += " (undone)"
        episodes = (
            f"{len(edit.episodes):,}" if edit.episodes else ""
        )  # an edit of the whole store has none
        if len(edit.episodes) == 1:
            episodes = str(edit.episodes[0])
        table.add_row(
            str(edit.number), when, escape(edit.author), escape(what), episodes, escape(edit.reason)
        )
    console.print(table)
    return 0


def _in_words(edit: Edit) -> str:
    """What an edit does: ``relabel outcome success, reward 1, terminated yes``."""
    said = []
    for name, value in edit.values.items():
        if name == "outcome":
            value = Outcome(value).name.lower()
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, float):
            value = f"{value:g}"
        elif isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        if value not in (None, ""):
            said.append(f"{name} {value}")
    return f"{edit.kind.value} {', '.join(said)}".strip()


def _entry(edit: Edit, view: EditedEpisodes) -> dict[str, Any]:
    return {
        "number": edit.number,
        "kind": edit.kind.value,
        "episodes": [str(key) for key in edit.episodes],
        "values": dict(edit.values),
        "author": edit.author,
        "time_ns": edit.time_ns,
        "reason": edit.reason,
        "undone": edit.number in view.state.undone,
    }
