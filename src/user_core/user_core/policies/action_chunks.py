"""A policy that plans several actions at once, for robots that cannot wait for each.

One network gives the next T actions (Zhao et al., "Learning fine-grained bimanual manipulation
with low-cost hardware", 2023), here the tanh-Gaussian one with T times as many outputs. It is
what lets a policy on another host drive a robot through round trips of several periods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from user_core.config import setting
from user_core.policies.tanh_gaussian import TanhGaussianPolicy
from user_core.policies.tanh_gaussian_layout import TanhGaussianConfig
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec


class ActionChunksConfig(TanhGaussianConfig):
    """Shape of the networks, and how far they plan."""

    rows: int = setting(16, doc="Actions that are planned at once, T.", ge=1, le=256)


class ActionChunksPolicy(TanhGaussianPolicy):
    """T actions at once. Its layout is that of a tanh-Gaussian policy with actions (T * A,).

    Algorithms train it from windows of T steps, see ``rows`` of its network.
    """

    Config = ActionChunksConfig

    def __init__(self, config: ActionChunksConfig, spec: RobotSpec) -> None:
        super().__init__(config, _joined(spec, config.rows))
        self.rows = config.rows

    def _act(self, head: Array, deterministic: bool) -> Array:
        """The next T actions, (T, A): samples, or squashed means when ``deterministic``."""
        return super()._act(head, deterministic).reshape(self.rows, -1)


def _joined(spec: RobotSpec, rows: int) -> RobotSpec:
    """The robot, as if T of its actions were one of T * A elements."""
    action = spec.action

    def repeated(bound: Any) -> Any:
        return bound * rows if isinstance(bound, tuple) else bound

    chosen = [row * action.size + i for row in range(rows) for i in action.categorical]
    joined = ArraySpec(
        (rows * action.size,), action.dtype, repeated(action.low), repeated(action.high),
        categorical=tuple(chosen),
    )  # fmt: skip
    return replace(
        spec, action=joined, grippers=(), action_groups=(), action_kind=ActionKind.GENERIC,
        hold_choices=(),
    )  # fmt: skip
