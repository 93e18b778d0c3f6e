"""No page promises what is not there: files, commands with their options, deployments, executables."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from user_core.command_line import Parser

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "src/*/README.md", "examples/README.md")
    for page in ROOT.glob(pattern)
    if "generated" not in page.parts
)
# The change log names what is no more.
PRESENT = [page for page in PAGES if page != "CHANGELOG.md"]
_FOLDERS = "src|docs|tests|testing|benchmarks|examples|tools|config|launch|requirements"


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def code_of(page: str) -> Iterator[str]:
    """Lines of blocks of code, and what stands in backticks."""
    text = text_of(page)
    blocks = re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    rest = re.sub(r"^ *```.*?\n.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", rest):
        yield " ".join(span.split())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, heading = target.partition("#")
        if re.match(r"\w+:", target) or "generated/" in path:
            continue  # elsewhere, or made by `make docs`, which looks at such links
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (heading and heading not in anchors_of(file.resolve())):
            broken.append(target)
    assert not broken


@cache
def anchors_of(page: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    )


@pytest.mark.parametrize("page", PRESENT)
def test_files_that_are_named_exist(page: str) -> None:
    text = re.sub(r"\w+://\S+", "", text_of(page))
    named = re.findall(rf"(?<![\w/.\-])(?:{_FOLDERS})/[\w./\-]*\w", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PRESENT)
def test_commands_exist_with_their_options(page: str) -> None:
    wrong = []
    for line in code_of(page):
        # `user up: ...` is what it says.
        found = re.match(r"(?:\$ |tools/run |.*&& )?user ([a-z][a-z-]*\b(?!:).*)", line)
        if found and not is_command(found[1].partition(" #")[0]):
            wrong.append(line)
    assert not wrong


def is_command(line: str) -> bool:
    name, *words = shlex.split(line.replace("...", ""))
    if name in reference().GROUPS and words:
        checks = re.split(r"\\?\|", words[0])
        return words[0].isupper() or all(f"{name} {check}" in parsers() for check in checks)
    parser = parsers().get(name)
    if parser is None:
        return name in reference().GROUPS
    for word in words:
        if commands := commands_of(parser):
            names = re.split(r"\\?\|", word)
            if word.isupper() or word.startswith(("[", "-")):
                continue
            if any(one not in commands for one in names):
                return False
            parser = commands[names[0]]
        elif word.startswith("--") and word.partition("=")[0] not in parser._option_string_actions:
            return False
    return True


def test_the_overview_names_every_command() -> None:
    table = re.findall(r"^\| `(.+?)` \|", text_of("README.md"), re.MULTILINE)
    named = {line.split()[1] for line in table if line.startswith("user ")}
    assert {name.split()[0] for name in parsers()} - {"version"} == named


@cache
def parsers() -> dict[str, Parser]:
    return dict(reference().command_parsers())


def commands_of(parser: Parser) -> dict[str, Parser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_no_command_takes_an_abbreviated_option(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = [*parsers().values()]
    while waiting:
        parser = waiting.pop()
        waiting += commands_of(parser).values()
        assert isinstance(parser, Parser)
        options = {option for option in parser._option_string_actions if option.startswith("--")}
        for option in options:
            if (short := option[:-1]) in options or short == "--":
                continue
            with pytest.raises(SystemExit) as ended:
                parser.parse_args([short, "x"])
            assert ended.value.code == 2
            said = capsys.readouterr().err
            assert said.startswith(f"{parser.prog}: no option '{short}'. Did you mean '"), said
            assert option in said


@pytest.mark.parametrize("page", PRESENT)
def test_deployments_executables_and_targets_exist(page: str) -> None:
    wrong = []
    for line in code_of(page):
        for name in re.findall(r"user (?:up|chaos|soak) ([a-z]\w*)(?![\w.])", line):
            folder = "experiments" if "--fleet" in line else "deployments"
            wrong += [] if (ROOT / f"config/{folder}/{name}.yaml").is_file() else [line]
        for name in re.findall(r"ros2 launch user_bringup (\S+)", line):
            wrong += [] if (ROOT / "launch" / name).is_file() else [line]
        for package, program in re.findall(r"ros2 run (user_\w+) (\w+)", line):
            wrong += [] if program in programs_of(package) else [line]
        for target in re.findall(r"(?:^|&& )make ([a-z-]+)", line):
            wrong += [] if f"\n{target}:" in (ROOT / "Makefile").read_text() else [line]
    assert not wrong


def programs_of(package: str) -> set[str]:
    """Names of a package's executables, from its description for setuptools."""
    description = (ROOT / "src" / package / "setup.py").read_text()
    return set(re.findall(rf'"(\w+) = {package}\.nodes\.', description))


def test_the_reference_can_be_made_and_names_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    reference().write_pages(tmp_path)
    pages = tmp_path / "docs/reference/generated"
    commands = (pages / "commands.md").read_text()
    assert all(f"## user {name}\n" in commands for name in parsers())
    for point in entry_points(group="user.nodes"):
        assert (pages / f"parameters/{point.name}.md").read_text().count("\n| `") > 1
    assert "### TrajectoryChunk" in (pages / "messages.md").read_text()
    assert (
        "| `max_step_m` | number | `0.1` | m | > 0 |" in (pages / "plugins/robots.md").read_text()
    )
    deployments = (pages / "deployments.md").read_text()
    assert all(
        f"## {file.stem}\n" in deployments for file in (ROOT / "config/deployments").glob("*.yaml")
    )


@cache
def reference() -> ModuleType:
    """The module by which `make docs` makes the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/_site"))
        import generated_reference
    return generated_reference


def test_the_architecture_lists_every_folder() -> None:
    listed = re.findall(r"`([\w/.]+)`", text_of("ARCHITECTURE.md"))
    folders = [
        f"{folder.name}/"
        for package in ROOT.glob("src/user_*/user_*")
        for folder in package.iterdir()
        if folder.is_dir() and any(folder.glob("*.py"))
    ]
    assert [folder for folder in folders if folder not in listed] == []
