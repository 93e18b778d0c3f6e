"""Main function of the command ``user``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from user_core.errors import SuiteError

GROUP = "user.commands"


def main(words: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        Its exit code; 1 after an error, 2 for a wrong command line, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    points = {point.name: point for point in entry_points(group=GROUP)}
    if not words or words[0] in ("-h", "--help"):
        print(_overview(points))
        return 0 if words else 2
    name, *rest = words
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        print(f"user: no command '{name}'.{hint} 'user --help' lists them.", file=sys.stderr)
        return 2
    try:
        return int(points[name].load()(rest) or 0)
    except SuiteError as error:
        print(f"user {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `user ... | head`
        sys.stderr.close()
        return 0


def _overview(points: dict[str, EntryPoint]) -> str:
    lines = ["usage: user COMMAND [arguments]", "", "commands:"]
    width = max(map(len, points), default=0)
    for name, point in sorted(points.items()):
        lines.append(f"  {name:<{width}}  {_summary(point)}")
    return "\n".join([*lines, "", "'user COMMAND --help' says more about each."])


def _summary(point: EntryPoint) -> str:
    try:
        function = point.load()
    except Exception as error:  # of whatever the author's module imports
        return f"(cannot be imported: {error})"
    if function.__name__ == "main":  # the only one of its module
        function = sys.modules[function.__module__]
    line = (function.__doc__ or "").strip().partition("\n")[0]
    return line.replace("``", "").removeprefix(f"user {point.name}: ")
