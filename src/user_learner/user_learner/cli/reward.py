"""``user reward``: judge stored data anew, train a classifier of success from images, and try it.

Stored data never changes: what is judged anew lies in a column beside it, which samplers use when the
edits of the store say so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.markup import escape

from user_core.command_line import Parser, many
from user_core.config import Config, from_mapping, yaml_value
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice
from user_core.rewards.classifier import ClassifierConfig, ClassifierReward, write_model
from user_core.rewards.progress import (
    ProgressConfig,
    ProgressReward,
    is_progress_model,
    write_progress_model,
)
from user_learner.cli.running import folding, list_lines, progress, run
from user_learner.edits.columns import RewardColumn, columns_of
from user_learner.edits.entries import Edit
from user_learner.edits.relabelling import relabel
from user_learner.edits.view import EditedEpisode, EditedEpisodes
from user_learner.success.evaluation import draw_curve, draw_mistakes, evaluate
from user_learner.success.progress_training import (
    ProgressTrainConfig,
    draw_courses,
    judge_progress,
    train_progress,
)
from user_learner.success.training import TrainConfig, labelled, train
from user_learner.success.vlm import CACHE as VLM_CACHE
from user_learner.success.vlm import TEXT_TAG, UNSURE_TAG, VlmConfig, VlmJudge, label_episodes

C = TypeVar("C", bound=Config)
T = TypeVar("T")
#: Settings of `ask` that have an option of their own.
_ASKED = ("endpoint", "model", "task")


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command; return the exit status: 0, 1 when something was left out, 2 when it could not be done."""
    options = _parser().parse_args(arguments)
    return run(partial(options.run, options), console)


def _parser() -> Parser:
    parser = Parser(prog="user reward", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    store = Parser(add_help=False)
    store.add_argument("store", help="directory of the store; it may be in use")
    store.add_argument(
        "--edits", default="", metavar="FILE",
        help="where the edits are, for a store that cannot be written",
    )  # fmt: skip

    again = commands.add_parser(
        "relabel", help="judge all stored steps by a reward, into a column", parents=[store]
    )
    again.add_argument("--reward", required=True, metavar="PLUGIN", help="the reward")
    again.add_argument(
        "--params",
        default="{}",
        metavar="YAML",
        help='its parameters, such as "{goal: [0.5, 0, 0.2]}"',
    )
    again.add_argument(
        "--column", default="", help="name of the column; that of the reward by default"
    )
    again.add_argument("--only-judge", action="store_true", help="do not use the column yet")
    again.add_argument("--reason", default="", help="why, for others")
    again.add_argument("--author", default="", help="who; your account by default")
    again.set_defaults(run=_relabel)

    use = commands.add_parser(
        "use", help="use a column of rewards, or the recorded ones", parents=[store]
    )
    use.add_argument("column", nargs="?", default="", help="its name; none: the recorded rewards")
    use.add_argument("--reason", default="")
    use.add_argument("--author", default="")
    use.set_defaults(run=_use)

    learn = commands.add_parser(
        "train",
        help="train a classifier of success on labelled episodes, or a model of progress on successes",
        parents=[store],
    )
    learn.add_argument(
        "--kind", choices=["success", "progress"], default="success",
        help="what it tells: whether a frame shows a success, or how much of the way is done",
    )  # fmt: skip
    learn.add_argument("--out", required=True, metavar="FILE", help="model to write (.safetensors)")
    learn.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help=f"settings: {', '.join(TrainConfig.model_fields)}; of progress: "
        f"{', '.join(ProgressTrainConfig.model_fields)}",
    )  # fmt: skip
    learn.set_defaults(run=_train)

    judge = commands.add_parser(
        "eval",
        help="precision and recall of a classifier or a model of progress, and its worst mistakes",
        parents=[store],
    )
    judge.add_argument("--model", required=True, help="that `user reward train` wrote")
    judge.add_argument(
        "--params", default="{}", metavar="YAML", help="of the reward `classifier` or `progress`"
    )
    judge.add_argument(
        "--out", default="", metavar="FOLDER", help="write curve.png and mistakes.png"
    )
    judge.add_argument("--json", action="store_true", help="for programs")
    judge.set_defaults(run=_eval)

    ask = commands.add_parser(
        "ask",
        help="ask a vision-language model which episodes succeeded, and label them",
        parents=[store],
    )
    ask.add_argument(
        "--endpoint", required=True, metavar="URL", help="such as http://localhost:8000/v1"
    )
    ask.add_argument("--model", required=True)
    ask.add_argument(
        "--task", required=True, help="the task in words: what a solved one looks like"
    )
    ask.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help=f"settings: {', '.join(n for n in VlmConfig.model_fields if n not in _ASKED)}",
    )  # fmt: skip
    ask.add_argument(
        "--watch", type=float, default=0.0, metavar="SECONDS",
        help="go on, and look for new episodes again after this many seconds",
    )  # fmt: skip
    ask.set_defaults(run=_ask)

    columns = commands.add_parser("columns", help="columns of rewards of a store", parents=[store])
    columns.add_argument("--json", action="store_true", help="for programs")
    columns.set_defaults(run=_columns)
    return parser


def params_of(text: str) -> dict[str, Any]:
    """Parameters in YAML as a mapping. Raises ConfigError."""
    try:
        found = yaml_value(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError("--params", got=text, expected="a mapping in YAML") from error
    if not isinstance(found, dict):
        raise ConfigError("--params", got=text, expected="a mapping in YAML, {name: value}")
    return found


def _relabel(options: argparse.Namespace, console: Console) -> int:
    choice = PluginChoice(plugin=options.reward, params=params_of(options.params))
    column = options.column or options.reward.rpartition(":")[2]
    with EditedEpisodes(options.store, options.edits, reward_column="") as view:
        with progress(console, "judging episodes") as update:
            report = relabel(view, choice, column, options.author, options.reason, update)
        console.print(
            f"{many(report.steps, 'step')} of {many(report.episodes, 'episode')} judged ({many(report.before, 'episode')} had "
            f"been before); {many(report.changed, 'step')} differ from what was recorded; a success in "
            f"{many(report.successes, 'episode')}",
            soft_wrap=True,
        )
        list_lines(console, "left out", report.skipped, "yellow")
        if report.skipped and not report.episodes + report.before:
            console.print("nothing was judged: samplers go on as before", soft_wrap=True)
        elif not options.only_judge and view.state.reward_column != column:
            reason = options.reason or f"relabelled by {options.reward}"
            done = view.log.append(Edit.rewards(column, reason, options.author))
            console.print(
                f"edit {done.number}: samplers use column {column!r} (undo: user episodes undo "
                f"{options.store} {done.number})",
                soft_wrap=True,
            )
    return 1 if report.skipped else 0


def _settings(words: Sequence[str]) -> dict[str, Any]:
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError("--set", got=word, expected="NAME=VALUE")
        values[name] = yaml_value(text)
    return values


def _ask(options: argparse.Namespace, console: Console) -> int:
    values = {**_settings(options.set), **{name: getattr(options, name) for name in _ASKED}}
    config = from_mapping(VlmConfig, values, "--set")
    with EditedEpisodes(options.store, options.edits) as view:
        judge = VlmJudge(config, view.log.path.parent / VLM_CACHE)
        while True:
            report = label_episodes(view, judge)
            if report.asked or report.cached or not options.watch:
                console.print(
                    f"{many(report.labelled, 'episode')} labelled, {report.tagged:,} tagged for a person "
                    f"(user episodes ls --tag {TEXT_TAG}, --tag {UNSURE_TAG}), {len(report.left):,} without "
                    f"an answer; {many(report.asked, 'call')}, {report.cached:,} answers were known",
                    soft_wrap=True,
                )
            for line in [*report.left[:5], *([report.ended] if report.ended else [])]:
                console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
            if not options.watch:
                return 1 if report.left or report.ended else 0
            time.sleep(options.watch)
            view.refresh()


def _train(options: argparse.Namespace, console: Console) -> int:
    if options.kind == "progress":
        return _train_progress(options, console)
    model, network, about = _trained(TrainConfig, train, options, console)
    write_model(options.out, model, network)
    console.print(
        f"{about['successes']:,} of {many(about['episodes'], 'episode')} are successes. Each was judged by a network that had not "
        f"seen it: at threshold {model.threshold:.3f} precision {about['precision']:.3f}, recall {about['recall']:.3f}. "
        f"Written to {options.out}",
        soft_wrap=True,
    )
    if not about["is_reached"]:
        console.print(
            "[yellow]These are too few episodes, or too much alike, to promise the precision and recall that were asked "
            "(--set precision=, recall=): label more of both outcomes, above all failures that look like successes, or add a "
            "camera; user reward eval shows what it mistakes.",
            soft_wrap=True,
        )
    return 0


def _trained(
    kind: type[C],
    learn: Callable[[EditedEpisodes, C, Callable[[int, int], None]], T],
    options: argparse.Namespace,
    console: Console,
) -> T:
    """What a training made of the store and the settings that the command line has."""
    config = from_mapping(kind, _settings(options.set), "--set")
    with EditedEpisodes(options.store, options.edits) as view:
        with progress(console, "training") as update:
            return learn(view, config, update)


def _train_progress(options: argparse.Namespace, console: Console) -> int:
    model, network, about = _trained(ProgressTrainConfig, train_progress, options, console)
    write_progress_model(options.out, model, network)
    console.print(
        f"{about['episodes']:,} successes, {about['held_out']:,} were kept out: rank correlation with time "
        f"{about['order']:.3f}; at threshold {model.threshold:.3f} {100 * about['recall']:.0f} % of their last "
        f"observations count as a success, and {100 * about['false_positives']:.2g} % of those well before. "
        f"It looks at {', '.join([*model.cameras, *model.numbers])}. Written to {options.out}",
        soft_wrap=True,
    )
    if len(about["stages"]) > 1 or about["left_out"]:
        shares = ", ".join(f"{100 * share:.0f} %" for share in about["stages"])
        console.print(
            f"{len(about['stages'])} stages take {shares} of the way; {about['left_out']:,} successes with other stages were "
            "left out.",
            soft_wrap=True,
        )
    return 0


def _eval_progress(options: argparse.Namespace, console: Console) -> int:
    params = {"model": options.model, **params_of(options.params)}
    reward = ProgressReward(from_mapping(ProgressConfig, params, "--params"))
    with EditedEpisodes(options.store, options.edits) as view:
        episodes = _labelled(view)
        with progress(console, "judging episodes") as update:
            found = judge_progress(view, reward, episodes, update)
    if options.out:
        threshold = reward.config.threshold or reward.model.threshold
        draw_courses(found, threshold, _folder(options.out) / "progress.png")
    order = float(found.order[found.solved].mean()) if found.solved.any() else 0.0
    if options.json:
        numbers = {"precision": found.precision, "recall": found.recall, "order": order}
        print(json.dumps({"episodes": len(episodes), **numbers}))
        return 0
    console.print(
        f"{len(episodes):,} labelled episodes: rank correlation of progress with time {order:.3f} in successes; "
        f"as a judge of success precision {found.precision:.3f}, recall {found.recall:.3f}"
        + (f"; pictures in {options.out}" if options.out else ""),
        soft_wrap=True,
    )
    return 0


def _eval(options: argparse.Namespace, console: Console) -> int:
    if is_progress_model(options.model):
        return _eval_progress(options, console)
    params = {"model": options.model, **params_of(options.params)}
    reward = ClassifierReward(from_mapping(ClassifierConfig, params, "--params"))
    with EditedEpisodes(options.store, options.edits) as view:
        episodes = _labelled(view)
        with progress(console, "judging episodes") as update:
            found = evaluate(view, reward, episodes, update)
        if options.out:
            folder = _folder(options.out)
            draw_curve(found, folder / "curve.png")
            draw_mistakes(found, view, list(reward.model.cameras), folder / "mistakes.png")
    mistakes = [e for e in found.episodes if e.found != e.solved]
    if options.json:
        print(json.dumps({
            "episodes": len(found.episodes), "precision": found.precision, "recall": found.recall,
            "recall_at_95": found.recall_at(0.95), "mistakes": [str(e.key) for e in mistakes],
        }))  # fmt: skip
        return 0
    console.print(
        f"{len(found.episodes):,} labelled episodes: precision {found.precision:.3f}, recall "
        f"{found.recall:.3f} as configured; recall {found.recall_at(0.95):.3f} at 0.95 precision; "
        f"{len(mistakes):,} mistakes" + (f"; pictures in {options.out}" if options.out else ""),
        soft_wrap=True,
    )
    for one in mistakes[:20]:
        what = "taken for a success" if one.found else "a success that was not seen"
        console.print(f"  {one.key}: {what}, score {one.score:.2f}", soft_wrap=True)
    return 0


def _labelled(view: EditedEpisodes) -> list[EditedEpisode]:
    """Episodes to judge a model on. Raises ConfigError where there are none."""
    episodes = labelled(view)
    if not episodes:
        raise ConfigError("labelled episodes", got=0, expected="some, of both kinds")
    return episodes


def _folder(path: str) -> Path:
    """A folder for pictures, made where it is not there."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _use(options: argparse.Namespace, console: Console) -> int:
    with EditedEpisodes(options.store, options.edits, reward_column=options.column) as view:
        done = view.log.append(Edit.rewards(options.column, options.reason, options.author))
    name = f"column {options.column!r}" if options.column else "the recorded rewards"
    console.print(f"edit {done.number}: samplers use {name}")
    return 0


def _columns(options: argparse.Namespace, console: Console) -> int:
    with EditedEpisodes(options.store, options.edits, reward_column="") as view:
        place: Path = view.log.path.parent
        used = view.state.reward_column
        found = [RewardColumn(place, name) for name in columns_of(place)]
    rows: list[dict[str, Any]] = [
        {
            "column": column.provenance.name, "used": column.provenance.name == used,
            "plugin": column.provenance.plugin, "params": dict(column.provenance.params),
            "author": column.provenance.author, "reason": column.provenance.reason,
            "episodes": column.pieces.episodes, "steps": len(column.values),
        }
        for column in found
    ]  # fmt: skip
    if options.json:
        print(json.dumps(rows))
        return 0
    if not rows:
        console.print(
            "no columns: samplers use the recorded rewards (user reward relabel makes one)"
        )
        return 0
    table = folding("column", "used", "reward", "why, and by whom", "judged")
    for row in rows:
        given = yaml.safe_dump(row["params"], sort_keys=False) if row["params"] else ""
        by = f"({row['author']})" if row["author"] else ""
        table.add_row(
            row["column"], "yes" if row["used"] else "", escape(f"{row['plugin']}\n{given}".strip()),
            escape(f"{row['reason']} {by}".strip()),
            f"{many(row['episodes'], 'episode')}\n{many(row['steps'], 'step')}",
        )  # fmt: skip
    console.print(table)
    return 0
