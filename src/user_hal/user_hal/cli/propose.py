"""``user robots propose``: a first contract from a running ROS graph."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from user_core.command_line import Parser
from user_core.config import from_mapping
from user_core.errors import ConfigError, SuiteError
from user_hal.proposing.draft import draft_of
from user_hal.proposing.questions import Draft, Question
from user_hal.proposing.survey import Survey, survey
from user_hal.proposing.writing import to_yaml
from user_hal.robot_description import parse_urdf
from user_hal.robot_file import RobotFile, build_robot
from user_hal.topic_io import TopicIo

HEAD = """yaml-language-server: $schema=schemas/robot.schema.json
Proposed by `user robots propose` from the running ROS graph. Read it, answer what is marked TODO,
then:  user check robot {file} --no-motion"""


def add_arguments(parser: Parser) -> None:
    """The arguments of the command."""
    parser.add_argument("--urdf", type=Path, metavar="FILE", help="robot description; without it that of the topic robot_description")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write the contract (default: the terminal)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--robot", default="", help="kind of robot (default: as in the URDF)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long messages are waited for (default: 2)")  # fmt: skip
    parser.add_argument("--no-questions", action="store_true", help="ask nothing; write TODO instead")  # fmt: skip


def propose(args: argparse.Namespace, io: TopicIo, console: Console) -> int:
    """Write a contract; 0: it fits together, 1: it does not yet.

    Raises:
        ConfigError: The URDF or the output cannot be used, or no robot was found.
    """
    if args.output is not None and args.output.exists() and not args.force:
        raise ConfigError(f"{args.output}", got="a file that is there", expected="--force, or another name")  # fmt: skip
    description = ""
    if args.urdf is not None:
        try:
            description = args.urdf.read_text(encoding="utf-8")
            parse_urdf(description)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--urdf", got=str(error), expected="a file") from error
        except ConfigError as error:
            what = f"--urdf {args.urdf}"
            raise ConfigError(
                what, got=error.got, expected=error.expected, hint=error.hint
            ) from error
    found = survey(io, args.seconds, description)
    talk = Console(stderr=True) if args.output is None else console
    asks = not args.no_questions and sys.stdin.isatty()
    _tell(found, talk)
    draft = draft_of(found, _asker(talk) if asks else lambda question: None, args.robot)
    wrong = _fault(draft)
    text = to_yaml(draft.data, draft.comments, HEAD.format(file=args.output or "robot.yaml"))
    if wrong:
        text = f"# TODO: this does not fit together yet: {' '.join(wrong.split())}\n{text}"
    if args.output is None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
    else:
        args.output.write_text(text, encoding="utf-8")
    _conclude(draft, wrong, args.output, talk)
    return 1 if wrong else 0


def _tell(found: Survey, console: Console) -> None:
    joints = ", ".join(f"{topic} ({len(sample.names)} joints)" for topic, sample in found.joints.items())  # fmt: skip
    console.print(f"joint states: {escape(joints or 'none')}", highlight=False)
    for item in found.controllers:
        console.print(f"controller: {escape(item.name)} ({item.state})", highlight=False)
    known = "yes" if found.description else "none"
    console.print(f"robot description: {known}", highlight=False)


def _asker(console: Console) -> Any:
    def ask(question: Question) -> Any:
        console.print(f"\n[bold]{escape(question.text)}[/]  [dim]{escape(question.path)}[/]")
        for number, choice in enumerate(question.choices, 1):
            console.print(f"  {number}  {escape(choice)}", highlight=False)
        shown = yaml.safe_dump(question.default, default_flow_style=True).splitlines()[0]
        answer = console.input(f"\\[{escape(shown)}] (Enter: this, and mark it TODO) ").strip()
        if not answer:
            return None
        if question.choices and answer.isdigit() and 1 <= int(answer) <= len(question.choices):
            return question.choices[int(answer) - 1]
        if question.choices and answer not in question.choices:
            console.print("[yellow]none of these; marked TODO[/]")
            return None
        try:
            return yaml.safe_load(answer)
        except yaml.YAMLError:
            return answer

    return ask


def _fault(draft: Draft) -> str:
    """Why the contract is refused; empty where it is not."""
    try:
        build_robot(from_mapping(RobotFile, draft.data)).close()
    except SuiteError as error:
        return str(error)
    return ""


def _conclude(draft: Draft, wrong: str, output: Path | None, console: Console) -> None:
    if wrong:
        console.print(f"[yellow]It does not fit together yet:[/] {escape(wrong)}", soft_wrap=True)
    for question in draft.open:
        console.print(f"[yellow]TODO[/] {escape(question.path)}: {escape(question.text)}", soft_wrap=True, highlight=False)  # fmt: skip
    if output is not None:
        console.print(f"Written to {output}. Then: user check robot {output} --no-motion", soft_wrap=True, highlight=False)  # fmt: skip
