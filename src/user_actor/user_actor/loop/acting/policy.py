"""The policy that acts, and the one that is getting ready beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from user_actor.loop.acting.chunks import GoingOn
from user_core import plugins
from user_core.config import from_mapping
from user_core.errors import PluginError, PolicyError, SuiteError, in_words, is_of_a_person
from user_core.interfaces import Policy, PolicySource, Query
from user_core.plugins import PluginChoice
from user_core.reasons import NO_REASON, Reason
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import PolicyVersion, Task

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


class FixedPolicy:
    """A policy that keeps the weights it has.

    Args:
        policy: The policy.
        number: The version that its weights are of, for what is recorded.
    """

    def __init__(self, policy: Policy, number: int = 0) -> None:
        self._ready = ReadyPolicy(policy, number)

    def begin(self, task: Task) -> None:
        """An episode begins, in which this is to be done."""
        self._ready.policy.reset(task)

    def current(self) -> ReadyPolicy:
        """The policy to act with."""
        return self._ready

    @property
    def waits(self) -> bool:
        """No version has come, and one is to come: never."""
        return False


class PolicyHolder:
    """Swaps policies between two steps, without a pause.

    There are two policies. One acts; :meth:`load_newest` loads the newest version into the other,
    lets it act once on made-up observations (so that whatever is done lazily is done), and offers
    it. :meth:`current` takes the offer; what acted before is loaded next. So a swap costs the
    control loop the exchange of a reference. The holder has no thread: who gets the versions
    calls :meth:`load_newest`, when one has come and when ``on_free`` says that it could not be
    used before and can now.

    Args:
        make: Makes a policy for this robot; called twice.
        spec: The robot.
        source: Where versions come from.
        config_hash: What weights must be made for; empty: anything.
        on_free: Called in the control loop's thread when it has taken an offer, so that the next
            version can be loaded; must return at once.
        clock_ns: Time since the epoch, nanoseconds.
        pass_in: What each pass of a policy is made in, for instance with autocast, by the policy: versions are tried
            out as they will act.
        prepare: Called with each policy that is to act, once it has its weights and before it is offered.
        preparing: What a policy is made ready in, beside the one that acts.

    Attributes:
        preparing: As given; whoever fills the spare policy does it in this.
        pass_in: As given; whoever lets the policy act does it in this.
        held: Whether the version that acts goes on acting though another is ready.
        swaps: Versions that were taken.
        refused: Versions that were refused.
        refusal: Why the last one was; false once a later one was taken.
    """

    def __init__(
        self,
        make: Callable[[], Policy],
        spec: RobotSpec,
        source: PolicySource,
        config_hash: str = "",
        on_free: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.time_ns,
        pass_in: Callable[[Policy], AbstractContextManager[Any]] = nullcontext,
        prepare: Callable[[Policy], object] = lambda policy: None,
        preparing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.pass_in, self._prepare, self.preparing = pass_in, prepare, preparing
        self._spec, self._source, self._config_hash = spec, source, config_hash
        self._on_free, self._clock_ns = on_free, clock_ns
        self._task = Task()
        self._current = ReadyPolicy(make())
        prepare(self._current.policy)
        self._spare = make()
        self._offer: ReadyPolicy | None = None
        self._seen = 0
        self.held = False
        self.swaps = self.refused = 0
        self.refusal = NO_REASON

    def begin(self, task: Task) -> None:
        """An episode begins, in which this is to be done. For the control loop."""
        self._task = task  # also of versions that are taken within the episode
        self.current().policy.reset(task)

    def current(self) -> ReadyPolicy:
        """The policy to act with, the newest one that is ready. For the control loop."""
        offer = self._offer
        if offer is not None and not self.held:
            self._spare, self._current = self._current.policy, offer
            self._offer = None  # last: from now on the spare one may be loaded
            self.swaps += 1
            self._on_free()
        return self._current

    @property
    def waits(self) -> bool:
        """No version has come, and one is to come."""
        return not self.current().number

    @property
    def acting(self) -> Policy:
        """The policy that acts, without taking an offer: for any thread."""
        return self._current.policy

    @property
    def number(self) -> int:
        """Number of the version that acts."""
        return self._current.number

    def age_s(self) -> float:
        """Time since the version that acts was made, seconds; 0 without one."""
        created_ns = self._current.created_ns
        return max(0.0, (self._clock_ns() - created_ns) * 1e-9) if created_ns else 0.0

    def load_newest(self) -> bool:
        """Get the newest version ready, if there is one; whether it was offered.

        Not in the control loop's thread, and by one thread at a time. Versions that do not fit
        are refused; any error of the source or of the policy ends here, and in the log.
        """
        if self._offer is not None:
            return False  # both policies are in use until the loop takes it
        try:
            version = self._source.newest(after=self._seen)
        except Exception:  # a source may fail in any way; the policy that acts goes on
            _log.exception("the newest policy version could not be taken")
            return False
        if version is None:
            return False
        return self.load(version, lambda policy: policy.load(version.arrays))

    @property
    def spare(self) -> Policy | None:
        """The policy that does not act, where it may be loaded now; else the loop has not taken the version before."""
        return None if self._offer is not None else self._spare

    def load(self, version: PolicyVersion, fill: Callable[[Policy], object]) -> bool:
        """Get a version ready whose weights come by a way of their own; whether it was offered.

        As :meth:`load_newest`, by the same thread, and while :attr:`spare` is free.

        Args:
            version: The version; its arrays are not looked at.
            fill: Gives the spare policy all of the version's weights. What it raises is a reason to refuse the version.
        """
        self._seen = max(self._seen, version.number)
        try:
            self._check(version)
            with self.preparing():
                fill(self._spare)
                self._prepare(self._spare)
                try_out(self._spare, self._spec, self._task, self.pass_in)
        except BaseException as error:  # of the version, or of the policy's own code
            if is_of_a_person(error):
                raise
            self._refuse(version, error)
            return False
        self.refusal = NO_REASON
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

    def _refuse(self, version: PolicyVersion, error: BaseException) -> None:
        self.refused += 1
        why = Reason.of(error)
        self.refusal = Reason(why.code, f"policy version {version.number} was refused: {why.text}")
        _log.error("%s", self.refusal, exc_info=not isinstance(error, SuiteError))


def history_of(choice: PluginChoice, spec: RobotSpec) -> int:
    """How many observations a policy sees at once that acts on another host. Its plugin need not be installed here:
    then ``observation_history`` of its parameters says it."""
    try:
        cls = plugins.load("policies", choice.plugin)
    except PluginError:
        return int(choice.params.get("observation_history", 1))
    return int(cls.history_of(from_mapping(cls.Config, choice.params, "policy.params"), spec))


def planned(policy: Policy, arrays: Arrays, going_on: GoingOn | None, deterministic: bool) -> Array:
    """What a policy plans, (T, A), given a plan that is carried out meanwhile, or None.

    Raises:
        PolicyError: It raised something, or cannot go on from a plan.
    """
    act: Any = policy
    with _faults_are_policy_errors(policy):
        if going_on is None:
            rows_ta: Array = act.act(arrays, deterministic=deterministic)
        else:
            _require_continue_plan(policy)
            rows_ta = act.continue_plan(
                arrays, going_on.plan_ta, going_on.frozen, deterministic=deterministic
            )
    return rows_ta


def planned_together(policy: Policy, queries: Sequence[Query]) -> list[Array]:
    """What a policy plans for several robots by one pass, for each (T, A).

    Raises:
        PolicyError: It raised something, cannot go on from a plan, or does not answer each.
    """
    act: Any = policy
    with _faults_are_policy_errors(policy):
        if any(query.plan is not None for query in queries):
            _require_continue_plan(policy)
        answers: list[Array] = act.act_batch(queries)
        if len(answers) != len(queries):
            raise PolicyError(
                f"answers of policy {type(policy).__name__}",
                got=len(answers),
                expected=len(queries),
            )
    return answers


def _require_continue_plan(policy: Policy) -> None:
    if not hasattr(policy, "continue_plan"):
        raise PolicyError(
            f"policy {type(policy).__name__} in real-time chunking", got="no continue_plan",
            expected="a policy that can go on from a plan, for instance flow",
            hint="Or set loop.chunks.execution to sequential or ensemble",
        )  # fmt: skip


@contextmanager
def _faults_are_policy_errors(policy: Policy) -> Iterator[None]:
    """A plugin may fail in any way, SystemExit too."""
    try:
        yield
    except PolicyError:
        raise
    except BaseException as error:
        if is_of_a_person(error):
            raise
        raise PolicyError(f"policy {type(policy).__name__}", got=in_words(error)) from error


def try_out(
    policy: Policy, spec: RobotSpec, task: Task,
    pass_in: Callable[[Policy], AbstractContextManager[Any]] = nullcontext,
) -> None:  # fmt: skip
    """Let a policy act once on what is made up; raises what it raises, and PolicyError where that is no usable
    action."""
    policy.reset(task)
    made_up = spec.sample_observation(np.random.default_rng(0), policy.observation_history)
    with pass_in(policy):
        action_ta = policy.act(made_up, deterministic=True)
    check_plan(action_ta, spec)
    policy.reset(task)


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
