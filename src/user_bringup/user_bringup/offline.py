"""Offline training: the learner of a running system, on stored data, without robots.

The folder of a training looks like that of a run as far as its learner goes (``learner/`` with checkpoints, newest
policy and curves for TensorBoard; ``history.jsonl``), so that a run can begin with it (``start_from``), and so that
the same command, given again, goes on where it was left.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from user_bringup.evaluation import Evaluation, evaluate
from user_bringup.local_robot import LocalRobot, overlaid
from user_bringup.monitor.history import History
from user_bringup.monitor.shares import Share
from user_core.codecs.weights import encode_version, read_version
from user_core.config import (
    from_mapping,
    load_yaml,
    to_mapping,
)
from user_core.errors import ConfigError, SuiteError
from user_core.interfaces import Policy, Reward
from user_core.runtime.files import write_atomically
from user_core.specs import RobotSpec
from user_core.types import PolicyVersion
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks import Ranks
from user_learner.replay.meaning import SPEC_NAME, find_meaning, read_meaning
from user_learner.training.loop import TrainingLoop
from user_learner.training.progress import Progress
from user_learner.training.publishing import POLICY_FILE

CONFIG_FILE, HISTORY_FILE, BEST_FILE = "train.yaml", "history.jsonl", "best.safetensors"
_LOOK_S = 0.1
#: Whatever robots would have to collect first: here all data are there.
_OFFLINE = {"utd": {"target": None, "learning_starts": 0, "initial_updates": 0}}


def config_of(
    algorithm: Path, stores: Sequence[Path], folder: Path, changes: Mapping[str, Any]
) -> LearnerConfig:
    """The learner's configuration: an algorithm's file, on these stores, with ``changes`` on top.

    Raises ConfigError.
    """
    given = overlaid(load_yaml(algorithm), changes)
    given = overlaid(given, {"training": _OFFLINE})
    history = [*given.pop("history", []), *({"path": str(store)} for store in stores[1:])]
    given.update(directory=str(folder / "learner"), store=str(stores[0]), history=history)
    return from_mapping(LearnerConfig, given, "learner")


def spec_of_store(store: Path) -> RobotSpec:
    """The robot that a store's data are from. Raises ConfigError where nobody knows it."""
    meaning = read_meaning(store)
    if meaning.spec is None:
        raise ConfigError(
            f"robot of {store}", got=f"meaning {meaning.known_from}", expected="a robot that is known",
            hint="Name the robot: --robot FILE",
        )  # fmt: skip
    return meaning.spec


def policy_of_training(folder: Path, file: Path | None = None) -> tuple[Policy, int]:
    """The newest policy of a training with its weights, and its number.

    Args:
        folder: What :class:`OfflineTraining` wrote.
        file: The policy file, where it is another one (:data:`BEST_FILE` of the folder, for instance).

    Raises:
        SuiteError: There is none, or it is of another configuration.
    """
    config = from_mapping(LearnerConfig, load_yaml(folder / CONFIG_FILE), "learner")
    hint = "" if file else "The training ended before its first version"
    file = file or folder / "learner" / POLICY_FILE
    if not file.is_file():
        raise SuiteError(f"no policy {file}", expected="a file of weights", hint=hint)
    kept = folder / "learner" / SPEC_NAME
    # without it: a training of before
    spec = find_meaning(kept) if kept.exists() else spec_of_store(Path(config.store))
    version = read_version(file)
    policy: Policy = config.policy.build("policies", spec, path="policy")
    policy.load(version.arrays)
    return policy, version.number


class Newest:
    """Keeps the newest policy version: what would go to robots."""

    def __init__(self) -> None:
        self.version: PolicyVersion | None = None

    def publish(self, version: PolicyVersion) -> None:
        """See :class:`~user_core.interfaces.PolicySink`."""
        self.version = version


@dataclass
class Trained:
    """How a training went.

    Attributes:
        update: Gradient updates made in all.
        metrics: The last means of the algorithm's metrics.
        evaluations: Each evaluation, by the update of its policy.
    """

    update: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)

    @property
    def best(self) -> int | None:
        """Update of the policy that did best; of several the newest."""
        ranked = [(solved(e).rate, n) for n, e in self.evaluations.items() if solved(e).count]
        return max(ranked)[1] if ranked else None


def solved(result: Evaluation) -> Share:
    """Successes of a policy; what the safety gate ended counts as none, since nobody else ends an episode here."""
    return Share(result.successes, result.episodes - result.unknown)


@dataclass(frozen=True)
class Evaluator:
    """Tries policies on a simulated robot.

    Attributes:
        robot: It.
        reward: Judges success.
        episodes: Of one evaluation.
        every: Updates between two; 0: only at the end.
        arguments: More for :func:`~user_bringup.evaluation.evaluate`.
    """

    robot: LocalRobot
    reward: Reward
    episodes: int
    every: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, config: LearnerConfig, spec: RobotSpec, version: PolicyVersion
    ) -> Evaluation:
        """Deterministic episodes from starts that are the same every time."""
        policy = config.policy.build("policies", spec, path="policy")
        policy.load(version.arrays)
        return evaluate(
            self.robot, policy, self.reward, episodes=self.episodes, policy_version=version.number,
            **self.arguments,
        )  # fmt: skip


class OfflineTraining:
    """One training, from its folder.

    Args:
        folder: Of the training; made when it is not there.
        config: What to learn, see :func:`config_of`.
        spec: The robot that it is for.
        evaluator: Tries policies; None: nobody does.
        on_progress: Called with each progress.
        on_evaluation: Called with the update, and what came of it.
    """

    def __init__(
        self,
        folder: Path,
        config: LearnerConfig,
        spec: RobotSpec,
        evaluator: Evaluator | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_evaluation: Callable[[int, Evaluation], None] = lambda update, evaluation: None,
    ) -> None:
        self.folder, self.config, self.spec = folder, config, spec
        self._evaluator, self._on_progress, self._on_evaluation = (
            evaluator, on_progress, on_evaluation,
        )  # fmt: skip
        self.trained = Trained()
        self._sink = Newest()

    def run(self, limit_s: float | None = None) -> Trained:
        """Train until all updates are made, or for ``limit_s`` seconds; then evaluate.

        Whatever ends it (Ctrl-C too), a checkpoint is kept.

        Raises:
            SuiteError: Data or configuration are wrong, or the training failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(to_mapping(self.config), sort_keys=False)
        write_atomically(self.folder / CONFIG_FILE, text, durable=False)
        kept = self.folder / "learner" / SPEC_NAME  # where the learner of a run keeps it, too
        kept.parent.mkdir(exist_ok=True)
        write_atomically(kept, json.dumps(self.spec.to_dict(), indent=1), durable=False)
        with closing(History(self.folder / HISTORY_FILE)) as self._history:
            ranks = Ranks(self.config, self.spec, lambda error: None)
            with ranks, open_learner(ranks.config, self.spec, self._sink, self._report) as loop:
                with _running(loop) as thread:
                    self._attend(loop, thread, limit_s)
                if thread.failure is not None:
                    raise ranks.why_ended(thread.failure)
                ended = loop.progress()
                self._report(ended)
                self.trained.update = ended.update
            self._report_evaluation()
        return self.trained

    def _attend(self, loop: TrainingLoop, thread: _Training, limit_s: float | None) -> None:
        """Beside the training thread: evaluate when it is time, and end it when it is."""
        begin_s, every = time.monotonic(), self._evaluator.every if self._evaluator else 0
        due = (loop.progress().update // every + 1) * every if every else 0
        while thread.is_alive():
            if limit_s is not None and time.monotonic() - begin_s >= limit_s:
                loop.stop()
            if every and loop.progress().update >= due:
                due += every
                loop.pause()
                loop.keep_now()
                _wait(lambda: self._version_of(loop) or not thread.is_alive())
                self._report_evaluation()
                loop.proceed()
            time.sleep(_LOOK_S)

    def _version_of(self, loop: TrainingLoop) -> bool:
        """Whether the policy of the present update is here."""
        version = self._sink.version
        return version is not None and version.update >= loop.progress().update

    def _report_evaluation(self) -> None:
        """Evaluate the newest policy, unless that was done."""
        version, evaluator = self._sink.version, self._evaluator
        if version is None or evaluator is None or version.update in self.trained.evaluations:
            return
        result = evaluator(self.config, self.spec, version)
        self.trained.evaluations[version.update] = result
        if self.trained.best == version.update:
            write_atomically(self.folder / BEST_FILE, encode_version(version))
        self._history.write(
            "trial", update=version.update, episodes=solved(result).count,
            successes=result.successes, mean_return=result.mean_return,
        )  # fmt: skip
        self._on_evaluation(version.update, result)

    def _report(self, progress: Progress) -> None:
        self.trained.metrics = dict(progress.metrics)
        self._history.write(
            "state", update=progress.update, updates_per_s=progress.updates_per_s,
            data_wait_share=progress.data_wait_share, policy_version=progress.policy_version,
            metrics=dict(progress.metrics),
        )  # fmt: skip
        self._on_progress(progress)


class _Training(threading.Thread):
    """Trains; ``failure`` is what it raised."""

    def __init__(self, loop: TrainingLoop) -> None:
        super().__init__(name="training", daemon=True)
        self._loop = loop
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:  # told by who waits
            self.failure = error


@contextmanager
def _running(loop: TrainingLoop) -> Iterator[_Training]:
    """Train in a thread of its own, which ends with the ``with`` block."""
    thread = _Training(loop)
    thread.start()
    try:
        yield thread
    finally:
        loop.stop()
        thread.join()


def _wait(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(_LOOK_S)
