"""Batches in preallocated memory: rows are gathered into it, rewards summed, discounts computed; also ahead, in
threads.

A step of an episode is followed by ``after`` rows, the final observation included. So with
n-step returns k = min(n, after) rewards are summed, and the next observation is row k. Nothing
follows a step that terminated or truncated but its final observation; there is no need to
look for the end of the episode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np

from user_core.errors import ConfigError
from user_core.policies.language.config import TASK
from user_core.runtime.prefetch import Prefetcher
from user_core.specs import Array
from user_core.types import OBSERVATION, Batch
from user_learner.replay.layout import RECORDS, RowLayout
from user_learner.sampling.config import SamplerConfig
from user_learner.sampling.hindsight import Hindsight
from user_learner.sampling.pool import Drawn, aligned_bytes

PlanT = TypeVar("PlanT")
BuffersT = TypeVar("BuffersT")


def n_step_returns(
    reward: Array, terminated: Array, steps: Array, gamma: float
) -> tuple[Array, Array]:
    """Discounted sums of rewards, and what is left for the value of the next observation.

    Args:
        reward: Rewards from the drawn step on, (B, >= max(steps)) float32.
        terminated: Whether these steps terminated, same shape.
        steps: Steps to take, k, (B,), at least 1.
        gamma: Discount per step.

    Returns:
        Sum of gamma^j r_j for j < k, (B,) float32; and gamma^k, (B,) float32, which is 0 where
        the last of these steps terminated (not where it was truncated).
    """
    rows = np.arange(len(steps))
    if reward.shape[1] == 1 or (steps == 1).all():
        return reward[:, 0], np.where(terminated[:, 0], 0.0, gamma).astype(np.float32)
    powers = _powers(gamma, reward.shape[1] + 1)
    taken = np.arange(reward.shape[1]) < steps[:, None]
    total = np.where(taken, reward * powers[:-1], 0.0).sum(axis=1, dtype=np.float64)
    discount = np.where(terminated[rows, steps - 1], 0.0, powers[steps])
    return total.astype(np.float32), discount.astype(np.float32)


def window_returns(
    reward: Array, terminated: Array, steps: Array, gamma: float
) -> tuple[Array, Array]:
    """Rewards and discounts of each step of windows of T steps, of which ``steps`` are there.

    Returns:
        Rewards (B, T) float32, 0 where there is no step; and discounts (B, T) float32: gamma,
        0 for a step that terminated, and 1 where there is no step. So the product along a
        window is what is left for the value of the observation behind it.
    """
    there = np.arange(reward.shape[1]) < steps[:, None]
    discount = np.where(terminated, 0.0, gamma)
    return (
        np.where(there, reward, 0.0).astype(np.float32),
        np.where(there, discount, 1.0).astype(np.float32),
    )


@lru_cache(maxsize=16)
def _powers(gamma: float, count: int) -> Array:
    return gamma ** np.arange(count, dtype=np.float64)


# --------------------------------------------------------------------------------------------------
# Buffers
# --------------------------------------------------------------------------------------------------


class BatchBuffers:
    """Room for one batch of B rows; gathering another overwrites it.

    Args:
        layout: Where the columns lie.
        batch_size: B.
        config: What a batch consists of, and whether it is arrays or tensors.
        hindsight: Gives steps other goals; None: no step.
        with_tasks: Whether observations say of which task they are, ``@task`` (B,) int64.

    Raises:
        ConfigError: Tensors are asked for, and torch or page-locked memory is not there.
    """

    def __init__(
        self,
        layout: RowLayout,
        batch_size: int,
        config: SamplerConfig,
        hindsight: Hindsight | None = None,
        with_tasks: bool = False,
    ) -> None:
        self._config, self._size, self._hindsight = config, batch_size, hindsight
        self._allocate = _allocator(config.output)
        self._rows, self._past = np.arange(batch_size), config.past
        self.nbytes = 0
        files = list(enumerate(layout.files))
        self._records_at, self._records = next((i, f) for i, f in files if f.name == RECORDS)
        rows = batch_size * (self._past + config.horizon + 1)
        self._raw = self._bytes(rows, self._records.stride)
        #: Column file, bytes to gather into, and which rows: first, last or the window's.
        self._large: list[tuple[int, Array, str]] = []
        self._first: dict[str, Array] = {}
        self._last: dict[str, Array] = {}
        specs = layout.schema.columns
        for name in layout.small:
            if name.startswith(OBSERVATION):
                for target in (self._first, self._last):
                    target[name] = self._array((*self._lead, *specs[name].shape), specs[name].dtype)
        for index, file in files:
            if file.name.startswith(OBSERVATION):
                for target, which in ((self._first, "first"), (self._last, "last")):
                    raw = self._bytes(int(np.prod(self._lead)), file.stride)
                    self._large.append((index, raw, which))
                    shown = layout.view(file, raw)[file.name]
                    target[file.name] = shown.reshape(*self._lead, *shown.shape[1:])
        self._task = self._array((batch_size,), "int64") if with_tasks else None
        self._plain = self._plain_arrays(layout)
        self._batch = self._assemble()

    def gather(
        self,
        arrays: list[Array],
        drawn: Drawn,
        row_id: Array,
        goals: tuple[Array, Array] | None = None,
        labels: tuple[Array, Array, Array] | None = None,
        task: Array | None = None,
    ) -> Batch:
        """Gather drawn rows from a pool's arrays, and return them as a batch.

        Args:
            arrays: The pool's arrays, (rows, stride) uint8 each.
            drawn: Which rows.
            row_id: What to call them in ``extras["row"]``, (B,).
            goals: Which steps get another goal, (B,) bool, and it, (M, G).
            labels: Which of the steps and those after them have another reward than the recorded one,
                (B, H) bool, it, and whether the task ended there.
            task: Number of the task of each step, (B,).
        """
        if self._task is not None and task is not None:
            self._task[...] = task
        steps = drawn.after
        window = drawn.rows[self._rows[:, None], self._within(steps)]
        every = np.concatenate([drawn.before, drawn.rows], axis=1) if self._past else drawn.rows
        last = steps[:, None] + np.arange(self._past + 1)
        where = {
            "first": every[:, : self._past + 1].reshape(-1),
            "last": every[self._rows[:, None], last].reshape(-1),
            "window": window.reshape(-1),
        }
        for index, raw, which in self._large:
            # "raise" would gather into a temporary first; all rows are known to be there
            np.take(arrays[index], where[which], axis=0, out=raw, mode="clip")
        rows = every.reshape(-1)
        np.take(arrays[self._records_at], rows, axis=0, out=self._raw, mode="clip")
        if labels is not None:
            self._relabel(*labels)
        self._fill(drawn, steps, row_id, goals, labels is not None)
        return self._batch

    def _relabel(self, known: Array, reward: Array, ended: Array) -> None:
        """Put rewards that edits gave in the place of those that were gathered."""
        records = self._gathered()[:, self._past :]
        rewards, ends = records["reward"][:, :-1], records["terminated"][:, :-1]
        rewards[known], ends[known] = reward[known], ended[known]

    def _fill(
        self,
        drawn: Drawn,
        steps: Array,
        row_id: Array,
        goals: tuple[Array, Array] | None,
        relabelled: bool,
    ) -> None:
        """Split the gathered records into columns."""
        every = self._gathered()
        records = every[:, self._past :]
        last = records[self._rows, steps] if records.shape[1] > 2 else records[:, -1]
        for name, array in self._first.items():
            if name not in (self._records.dtype.names or ()):
                continue
            if self._past:
                array[...] = every[name][:, : self._past + 1]
                at = steps[:, None] + np.arange(self._past + 1)
                self._last[name][...] = every[name][self._rows[:, None], at]
            else:
                array[...] = records[name][:, 0]
                self._last[name][...] = last[name]
        plain, gamma = self._plain, self._config.gamma
        rewards, ends = records["reward"][:, :-1], records["terminated"][:, :-1]
        counted = steps
        if relabelled:  # then the task may have ended before the episode did
            first = np.where(ends.any(1), ends.argmax(1) + 1, ends.shape[1])
            counted = np.minimum(steps, first)
        if self._hindsight is not None and goals is not None:
            which, goal = goals
            rewards, ends, counted = self._hindsight.rewards(records, which, goal, steps)
            self._hindsight.relabel(self._first, records[:, 0], which, goal)
            self._hindsight.relabel(self._last, last, which, goal)
            plain["relabelled"][...] = which
        combine = window_returns if self._config.window else n_step_returns
        plain["reward"][...], plain["discount"][...] = combine(rewards, ends, counted, gamma)
        if "action" in (self._records.dtype.names or ()):
            if self._config.window:
                plain["action"][...] = records["action"][self._rows[:, None], self._within(steps)]
            else:
                plain["action"][...] = records["action"][:, 0]
        plain["policy_version"][...] = records["policy_version"][:, 0]
        plain["demonstration"][...] = drawn.demonstration
        plain["row"][...] = row_id
        if "mask" in plain:
            plain["mask"][...] = np.arange(self._config.window) < steps[:, None]
            if drawn.idle is not None:
                plain["mask"][np.arange(self._config.window) < drawn.idle[:, None]] = False

    @property
    def _lead(self) -> tuple[int, ...]:
        """Leading dimensions of observations: (B,), or (B, N)."""
        return (self._size, self._past + 1) if self._past else (self._size,)

    def _gathered(self) -> Array:
        """The gathered records, those before the drawn ones first: (B, N + H)."""
        records: Array = self._raw.view(self._records.dtype).reshape(self._size, -1)
        return records

    def _within(self, steps: Array) -> Array:
        """Which following row each place of a window shows: past the last step, that again."""
        within: Array = np.minimum(np.arange(self._config.window or 1), steps[:, None] - 1)
        return within

    def _plain_arrays(self, layout: RowLayout) -> dict[str, Array]:
        window = (self._config.window,) if self._config.window else ()
        action, lead = layout.schema.columns["action"], (self._size, *window)
        arrays = {
            "reward": self._array(lead, "float32"),
            "discount": self._array(lead, "float32"),
            "demonstration": self._array((self._size,), "bool"),
            "row": self._array((self._size,), "int64"),
            "policy_version": self._array((self._size,), "int64"),
        }
        if self._hindsight is not None:
            arrays["relabelled"] = self._array((self._size,), "bool")
        if window and self._config.pad_windows:
            arrays["mask"] = self._array(lead, "bool")
        if "action" in layout.small:
            arrays["action"] = self._array((*lead, *action.shape), action.dtype)
        else:
            index, file = next((i, f) for i, f in enumerate(layout.files) if f.name == "action")
            raw = self._bytes(self._size * (window[0] if window else 1), file.stride)
            self._large.append((index, raw, "window"))
            arrays["action"] = layout.view(file, raw)["action"].reshape(*lead, *action.shape)
        return arrays

    def _assemble(self) -> Batch:
        out = _identity if self._config.output == "numpy" else _torch().from_numpy
        plain = {name: out(array) for name, array in self._plain.items()}
        told = {} if self._task is None else {TASK: out(self._task)}
        return Batch(
            observation={n[len(OBSERVATION) :]: out(a) for n, a in self._first.items()} | told,
            action=plain.pop("action"),
            reward=plain.pop("reward"),
            discount=plain.pop("discount"),
            next_observation={n[len(OBSERVATION) :]: out(a) for n, a in self._last.items()} | told,
            extras=plain,
        )

    def _bytes(self, rows: int, stride: int) -> Array:
        self.nbytes += rows * stride
        return self._allocate(rows * stride).reshape(rows, stride)

    def _array(self, shape: tuple[int, ...], dtype: str) -> Array:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.nbytes += nbytes
        return self._allocate(nbytes).view(dtype).reshape(shape)


def batch_nbytes(layout: RowLayout, batch_size: int, config: SamplerConfig) -> int:
    """Bytes that the buffers of one batch take, about."""
    large = sum(file.stride for file in layout.files if file.name != RECORDS)
    small = layout.row_nbytes - large
    seen = config.observation_history
    return batch_size * (2 * seen * large + (config.horizon + 3 + seen) * small)


@dataclass(frozen=True)
class _Job(Generic[PlanT, BuffersT]):
    plan: PlanT
    buffers: BuffersT


class BatchGatherer(Generic[PlanT, BuffersT]):
    """Keeps ``depth`` batches on the way, in a ring of ``depth + keep`` buffers.

    Planning (drawing the indices) takes microseconds and happens in the calling thread; only
    the copying is done in the background (:class:`~user_core.runtime.prefetch.Prefetcher`).

    Args:
        plan: Makes a plan for a batch of the given size.
        gather: Carries out a plan; called from worker threads.
        buffers: Makes buffers for a batch of the given size.
        depth: Batches ahead; 0 gathers in the calling thread.
        keep: Calls of :meth:`next` after which the memory of a batch is used again.
        workers: Threads.
        worth_it: Whether batches of the given size are worth a thread; where they are not, they
            are gathered in the calling thread.
    """

    def __init__(
        self,
        plan: Callable[[int], PlanT],
        gather: Callable[[PlanT, BuffersT], Batch],
        buffers: Callable[[int], BuffersT],
        depth: int,
        keep: int,
        workers: int,
        worth_it: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self._plan, self._gather, self._make_buffers = plan, gather, buffers
        self._keep, self._worth_it, self._ahead = keep, worth_it, False
        self._here = Prefetcher(self._begin, self._run, 0)
        self._background = Prefetcher(self._begin, self._run, depth, workers, "replay-gather")
        self._spare: list[BuffersT] = []
        self._shown: deque[BuffersT] = deque()
        self._size = 0

    def next(self, batch_size: int) -> Batch:
        """The next batch."""
        if batch_size != self._size:
            self.discard()
            self._spare, self._size = [], batch_size
            self._shown.clear()
            self._ahead = self._worth_it(batch_size)
        if len(self._shown) >= self._keep:
            self._spare.append(self._shown.popleft())
        job, batch = (self._background if self._ahead else self._here).next()
        self._shown.append(job.buffers)
        return batch

    def first_plan(self) -> PlanT | None:
        """The plan of the batch that :meth:`next` will return, if there is one already."""
        first = self._background.first
        return first.plan if first is not None else None

    def discard(self) -> None:
        """Forget the batches on the way."""
        self._spare += [job.buffers for job in self._background.discard()]

    def close(self) -> None:
        """End the threads. Idempotent."""
        self.discard()
        self._background.close()

    def _begin(self) -> _Job[PlanT, BuffersT]:
        buffers = self._spare.pop() if self._spare else self._make_buffers(self._size)
        try:
            return _Job(self._plan(self._size), buffers)
        except BaseException:
            self._spare.append(buffers)
            raise

    def _run(self, job: _Job[PlanT, BuffersT]) -> Batch:
        return self._gather(job.plan, job.buffers)


def _identity(array: Array) -> Any:
    return array


def _allocator(output: str) -> Callable[[int], Array]:
    if output != "pinned":
        return aligned_bytes
    torch = _torch()

    def pinned(nbytes: int) -> Array:
        try:
            array: Array = torch.empty(max(1, nbytes), dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:
            raise ConfigError(
                "output of the sampler",
                got="pinned",
                expected=f"numpy or torch on a machine without a GPU ({error})",
            ) from error
        return array[:nbytes]

    return pinned


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "output of the sampler",
            got="tensors, and torch is not installed",
            expected="numpy",
            hint="pip install torch",
        ) from error
    return torch
