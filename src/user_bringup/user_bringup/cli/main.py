"""Main function of the command ``user``."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from user_core.command_line import nearest, of_files, refusal
from user_core.errors import SuiteError
from user_core.runtime.processes.endings import last_acts
from user_core.runtime.processes.foreign_code import ExitCalled, exits_are_errors, report_if_ended
from user_core.runtime.scheduling import let_threads_of_torch_sleep

GROUP = "user.commands"
#: Commands in whose own process drivers, policies and algorithms of other people work.
_OF_PLUGINS = ("check", "demos", "evaluate", "train")


def main(words: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        Its exit code; 1 after an error, 2 for a wrong command line, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    let_threads_of_torch_sleep()
    with contextlib.suppress(Exception):  # standard error may be no file
        if not faulthandler.is_enabled():
            faulthandler.enable()  # a crash in C is told with its line of Python
    try:
        with last_acts() as end:
            end.status = _run(words)
        return end.status
    except KeyboardInterrupt:  # another one, while it ends
        return 130


def _run(words: list[str]) -> int:
    told: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if words and words[0] in _OF_PLUGINS:
        told = report_if_ended(f"user {' '.join(words[:2])}: this process was ended from within")
    try:
        with told, exits_are_errors():
            return dispatch(GROUP, "user", words)
    except ExitCalled as error:
        print(f"user {words[0]}: a plugin wanted to end this process: {error}", file=sys.stderr)
        return 1
    except SuiteError as error:
        print(f"user {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `user ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        said = of_files(error)
        if said is None:
            raise
        print(f"user {words[0]}: {said}", file=sys.stderr)
        return 1


def dispatch(group: str, program: str, words: Sequence[str]) -> int:
    """Import and run the command that the first word names, with those after it.

    Args:
        group: Entry-point group in which the commands are registered.
        program: What stands before the command, for messages.
        words: The rest of the command line.

    Returns:
        Its exit code; 2 where there is no such command.
    """
    points = {point.name: point for point in entry_points(group=group)}
    if not words or words[0] in ("-h", "--help"):
        print(_overview(points, program))
        return 0 if words else 2
    name, *rest = words
    if name not in points:
        print(refusal(program, f"no command '{name}'", nearest(name, points)), file=sys.stderr)
        return 2
    return int(points[name].load()(rest) or 0)


def _overview(points: dict[str, EntryPoint], program: str) -> str:
    lines = [f"usage: {program} COMMAND [arguments]", "", "commands:"]
    width = max(map(len, points), default=0)
    for name, point in sorted(points.items()):
        lines.append(f"  {name:<{width}}  {_summary(point, program)}")
    return "\n".join([*lines, "", f"'{program} COMMAND --help' says more about each."])


def _summary(point: EntryPoint, program: str) -> str:
    try:
        function = point.load()
    except Exception as error:  # of whatever the author's module imports
        return f"(cannot be imported: {error})"
    if function.__name__ == "main":  # the only one of its module
        function = sys.modules[function.__module__]
    line = (function.__doc__ or "").strip().partition("\n")[0]
    return line.replace("``", "").removeprefix(f"{program} {point.name}: ")
