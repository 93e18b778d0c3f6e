"""Look into the outbox of a robot, and rescue what it holds: `user outbox info|drain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from user_actor.outbox.inspect import OutboxReport, find_outboxes, inspect
from user_core.command_line import Parser, many


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 1 when something is left in an outbox that was to be drained."""
    arguments = _parser().parse_args(argv)
    folders = find_outboxes(arguments.directory)
    if arguments.what == "info":
        for folder in folders:
            _show(inspect(folder))
        return 0
    from user_bringup.rescue import drain

    left = 0
    for folder in folders:
        drained = drain(folder, arguments.into, accept=arguments.accept)
        for note in drained.notes:
            print(f"  {note}")
        print(
            f"{drained.after.producer}: {many(drained.chunks, 'chunk')} delivered, "
            f"{drained.known} were there already"
        )
        for reason in drained.refused:
            print(f"  refused, kept in the outbox: {reason}")
        left += drained.after.pending + sum(aside.chunks for aside in drained.after.aside)
    return 1 if left else 0


def _show(report: OutboxReport) -> None:
    print(f"{report.folder}")
    print(f"  actor        {report.producer}")
    print(f"  delivers to  {report.store or 'no store has answered yet'}")
    print(f"  committed    {many(report.steps, 'step')} in all")
    waiting = "nothing"
    if report.pending:
        waiting = f"{many(report.pending, 'chunk')}, {report.pending_bytes / 2**20:.1f} MiB"
        waiting += f", the oldest for {report.oldest_age_s:.0f} s"
    print(f"  waiting      {waiting}")
    for aside in report.aside:
        print(f"  kept aside   {many(aside.chunks, 'chunk')} ({aside.code}): {aside.reason}")


def _parser() -> Parser:
    parser = Parser(prog="user outbox", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    info = commands.add_parser("info", help="say what an outbox holds; it may be in use")
    out = commands.add_parser(
        "drain", help="deliver what an outbox holds into a store; its actor must not be running"
    )
    for command in (info, out):
        command.add_argument(
            "directory", type=Path, help="an outbox, or a folder of outboxes: runs/<id>/outbox"
        )
    out.add_argument(
        "--into", type=Path, required=True, metavar="STORE",
        help="replay store, which no other process writes; made when it is not there",
    )  # fmt: skip
    out.add_argument(
        "--accept", nargs="+", default=[], metavar="NAME",
        help="differences in meaning between outbox and store that are none: bounds, period, ...",
    )  # fmt: skip
    return parser
