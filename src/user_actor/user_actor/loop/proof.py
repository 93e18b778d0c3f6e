"""Proof: a policy acts without a person only once it has shown, with one present, that it may."""

from __future__ import annotations

import logging

from user_actor.loop.config import ProofConfig
from user_actor.loop.start import StartSignal
from user_core.reasons import PERSON_TOOK_OVER, SAFETY_STOP
from user_core.types import EpisodeResult, Outcome

#: Ends of an evaluation that are the policy's fault; others are tried again.
_ITS_FAULT = (PERSON_TOOK_OVER, SAFETY_STOP)
_log = logging.getLogger(__name__)


class Proof:
    """Rounds of evaluation episodes at the beginning. Pure.

    A person says go, and stays beside the robot. The policy is evaluated; if enough episodes succeed, the
    robot goes on by itself, for as long as the process lives. If not, go must be said again: then the robot collects
    as many episodes with a person beside it, from which it may learn, and is evaluated anew.

    Args:
        config: How many must succeed.
        start: The go that is withdrawn.

    Attributes:
        proven: Whether the policy may act alone.
    """

    def __init__(self, config: ProofConfig, start: StartSignal) -> None:
        self._config, self._start = config, start
        self.proven = not config.episodes
        self._collect = 0
        self._done = self._successes = 0

    @property
    def evaluates(self) -> bool:
        """Whether the next episode is one of a round."""
        return not self.proven and not self._collect

    @property
    def done(self) -> int:
        """Episodes of the present round."""
        return self._done

    def collected(self) -> None:
        """An episode with a person beside the robot has ended."""
        self._collect = max(0, self._collect - 1)

    def evaluated(self, result: EpisodeResult) -> None:
        """An episode of the round has ended."""
        aborted = result.outcome is Outcome.ABORTED
        if aborted and result.reason_code not in _ITS_FAULT:
            return
        self._done += 1
        self._successes += result.outcome is Outcome.SUCCESS
        if self._done < self._config.episodes:
            return
        needed = self._config.success * self._config.episodes
        said = f"policy version {result.last_version} solved {self._successes} of {self._done} evaluations"
        self.proven = self._successes >= needed - 1e-9
        self._done = self._successes = 0
        if self.proven:
            _log.warning("%s: the robot now acts without a person", said)
            return
        _log.warning("%s, too few to act without a person", said)
        self._collect = self._config.episodes
        self._start.withdraw(
            f"{said}, {needed:g} are needed to act alone; beside a person it collects {self._collect} "
            "episodes, and is evaluated again"
        )
