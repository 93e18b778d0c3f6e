"""What a robot is to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task, as a policy is told of it at the start of an episode.

    Attributes:
        name: Short and stable, for files and statistics, such as ``pick_cube``.
        instruction: The task in words, for policies that read, such as "put the red cube into
            the bowl". Empty where nobody wrote one.
    """

    name: str = ""
    instruction: str = ""
