from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from user_core.command_line import Parser, many, of_files


def parser() -> Parser:
    whole = Parser(prog="user data")
    whole.add_argument("--quiet", action="store_true")
    commands = whole.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export")
    export.add_argument("store")
    export.add_argument("format", choices=("lerobot", "hdf5"))
    export.add_argument("--outcome")
    export.add_argument("--output")
    export.add_argument("--offset", "-o", type=float)
    export.add_argument("--level", type=int, choices=(1, 2))
    return whole


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("export s lerobot --outc x", "user data export: no option '--outc'. Did you mean '--outcome'?"),
        ("export s lerobot --out=x", "no option '--out'. Did you mean '--outcome' or '--output'?"),
        ("export --ofset 1 s lerobot", "no option '--ofset'. Did you mean '--offset'?"),
        ("export --zzz", "user data export: no option '--zzz'. 'user data export --help' lists"),
        ("export s lerobot -x", "no option '-x'."),
        ("--quite export s lerobot", "user data: no option '--quite'. Did you mean '--quiet'?"),
        ("exprot s", "user data: no command 'exprot'. Did you mean 'export'?"),
        ("export s hdf", "format: got 'hdf', expected one of lerobot, hdf5. Did you mean 'hdf5'?"),
        ("export s hdf5 --level 3", "--level: got '3', expected one of 1, 2."),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_what_is_nearest(
    capsys: pytest.CaptureFixture[str], words: str, what: str
) -> None:
    text = said(capsys, *words.split())
    assert what in text
    assert text.count("\n") == 1


def test_what_is_missing_is_told_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "export", "s")
    assert text.startswith("usage: user data export")
    assert "user data export: the following arguments are required: format." in text


def test_what_is_no_unknown_option_is_taken_as_ever() -> None:
    words = ["export", "-o-0.5", "my store", "lerobot", "--outcome", "-- a note with dashes"]
    given = parser().parse_args(words)
    assert (given.offset, given.store, given.outcome) == (-0.5, "my store", "-- a note with dashes")
    assert parser().parse_args(["export", "--offset", "-3", "s", "hdf5"]).offset == -3.0
    assert parser().parse_args(["export", "--outcome=a=b", "--", "-s", "hdf5"]).store == "-s"


def test_arguments_between_options(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = Parser(prog="user up")
    mixed.add_argument("deployment")
    mixed.add_argument("arguments", nargs="*")
    mixed.add_argument("--runs")
    given = mixed.parse_intermixed_args(["sim", "a:=-1", "--runs", "r", "b:=2"])
    assert (given.deployment, given.arguments, given.runs) == ("sim", ["a:=-1", "b:=2"], "r")
    with pytest.raises(SystemExit):
        mixed.parse_intermixed_args(["sim", "--run", "r"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        mixed.parse_intermixed_args([])
    assert "required: deployment. " in capsys.readouterr().err, (
        "and none of which none may be given"
    )


def test_the_words_of_the_process_are_the_default() -> None:
    code = (
        "from user_core.command_line import Parser; p = Parser(prog='p'); "
        "p.add_argument('--seeds'); p.parse_args()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--seed", "1"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "p: no option '--seed'. Did you mean '--seeds'? 'p --help' lists what there is.\n"  # fmt: skip


def test_what_the_system_says_of_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("")
    tries = {
        "File exists, expected the name of a folder": lambda: file.mkdir(exist_ok=True),
        "Not a directory, expected a name in a folder": lambda: (file / "run").mkdir(),
        "No such file or directory, expected a name that is there": (tmp_path / "run").read_text,
        "Is a directory, expected a file": tmp_path.read_text,
        "File name too long, expected a shorter name": (tmp_path / ("x" * 999)).read_text,
    }
    for said, attempt in tries.items():
        with pytest.raises(OSError, match=said.partition(",")[0]) as caught:
            attempt()
        text = of_files(caught.value) or ""
        assert text.startswith(f"{tmp_path}") and said in text, text
        assert "test_command_line.py line" in text or "pathlib" in text
    assert of_files(OSError(5, "Input/output error")) is None
    assert of_files(BrokenPipeError()) is None


def test_one_of_something_is_one():
    said = [many(count, "step") for count in (0, 1, 2000, 1.0, 0.5)]
    assert said == ["0 steps", "1 step", "2,000 steps", "1 step", "0.5 steps"]
