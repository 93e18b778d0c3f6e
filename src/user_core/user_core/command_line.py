"""Command lines: the one class of parsers, whose faults are told as all others of the suite are."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):  # noqa: TID251
    """An ``argparse.ArgumentParser`` that takes no abbreviations and names what is nearest.

    With abbreviations, an option that a command does not have is silently taken for a longer one
    that it has, and one that is added later changes what scripts of today mean. Faults are one line
    on standard error, with exit status 2: what came, what is nearest, where all are listed.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        # An unknown option is told before what follows from it: a value that belongs to it would
        # be taken for an argument, or for the name of a subcommand.
        words = sys.argv[1:] if args is None else list(args)
        for word in self._unknown_options(words):
            name = word.partition("=")[0]
            self._refuse(f"no option '{name}'", nearest(name, self._option_string_actions))
        return super().parse_known_args(words, namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        for action in self._actions:
            if action.nargs == argparse.ZERO_OR_MORE and not action.option_strings:
                action.required = False  # which argparse names among what is missing
        return super().parse_known_intermixed_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = action.metavar or "/".join(action.option_strings) or action.dest
            if isinstance(action, argparse._SubParsersAction):
                what = f"no command '{value}'"
            else:
                what = f"{name}: got '{value}', expected one of {', '.join(known)}"
            self._refuse(what, nearest(str(value), known))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end with status 2."""
        self.print_usage(sys.stderr)
        self._refuse(message)

    def _refuse(self, what: str, near: Sequence[str] = ()) -> NoReturn:
        self.exit(2, refusal(self.prog, what, near) + "\n")

    def _unknown_options(self, words: Iterable[str]) -> Iterator[str]:
        """Words that look like options and are none; not those of a subcommand, which has its own parser."""
        commands: set[str] = set()
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                commands.update(action.choices)
        for word in words:
            if word == "--" or word in commands:
                return
            if not word.startswith("-") or len(word) == 1 or " " in word:
                continue  # an argument, as argparse sees it
            if self._negative_number_matcher.match(word):
                continue
            known = self._option_string_actions
            short = word[:2] if not word.startswith("--") else word
            if word not in known and word.partition("=")[0] not in known and short not in known:
                yield word


def many(count: float, noun: str) -> str:
    """So many of something, for people: ``1 episode``, ``2,000 episodes``, ``0.5 minutes``."""
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def refusal(program: str, what: str, near: Sequence[str] = ()) -> str:
    """One line: what is wrong with a command line, what may have been meant, where all are listed."""
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return f"{program}: {what}.{hint} '{program} --help' lists what there is."


#: What a command line can do about a file or folder that the system refused.
_OF_FILES: dict[int | None, str] = {
    errno.ENOENT: "a name that is there, or a folder in which files can be made",
    errno.EEXIST: "the name of a folder, or one that is not taken yet: this is a file",
    errno.ENOTDIR: "a name in a folder: a part of this path is a file",
    errno.EISDIR: "a file: this is a folder",
    errno.EACCES: "what this user may read and write; `ls -ld` shows whose it is",
    errno.EPERM: "what this user may read and write; `ls -ld` shows whose it is",
    errno.EROFS: "a disk that can be written",
    errno.ENOSPC: "room on its disk; `df` shows how much there is",
    errno.EDQUOT: "room on its disk; `quota` shows how much there is",
    errno.ENOTEMPTY: "an empty folder, or a name that is not taken yet",
    errno.ENAMETOOLONG: "a shorter name",
    errno.ELOOP: "a path whose links end somewhere",
}


def of_files(error: OSError) -> str | None:
    """One line about a file or folder that the system refused: which, why, what was expected, who asked for it.

    Returns:
        None where the error names no file: it is about something else.
    """
    if not isinstance(error.filename, str | bytes | os.PathLike) or error.strerror is None:
        return None
    text = f"{os.fsdecode(error.filename)}: got {error.strerror}"
    if error.errno in _OF_FILES:
        text += f", expected {_OF_FILES[error.errno]}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if f"{os.sep}user_" in one.filename] or list(frames)
    if ours:
        text += f" (asked for by {ours[-1].name}, {os.path.basename(ours[-1].filename)} line {ours[-1].lineno})"
    return text


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that begin as this one does, else the one that is most like it; at most three."""
    names = sorted(known)
    begin = [other for other in names if len(name.strip("-")) > 1 and other.startswith(name)]
    return begin[:3] or difflib.get_close_matches(name, names, n=1)
