"""Who drives: the policy, or a person who has taken over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_actor.loop.config import ArbiterConfig
from user_actor.loop.ports import HumanInput
from user_core.body.action_groups import standing_still
from user_core.specs import Array, RobotSpec
from user_core.types import ActedBy


@dataclass(frozen=True)
class Takeover:
    """A person drives.

    Attributes:
        action: What to do, (A,).
        acted_by: HUMAN, or SCRIPT where a program stands in.
        holding: He has let go, and the robot is held still until it is the policy's again.
    """

    action: Array
    acted_by: ActedBy
    holding: bool = False


class InterventionArbiter:
    """The person goes before the policy, with hysteresis. Pure.

    He takes over at once. He has let go once he is not engaged, or his command is stale; the
    robot is then held still until ``hold_s`` have passed without him (and ``min_takeover_s``
    since he began), so that a shaky switch does not make the two alternate.

    Held still means: no motion for actions that are rates or changes, else the last action.
    An element that does not move the tool or a joint, for instance the gripper, keeps its
    last value.

    Args:
        config: Times.
        spec: The robot; its kind of action and its grippers tell which elements are rates.

    Attributes:
        stale: Commands that were too old.
        misfits: Actions of the person that do not fit the robot.
    """

    def __init__(self, config: ArbiterConfig, spec: RobotSpec) -> None:
        self._config, self._spec = config, spec.action
        self._stops, self._still = standing_still(spec)
        self.stale = self.misfits = 0
        self.reset()

    def reset(self) -> None:
        """A new episode begins: nobody has taken over."""
        self._since_ns: int | None = None
        self._last_ns = 0
        self._last = self._spec.zeros()
        self._acted_by = ActedBy.HUMAN

    def decide(self, human: HumanInput, now_ns: int) -> Takeover | None:
        """Who drives now; None: the policy. ``now_ns`` is monotonic."""
        action = self._wanted(human)
        if action is not None:
            if self._since_ns is None:
                self._since_ns = now_ns
            self._last_ns, self._last = now_ns, action
            self._acted_by = ActedBy.SCRIPT if human.scripted else ActedBy.HUMAN
            return Takeover(action, self._acted_by)
        if self._since_ns is None:
            return None
        config = self._config
        released = now_ns - self._last_ns >= config.hold_s * 1e9
        if released and now_ns - self._since_ns >= config.min_takeover_s * 1e9:
            self._since_ns = None
            return None
        return Takeover(self.hold_still(self._last), self._acted_by, holding=True)

    def hold_still(self, last: Array) -> Array:
        """The action after ``last`` that asks for no motion, (A,)."""
        return np.where(self._stops, self._still, last).astype(last.dtype)

    def _wanted(self, human: HumanInput) -> Array | None:
        """The person's action, if it counts; within the bounds."""
        action = human.action
        if not human.engaged or action is None:
            return None
        if human.age_s > self._config.max_age_s:
            self.stale += 1
            return None
        spec = self._spec
        fits = action.shape == spec.shape and np.isfinite(action).all()
        if not fits or spec.wrong_choice(action.tolist()) is not None:
            self.misfits += 1
            return None
        return np.clip(action, spec.low_array, spec.high_array).astype(spec.dtype)
