"""The live table: what a person wants to see of a running system, on one screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from user_bringup.monitor.shares import named
from user_bringup.monitor.state import ONLINE, SystemState, level_of
from user_comm.net.flow_table import HEAD
from user_core.command_line import many
from user_core.reasons import LOCAL_POLICY

ACTOR_STATES = ("waiting", "resetting", "running", "paused")
LEARNER_STATES = ("waiting", "training", "limited", "paused", "finished")
GATE_STATES = ("idle", "active", "STOPPED", "EMERGENCY")
_STYLES = {"running": "green", "training": "green", "active": "green", "paused": "yellow"}
_STYLES |= {"limited": "cyan", "STOPPED": "bold red", "EMERGENCY": "bold white on red"}


def render(state: SystemState, title: str = "") -> RenderableType:
    """Draw the state: robots, learner and store, processes, warnings."""
    parts: list[RenderableType] = [_summary(state), _robots(state), _learning(state)]
    if state.processes:
        parts.append(_processes(state))
    if state.standbys:
        parts.append(Text(standby_line(state.standbys)))
    if state.managed:
        parts.append(_managed(state))
    if links := state.links():
        parts.append(_links(links))
    warnings = state.warnings()
    if warnings:
        parts.append(Panel("\n".join(warnings[:8]), title="look at", border_style="yellow"))
    return Panel(Group(*parts), title=title or "USER", title_align="left", box=box.ROUNDED)


def _summary(state: SystemState) -> RenderableType:
    online, online_count = state.rate_of(ONLINE)
    evaluation, versions = state.evaluations.shown
    minutes, seconds = divmod(int(state.elapsed_s), 60)
    text = Text(f"{minutes}:{seconds:02}   ")
    text.append(f"success, last {online_count} episodes ")
    text.append(bar(online), "green")
    text.append(f" {percent(online)}   evaluation ")
    text.append(bar(evaluation.rate), "magenta")
    text.append(f" {evaluation}")
    if versions:
        text.append(f" of {named(versions)}")
    elif state.evaluations.unknown:
        text.append(f" {many(state.evaluations.unknown, 'episode')} that nobody can judge")
    if state.corrections.total.takeovers:
        text.append(f"\ncorrections  {state.corrections}")
    return text


def _robots(state: SystemState) -> _Columns:
    table = _Columns("robot", "state", "steps", "episodes", "success", "return", "policy", "age",
                   "rate", "late p99", "outbox", "safety")  # fmt: skip
    silent = set(state.silent())
    for name, latest in sorted(state.actors.items()):
        a = latest.message
        word = "silent" if name in silent else _word(ACTOR_STATES, a.state)
        gates = [g.message for g in state.gates.values()]
        gate = next((g for g in gates if g.lease_holder == a.actor), gates[0] if gates else None)
        table.add_row(
            f"{a.robot} [dim]{a.actor}[/dim]",
            _styled(word),
            f"{a.steps}",
            f"{a.episodes}",
            percent(a.success_rate),
            number(a.last_return, 2),
            f"v{a.policy_version}" + (" here" if LOCAL_POLICY in a.warning_codes else ""),
            duration(a.policy_age_s),
            f"{a.rate_hz:.1f}/s",
            f"{number(a.lateness_p99_ms, 1)} ms",
            f"{size(a.outbox_bytes)} {a.outbox_fill:.0%}",
            _styled(_word(GATE_STATES, gate.state)) if gate else "",
        )
    return table


def _learning(state: SystemState) -> _Columns:
    table = _Columns("learner", "state", "updates", "rate", "UTD", "policy", "data wait", "stored",
                   "store", "free")  # fmt: skip
    replay = next((latest.message for latest in state.replays.values()), None)
    stored = (
        (f"{replay.steps}", size(replay.disk_bytes), size(replay.disk_free_bytes))
        if replay is not None
        else ("", "", "")
    )
    rows = sorted(state.learners.items())
    for name, latest in rows:
        m = latest.message
        word = "silent" if name in state.silent() else _word(LEARNER_STATES, m.state)
        table.add_row(
            m.algorithm,
            _styled(word),
            f"{m.update}",
            f"{m.updates_per_s:.1f}/s",
            f"{number(m.utd_ratio, 2)} of {number(m.utd_target, 2)}",
            f"v{m.policy_version}",
            percent(m.data_wait_share),
            *stored,
        )
    if not rows and replay is not None:
        table.add_row("", "", "", "", "", "", "", *stored)
    return table


def _processes(state: SystemState) -> Text:
    text = Text("processes  ")
    for name, detail in state.processes.items():
        text.append(f" {name} ", "green" if not detail else "bold red")
    return text


def standby_line(standbys: Mapping[int, int]) -> str:
    """How many processes stand by, and the memory that they take for themselves."""
    return f"standbys    {len(standbys)}, {size(sum(standbys.values()))} of memory"


def _managed(state: SystemState) -> Text:
    """What the lifecycle manager says of each node."""
    text = Text("nodes      ")
    for name, latest in state.managed.items():
        level = level_of(latest.message)
        style = ("green", "yellow", "bold red", "bold red")[min(level, 3)]
        said = next((v.value for v in latest.message.values if v.key == "state"), "")
        text.append(f" {name} {'' if said == 'active' else said}".rstrip() + " ", style)
    return text


def _links(links: Sequence[tuple[str, ...]]) -> _Columns:
    """Links, and what goes over them."""
    used = [i for i in range(len(HEAD)) if any(row[i] for row in links)]
    table = _Columns(*(HEAD[i] for i in used))
    for row in links:
        table.add_row(*(row[i] for i in used))
    return table


class _Columns:
    """A table of one line a row. A screen that is too narrow for it gets it in several, one below the other.

    Each has the first column again, which says of what the row is: cut short, no column could be read.
    """

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            3 + max(Text.from_markup(cells[i]).cell_len for cells in (self._columns, *self._rows))
            for i in range(len(self._columns))
        ]
        room = options.max_width - 1  # 3: a blank at either side, and one between columns
        parts: list[list[int]] = [[0]]
        for i in range(1, len(self._columns)):
            if len(parts[-1]) > 1 and sum(widths[j] for j in parts[-1]) + widths[i] > room:
                parts.append([0])
            parts[-1].append(i)
        for part in parts:
            table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1))
            for i in part:
                table.add_column(self._columns[i], no_wrap=True)
            for cells in self._rows:
                table.add_row(*(cells[i] for i in part))
            yield table


def _word(words: tuple[str, ...], index: int) -> str:
    return words[index] if 0 <= index < len(words) else f"state {index}"


def _styled(word: str) -> str:
    style = _STYLES.get(word, "red" if word == "silent" else "dim")
    return f"[{style}]{word}[/{style}]"


def bar(share: float, width: int = 12) -> str:
    """A share of 0 to 1 as a bar; empty for NaN."""
    filled = 0 if math.isnan(share) else round(share * width)
    return "█" * filled + "░" * (width - filled)


def percent(share: float) -> str:
    """A share for people; a dash for NaN."""
    return "-" if math.isnan(share) else f"{share:.0%}"


def number(value: float, digits: int) -> str:
    """A number for people; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """A time span for people."""
    if math.isnan(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
