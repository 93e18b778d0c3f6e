"""Jobs of engines that own GPUs: Slurm, Ray, Kubernetes, torchrun, or processes of this machine.

An engine decides where and when a job runs. We tell it what to run, ask how it is, read what it printed, and cancel it:
four calls, so that a new engine is a class of a hundred lines, registered in the entry-point group ``user.engines``.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.reasons import NO_REASON, Reason

#: ``waiting``: for the engine. ``running``. ``done``: ended well. ``failed``: ended otherwise.
#: ``cancelled``: somebody has ended it. ``gone``: the engine knows nothing of it (any more).
Phase = Literal["waiting", "running", "done", "failed", "cancelled", "gone"]
#: Phases after which nothing comes.
OVER: frozenset[str] = frozenset(("done", "failed", "cancelled", "gone"))


@dataclass(frozen=True)
class Job:
    """What an engine is to run.

    Attributes:
        name: For people and for the engine's lists: letters, digits, ``_ . -``.
        command: The program and its arguments.
        folder: For what belongs to the job; the engine's nodes see it too, where they share a disk.
        variables: Environment variables beside those that the engine gives.
        resources: Of what it was granted: ``gpus`` and ``cores``, counts; ``memory_bytes``.
    """

    name: str
    command: Sequence[str]
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class JobState:
    """How a job is.

    Attributes:
        phase: Where it is.
        reason: Why it waits, failed or is gone, in the engine's words.
        where: Node on which it runs, as far as the engine tells.
    """

    phase: Phase
    reason: Reason = NO_REASON
    where: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing comes after this."""
        return self.phase in OVER


class EngineConfig(Config):
    """What every engine can be told."""

    setup: str = setting(
        "",
        doc="Lines of shell before the command, for instance `source ~/user/install/setup.bash`.",
    )
    environment: dict[str, str] = setting(factory=dict, doc="Environment variables of the job.")
    program: str = setting(
        "", doc="The command `user` on the engine's nodes; empty: as it is found here."
    )
    runs: str = setting(
        "", doc="Folder of runs on the engine's nodes; empty: the same as that of the host."
    )
    ranks: int = setting(1, doc="Processes over which the learner is spread.", ge=1)
    patience_s: float = setting(
        120.0, doc="The job counts as lost when the engine has not answered for this long.",
        unit="s", gt=0,
    )  # fmt: skip
    look_s: float = setting(1.0, doc="Time between two questions to the engine.", unit="s", gt=0)

    def validate(self) -> None:
        one_rank_only("ranks", self.ranks)


def one_rank_only(key: str, ranks: int) -> None:
    """Raise ConfigError where an engine would start several processes of a learner, which starts them itself."""
    if ranks != 1:
        raise ConfigError(
            key, got=ranks, expected="1: to an engine a learner is one process",
            hint="It starts the processes of one host itself: gpus:=4 among the arguments of the run trains on four GPUs",
        )  # fmt: skip


class Engine(ABC):
    """Runs jobs. Calls may block for seconds; all come from one thread.

    What is wrong with a job or with what was asked for raises EngineError; an engine that cannot be reached raises
    EngineSilent, and is asked again.
    """

    Config: ClassVar[type[EngineConfig]] = EngineConfig
    #: How long after its end the last words of a job may come.
    logs_late_s: ClassVar[float] = 0.0

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def submit(self, job: Job) -> str:
        """Hand a job over; returns what the engine calls it, which another process may use, too."""

    @abstractmethod
    def state(self, number: str) -> JobState:
        """How a job is."""

    @abstractmethod
    def cancel(self, number: str) -> None:
        """Ask for the end of a job, like Ctrl-C; :meth:`state` tells when it has ended. Idempotent."""

    @abstractmethod
    def logs(self, number: str, offset: int = 0) -> bytes:
        """What the job has printed, from this byte on; empty where there is no more."""

    def script(self, job: Job) -> str:
        """A job as lines of shell: the set-up, variables, and the command."""
        variables = {**job.variables, **self.config.environment}
        lines = [self.config.setup] if self.config.setup else []
        lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        return "\n".join([*lines, f"exec {shlex.join(job.command)}"])
