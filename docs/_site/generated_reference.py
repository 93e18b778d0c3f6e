"""Sphinx extension: writes the pages of the reference that are made from the code.

They are written to ``docs/reference/generated`` before pages are read, and only where they have
changed, so that a second build is quick. That folder is not kept in git.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import yaml
from config_tables import config_table, first_sentence, markdown_of, plain_text

from user_core.command_line import Parser
from user_fleet.deployment import Argument, load_deployment, start_order

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "docs/reference/generated"

#: Kind of plugin, to what its page is called.
KINDS = {
    "robots": "Robots",
    "cameras": "Cameras",
    "teleops": "Teleoperation",
    "policies": "Policies",
    "rewards": "Rewards",
    "goal_rewards": "Goal rewards",
    "algorithms": "Algorithms",
    "engines": "Engines of jobs",
}

#: Modules whose public classes and functions have a page: those that a plugin's author, or who
#: writes a program of his own with the packages, imports.
PUBLIC_MODULES = {
    "user_core": [
        "user_core.interfaces", "user_core.specs", "user_core.types", "user_core.config",
        "user_core.plugins", "user_core.errors", "user_core.reasons", "user_core.conformance",
        "user_core.jobs", "user_core.policies", "user_core.rewards", "user_core.codecs",
    ],
    "user_comm": ["user_comm.topics", "user_comm.lifecycle", "user_comm.converters"],
    "user_hal": ["user_hal.robot_file", "user_hal.runtime", "user_hal.topic_io"],
    "user_actor": ["user_actor.loop", "user_actor.outbox"],
    "user_learner": ["user_learner.learner", "user_learner.replay", "user_learner.algorithms",
                     "user_learner.training"],
    "user_fleet": ["user_fleet.deployment", "user_fleet.supervisor"],
}  # fmt: skip


def write_pages(root: Path) -> None:
    """Write all generated pages below ``root``, the repository."""
    pages = {
        **_parameter_pages(),
        **_plugin_pages(),
        "messages.md": _messages(root),
        "commands.md": _commands(),
        "deployments.md": _deployments(root),
        **_api_pages(),
    }
    folder = root / FOLDER
    for name, text in pages.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)
    for file in folder.rglob("*.md"):
        if file.relative_to(folder).as_posix() not in pages:
            file.unlink()


# --- parameters ---


def _parameter_pages() -> dict[str, str]:
    pages, lines = {}, []
    for point in sorted(entry_points(group="user.nodes"), key=lambda point: point.name):
        config = point.load()
        package = point.module.partition(".")[0]
        pages[f"parameters/{point.name}.md"] = "\n".join([
            f"# Parameters of `{point.name}`", "",
            f"Executable of the package `{package}`, configured by "
            f"`{config.__module__}.{config.__qualname__}`.", "",
            markdown_of(config.__doc__), "",
            config_table(config),
        ])  # fmt: skip
        lines.append(f"| [`{point.name}`](parameters/{point.name}.md) | `{package}` "
                     f"| {first_sentence(config)} |")  # fmt: skip
    pages["parameters.md"] = _with_pages(
        "Parameters of nodes",
        "Every parameter of every executable. In a deployment they stand under `parameters` of the "
        "process; on a command line they are `process.path.to.key:=value`.",
        ["| executable | package | what it configures |", "| --- | --- | --- |", *lines],
        list(pages),
    )
    return pages


# --- plugins ---


def _plugin_pages() -> dict[str, str]:
    pages = {}
    for kind, title in KINDS.items():
        text = [f"# {title}", "", f"Entry-point group `user.{kind}`.", ""]
        for point in sorted(entry_points(group=f"user.{kind}"), key=lambda point: point.name):
            plugin = point.load()
            text += [
                f"## {point.name}",
                "",
                f"`{point.value}`",
                "",
                markdown_of(plugin.__doc__),
                "",
            ]
            text += [config_table(plugin.Config), ""]
        pages[f"plugins/{kind}.md"] = "\n".join(text)
    pages["plugins.md"] = _with_pages(
        "Plugins and their parameters",
        "A plugin is chosen by `{plugin: NAME, params: {...}}`. These come with USER; those of other "
        "packages register in the same way.",
        [], list(pages),
    )  # fmt: skip
    return pages


# --- messages and services ---


def _messages(root: Path) -> str:
    text = ["# Messages and services", "", "Interfaces of the package `user_msgs`.", ""]
    for folder, title in (("msg", "Messages"), ("srv", "Services")):
        text += [f"## {title}", ""]
        for file in sorted((root / "src/user_msgs" / folder).glob(f"*.{folder}")):
            text += [f"### {file.stem}", "", *_interface(file.read_text()), ""]
    return "\n".join(text)


def _interface(text: str) -> Iterator[str]:
    """One message or service: its introduction and a table of fields for each part."""
    introduction, body = _leading_comment(text.splitlines())
    yield introduction
    parts: list[list[str]] = [[]]
    for line in body:
        if line.strip() == "---":
            parts.append([])
        else:
            parts[-1].append(line)
    for part, title in zip(parts, ("Request", "Answer"), strict=False):
        yield ""
        if len(parts) > 1:
            yield f"**{title}**"
            yield ""
        yield from _fields(part)


def _leading_comment(lines: Sequence[str]) -> tuple[str, Sequence[str]]:
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:count]), lines[count:]


def _fields(lines: Sequence[str]) -> Iterator[str]:
    rows: list[list[str]] = []
    heading = ""
    for line in lines:
        code, _, comment = (part.strip() for part in line.partition("#"))
        if not code and comment:
            if line[:1] in " \t" and rows:  # goes on with the comment of the field above
                rows[-1][2] += f" {plain_text(comment)}"
            else:
                heading = f"{heading} {comment}".strip()
        elif code:
            kind, _, name = code.partition(" ")
            rows.append([f"`{name.strip()}`", f"`{kind}`", _joined(heading, plain_text(comment))])
            heading = ""
    if not rows:
        yield "No fields."
        return
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _joined(heading: str, comment: str) -> str:
    return f"*{heading.rstrip('.')}.* {comment}" if heading else comment


# --- commands ---


class _Parser(Exception):
    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


#: Commands whose own commands are entry points, too, by the group of these.
GROUPS = {"check": "user.checks"}


def _commands() -> str:
    text = ["# The command `user`", "",
            "`user COMMAND --help` says the same. Commands of other packages register in the "
            "entry-point group `user.commands`, checks of `user check` in `user.checks`.", ""]  # fmt: skip
    for name, parser in command_parsers().items():
        text += [f"## user {name}", "", *_help(parser, f"user {name}", 3)]
    return "\n".join(text)


def command_parsers() -> dict[str, Parser]:
    """Every command of `user`, as ``demos`` or ``check robot``, with its parser."""
    parsers = {}
    for point in entry_points(group="user.commands"):
        if point.name in GROUPS:
            for inner in entry_points(group=GROUPS[point.name]):
                parsers[f"{point.name} {inner.name}"] = parser_of(inner.load())
        else:
            parsers[point.name] = parser_of(point.load())
    return dict(sorted(parsers.items()))


def parser_of(main: Callable[[Sequence[str]], int]) -> Parser:
    """The parser that a command's main function makes: caught when it is used."""

    def catch(parser: Parser, *_: Any, **__: Any) -> Any:
        raise _Parser(parser)

    names = (
        "parse_args",
        "parse_known_args",
        "parse_intermixed_args",
        "parse_known_intermixed_args",
    )
    with mock.patch.multiple(Parser, **dict.fromkeys(names, catch)):
        try:
            main([])
        except _Parser as caught:
            return caught.parser
    raise RuntimeError(f"{main.__module__} does not parse its words by argparse")


def _help(parser: Parser, prog: str, depth: int) -> list[str]:
    text = [*_prose(parser.description), "", "```text", parser.format_usage().strip(), "```", ""]
    rows, commands = [], {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = dict(action.choices)
        elif not isinstance(action, argparse._HelpAction):
            rows.append(f"| {_option(action)} | {_meaning(action)} |")
    if rows:
        text += ["| argument | meaning |", "| --- | --- |", *rows, ""]
    text += [*_prose(parser.epilog), ""]
    for name, inner in commands.items():
        text += [f"{'#' * depth} {prog} {name}", ""]
        text += _help(inner, f"{prog} {name}", min(depth + 1, 5))
    return text


def _prose(text: str | None) -> list[str]:
    """A description for people, with its layout where it has one."""
    if not text:
        return []
    text = inspect.cleandoc(text)
    if re.search(r"^[ \t]+\S", text, re.MULTILINE):
        return ["```text", text, "```"]
    return [markdown_of(text)]


def _option(action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" {action.metavar or action.dest.upper()}"
        if isinstance(action.metavar, tuple):
            value = " " + " ".join(action.metavar)
    return ", ".join(f"`{name}{value}`" for name in names)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    text = plain_text(text)
    if action.choices:
        text += f" One of {', '.join(f'`{choice}`' for choice in action.choices)}."
    default = action.default
    if (
        default not in (None, False, "", argparse.SUPPRESS)
        and "default" not in text
        and action.nargs != 0
    ):
        text += f" (default: `{default}`)"
    return text.strip()


# --- deployments ---


def _deployments(root: Path) -> str:
    config = root / "src/user_bringup/config"
    text = ["# Deployments", "",
            "What `user up NAME` runs, and `ros2 launch user_bringup NAME.launch.py` for those that have a "
            "launch file. Arguments are given as `name:=value`, any parameter of any process as "
            "`process.path.to.key:=value`. `user up NAME --explain` shows what that makes of each process, "
            "and where each value comes from.", ""]  # fmt: skip
    for file in sorted((config / "deployments").glob("*.yaml")):
        deployment = load_deployment(file, variables={"run_dir": "RUN"})
        text += [f"## {file.stem}", "", plain_text(deployment.description), "",
                 f"Written down in [{file.name}](../../../{file.relative_to(root)}).", "",
                 *_arguments(deployment.arguments), "", "| process | package | executable |", "| --- | --- | --- |",
                 *(f"| `{p.namespace}/{p.name}` | `{p.package}` | `{p.executable}` |"
                   for p in start_order(deployment.processes)), ""]  # fmt: skip
    text += ["## Fragments", "",
             "Roles of robots and hosts, of which a deployment is composed: each is a file of "
             "[config/fragments](../../../src/user_bringup/config/fragments).", "",
             "| role | extends | what it is |", "| --- | --- | --- |"]  # fmt: skip
    for file in sorted((config / "fragments").glob("*.yaml")):
        fragment = yaml.safe_load(file.read_text())
        base = ", ".join(f"`{name}`" for name in fragment.get("extends", []))
        text.append(f"| `{file.stem}` | {base} | {plain_text(fragment['description'])} |")
    return "\n".join([*text, ""])


def _arguments(arguments: Mapping[str, Argument]) -> Iterator[str]:
    if not arguments:
        yield "It has no arguments."
        return
    yield "| argument | default | meaning |"
    yield "| --- | --- | --- |"
    for name, argument in sorted(arguments.items()):
        default = "" if argument.default == "" else f"`{json.dumps(argument.default)}`"
        meaning = plain_text(argument.doc)
        if argument.choices:
            meaning += f" One of {', '.join(f'`{choice}`' for choice in argument.choices)}."
        yield f"| `{name}` | {default} | {meaning} |"


# --- public classes ---


def _api_pages() -> dict[str, str]:
    pages: dict[str, str] = {}
    for package, modules in PUBLIC_MODULES.items():
        text = [f"# {package}", ""]
        for name in modules:
            text += _module_text(importlib.import_module(name))
        pages[f"api/{package}.md"] = "\n".join(text)
    pages["api.md"] = _with_pages(
        "Public classes",
        "For authors of plugins and of programs with the packages.",
        [],
        list(pages),
    )
    return pages


def _module_text(module: ModuleType) -> list[str]:
    """A module's own page part; of a package, its modules one by one."""
    text = [
        f"## {module.__name__}",
        "",
        *_automodule(module.__name__, members=not hasattr(module, "__path__")),
    ]
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.name.startswith("_") and not info.ispkg:
            name = f"{module.__name__}.{info.name}"
            text += [f"### {name}", "", *_automodule(name, members=True)]
    return text


def _automodule(name: str, *, members: bool) -> list[str]:
    options = [] if members else [":no-members:"]
    return [
        "```{eval-rst}",
        f".. automodule:: {name}",
        *(f"   {option}" for option in options),
        "```",
        "",
    ]


def _with_pages(title: str, text: str, lines: Sequence[str], pages: Sequence[str]) -> str:
    toctree = ["```{toctree}", ":maxdepth: 1", "", *pages, "```", ""]
    return "\n".join([f"# {title}", "", text, "", *lines, "", *toctree])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    return {"version": "1", "parallel_read_safe": True}
