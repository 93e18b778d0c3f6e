"""Answers of a policy elsewhere: which row of which one is carried out in which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from user_core.specs import Array


@dataclass(frozen=True)
class Answer:
    """What the policy elsewhere proposes.

    Attributes:
        rows_ta: Row i is for the i-th step after the observation that it answers, (T, A).
        step: The step in which that observation was asked about.
        version: Policy version; 0: the policy's first weights.
    """

    rows_ta: Array
    step: int
    version: int


class Handover(NamedTuple):
    """Rows for the robot: all of an answer that is not over yet.

    Attributes:
        rows_ta: The rows, (T, A).
        first_step: The step in which the first of them is carried out.
        version: Policy version.
    """

    rows_ta: Array
    first_step: int
    version: int


class Planned(NamedTuple):
    """A row that the robot carries out in a step.

    Attributes:
        action: The row, (A,).
        row: Its place in the chunk in which it was sent.
        sequence: Number of that chunk.
        version: Policy version.
    """

    action: Array
    row: int
    sequence: int
    version: int


@dataclass(frozen=True)
class _Sent:
    handover: Handover
    sequence: int

    @property
    def last_step(self) -> int:
        return self.handover.first_step + len(self.handover.rows_ta) - 1


class RemotePlans:
    """Keeps account of what the robot plays. Pure; steps are those of the control loop's grid.

    An answer is late: the observation that it answers was seen some steps ago. So its first rows
    are over, and those that are left take over in the next step, while what is played goes on
    until then. Where nothing is played they begin in this step, and, if the robot has stood still
    since that observation, from the first row on, for then nothing has changed meanwhile.

    Attributes:
        stale: Answers that were over when they came.
    """

    def __init__(self) -> None:
        self.stale = 0
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing is played."""
        self._current: _Sent | None = None
        self._next: _Sent | None = None
        self._moved_until = -1

    def interrupt(self, step: int) -> None:
        """Somebody else drives in this step: what was planned is over."""
        self._current = self._next = None
        self._moved_until = step

    def row(self, step: int) -> Planned | None:
        """What is carried out in this step; None: nothing. Steps never go back."""
        if self._next is not None and step >= self._next.handover.first_step:
            self._current, self._next = self._next, None
        if self._current is None:
            return None
        (rows_ta, first_step, version), sequence = self._current.handover, self._current.sequence
        self._moved_until = max(self._moved_until, min(step, self._current.last_step))
        row = step - first_step
        if row >= len(rows_ta):
            return None
        return Planned(rows_ta[row], row, sequence, version)

    def handover(self, answer: Answer, step: int) -> Handover | None:
        """What to send of an answer that has come in this step; None: all of it is over."""
        first_step = step if self.row(step) is None else step + 1
        skipped = first_step - answer.step
        if first_step == step and self._moved_until < answer.step:
            skipped = 0
        if skipped >= len(answer.rows_ta):
            self.stale += 1
            return None
        return Handover(answer.rows_ta[skipped:], first_step, answer.version)

    def sent(self, handover: Handover, sequence: int, step: int) -> None:
        """It was sent, under this number."""
        if handover.first_step > step:
            self._next = _Sent(handover, sequence)
        else:
            self._current, self._next = _Sent(handover, sequence), None
