"""The docstring that everybody reads first shows the code that runs."""

import importlib.util
import re
import sys
import textwrap
from pathlib import Path

import pytest

import user_actor.loop.episode
from user_core import interfaces

EXAMPLE = Path(__file__).parents[3] / "examples/single_process.py"
SHOWN = {
    "user_actor/loop/episode.py": Path(user_actor.loop.episode.__file__),
    "examples/single_process.py": EXAMPLE,
}


def excerpts():
    """Each literal block of the docstring, with the file that it says it is from."""
    found = re.findall(r"\(``([\w/.]+)``\)::\n\n((?:    .*\n|\n)+)", interfaces.__doc__)
    return {name: textwrap.dedent(block).strip("\n").splitlines() for name, block in found}


def place_of(lines, file):
    """Numbers of the lines of a file that are these, whatever their common indentation."""
    source = file.read_text().splitlines()
    for start in range(len(source) - len(lines) + 1):
        if textwrap.dedent("\n".join(source[start : start + len(lines)])).splitlines() == lines:
            return range(start + 1, start + 1 + len(lines))
    return None


def test_there_are_two():
    assert excerpts().keys() == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_what_the_file_says(name):
    assert place_of(excerpts()[name], SHOWN[name]), f"copy the loop of {name} into interfaces.py"


def test_what_is_shown_is_what_runs(monkeypatch):
    spec = importlib.util.spec_from_file_location("single_process", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--algorithm", "rwr", "--steps", "60"])
    files = {str(file): name for name, file in SHOWN.items()}
    ran = {name: set() for name in SHOWN}

    def trace(frame, event, argument):
        name = files.get(frame.f_code.co_filename)
        if name is not None and event == "line":
            ran[name].add(frame.f_lineno)
        return trace if name is not None else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        example.main()
    finally:
        sys.settrace(before)
    for name, lines in excerpts().items():
        place, rest = place_of(lines, SHOWN[name]), set()
        indent = None  # of a branch that needs a person, a lost robot
        for number, line in zip(place, lines, strict=True):
            depth = len(line) - len(line.lstrip())
            if indent is not None and depth <= indent:
                indent = None
            if indent is None and not line.lstrip().startswith((")", "outcome, task")):
                rest.add(number)
            if indent is None and re.match(r" *if \w+ is None:", line):
                indent = depth
        assert rest <= ran[name], (name, sorted(rest - ran[name]))
