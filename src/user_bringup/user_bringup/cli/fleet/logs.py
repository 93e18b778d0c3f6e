"""`user fleet logs`: what was printed by what an experiment runs, fetched from the hosts by way of the scheduler."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from user_core.errors import ConfigError, StoreError
from user_fleet.presence.messages import LOG_PART_BYTES
from user_fleet.scheduling.store import FleetStore, Grant

_PATIENCE_S = 15.0
_FOLLOW_S = 1.0
#: Most processes of one experiment that are followed at a time.
_MOST = 16


@dataclass
class _Tail:
    """How far the output of one process is known."""

    grant: Grant
    label: str
    offset: int
    rest: str = ""
    silent: str = ""


def show_logs(arguments: argparse.Namespace, console: Console, store: FleetStore) -> int:
    """Print the last lines; with ``--follow`` go on until Ctrl-C, or until the experiment is over."""
    grants = newest_grants(store, arguments.name, arguments.role)
    if len(grants) > _MOST:
        console.print(f"[dim]the newest {_MOST} of {len(grants)}; name a role for fewer[/]")
        grants = grants[-_MOST:]
    many = len(grants) > 1
    tails = [_Tail(g, f"{g.role}/{g.resource.rpartition('/')[2]}", -LOG_PART_BYTES) for g in grants]
    heard = 0
    for tail in tails:
        lines = list(_news(store, tail, console))
        heard += not tail.silent
        cut = lines[-arguments.lines :] if arguments.lines else []
        _print(console, tail, cut, many, arguments.json)
    if not arguments.follow:
        return 0 if heard else 1
    try:
        while True:
            entry = store.find(arguments.name)
            over = entry is None or entry.state in ("done", "cancelled")
            known = {tail.grant.fencing for tail in tails}
            for grant in newest_grants(store, arguments.name, arguments.role):
                if grant.fencing not in known:  # a replacement
                    tails.append(
                        _Tail(grant, f"{grant.role}/{grant.resource.rpartition('/')[2]}", 0)
                    )
            for tail in tails[-_MOST:]:
                _print(
                    console, tail, list(_news(store, tail, console)), len(tails) > 1, arguments.json
                )
            if over:
                return 0
            time.sleep(_FOLLOW_S)
    except KeyboardInterrupt:
        return 0


def newest_grants(store: FleetStore, name: str, role: str = "") -> list[Grant]:
    """For each role and resource of an experiment for which something is started, the newest grant.

    Raises:
        ConfigError: There is no such experiment or role, or it runs nothing.
    """
    entry = store.find(name)
    if entry is None:
        known = [other.experiment.name for other in store.entries()]
        raise ConfigError(f"experiment {name!r}", got="no such", expected=f"one of {known}")
    roles = [r for r, spec in entry.experiment.roles.items() if spec.run is not None]
    if role and role not in roles:
        raise ConfigError(
            f"role {role!r}", got="none that runs something", expected=f"one of {roles}"
        )
    found: dict[tuple[str, str], Grant] = {}
    first: set[tuple[str, str]] = set()
    for grant in store.grants(ended=True):
        if grant.experiment != name or grant.role not in ([role] if role else roles):
            continue
        option = entry.experiment.roles[grant.role].first_of[entry.options.get(grant.role, 0)]
        if (
            option.on_one_host and grant.ended_ns is None
        ):  # one process, started for the first of them
            if (grant.role, "") in first:
                continue
            first.add((grant.role, ""))
        found[grant.role, grant.resource] = grant
    if not found:
        hint = (
            "It runs nothing: its grants are bookings"
            if not roles
            else "It was granted nothing yet"
        )
        raise ConfigError(f"logs of {name!r}", got="none", hint=hint)
    return sorted(found.values(), key=lambda grant: grant.fencing)


def _news(store: FleetStore, tail: _Tail, console: Console) -> Iterator[str]:
    """Lines that are new."""
    while True:
        answer = _ask(
            store, do="log", host=tail.grant.resource.partition("/")[0],
            fencing=tail.grant.fencing, offset=tail.offset,
        )  # fmt: skip
        if not answer["ok"]:
            if answer["text"] != tail.silent:
                console.print(f"[red]{escape(tail.label)}: {escape(answer['text'])}[/] [{answer['code']}]")  # fmt: skip
                tail.silent = answer["text"]
            return
        tail.silent = ""
        text = tail.rest + answer["text"]
        if tail.offset < 0 < answer["offset"]:
            text = text.partition("\n")[2]  # it begins within a line
        *lines, tail.rest = text.split("\n")
        tail.offset = answer["end"]
        yield from lines
        if answer["end"] >= answer["size"] or answer["end"] == answer["offset"]:
            return


def _print(console: Console, tail: _Tail, lines: Sequence[str], many: bool, as_json: bool) -> None:
    for line in lines:
        if as_json:
            row = {"role": tail.grant.role, "resource": tail.grant.resource, "fencing": tail.grant.fencing}  # fmt: skip
            print(json.dumps({**row, "line": line}), flush=True)
        else:
            # As it was printed: neither wrapped nor coloured.
            print(f"{tail.label} | {line}" if many else line, flush=True)


def _ask(store: FleetStore, **request: Any) -> dict[str, Any]:
    number = store.ask(request)
    until_s = time.monotonic() + _PATIENCE_S
    while (answer := store.answer_of(number)) is None:
        if time.monotonic() > until_s:
            raise StoreError(
                "logs", got=f"no answer within {_PATIENCE_S:g} s",
                expected="a scheduler that works on this file", hint="Start one",
            )  # fmt: skip
        time.sleep(0.05)
    return answer
