"""The person behind the topic ``intervention``."""

from __future__ import annotations

import threading
import time

from user_actor.loop.ports import NOBODY, HumanInput
from user_comm.converters import Intervention
from user_core.types import Label, Observation

_ANSWER_S = 0.1
_AWAY_S = 1.0
_LABELS = (("abort", Label.ABORT), ("failure", Label.FAILURE), ("success", Label.SUCCESS))


class RosTeleop:
    """TeleopPort on ``intervention`` messages.

    A label counts once, when it first appears; a device may repeat it while a button is held.
    A lockstep robot stands still while somebody answers its observation, so a step waits for
    the answer, up to a tenth of a second, as long as the device answers at all.

    Args:
        lockstep: Whether the robot is one.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._news = threading.Condition()
        self._last: Intervention | None = None
        self._arrived_ns = 0
        self._held = self._label = Label.NONE

    def on_intervention(self, intervention: Intervention) -> None:
        """A message came."""
        command = intervention.command
        said = next((label for name, label in _LABELS if getattr(command, name)), Label.NONE)
        with self._news:
            if said not in (self._held, Label.NONE):
                self._label = said
            self._held = said
            self._last, self._arrived_ns = intervention, time.monotonic_ns()
            self._news.notify_all()

    def read(self, observation: Observation) -> HumanInput:
        with self._news:
            if self._lockstep and self._is_there():
                self._news.wait_for(lambda: self._answers(observation), _ANSWER_S)
            label, self._label = self._label, Label.NONE
            last = self._last
            if last is None:
                return NOBODY
            waited_ns = time.monotonic_ns() - self._arrived_ns
        command = last.command
        age_ns = max(waited_ns, time.time_ns() - command.stamp_ns)
        if self._lockstep and self._answers(observation):
            age_ns = 0  # nothing has changed since
        return HumanInput(
            engaged=command.engaged,
            action=command.action if command.engaged else None,
            age_s=age_ns * 1e-9,
            scripted=last.scripted,
            label=label,
        )

    def _is_there(self) -> bool:
        if self._last is None or not self._last.observation_sequence:
            return False
        return time.monotonic_ns() - self._arrived_ns < _AWAY_S * 1e9

    def _answers(self, observation: Observation) -> bool:
        return self._last is not None and (self._last.observation_sequence == observation.sequence)
