"""The policy that acts, and the one that is getting ready beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from user_core.errors import PolicyError, SuiteError
from user_core.interfaces import Policy, PolicySource
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import PolicyVersion

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyPolicy:
    """A policy with the weights of one version.

    Attributes:
        policy: Ready to act.
        number: Number of the version; 0: the policy's first weights.
        created_ns: When the version was made, nanoseconds since the epoch; 0 without one.
    """

    policy: Policy
    number: int = 0
    created_ns: int = 0


class PolicyHolder:
    """Swaps policies between two steps, without a pause.

    There are two policies. One acts; a thread loads the newest version into the other, lets it
    act once on made-up observations (so that whatever is done lazily is done), and offers it.
    :meth:`current` takes the offer; what acted before is loaded next. So a swap costs the
    control loop the exchange of a reference.

    Args:
        make: Makes a policy for this robot; called twice.
        spec: The robot.
        source: Where versions come from.
        config_hash: What weights must be made for; empty: anything.
        poll_s: How often ``source`` is asked, seconds; :meth:`news` asks at once.
        clock_ns: Time since the epoch, nanoseconds.

    Attributes:
        swaps: Versions that were taken.
        refused: Versions that were refused.
        last_refusal: Why the last one was; empty once a later one was taken.
    """

    def __init__(
        self,
        make: Callable[[], Policy],
        spec: RobotSpec,
        source: PolicySource,
        config_hash: str = "",
        poll_s: float = 0.2,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._spec, self._source, self._config_hash = spec, source, config_hash
        self._poll_s, self._clock_ns = poll_s, clock_ns
        self._current = ReadyPolicy(make())
        self._spare = make()
        self._offer: ReadyPolicy | None = None
        self._seen = 0
        self._wake = threading.Condition()
        self._ending = False
        self.swaps = self.refused = 0
        self.last_refusal = ""
        self._thread = threading.Thread(target=self._run, name="policy-loader", daemon=True)

    def start(self) -> None:
        """Start to look for versions."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def news(self) -> None:
        """A version may be there: ask now. From any thread."""
        with self._wake:
            self._wake.notify()

    def current(self) -> ReadyPolicy:
        """The policy to act with, the newest one that is ready. For the control loop."""
        offer = self._offer
        if offer is not None:
            with self._wake:
                self._spare, self._current, self._offer = self._current.policy, offer, None
                self._wake.notify()
            self.swaps += 1
        return self._current

    @property
    def number(self) -> int:
        """Number of the version that acts."""
        return self._current.number

    def age_s(self) -> float:
        """Time since the version that acts was made, seconds; 0 without one."""
        created_ns = self._current.created_ns
        return max(0.0, (self._clock_ns() - created_ns) * 1e-9) if created_ns else 0.0

    def load_newest(self) -> bool:
        """Get the newest version ready, if there is one; whether it was offered. For the thread."""
        if self._offer is not None:
            return False  # both policies are in use until the loop takes it
        version = self._source.newest(after=self._seen)
        if version is None:
            return False
        self._seen = version.number
        try:
            self._check(version)
            self._spare.load(version.arrays)
            self._try_out(self._spare)
        except SuiteError as error:
            self._refuse(version, error)
            return False
        self.last_refusal = ""
        self._offer = ReadyPolicy(self._spare, version.number, version.created_ns)
        return True

    def _check(self, version: PolicyVersion) -> None:
        if self._config_hash and version.config_hash != self._config_hash:
            raise PolicyError(
                f"configuration of policy version {version.number}",
                got=version.config_hash or "none",
                expected=self._config_hash,
                hint="Actor and learner must have the same policy configuration and robot spec",
            )

    def _try_out(self, policy: Policy) -> None:
        """Let it act once; weights that give no usable action are refused."""
        policy.reset()
        action_ta = policy.act(_made_up(self._spec), deterministic=True)
        check_plan(action_ta, self._spec)
        policy.reset()

    def _refuse(self, version: PolicyVersion, error: SuiteError) -> None:
        self.refused += 1
        self.last_refusal = f"policy version {version.number} was refused: {error}"
        _log.error("%s", self.last_refusal)

    def _run(self) -> None:
        while not self._ending:
            try:
                self.load_newest()
            except Exception:  # a source may fail in any way; the policy that acts goes on
                _log.exception("the newest policy version could not be taken")
            with self._wake:
                if not self._ending:
                    self._wake.wait(self._poll_s)


def check_plan(action_ta: Array, spec: RobotSpec) -> None:
    """Raise PolicyError unless these are rows of finite actions for this robot, (T, A)."""
    fits = (
        isinstance(action_ta, np.ndarray)
        and action_ta.ndim == 2
        and len(action_ta) > 0
        and action_ta.shape[1:] == spec.action.shape
        and action_ta.dtype == spec.action.dtype
    )
    if not fits or not np.isfinite(action_ta).all():
        shape = getattr(action_ta, "shape", None)
        raise PolicyError(
            "actions of the policy",
            got=f"{getattr(action_ta, 'dtype', type(action_ta).__name__)}{shape}"
            + (", not all finite" if fits else ""),
            expected=f"finite {spec.action.dtype}, (T, {spec.action.size})",
        )


def _made_up(spec: RobotSpec) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: item.sample(rng) for name, item in spec.observation.items()}
