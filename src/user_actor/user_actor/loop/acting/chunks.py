"""How action chunks are carried out: one after the other, averaged, or each going on from the one before.

* One after the other (receding horizon; Chi et al., "Diffusion Policy", 2023): some rows of a chunk, then the next.
* Averaged (temporal ensembling; Zhao et al., "Learning fine-grained bimanual manipulation with low-cost
  hardware", 2023): each action is a weighted mean of what all chunks have planned for this step.
* Real-time chunking (Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025): the next
  chunk is made while this one is carried out, and must begin with the rows that will be over by then.

All is pure: steps are numbers, and nothing waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from user_core.specs import Array, ArraySpec

#: Delays that the next one is expected to be like; the largest counts.
_DELAYS = 10


class GoingOn(NamedTuple):
    """A plan that is being carried out while the next one is made.

    Attributes:
        plan_ta: Its rows from now on, (P, A).
        frozen: How many of these will be over before the next plan can take over.
    """

    plan_ta: Array
    frozen: int


class Plan(NamedTuple):
    """A chunk, and when it is for.

    Attributes:
        rows_ta: Row i is for step ``start`` + i, (T, A).
        start: The step in which it was asked for.
        version: Policy version.
        number: Counts the plans of an episode, from 1.
    """

    rows_ta: Array
    start: int
    version: int
    number: int = 0

    @property
    def end(self) -> int:
        """The first step that it says nothing about."""
        return self.start + len(self.rows_ta)

    def row(self, step: int) -> Array:
        """What it plans for a step, (A,)."""
        return self.rows_ta[step - self.start]


class Ensemble:
    """Weighted means of what several plans say of a step.

    The oldest plan has weight 1, each later one exp(-decay) times that of the one before it: a small decay takes
    up what is new sooner (Zhao et al. 2023, section IV.B). Choices are decided by the most weight.

    Args:
        action: The robot's.
        decay: m of the paper.
    """

    def __init__(self, action: ArraySpec, decay: float) -> None:
        self._decay = decay
        self._chosen = list(action.categorical)
        self._dtype = np.dtype(action.dtype)
        self._plans: list[Plan] = []

    def clear(self) -> None:
        """Forget all plans."""
        self._plans = []

    def add(self, plan: Plan) -> None:
        """Another plan, made after the others."""
        self._plans.append(plan)

    def row(self, step: int) -> Array | None:
        """The mean for a step, (A,); None where no plan says anything. Steps never go back."""
        self._plans = [plan for plan in self._plans if step < plan.end]
        return self._mean(step)

    def rows(self, first_step: int, end: int) -> Array:
        """Means for steps from one that some plan knows up to ``end``, (T, A)."""
        means = (self._mean(step) for step in range(first_step, end))
        return np.stack([mean for mean in means if mean is not None])

    def _mean(self, step: int) -> Array | None:
        rows = [plan.row(step) for plan in self._plans if plan.start <= step < plan.end]
        if not rows:
            return None
        stacked, weight = np.stack(rows), np.exp(-self._decay * np.arange(len(rows)))
        mean = (weight @ stacked / weight.sum()).astype(self._dtype)
        for element in self._chosen:
            values, which = np.unique(stacked[:, element], return_inverse=True)
            mean[element] = values[np.bincount(which, weight).argmax()]
        found: Array = mean
        return found


class Delays:
    """How late plans are lately, in steps.

    Attributes:
        measured: Whether any is known; else it is what was expected of the first one.
    """

    def __init__(self, first: int) -> None:
        self._recent: deque[int] = deque([first], maxlen=_DELAYS)
        self.measured = False

    def add(self, steps: int) -> None:
        """A plan took over this many steps after it was asked for."""
        self._recent.append(max(0, steps))
        self.measured = True

    @property
    def expected(self) -> int:
        """The largest of the last ones."""
        return max(self._recent)


#: Makes a plan for the present step, given one that is carried out meanwhile, or None: rows and version.
MakePlan = Callable[[GoingOn | None], tuple[Array, int]]


class DelayedPlans:
    """Plans made where they are carried out, each of which takes over some steps after it was asked for.

    With a delay of 0 steps it is usual chunking. The delay is that of an inference that takes this long: a
    simulation in lockstep, whose time does not pass meanwhile, can show what it costs. The first plan of an
    episode is waited for, and so is one after a plan that is over before the next takes over: such plans are not late,
    so chunks that are to show a delay have at least ``delay`` + ``replan_every`` rows.

    Args:
        delay: Steps from asking to taking over.
        replan_every: Steps between two askings; 0: as late as the rows allow.
        goes_on: Whether a plan is told what is carried out meanwhile.
        ensemble: Takes means over plans; None: the newest counts.
    """

    def __init__(
        self, delay: int, replan_every: int, goes_on: bool, ensemble: Ensemble | None = None
    ) -> None:
        self._delay, self._replan_every, self._goes_on = delay, replan_every, goes_on
        self._ensemble = ensemble
        self.clear()

    def clear(self) -> None:
        """Nothing is planned: an episode begins, or somebody else has driven."""
        self._step = self._made = 0
        self._current: Plan | None = None
        self._coming: deque[Plan] = deque()
        self._asked = 0
        if self._ensemble is not None:
            self._ensemble.clear()

    @property
    def made(self) -> int:
        """Plans that were made since the last :meth:`clear`."""
        return self._made

    def next(self, make: MakePlan) -> tuple[Array, Plan, int]:
        """The action of the next step, (A,), the plan that it is of (the newest of means), and its row."""
        step = self._step
        self._step += 1
        current = self._taken_over(step)
        if current is None or step >= current.end:
            self._coming.clear()
            current = self._current = self._asked_for(step, make, None)
            if self._ensemble is not None:
                self._ensemble.add(current)
        elif self._is_time(step, current):
            going_on = GoingOn(current.rows_ta[step - current.start :], self._delay)
            self._coming.append(self._asked_for(step, make, going_on if self._goes_on else None))
            current = self._taken_over(step) or current
        action = current.row(step)
        if self._ensemble is not None:
            mean = self._ensemble.row(step)
            action = action if mean is None else mean
        return action, current, step - current.start

    def _is_time(self, step: int, current: Plan) -> bool:
        if self._replan_every:
            one_by_one = self._ensemble is None and bool(self._coming)
            return not one_by_one and step - self._asked >= self._replan_every
        return not self._coming and step >= current.end - self._delay

    def _asked_for(self, step: int, make: MakePlan, going_on: GoingOn | None) -> Plan:
        rows_ta, version = make(going_on)
        self._asked = step
        self._made += 1
        return Plan(rows_ta, step, version, self._made)

    def _taken_over(self, step: int) -> Plan | None:
        """The plan that counts now, after those whose time has come have taken over."""
        while self._coming and step >= self._coming[0].start + self._delay:
            plan = self._coming.popleft()
            if step >= plan.end:
                continue
            self._current = plan
            if self._ensemble is not None:
                self._ensemble.add(plan)
        return self._current
