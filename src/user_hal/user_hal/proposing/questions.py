"""What must be asked, and the draft that the answers go into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Path of a contract in a robot's file.
PARAMS = "robot.params"


@dataclass(frozen=True)
class Question:
    """Something that a person knows, and the graph does not.

    Attributes:
        path: Key of the contract that it is about.
        text: The question, one sentence.
        default: What is taken without an answer.
        choices: What can be chosen; empty: anything.
    """

    path: str
    text: str
    default: Any
    choices: tuple[str, ...] = ()


#: Gives the answer, or None where nobody answers.
Ask = Callable[[Question], Any]


@dataclass
class Draft:
    """A contract that wants to be read.

    Attributes:
        data: The content of the robot's file.
        comments: Above keys, by their paths.
        open: Questions that nobody answered.
        person: Asks a person.
    """

    data: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)
    open: list[Question] = field(default_factory=list)
    person: Ask = lambda question: None

    def ask(self, path: str, text: str, default: Any, choices: Sequence[str] = ()) -> Any:
        """The answer of a person; without one the default, marked TODO."""
        question = Question(path, text, default, tuple(choices))
        answer = self.person(question)
        if answer is not None:
            return answer
        self.open.append(question)
        others = [choice for choice in choices if choice != default]
        also = f" Others: {', '.join(others)}" if others else ""
        self.comment(path, f"TODO: {text}{also}")
        return default

    def comment(self, path: str, text: str) -> None:
        """Write a line above a key."""
        self.comments.setdefault(path, []).append(text)
