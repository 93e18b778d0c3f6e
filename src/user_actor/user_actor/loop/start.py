"""When a robot may begin to move: at once, or once a person beside it has said go; and when it may go on alone."""

from __future__ import annotations

import logging

from user_actor.loop.config import ProofConfig
from user_core.errors import DeviceError
from user_core.reasons import (
    EMERGENCY_STOP,
    NO_REASON,
    PERSON_TOOK_OVER,
    SAFETY_STOP,
    WAITS_FOR_GO,
    Reason,
)
from user_core.types import EpisodeResult, Outcome

_log = logging.getLogger(__name__)
_HOW = "say go to it"
#: Ends of an evaluation that are the policy's fault; others are tried again.
_ITS_FAULT = (PERSON_TOOK_OVER, SAFETY_STOP)


class StartSignal:
    """Whether a person has said go. Pure; :meth:`go` and :meth:`withdraw` from any thread.

    A go holds for many episodes. It is withdrawn by an emergency stop, and when the robot was away
    for longer than ``lapses_s``: whoever stopped it, or has waited for it, may stand beside it. It
    is not remembered beyond the process, nor beyond the deactivation of its node.

    Args:
        needed: Whether anybody must say it at all.
        lapses_s: How long the robot may be away, seconds.
        how: What to do to say go, for people.
    """

    def __init__(self, needed: bool, lapses_s: float, how: str = _HOW) -> None:
        self._needed, self._lapses_ns, self.how = needed, int(lapses_s * 1e9), how
        self._said = False
        self._why = "nothing has moved yet"
        self._away_since_ns: int | None = None
        self._unready = Reason()

    def go(self) -> str:
        """A person says go; returns what will happen, for him.

        Raises:
            DeviceError: The robot is not ready: a go for later would come as a surprise.
        """
        if not self._needed:
            return "it starts by itself (start: at_once)"
        if self._unready:
            raise DeviceError("go", got=self._unready.text, expected="a robot that is ready",
                              hint="Say it again then")  # fmt: skip
        self._said = True
        return "the robot moves now"

    def withdraw(self, why: str) -> None:
        """The go does not hold any more; ``why`` is for people."""
        if self._said:
            self._said, self._why = False, why

    def robot_is(self, unready: Reason, now_ns: int) -> None:
        """How the robot is now: ``unready`` says why it cannot be driven, if it cannot."""
        self._unready = unready
        if not unready:
            self._away_since_ns = None
            return
        if self._away_since_ns is None:
            self._away_since_ns = now_ns
        if unready.code == EMERGENCY_STOP:
            self.withdraw("there was an emergency stop")
        elif now_ns - self._away_since_ns > self._lapses_ns:
            self.withdraw(f"it was away for more than {self._lapses_ns * 1e-9:g} s")

    def why_waiting(self) -> Reason:
        """Why the robot must not move yet; false if it may."""
        if self._said or not self._needed:
            return NO_REASON
        return Reason(WAITS_FOR_GO, f"a person must say go, {self._why}: {self.how}")


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
