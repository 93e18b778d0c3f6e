"""The training loop: draw, update, publish, keep; never waiting for anything but data."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from user_core.codecs.states import flatten
from user_core.errors import ConfigError, SuiteError
from user_core.interfaces import Algorithm, PolicySink, TransitionSource
from user_core.reasons import (
    ALL_UPDATES,
    CHECKPOINT_REFUSED,
    CHECKPOINT_WRITE,
    FEW_STEPS,
    LEARNER_SLOW,
    NO_DATA,
    NO_REASON,
    POLICY_PUBLISH,
    REQUESTED,
    TRAINING_DIVERGED,
    UPDATE_RATIO,
    UPDATE_SKIPPED,
    Lately,
    Reason,
)
from user_core.runtime.scheduling import cores
from user_core.specs import Array
from user_core.types import LARGEST_REWARD, Batch, PolicyVersion
from user_learner.training.background import LatestWorker
from user_learner.training.batch_feed import BatchFeed, Drawn
from user_learner.training.checkpoint import (
    CHECKPOINTS,
    SHARDS,
    Checkpoint,
    CheckpointInfo,
    CheckpointStore,
)
from user_learner.training.config import TrainingConfig
from user_learner.training.memory import is_short_of_memory, too_large
from user_learner.training.progress import LearnerState, Means, Progress, Rate
from user_learner.training.publishing import (
    PolicyPublisher,
    Snapshots,
    VersionCounter,
    Weights,
)
from user_learner.training.utd import UtdLimiter

if TYPE_CHECKING:  # with torch
    from torch import Tensor

    from user_learner.training.shards import ShardStore

#: A checkpoint, and this process's parts of what is spread over all.
_Taken: TypeAlias = "tuple[Checkpoint, dict[str, Tensor] | None]"


class Decision(IntEnum):
    """What a process may do next. Of several that train together the most hesitant decides: the smallest number."""

    BACK = -1  # go back to the last good checkpoint first
    STOP = 0
    WAIT = 1
    GO = 2


BACK, STOP, WAIT, GO = Decision

_IDLE_S = 0.005
_DATA_TIMEOUT_S = 0.1
_FLUSH_S = 10.0
#: Returns to a checkpoint after which a training that diverges again is given up, and the updates
#: beyond the place where it diverged after which that is forgotten.
_RETURNS, _RECOVERED_UPDATES = 3, 1000
#: For how long what has happened is news.
_NEWS_S = 300.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Made:
    """An update, its metrics, which may be on their way from a GPU, and its batch."""

    update: int
    metrics: Mapping[str, float]
    batch: Batch


class TrainingDiverged(SuiteError):
    """An update gave numbers that are not finite; the newest checkpoint is from before."""

    code = TRAINING_DIVERGED


class TrainingLoop:
    """Trains until it is finished or stopped.

    :meth:`run` belongs to one thread, the training thread; all else may be called from any.
    Policy versions and checkpoints leave on threads of their own: the training thread only
    copies what they need.

    Args:
        config: Parameters.
        algorithm: Gets the batches.
        source: Gives them. Where it has ``state`` and ``load_state``, checkpoints hold them; what
            its ``reasons`` give are warnings.
        sink: Takes policy versions; what its ``reasons`` give, where it has them, are warnings.
        environment_steps: How many steps have been collected online so far, in this run.
        directory: Of the run, for checkpoints and the counter of policy versions.
        identity: What checkpoints belong to, see :func:`~user_learner.training.checkpoint.identity_of`.
        config_hash: What the weights are made for, see
            :func:`~user_core.policies.policy_config_hash`.
        on_metrics: Called by the training thread every ``metrics_period_s``; must return soon.
        published: The policy version that this run has published last, of the same weights;
            as long as training is behind it, no other is published.
        start_over: Whether a run whose checkpoints cannot be used may begin anew.
        warnings: What was to be said before the training began, and stays.
        before_update: Called by the training thread before each update; may wait for a moment.
        snapshots: What copies weights within a GPU, where it does; else the training thread waits until they are on
            the host.

    Attributes:
        skipped_updates: Updates that gave numbers that are not finite, and were skipped.
        first_update_s: Seconds from when enough steps were there to the end of the first
            update; None before it.
    """

    def __init__(
        self,
        config: TrainingConfig,
        algorithm: Algorithm,
        source: TransitionSource,
        sink: PolicySink,
        *,
        environment_steps: Callable[[], int],
        directory: Path,
        identity: Mapping[str, Any],
        config_hash: str = "",
        on_metrics: Callable[[Progress], None] | None = None,
        published: PolicyVersion | None = None,
        start_over: bool = False,
        warnings: Sequence[Reason] = (),
        before_update: Callable[[], object] = lambda: None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._before_update, self._snapshots = before_update, snapshots
        self._start_over, self._before = start_over, published
        self._lasting_warnings = warnings
        self._floor = 0 if published is None else published.update
        self._lately = Lately(_NEWS_S)
        self._skipped: list[int] = []
        self._skipping = NO_REASON
        self.skipped_updates = 0
        self._diverged, self._diverged_at, self._returns = NO_REASON, 0, 0
        self._back: tuple[str, Callable[[int | None], object]] | None = None
        self.config, self.algorithm, self.source = config, algorithm, source
        self.limiter = UtdLimiter(config.utd)
        self.checkpoints = CheckpointStore(
            directory / CHECKPOINTS, identity, config.checkpoints_kept
        )
        self._environment_steps, self._on_metrics = environment_steps, on_metrics
        self._sink = sink
        self._counter = VersionCounter(directory / "policy_version")
        self._publisher = PolicyPublisher(
            sink, self._counter, config_hash, config.publish_type,
            algorithm.published,
        )  # fmt: skip
        self._keeper: LatestWorker[_Taken] = LatestWorker("checkpoints", self._keep)
        self._shards = _shard_store(algorithm, directory / CHECKPOINTS)
        rows = config.batch_size * algorithm.updates_per_call
        self._batches = BatchFeed(source, rows, config.prefetch)
        self._drawn: Drawn | None = None
        #: Updates whose metrics were not looked at. Where a network is spread over processes these are read when the
        #: next update has been launched, so that no GPU waits for it; before anything is published or kept.
        self._unread = deque[_Made]()
        self._source_state: Any = None
        self._state, self._metrics = LearnerState.WAITING, dict[str, float]()
        self._update = self._steps = 0
        self._checkpoint_update = -1
        self._keep_asked = False
        self._means, self._rate, self._waited = Means(), Rate(), Rate()
        self._wake = threading.Condition()
        self._paused = self._stopped = False
        now_s = time.monotonic()
        self._published, self._kept, self._shown = (0, -math.inf), (0, now_s), now_s
        self._begun_s = now_s
        self._permitted_s: float | None = None
        self.first_update_s: float | None = None

    def restore(self) -> CheckpointInfo | None:
        """Go on from the newest checkpoint that is whole and belongs here, if there is one.

        Raises:
            ConfigError: There are checkpoints, none can be used, and nobody said ``start_over``.
        """
        found = None
        if _is_first():
            self.checkpoints.drop_leftovers()
            fresh = self.algorithm.state()
            found = self.checkpoints.restore(self._load, start_over=self._start_over)
            if found is None and self.checkpoints.refused:  # one may have been loaded in part
                self.algorithm.load_state(fresh)
        found = self._broadcast(found)
        return None if found is None else self._resumed(found)

    def _broadcast(
        self,
        found: Checkpoint | None,
        load: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Checkpoint | None:
        """The checkpoint that the first process has loaded; the others load it now."""
        group = process_group()
        if group is None:
            return found
        said = group.broadcast(None if found is None else [asdict(found.info), found.state])
        checkpoint = None if said is None else Checkpoint(CheckpointInfo(**said[0]), said[1])
        if checkpoint is not None and not _is_first():
            (load or self._load)(checkpoint.state)
        if checkpoint is not None and self._shards is not None:
            loaded = self._shards.load(checkpoint.state[SHARDS], self.algorithm.shards())
            self.algorithm.load_shards(loaded)
        return checkpoint

    def _resumed(self, found: Checkpoint) -> CheckpointInfo:
        self._unread.clear()
        self._update, self._steps = found.info.update, found.info.environment_steps
        self._counter.raise_to(found.info.policy_version)
        self._checkpoint_update = self._update
        self._published, self._kept = (self._update, -math.inf), (self._update, time.monotonic())
        return found.info

    def run(self) -> None:
        """Train until :meth:`stop`, or until ``max_updates``.

        Raises:
            TrainingDiverged: An update gave numbers that are not finite.
            Exception: Whatever algorithm or source raise.
        """
        configure_torch(self.config.threads)
        self._begun_s, completed = time.monotonic(), False
        try:
            self._publish_first()  # robots need something to act on
            while True:
                try:
                    decision = self.step()
                except TrainingDiverged as error:
                    self._go_back(error)
                    continue
                if decision == STOP:
                    break
                if decision == BACK:
                    self._take_back()
                if decision == WAIT:
                    with self._wake:
                        self._wake.wait_for(lambda: self._stopped, _IDLE_S)
                if self._shards is None and self._is_keeping_asked():
                    self._keep_as_asked()
                self._show()
            completed = True
        finally:
            self._wind_down(completed)

    def step(self) -> Decision:
        """Make one call of ``update``, if it is its time.

        Returns:
            ``GO`` when it was made, ``WAIT`` when not, ``STOP`` when there is nothing left to do, ``BACK``
            when :meth:`return_to_good` was asked for.
        """
        decision = self._agree()
        if decision != GO:
            return decision
        assert self._drawn is not None
        drawn, self._drawn = self._drawn, None
        self._state = LearnerState.TRAINING
        self._before_update()
        try:
            found = self.algorithm.update(drawn.batch)
        except Exception as error:
            if self.first_update_s is None and is_short_of_memory(error):
                raise self._too_large(error, drawn.batch) from error
            raise
        self._source_state = drawn.source_state
        self._update += self.algorithm.updates_per_call
        self._unread.append(_Made(self._update, found, drawn.batch))
        if self._shards is not None and self.first_update_s is not None:
            return GO
        metrics = _averaged(found)
        if self.first_update_s is None and self._permitted_s is not None:
            self.first_update_s = time.monotonic() - self._permitted_s
        fine = self._judge(self._unread.pop(), metrics)
        if fine and self._shards is None and _is_first():
            self._hand_out(self._is_publishing_due(), self._is_checkpoint_due())
        return GO

    def _judge(self, made: _Made, metrics: Mapping[str, float]) -> bool:
        """Whether an update was one, by its metrics, means over all processes. Raises TrainingDiverged."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad and self._skips(bad, made.update):
            return False
        if bad:
            raise TrainingDiverged(
                f"update {made.update}", got=f"{', '.join(bad)} not finite{_suspicious(made.batch)}",
                expected="finite metrics",
                hint="Smaller learning rates, or max_grad_norm; `user replay show` shows the data",
            )  # fmt: skip
        self._means.add(metrics)
        self._rate.add(self.algorithm.updates_per_call)
        return True

    def _agree(self) -> Decision:
        """What all processes do next.

        Where a network is spread over them, the first one can neither publish nor keep a checkpoint by itself: what it
        wishes is agreed on by the same exchange, and done before the update. That exchange also brings together the
        metrics of the update before the last, which GPUs have made while the last one was launched: none of them waits
        for it.
        """
        decision, group = self._decide(), process_group()
        if group is None:
            return decision
        if self._shards is None:
            return Decision(group.agreed(decision))
        wishes = [self._is_publishing_due(), self._is_checkpoint_due(), self._is_keeping_asked()]
        wished = [int(wish) if _is_first() else 1 for wish in wishes]
        late = self._unread.popleft() if len(self._unread) > 1 else None
        numbers = [] if late is None else late.metrics.values()
        said = np.array(group.exchanged([decision, *wished, *numbers]))  # a row for each process
        decision, least = Decision(int(said[:, 0].min())), said[:, 1:4].min(0)
        publishing, keeping, asked = (bool(wish) for wish in least)
        if late is not None:
            self._judge(late, _means_of(late.metrics, said[:, 4:]))
        if decision != GO or publishing or keeping or asked:  # nothing may leave, or end, unjudged
            while self._unread:
                late = self._unread.popleft()
                said = np.array(group.exchanged(list(late.metrics.values())))
                self._judge(late, _means_of(late.metrics, said))
        if decision in (GO, WAIT):
            if asked:
                self._keep_as_asked()
            else:
                self._hand_out(publishing, keeping)
        return decision

    def _too_large(self, error: Exception, batch: Batch) -> ConfigError:
        group, count = process_group(), self.algorithm.updates_per_call
        if group is None:
            return too_large(error, self.algorithm.update, batch, count, 1)
        processes = group.world()
        if self._shards is not None and processes > 1:  # it would wait for the others' parts
            return too_large(error, None, batch, count, processes)
        with group.alone():
            return too_large(error, self.algorithm.update, batch, count, processes)

    def _all_do(self, wish: bool) -> bool:
        """Whether to do now what the first process does. Where parts of the policy are elsewhere, all do it."""
        if self._shards is None:
            return wish and _is_first()
        group = process_group()
        assert group is not None
        return bool(group.agreed(int(wish) if _is_first() else 1))

    def _skips(self, bad: Sequence[str], update: int) -> bool:
        """Whether an update that gave numbers that are not finite counts as skipped: it spoilt nothing,
        and there were few of these lately."""
        self._skipped = [u for u in self._skipped if u > update - _RECOVERED_UPDATES]
        self._skipped.append(update)
        few = len(self._skipped) <= self.config.skipped_updates
        if not few or not _is_finite(self.algorithm.state()):
            self._skipped = []
            return False
        self.skipped_updates += 1
        text = f"update {update} was skipped: {', '.join(bad)} not finite"
        self._skipping = Reason(UPDATE_SKIPPED, f"{text} ({self.skipped_updates} skipped in all)")
        _log.warning("%s", self._skipping)
        return True

    def _go_back(self, error: TrainingDiverged) -> None:
        """Go on from the newest checkpoint, then from older ones; raises where that is no use."""
        if self._update > self._diverged_at + _RECOVERED_UPDATES:
            self._returns = 0
        self._diverged_at = max(self._update, self._diverged_at)
        self._returns += 1
        self._unread.clear()
        self._keeper.flush()  # what is written later would be the newest, and of the training that diverged
        found = None
        if _is_first() and self._returns <= _RETURNS:
            found = self.checkpoints.go_back(str(error), self._returns)
            if found is not None:
                self._load(found.state)
        found = self._broadcast(found)
        if found is None:
            raise error
        self._resumed(found)
        text = f"went back to update {found.info.update}, for training diverged: {error}"
        self._diverged = Reason(TRAINING_DIVERGED, text)
        _log.error("%s", text)
        self._drawn = None
        self._floor = 0  # what was published after it may have been spoilt already
        self._publish()

    def keep_good(self, update: int) -> None:
        """The policy of this update has shown itself: keep a checkpoint of then to go back to. Any thread."""
        self.checkpoints.keep_good(update)

    def return_to_good(
        self, why: str, done: Callable[[int | None], object] = lambda update: None
    ) -> None:
        """Go on from the checkpoint that was kept as good, before the next update. Any thread.

        Weights and optimizer are those of then. What was collected and which steps are drawn next stay, so that
        what was learned since is not learned again from the same batches. As many updates as the ratio to
        environment steps allows are made anew.

        Args:
            why: For people, and beside the checkpoints that are set aside.
            done: Told, by the training thread, which update was gone back to; None: there is no checkpoint
                that could be used, and training goes on as it was.
        """
        self._back = (why, done)

    def _take_back(self) -> None:
        """Do what :meth:`return_to_good` promised; all processes that train together do it at once."""
        (why, done), self._back = self._back or ("", lambda update: None), None
        found = None
        if _is_first():
            self._keeper.flush()  # what is written later would be the newest, and of the training that is left
            found = self.checkpoints.return_to_good(why)
            if found is not None:
                self._load_weights(found.state)
        found = self._broadcast(found, self._load_weights)
        if found is not None:
            self._resumed(found)
            self._floor, self._before = 0, None
            _log.warning("training went back to update %d: %s", found.info.update, why)
        done(None if found is None else found.info.update)
        self._publish()

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        self.algorithm.load_state(state["algorithm"])

    def forget_published(self) -> None:
        """Publish what is trained now, whatever was published before: somebody said so."""
        self._before, self._floor = None, 0

    def abandon(self) -> None:
        """End without having run; :meth:`run` does that by itself."""
        self._wind_down(False)

    def keep_now(self) -> str:
        """Publish, and keep a checkpoint, after the present update, as a person asks. Any thread.

        Returns:
            What will be done, for people.
        """
        self._keep_asked = True
        return f"after update {self._update}"

    def pause(self) -> None:
        """Make no updates until :meth:`proceed`."""
        with self._wake:
            self._paused = True

    def proceed(self) -> None:
        """Go on after :meth:`pause`."""
        with self._wake:
            self._paused = False

    def stop(self) -> None:
        """Let :meth:`run` keep a last checkpoint and return. Idempotent."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def behind_steps(self) -> float:
        """Environment steps whose updates are due and not made; negative: it waits for robots."""
        return self.limiter.behind(self._update)

    def progress(self) -> Progress:
        """How it is going."""
        return Progress(
            self._state,
            self._update,
            self._steps,
            self.limiter.ratio(self._update),
            self.limiter.target,
            self._rate.per_s(),
            min(1.0, self._waited.per_s()),
            self._publisher.newest,
            self._publisher.period_s,
            self._checkpoint_update,
            self._metrics,
            self._why(),
            tuple(self._warnings()),
        )

    def _load(self, state: Mapping[str, Any]) -> None:
        self.algorithm.load_state(state["algorithm"])
        self.limiter.load_state(state["limiter"])
        self._source_state = state["source"]
        if self._source_state is not None and hasattr(self.source, "load_state"):
            self.source.load_state(self._source_state)

    def _decide(self) -> Decision:
        """Whether this process would go on now; says why not in the state."""
        if self._back is not None and not self._stopped:
            return BACK
        finished = self.config.max_updates is not None and self._update >= self.config.max_updates
        if self._stopped or finished:
            self._state = LearnerState.FINISHED if finished else self._state
            return STOP
        self._steps = max(self._steps, self._environment_steps())
        self.limiter.observe(self._steps, self._update)
        if self._paused:
            self._state = LearnerState.PAUSED
        elif not self.limiter.permits(self._update, self.algorithm.updates_per_call):
            early = self._steps < self.config.utd.learning_starts
            self._state = LearnerState.WAITING if early else LearnerState.LIMITED
        else:
            self._permitted_s = self._permitted_s or time.monotonic()
            if self._ready():
                return GO
        return WAIT

    def _ready(self) -> bool:
        """Whether a batch is there; waits for it a little."""
        if self._drawn is None:
            start_s = time.monotonic()
            self._drawn = self._batches.take(_DATA_TIMEOUT_S)
            self._waited.add(time.monotonic() - start_s)
        if self._drawn is None:
            self._state = LearnerState.WAITING
        return self._drawn is not None

    def _is_publishing_due(self) -> bool:
        update, since_s = self._published
        due = self._update - update >= self.config.publish_every_updates
        return due and time.monotonic() - since_s >= self.config.publish_period_s

    def _is_checkpoint_due(self) -> bool:
        update, since_s = self._kept
        now_s = time.monotonic()
        due = self._update - update >= self.config.checkpoint_every_updates
        # Young processes keep more often: one that is killed again and again must get on, too.
        period_s = min(self.config.checkpoint_period_s, max(1.0, (now_s - self._begun_s) / 2))
        return due and now_s - since_s >= period_s and not self._keeper.busy

    def _is_keeping_asked(self) -> bool:
        return self._keep_asked and not self._keeper.busy and _is_first()

    def _hand_out(self, publishing: bool, keeping: bool) -> None:
        """Publish and keep, what of it is due."""
        if publishing:
            self._publish()
        if keeping:
            self._take_checkpoint()

    def _keep_as_asked(self) -> None:
        self._keep_asked = False
        self._hand_out(True, True)

    def _publish_first(self) -> None:
        """What robots act on until training has got further: never less than they had."""
        before = self._before
        passed = before is None or before.update <= self._update or not self._floor
        if self._all_do(passed):
            self._publish()
            return
        self._published = (self._update, time.monotonic())
        if _is_first() and before is not None:
            _log.info("the policy of update %d is served until training has passed it", self._floor)
            self._publisher.offer(
                Weights(dict(before.arrays), before.update, before.environment_steps)
            )

    def _publish(self) -> None:
        self._published = (self._update, time.monotonic())
        if self._all_do(self._update >= self._floor):
            arrays = self._snapshot() or self.algorithm.policy_arrays()
            if not _is_first():
                return  # it has given its parts
            self._publisher.offer(Weights(arrays, self._update, self._steps))

    def _snapshot(self) -> Mapping[str, Array] | None:
        """The weights as they are, on their GPU; None where that is not wanted, or cannot be."""
        if self._snapshots is None or not self._snapshots.on_gpu or not _is_first():
            return None
        with self.algorithm.policy_tensors() as tensors:
            if tensors is None:
                return None
            rounded = self.config.publish_type == "bfloat16"
            return self._snapshots.snapshot(tensors, rounded, self._before_update)

    def _take_checkpoint(self) -> None:
        self._kept = (self._update, time.monotonic())
        state = {
            "algorithm": self.algorithm.state(),
            "limiter": self.limiter.state(),
            "source": self._source_state,
        }
        info = CheckpointInfo(self._update, self._steps, self._counter.last, time.time_ns())
        shards = None if self._shards is None else self._shards.copy(self.algorithm.shards())
        self._keeper.offer((Checkpoint(info, state), shards))

    def _keep(self, taken: _Taken) -> None:
        checkpoint, shards = taken
        if self._shards is not None and shards is not None:
            said = self._shards.write(checkpoint.name, checkpoint.info.created_ns, shards)
            checkpoint = replace(checkpoint, state={**checkpoint.state, SHARDS: said})
        if _is_first():
            self.checkpoints.write(checkpoint)
        self._checkpoint_update = checkpoint.info.update

    def _show(self) -> None:
        now_s = time.monotonic()
        if now_s - self._shown >= self.config.metrics_period_s:
            self._shown = now_s
            self._metrics = self._means.take() or self._metrics
            if self._on_metrics is not None and _is_first():
                self._on_metrics(self.progress())

    def _wind_down(self, completed: bool) -> None:
        self._batches.close()
        if completed and (_is_first() or self._shards is not None):
            if self._all_do(self._published[0] != self._update):
                self._publish()
            self._publisher.flush(_FLUSH_S)  # so that the checkpoint knows its number
            if self._all_do(self._checkpoint_update != self._update):
                self._keeper.flush()
                self._take_checkpoint()
        self._publisher.close()
        self._keeper.close()

    def _why(self) -> Reason:
        """Why it is in its state; none while it trains."""
        state, config = self._state, self.config
        if state is LearnerState.WAITING:
            if self._steps < config.utd.learning_starts:
                text = f"{self._steps} of {config.utd.learning_starts} steps have been collected"
                return Reason(FEW_STEPS, text)
            return Reason(NO_DATA, self._batches.reason or "no batch has come yet")
        if state is LearnerState.LIMITED:
            text = f"as many updates were made as {self._steps} steps allow; waits for robots"
            return Reason(UPDATE_RATIO, text)
        if state is LearnerState.PAUSED:
            return Reason(REQUESTED, "paused on request")
        if state is LearnerState.FINISHED:
            return Reason(ALL_UPDATES, f"all {config.max_updates} updates were made")
        return NO_REASON

    def _warnings(self) -> list[Reason]:
        found = list(self._lasting_warnings)
        if self._lately.grew("refused", len(self.checkpoints.refused)):
            found += [
                Reason(CHECKPOINT_REFUSED, f"checkpoint set aside: {reason}")
                for reason in self.checkpoints.refused
            ]
        if self._diverged and self._update <= self._diverged_at + _RECOVERED_UPDATES:
            found.append(self._diverged)
        if self._lately.grew("skipped", self.skipped_updates):
            found.append(self._skipping)
        found += getattr(self.algorithm, "warnings", list)()
        found += getattr(self.source, "reasons", list)()
        found += getattr(self._sink, "reasons", list)()
        if (error := self._publisher.error) is not None:
            found.append(Reason(POLICY_PUBLISH, f"policy version not published: {error}"))
        if (error := self._keeper.error) is not None:
            found.append(Reason(CHECKPOINT_WRITE, f"checkpoint not written: {error}"))
        if self._state is LearnerState.WAITING and self._batches.reason:
            found.append(Reason(NO_DATA, f"no data: {self._batches.reason}"))
        if self._lately.grew("forgiven", self.limiter.forgiven):
            text = (
                f"learner slower than robots: {self.limiter.ratio(self._update):.3g} updates a "
                f"step instead of {self.limiter.target:g}"
            )
            found.append(Reason(LEARNER_SLOW, text))
        return found


def _shard_store(algorithm: Algorithm, directory: Path) -> ShardStore | None:
    """Where parts of an algorithm's state go that this process alone has; None where it has all."""
    if not getattr(algorithm, "shards", dict)():
        return None
    from user_learner.training.shards import ShardStore

    return ShardStore(directory)


def _is_finite(state: Mapping[str, Any]) -> bool:
    """Whether all arrays of a state are numbers that one can go on from."""
    arrays, _ = flatten(state)
    return all(a.dtype.kind != "f" or bool(np.isfinite(a).all()) for a in arrays.values())


def _suspicious(batch: Batch) -> str:
    """What of a batch may have made an update diverge, for people; empty where all looks well."""
    largest = float(np.abs(np.asarray(batch.reward)).max()) if len(batch) else 0.0
    if not largest <= LARGEST_REWARD:
        return f"; the batch holds a reward of {largest:.3g}"
    for arrays in (batch.observation, batch.next_observation, {"action": batch.action}):
        for name, values in arrays.items():
            array = np.asarray(values)  # it may be a tensor, for a GPU
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"; the batch holds {name} that is not finite"
    return ""


def _is_first() -> bool:
    """Whether this process is the one that publishes and keeps checkpoints."""
    group = process_group()
    return group is None or bool(group.rank() == 0)


def _averaged(metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Means over all processes that train together: all must find the same of them not finite."""
    group = process_group()
    return metrics if group is None else group.averaged(metrics)  # type: ignore[no-any-return]


def _means_of(names: Iterable[str], said: Array) -> dict[str, float]:
    """Means over processes of what each has said of each name, (W, names)."""
    return dict(zip(names, said.mean(0).tolist(), strict=True))


@cache
def process_group() -> ModuleType | None:
    """What processes that train together do together; None where there is no torch."""
    try:
        from user_learner.algorithms.common import distributed
    except ImportError:  # an algorithm without torch is alone
        return None
    return distributed


def threads_each(configured: int, processes: int = 1) -> int:
    """Threads of one operation of torch; 0: as many as torch takes.

    Where nobody says it, processes that train together on a host share its cores, and one that trains alone on a host
    with two cores or one takes one: beside robots and actors that was faster.

    Args:
        configured: What somebody says; 0: nothing.
        processes: How many of this host train together.
    """
    if configured:
        return configured
    if processes > 1:
        return max(1, cores() // processes)
    return 1 if cores() <= 2 else 0


def configure_torch(threads: int) -> None:
    """Set up torch for the calling thread.

    Args:
        threads: Threads of one operation, see :func:`threads_each`.
    """
    try:
        import torch
    except ImportError:  # an algorithm without torch
        return
    threads = threads_each(threads)
    if threads:
        torch.set_num_threads(threads)
    # Moments of Adam that die away end as denormal numbers, which cost 100 cycles each. numpy
    # looks at its number types once, and would complain that it finds no denormals any more.
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype).smallest_subnormal  # noqa: B018
    torch.set_flush_denormal(True)
