"""Look at what a policy sees: `user run inputs RUN`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_core.codecs.weights import read_version
from user_core.command_line import Parser
from user_core.errors import StoreError, SuiteError
from user_learner.quality.inputs import InputReport, report_inputs
from user_learner.replay.index import store_at
from user_learner.training.publishing import POLICY_FILE

#: Shares above this are worth a look.
_MANY = 0.01


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Exit code 0."""
    arguments = _parser().parse_args(argv)
    console = console or Console(highlight=False)
    store, policy = _find(arguments.run)
    arrays = None
    if policy is not None:
        try:
            arrays = read_version(policy).arrays
        except (SuiteError, OSError) as error:
            console.print(f"[yellow]{policy} cannot be read:[/] {escape(str(error))}")
    reports = report_inputs(store, arrays)
    if arguments.json:
        told = [asdict(one) | {"constant": one.constant} for one in reports]
        console.print_json(json.dumps([_finite(one) for one in told]))
        return 0
    _show(reports, str(store), console)
    return 0


def _find(run: Path) -> tuple[Path, Path | None]:
    """The store of a run, and the newest policy; ``run`` may be a store as well."""
    store = store_at(run)
    if store is None:
        raise StoreError(
            f"data of {run}", got="no replay store",
            expected="the folder of a run, runs/<id>, with replay/ in it, or that of a store",
        )  # fmt: skip
    policy = store.parent / "learner" / POLICY_FILE
    return store, policy if policy.exists() else None


def _show(reports: list[InputReport], title: str, console: Console) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0))
    # names and numbers that are cut short say nothing: names fold, and only titles and notes wrap
    table.add_column("input", overflow="fold")
    for column in ("smallest", "largest", "mean"):
        table.add_column(column, no_wrap=True)
    for column in ("outside\nbounds", "far out", ""):
        table.add_column(column, min_width=7)
    for one in reports:
        notes = []
        if one.constant:
            notes.append("constant")
        if one.not_finite:
            notes.append(f"{one.not_finite:,} not finite")
        style = "yellow" if notes or max(one.outside or 0, one.far or 0) > _MANY else None
        table.add_row(
            escape(one.name), f"{one.low:.4g}", f"{one.high:.4g}", f"{one.mean:.4g}",
            _share(one.outside), _share(one.far), ", ".join(notes), style=style,
        )  # fmt: skip
    console.print(table)
    constant = sum(one.constant for one in reports)
    far = sum((one.far or 0) > _MANY for one in reports)
    outside = sum((one.outside or 0) > _MANY for one in reports)
    console.print(
        f"{len(reports)} numbers over {reports[0].rows if reports else 0:,} rows: {constant} "
        f"constant, {outside} with more than 1 % outside their bounds, {far} with more than 1 % "
        "beyond ten times the usual range of the newest policy, which sees their logarithm"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"


def _finite(report: dict[str, object]) -> dict[str, object]:
    """Infinity, of what has no finite value, is no JSON."""
    return {k: None if v in (float("inf"), float("-inf")) else v for k, v in report.items()}


def _parser() -> Parser:
    parser = Parser(prog="user run", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    inputs = commands.add_parser(
        "inputs",
        help="range of every number of observations and actions, what is constant, what lies outside "
        "its bounds, what the newest policy hardly sees",
    )
    inputs.add_argument("run", type=Path, help="folder of a run, runs/<id>, or of a replay store")
    inputs.add_argument("--json", action="store_true", help="for programs")
    return parser
