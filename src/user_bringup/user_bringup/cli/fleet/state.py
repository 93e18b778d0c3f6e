"""The commands of `user fleet` that look into the file of the scheduler, or leave a request there."""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_bringup.cli.fleet.logs import show_logs
from user_bringup.cli.fleet.timeline import moment, show_timeline
from user_bringup.monitor.fleet import QUIET_S, experiments_of, resources_of
from user_core.config import (
    file_meant,
    from_mapping,
    load_yaml,
    to_mapping,
)
from user_core.errors import ConfigError, StoreError
from user_fleet.node_configs import fleet_file
from user_fleet.resources.inventory import amounts_in_words
from user_fleet.scheduling.reservation import Reservation
from user_fleet.scheduling.store import FleetStore

Commands = Any  # argparse keeps its class of sub-commands to itself
#: How long a scheduler may take to answer a request.
_PATIENCE_S = 15.0


def add_commands(commands: Commands) -> None:
    """Add them to a parser."""

    def add(name: str, run: Callable[..., int], text: str, *arguments: str) -> Any:
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for argument in arguments:
            parser.add_argument(argument)
        parser.add_argument(
            "--state", default="", metavar="FILE",
            help="file of the scheduler (default: that of this user's own)",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="the answer as JSON")
        parser.set_defaults(run=run)
        return parser

    add("ls", _ls, "hosts and resources, and who has what").add_argument(
        "--all", action="store_true", help="simulated robots of drivers, too"
    )
    add("status", _status, "experiments: what they have, and what they wait for")
    timeline = add("timeline", _timeline, "who had which resource when")
    timeline.add_argument("--hours", type=float, default=24.0, help="how far back (default: 24)")
    timeline.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw it into a file: .png, .svg or .pdf"
    )
    logs = add("logs", _logs, "what an experiment's processes have printed", "name")
    logs.add_argument("role", nargs="?", default="", help="of this role only")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C, or its end")
    logs.add_argument(
        "-n", "--lines", type=int, default=200, help="of each process at first (default: 200)"
    )
    add("submit", _submit, "queue an experiment", "experiment")
    cancel = add("cancel", _cancel, "end an experiment at the end of its episodes", "name")
    cancel.add_argument("--now", action="store_true", help="do not wait for anybody")
    add("finish", _finish, "say that an experiment is done", "name")
    drain = add("drain", _drain, "give a resource, or all of a host, to nobody", "resource")
    drain.add_argument("--why", default="for maintenance", help="for people")
    add("release", _release, "give again what was drained or quarantined", "resource")
    add("reserve", _reserve, "keep resources for somebody at certain times", "file")
    add("unreserve", _unreserve, "end a reservation", "name")
    add("forget", _forget, "forget a host that is away for good", "host")


def open_store(arguments: argparse.Namespace) -> FleetStore:
    """The file of the scheduler. Raises ConfigError where there is none."""
    file = fleet_file(arguments.state)
    if not file.is_file():
        raise ConfigError(
            "state of the fleet", got=f"no file {str(file)!r}", expected="the file of a scheduler",
            hint="Run this on the host of the scheduler; start one with `python -m "
            "user_fleet.nodes.scheduler`, or name its file with --state",
        )  # fmt: skip
    return FleetStore(file)


def _ls(arguments: argparse.Namespace, console: Console) -> int:
    store = open_store(arguments)
    resources = resources_of(store)
    if arguments.json:
        hosts = [
            {"name": k.name, "state": k.state, "text": k.text, "since_ns": k.seen_ns}
            for k in store.hosts()
        ]
        rows = [{**to_mapping(one.item), "use": one.use, "now": one.now} for one in resources]
        print(json.dumps({"hosts": hosts, "resources": rows}, indent=2))
        return 0
    _say_who_works(store, console)
    table = Table("host", "state", "since", title="Hosts", title_justify="left")
    for known in store.hosts():
        colour = "green" if known.state == "here" else "red"
        text = known.state if known.state == "here" else f"{known.state}: {known.text}"
        table.add_row(escape(known.name), f"[{colour}]{escape(text)}[/]", moment(known.seen_ns))
    console.print(table)
    table = Table(title="Resources", title_justify="left")
    for column in ("resource", "has", "now", "used by"):
        table.add_column(column, overflow="fold")
    hidden = 0
    for one in resources:
        if one.is_hidden and not arguments.all:
            hidden += 1
            continue
        words = (one.item.id, amounts_in_words(one.item), one.now, one.use)
        table.add_row(*map(escape, words))
    console.print(table)
    if hidden:
        console.print(f"[dim]and {hidden} simulated robots of drivers that nobody uses: --all[/]")
    return 0


def _status(arguments: argparse.Namespace, console: Console) -> int:
    store = open_store(arguments)
    rows = experiments_of(store)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    _say_who_works(store, console)
    table = Table(title="Experiments", title_justify="left")
    for column in ("experiment", "state", "priority", "has", "why"):
        table.add_column(column, overflow="fold")
    for row in rows:
        has = ", ".join(row["has"])
        words = (row["name"], row["state"], str(row["priority"]), has, row["text"])
        table.add_row(*map(escape, words))
    console.print(table)
    for one in store.reservations():
        who = ", ".join(one.experiments) or "nobody"
        what = ", ".join((*(f"#{tag}" for tag in one.tags), *one.sites, *one.resources))
        console.print(f"reservation {one.name}: {what} {one.begin} to {one.end}, for {who}")
    return 0


def _timeline(arguments: argparse.Namespace, console: Console) -> int:
    return show_timeline(arguments, console, open_store(arguments))


def _logs(arguments: argparse.Namespace, console: Console) -> int:
    return show_logs(arguments, console, open_store(arguments))


def _submit(arguments: argparse.Namespace, console: Console) -> int:
    from user_fleet.scheduling.experiment import load_experiment

    experiment = load_experiment(file_meant("experiments", arguments.experiment))
    text = f"{experiment.name} is queued; see `user fleet status`"
    return _ask_and_say(arguments, console, text, do="submit", experiment=to_mapping(experiment))


def _cancel(arguments: argparse.Namespace, console: Console) -> int:
    name = arguments.name

    def said(answer: dict[str, Any]) -> str:
        known = open_store(arguments).find(name)
        state = "" if known is None else known.state
        if state == "ending":
            return f"{name} ends with its episodes; see `user fleet status`"
        return f"{name} is {state}"

    return _ask_and_say(arguments, console, said, do="cancel", name=name, at_once=arguments.now)


def _finish(arguments: argparse.Namespace, console: Console) -> int:
    text = f"{arguments.name} is done"
    return _ask_and_say(arguments, console, text, do="finish", name=arguments.name)


def _drain(arguments: argparse.Namespace, console: Console) -> int:
    name = arguments.resource
    text = f"{name} is given to nobody until `user fleet release {name}`"
    return _ask_and_say(arguments, console, text, do="drain", resource=name, text=arguments.why)


def _release(arguments: argparse.Namespace, console: Console) -> int:
    def said(answer: dict[str, Any]) -> str:
        if names := answer["released"]:
            return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} given again"
        return f"{arguments.resource} was neither drained nor quarantined: nothing has changed"

    return _ask_and_say(arguments, console, said, do="release", resource=arguments.resource)


def _reserve(arguments: argparse.Namespace, console: Console) -> int:
    try:
        reservation = from_mapping(Reservation, load_yaml(Path(arguments.file)))
    except yaml.YAMLError as error:
        raise ConfigError(arguments.file, got=str(error)) from error
    text = f"reservation {reservation.name} is kept; see `user fleet status`"
    return _ask_and_say(arguments, console, text, do="reserve", reservation=to_mapping(reservation))


def _unreserve(arguments: argparse.Namespace, console: Console) -> int:
    def said(answer: dict[str, Any]) -> str:
        name = arguments.name
        return f"reservation {name} " + ("has ended" if answer["was_there"] else "is not there")

    return _ask_and_say(arguments, console, said, do="unreserve", name=arguments.name)


def _forget(arguments: argparse.Namespace, console: Console) -> int:
    text = f"{arguments.host} is forgotten"
    return _ask_and_say(arguments, console, text, do="forget", host=arguments.host)


def _ask_and_say(
    arguments: argparse.Namespace, console: Console, done: str | Callable[[dict[str, Any]], str],
    **request: Any,
) -> int:  # fmt: skip
    """Leave a request, wait for its answer and say what has happened; 1 when it was refused. Raises StoreError when
    nobody answers."""
    store = open_store(arguments)
    number = store.ask(request)
    until_s = time.monotonic() + _PATIENCE_S
    while (answer := store.answer_of(number)) is None:
        if time.monotonic() > until_s:
            raise StoreError(
                f"request {number}, to {request['do']}", got=f"no answer within {_PATIENCE_S:g} s",
                expected="a scheduler that works on this file",
                hint="It stays in the file, and is carried out when a scheduler is started",
            )  # fmt: skip
        time.sleep(0.05)
    if arguments.json:
        print(json.dumps(answer))
    elif not answer["ok"]:
        console.print(f"[red]{escape(answer['text'])}[/] {escape('[' + answer['code'] + ']')}")
    else:
        console.print(escape(done if isinstance(done, str) else done(answer)))
    return 0 if answer["ok"] else 1


def _say_who_works(store: FleetStore, console: Console) -> None:
    silent_s = store.silent_s()
    if silent_s > QUIET_S:
        console.print(f"[yellow]No scheduler has worked on this file since {_ago(silent_s)}.[/]")


def _ago(seconds: float) -> str:
    return (
        "ever" if seconds > 1e8 else f"{datetime.timedelta(seconds=round(seconds))} (h:mm:ss) ago"
    )
