"""A policy on the robot's host that acts while the one on another host does not answer.

:class:`Fallback` decides, step by step, which of the two acts; :mod:`user_actor.loop.acting.action_source` asks it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from user_actor.loop.acting.observation_history import ObservationHistory
from user_actor.loop.acting.policy import FixedPolicy, PolicyHolder, try_out
from user_actor.loop.acting.remote import Lateness
from user_actor.loop.config import FallbackConfig
from user_core.codecs.weights import read_version
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice
from user_core.policies import policy_config_hash
from user_core.reasons import LOCAL_POLICY, NO_REASON, Reason
from user_core.runtime.clock import Clock
from user_core.specs import RobotSpec
from user_core.types import Task

_log = logging.getLogger(__name__)
#: For this long the other host's answers may be over when they come, because this policy moves the robot meanwhile;
#: then the robot stands still for one.
_TRY_S = 0.3


class Fallback:
    """Which policy acts. Pure; for the control loop's thread, :attr:`reason` and :attr:`acts` for any.

    The one on the robot takes over when the other host has been silent, or refuses, for ``after_s``, and nothing of
    what it has planned is left. That host acts again when it has answered for ``back_after_s`` without such a gap. So a
    host that answers now and then does not make the two take turns.

    Args:
        config: When.
        policies: The policy here.
        clock: Tells the time.
        grace_s: A host that was never heard has this long to answer, seconds.

    Attributes:
        acts: Whether the policy on the robot acts.
        times: How often it has taken over.
        history: What it has seen in this episode.
    """

    def __init__(
        self,
        config: FallbackConfig,
        policies: FixedPolicy | PolicyHolder,
        clock: Clock,
        grace_s: float = 0.0,
    ) -> None:
        self._config, self.policies, self._clock = config, policies, clock
        self._patient_until_ns = clock.monotonic_ns() + int(grace_s * 1e9)
        self.history = ObservationHistory(policies.current().policy.observation_history)
        self.acts, self.times = False, 0
        self._why = NO_REASON
        self._late_ns = 0  # the last moment at which an answer was late
        self._first_heard_ns = self._last_heard_ns = 0  # of the answers since then

    @property
    def after_s(self) -> float:
        """Silence after which it takes over, seconds."""
        return self._config.after_s

    @property
    def reason(self) -> Reason:
        """That it acts, and why; false where it does not."""
        if not self.acts:
            return NO_REASON
        return Reason(LOCAL_POLICY, f"the policy on the robot acts: {self._why.text}")

    def begin(self, task: Task) -> None:
        """An episode begins."""
        self.policies.begin(task)
        self.history.begin()

    def look(self, late: Lateness, planned: bool) -> bool:
        """Whether the policy on the robot acts in this step.

        Args:
            late: How the other host answers.
            planned: Whether there is something left to carry out of its answers.
        """
        now_ns = self._clock.monotonic_ns()
        if late.why:
            self._late_ns, self._first_heard_ns = now_ns, 0
            if self.acts:
                self._why = late.why
            elif not planned and now_ns >= self._patient_until_ns and not self.policies.waits:
                self.acts, self._why = True, late.why
                self.times += 1
                _log.warning("%s", self.reason.text)
        elif late.heard_ns > self._late_ns:
            self._first_heard_ns = self._first_heard_ns or late.heard_ns
            self._last_heard_ns = late.heard_ns
        return self.acts

    @property
    def may_go_back(self) -> bool:
        """Whether the other host may act again, as soon as one of its answers can be played."""
        return self._answers_for_s(self._config.back_after_s)

    @property
    def must_go_back(self) -> bool:
        """Whether it acts again in any case: the robot waits for its answer."""
        return self._answers_for_s(self._config.back_after_s + _TRY_S)

    def go_back(self) -> None:
        """The other host acts from now on."""
        self.acts = False
        _log.warning("the policy on the inference host acts again")

    def _answers_for_s(self, seconds: float) -> bool:
        answered_ns = self._last_heard_ns - self._first_heard_ns
        return self._first_heard_ns > 0 and answered_ns >= seconds * 1e9


def policy_of_file(file: str, choice: PluginChoice, spec: RobotSpec, task: Task) -> FixedPolicy:
    """A policy with the weights of a policy file, tried out.

    Raises:
        ConfigError: It cannot be read.
        PolicyError, CodecError: It is not for this policy and robot, is damaged, or gives no usable action.
    """
    config_hash = policy_config_hash(choice.plugin, choice.params, spec)
    try:
        version = read_version(Path(file).expanduser(), config_hash=config_hash)
    except OSError as error:
        raise ConfigError(
            "remote.fallback.weights", got=str(error), expected="`versions`, or a policy file",
            hint="`user train` and runs keep theirs as policy.safetensors",
        ) from error  # fmt: skip
    policy = choice.build("policies", spec, path="remote.fallback")
    policy.load(version.arrays)
    try_out(policy, spec, task)
    return FixedPolicy(policy, version.number)
