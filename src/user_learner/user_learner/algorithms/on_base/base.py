"""What algorithms share that improve a frozen policy: RLPD, with critics that learn alone at first."""

from __future__ import annotations

from typing import ClassVar

from user_core.errors import PluginError
from user_core.interfaces import Policy
from user_core.specs import RobotSpec
from user_learner.algorithms.off_policy.critics_first import CriticsFirst, CriticsFirstConfig


class OnBaseConfig(CriticsFirstConfig):
    """RLPD's parameters, and how long the critics learn alone."""


class OnBase(CriticsFirst):
    """RLPD of a policy on a frozen base.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: One of its :attr:`takes`.

    Raises:
        PluginError: It is another one.
    """

    Config: ClassVar[type[OnBaseConfig]] = OnBaseConfig
    config: OnBaseConfig
    #: Class of the policies that it trains, and the name of the plugin.
    takes: ClassVar[tuple[type[Policy], str]]

    def __init__(self, config: OnBaseConfig, spec: RobotSpec, policy: Policy) -> None:
        wanted, name = self.takes
        if not isinstance(policy, wanted):
            raise PluginError(
                f"policy of {type(self).__name__}", got=type(policy).__name__,
                expected=f"the policy {name}, on a frozen base",
                hint="See docs/how_to/improve_a_policy.md; a policy without a base learns by rlpd",
            )  # fmt: skip
        super().__init__(config, spec, policy)
