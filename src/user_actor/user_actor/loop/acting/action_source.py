"""Decides the action of each step and sends it: a policy, a person, or chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from user_actor.loop.acting.chunks import DelayedPlans, Ensemble, GoingOn
from user_actor.loop.acting.fallback import Fallback
from user_actor.loop.acting.observation_history import ObservationHistory
from user_actor.loop.acting.policy import (
    FixedPolicy,
    PolicyHolder,
    ReadyPolicy,
    check_plan,
    planned,
)
from user_actor.loop.acting.remote import InferencePort, Planned, RemotePolicy
from user_actor.loop.acting.threaded import ThreadedPolicy
from user_actor.loop.config import ActorLoopConfig, ExplorationConfig
from user_actor.loop.interventions import InterventionArbiter, Takeover
from user_actor.loop.ports import NOBODY, RobotPort, TeleopPort
from user_actor.loop.recording import Decision
from user_actor.loop.stats import LoopStats
from user_core.reasons import NO_POLICY, NO_POLICY_VERSION, NO_REASON, NO_TELEOP, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.pacing import Pacer
from user_core.specs import Array, ArraySpec
from user_core.types import ActedBy, ActionChunk, EpisodeSource, Label, Observation, Task


class RandomActions:
    """Uniform within the bounds, each by itself or each like the one before.

    Smooth actions are an autoregressive process of order one with standard normal marginals,
    mapped through its distribution function: so every action taken by itself is uniform, and
    successive ones are correlated.

    Args:
        config: Kind, correlation, seed.
        spec: The robot's action; without bounds, or of integers, ``spec.sample`` decides.
        steps: Steps made before, in earlier processes: who goes on does not begin anew.
    """

    def __init__(self, config: ExplorationConfig, spec: ArraySpec, steps: int = 0) -> None:
        self._config, self._spec = config, spec
        self._rng = np.random.default_rng(None if config.seed < 0 else [config.seed, steps])
        bounded = spec.low is not None and spec.high is not None
        self._smooth = config.kind == "smooth" and bounded and spec.dtype.startswith("float")
        self._state = self._rng.standard_normal(spec.shape)

    def reset(self) -> None:
        """A new episode begins: start anew."""
        self._state = self._rng.standard_normal(self._spec.shape)

    def sample(self) -> Array:
        """One action, (A,)."""
        if not self._smooth:
            return self._spec.sample(self._rng)
        rho = self._config.correlation
        noise = self._rng.standard_normal(self._spec.shape)
        self._state = rho * self._state + math.sqrt(1 - rho * rho) * noise
        share = np.array([(1 + math.erf(z / math.sqrt(2))) / 2 for z in self._state])
        low, high = self._spec.low_array, self._spec.high_array
        action = low + share * (high - low)
        if self._spec.categorical:  # evenly, too: each choice has as large a share
            chosen = list(self._spec.categorical)
            counts = np.asarray(self._spec.counts)
            action[chosen] = low[chosen] + np.minimum(share[chosen] * counts, counts - 1) // 1
        smooth: Array = np.clip(action, low, high).astype(self._spec.dtype)
        return smooth


# --- The action chunk that is being carried out ---


@dataclass
class ChunkInProgress:
    """Rows that a policy proposed, and how far they were carried out.

    Attributes:
        action_ta: The rows, (T, A).
        version: Policy version that proposed them.
        number: Counts the plans of an episode, from 1.
        sequence: Sequence number of the chunk in which they were sent; 0: row by row.
        next_row: The row that is due now.
    """

    action_ta: Array
    version: int
    number: int = 1
    sequence: int = 0
    next_row: int = 0

    def due(self, replan_every: int) -> bool:
        """Whether the policy must plan again; ``replan_every`` 0: when all rows are used."""
        rows = len(self.action_ta)
        return self.next_row >= (min(replan_every, rows) if replan_every else rows)

    def take(self) -> tuple[Array, int]:
        """The row that is due, (A,), and its place; the next one is due then."""
        row = self.next_row
        self.next_row += 1
        return self.action_ta[row], row


# --- The decision of each step ---


@dataclass(frozen=True)
class _Proposal:
    """What the policy (or chance) proposes for one step."""

    action: Array
    acted_by: ActedBy
    version: int
    row: int = 0
    sequence: int = 0
    """Of the chunk that is being played already; 0: it has to be sent."""
    plan: int = 0
    plan_row: int = 0


def _of_remote(planned: Planned) -> _Proposal:
    return _Proposal(
        planned.action, ActedBy.POLICY, planned.version, planned.row, planned.sequence,
        planned.number, planned.number_row,
    )  # fmt: skip


class ActionSource:
    """Makes decisions, one a step.

    In each episode sequence numbers start from the wall clock, microseconds, so that a robot that
    remembers the numbers of an earlier process, or of another loop, takes these for newer.

    Args:
        config: Parameters.
        robot: Where actions go.
        policy: What acts: a policy here, or one on another host; None in demonstrations.
        teleop: The person; None without one.
        pacer: The grid of steps.
        clock: Tells the time.
        stats: Where inference times are counted.
        total_steps: Gives the steps that this actor ever made.
        fallback: What acts here while a policy on another host does not answer; None: nothing.

    Attributes:
        fallback: As given.
        policies: The policy, where it acts here.
        inference_ns: How long the policy took for the last decision; 0 if it was not asked.
        taken_over: A person is engaged.
    """

    def __init__(
        self,
        config: ActorLoopConfig,
        robot: RobotPort,
        policy: FixedPolicy | PolicyHolder | InferencePort | None,
        teleop: TeleopPort | None,
        pacer: Pacer,
        clock: Clock,
        stats: LoopStats,
        total_steps: Callable[[], int],
        fallback: Fallback | None = None,
    ) -> None:
        self._config, self._robot = config, robot
        self._teleop, self._period_ns, self._clock = teleop, pacer.period_ns, clock
        self._stats, self._total_steps, self.fallback = stats, total_steps, fallback
        self.policies: FixedPolicy | PolicyHolder | None = None
        self._remote: RemotePolicy | None = None
        chunks, action = config.chunks, robot.spec.action
        self._threaded: ThreadedPolicy | None = None
        port: InferencePort | None = None
        if isinstance(policy, FixedPolicy | PolicyHolder):
            self.policies = policy
            if chunks.inference == "thread":
                self._threaded = port = ThreadedPolicy(policy, robot.spec, clock)
        else:
            port = policy
        if port is not None:
            self._remote = RemotePolicy(
                port, pacer, clock, self._send_rows, chunks, action, config.replan_every
            )
        acting = self.policies.current().policy if self.policies is not None else policy
        self._history = ObservationHistory(getattr(acting, "observation_history", 1))
        self._delayed: DelayedPlans | None = None
        if chunks.execution != "sequential" or chunks.delay_steps:
            averaged = chunks.execution == "ensemble"
            self._delayed = DelayedPlans(
                chunks.delay_steps,
                config.replan_every or int(averaged),
                chunks.execution == "real_time",
                Ensemble(action, chunks.ensemble_decay) if averaged else None,
            )
        self._random = RandomActions(config.exploration, robot.spec.action, total_steps())
        self.arbiter = InterventionArbiter(config.arbiter, robot.spec)
        self._sequence = clock.wall_ns() // 1000
        self._source = EpisodeSource.ONLINE
        self._plan: ChunkInProgress | None = None
        self._plans = 0
        self._last_sent: Array | None = None
        self._human = NOBODY
        self.inference_ns = 0
        self.taken_over = False

    def why_waiting(self) -> Reason:
        """Why no action could be decided now; false if one can."""
        if self._config.mode == "demonstration":
            if self._teleop is None:
                return Reason(NO_TELEOP, "demonstrations need a teleoperator")
            return NO_REASON
        if self._remote is not None and self.policies is None:
            newest = self._robot.observations.newest
            why = self._remote.why_waiting(
                None if newest is None else self._history.with_past(newest)
            )
            if self._config.mode != "evaluation" and self._falls_back(self._remote, planned=False):
                return NO_REASON
            return why
        if self.policies is None:
            return Reason(NO_POLICY, "there is no policy")
        waits = self._config.exploration.before_first_version == "wait"
        needed = waits or self._config.mode == "evaluation"
        if needed and self.policies.waits:
            return Reason(NO_POLICY_VERSION, "no policy version has come yet")
        return NO_REASON

    @property
    def has_version(self) -> bool:
        """Whether there is a policy that is worth an evaluation."""
        if self._remote is not None and self.policies is None:
            acts_here = self.fallback is not None and self.fallback.acts
            return self._remote.version > 0 and not acts_here
        return self.policies is not None and not self.policies.waits

    def why_lost(self) -> Reason:
        """Why there will be no action for a while; false if there may be one."""
        if self._remote is None or self._acts_here(self._remote):
            return NO_REASON
        return self._remote.why_lost()

    def _acts_here(self, remote: RemotePolicy) -> bool:
        """Whether the policy here acts in this step; never in an evaluation, which is about the one elsewhere."""
        evaluates = self._source is EpisodeSource.EVALUATION
        return not evaluates and self._falls_back(remote, remote.is_planned)

    def _falls_back(self, remote: RemotePolicy, planned: bool) -> bool:
        fallback = self.fallback
        return fallback is not None and fallback.look(remote.lateness(fallback.after_s), planned)

    @property
    def stale_answers(self) -> int:
        """Answers of a policy elsewhere that were over when they came."""
        return self._remote.plans.stale if self._remote is not None else 0

    def begin(self, source: EpisodeSource, task: Task, keep_version: bool = False) -> None:
        """A new episode begins; policies are told the task.

        An evaluation acts with one version throughout, and with ``keep_version`` with that of
        the evaluation before, so that its episodes are about one policy.
        """
        self._source, self._plan, self._last_sent = source, None, None
        self._plans = 0  # plans of this episode, made before those that delayed ones count
        self._sequence = max(self._sequence, self._clock.wall_ns() // 1000)
        self.arbiter.reset()
        self._random.reset()
        self._history.begin()
        if isinstance(self.policies, PolicyHolder):
            self.policies.held = keep_version
        if self._threaded is not None:
            self._threaded.begin_episode(task)
        elif self.policies is not None:
            self.policies.begin(task)
        if self._delayed is not None:
            self._delayed.clear()
        if isinstance(self.policies, PolicyHolder):
            self.policies.held = source is EpisodeSource.EVALUATION
        if self._remote is not None:
            self._remote.begin()
        if self.fallback is not None:
            self.fallback.begin(task)

    def listen(self, observation: Observation) -> Label:
        """Ask the person once a step, before :meth:`decide`; return his verdict."""
        human = self._teleop.read(observation) if self._teleop is not None else NOBODY
        self._human = human
        self.taken_over = human.engaged and human.age_s <= self._config.arbiter.max_age_s
        return human.label

    def decide(self, observation: Observation) -> Decision | None:
        """Decide and send; None if there is nothing to do (a person has not begun, or a policy
        elsewhere has not answered).

        Raises:
            PolicyError: The policy gave no usable action.
            SpecError, DeviceError, TransportError: The robot's port refused.
        """
        self.inference_ns = 0
        takeover = None
        if self._source is not EpisodeSource.EVALUATION:
            takeover = self.arbiter.decide(self._human, self._clock.monotonic_ns())
        if self._source is EpisodeSource.DEMONSTRATION:
            return self._demonstrate(observation, takeover)
        if self._remote is not None:
            proposal = self._propose_here_or_there(self._remote, observation, takeover)
            if proposal is None:
                return None
        else:
            proposal = self._propose(observation)
        self._history.decided(observation)
        if self.fallback is not None:
            self.fallback.history.decided(observation)
        if takeover is not None:
            self._forget_plan()  # its rows are overruled: plan anew afterwards
            return self._send(observation, proposal, takeover.action, takeover.acted_by)
        return self._send(observation, proposal, proposal.action, proposal.acted_by)

    def send_again(self, decision: Decision) -> None:
        """Send a decision that did not arrive, under its number: a robot that has it refuses it."""
        self._transmit(decision.sent[None], decision.acted_by, decision.version, decision.sequence)

    def _demonstrate(self, observation: Observation, takeover: Takeover | None) -> Decision | None:
        if takeover is not None:
            action, acted_by = takeover.action, takeover.acted_by
        elif self._last_sent is not None:
            action, acted_by = self.arbiter.hold_still(self._last_sent), ActedBy.HUMAN
        else:
            return None
        return self._send(observation, _Proposal(action, acted_by, 0), action, acted_by)

    def _propose(self, observation: Observation) -> _Proposal:
        policies = self.policies
        assert policies is not None  # noqa: S101 - why_waiting() asked for one
        ready = policies.current()
        evaluating = self._source is EpisodeSource.EVALUATION
        if not evaluating and self._is_random():
            self._forget_plan()
            return _Proposal(self._random.sample(), ActedBy.RANDOM, 0)
        without_chance = evaluating or self._config.exploration.deterministic
        seen = self._history.with_past(observation)
        if self._delayed is not None:
            action, made, row = self._delayed.next(
                lambda going_on: self._act(ready, seen, going_on, without_chance)
            )
            number = self._plans + made.number
            return _Proposal(action, ActedBy.POLICY, made.version, plan=number, plan_row=row)
        return self._next_row(ready, seen, without_chance, ActedBy.POLICY)

    def _next_row(
        self, ready: ReadyPolicy, seen: Observation, without_chance: bool, who: ActedBy
    ) -> _Proposal:
        """The next row of the plan in progress, or the first one of another."""
        if self._plan is None or self._plan.due(self._config.replan_every):
            self._plan = self._make_plan(ready, seen, without_chance)
        plan = self._plan
        action, row = plan.take()
        playing = plan.sequence if row else 0
        return _Proposal(action, who, plan.version, row, playing, plan.number, row)

    def _forget_plan(self) -> None:
        self._plan = None
        if self._delayed is not None:
            self._plans += self._delayed.made
            self._delayed.clear()

    def _propose_here_or_there(
        self, remote: RemotePolicy, observation: Observation, takeover: Takeover | None
    ) -> _Proposal | None:
        seen, fallback = self._history.with_past(observation), self.fallback
        if fallback is None or not self._acts_here(remote):
            return self._propose_remotely(remote, seen, takeover)
        # Plans of both are counted together: a number is one plan of the episode.
        self._plans = remote.plans.number = max(self._plans, remote.plans.number)
        if fallback.must_go_back:
            self._go_back(fallback)
        if not fallback.acts or self._is_random():
            return self._propose_remotely(remote, seen, takeover)
        without_chance = self._config.exploration.deterministic
        if takeover is None and fallback.may_go_back:
            planned = remote.propose(seen, deterministic=without_chance, waits=False)
            if planned is not None:
                self._go_back(fallback)
                return _of_remote(planned)
        else:
            remote.overruled(seen, deterministic=without_chance)
        seen = fallback.history.with_past(observation)
        return self._next_row(fallback.policies.current(), seen, without_chance, ActedBy.FALLBACK)

    def _go_back(self, fallback: Fallback) -> None:
        self._forget_plan()
        fallback.go_back()

    def _propose_remotely(
        self, remote: RemotePolicy, observation: Observation, takeover: Takeover | None
    ) -> _Proposal | None:
        evaluating = self._source is EpisodeSource.EVALUATION
        deterministic = evaluating or self._config.exploration.deterministic
        random = not evaluating and self._is_random()
        if random or takeover is not None:
            wanted = remote.overruled(observation, deterministic=deterministic)
            if random:
                return _Proposal(self._random.sample(), ActedBy.RANDOM, 0)
            if wanted is None and takeover is not None:
                return _Proposal(takeover.action, takeover.acted_by, 0)
            assert wanted is not None  # noqa: S101
            return _Proposal(wanted[0], ActedBy.POLICY, wanted[1])
        planned = remote.propose(observation, deterministic=deterministic)
        self.inference_ns = remote.waited_ns
        if planned is None:
            return None
        self._stats.inference.add(self.inference_ns)
        return _of_remote(planned)

    def _is_random(self) -> bool:
        exploration = self._config.exploration
        waits = self.policies is not None and self.policies.waits
        if waits and exploration.before_first_version == "random":
            return True
        return self._total_steps() < exploration.random_steps

    def _make_plan(
        self, ready: ReadyPolicy, seen: Observation, deterministic: bool
    ) -> ChunkInProgress:
        rows_ta, version = self._act(ready, seen, None, deterministic)
        self._plans += 1
        return ChunkInProgress(rows_ta, version, self._plans)

    def _act(
        self,
        ready: ReadyPolicy,
        seen: Observation,
        going_on: GoingOn | None,
        deterministic: bool,
    ) -> tuple[Array, int]:
        """What the policy plans on an observation with its past, and its version."""
        begin_ns = self._clock.monotonic_ns()
        action_ta = planned(ready.policy, seen.arrays, going_on, deterministic)
        self.inference_ns = self._clock.monotonic_ns() - begin_ns
        self._stats.inference.add(self.inference_ns)
        check_plan(action_ta, self._robot.spec)
        return action_ta, ready.number

    def _send(
        self, observation: Observation, proposal: _Proposal, action: Array, acted_by: ActedBy
    ) -> Decision:
        overruled = action is not proposal.action
        row, sequence = proposal.row, proposal.sequence
        stamp_ns = self._clock.wall_ns()
        if overruled or not sequence:
            rows_ta, row = action[None], 0
            self._sequence += 1
            sequence = self._sequence
            plan = self._plan
            ahead = not self._robot.spec.lockstep and plan is not None and not overruled
            if ahead and plan is not None and len(plan.action_ta) > 1:
                rows_ta, plan.sequence = plan.action_ta, sequence
            self._transmit(
                rows_ta, acted_by, proposal.version, sequence,
                start_ns=stamp_ns if len(rows_ta) > 1 else 0,
            )  # fmt: skip
        self._last_sent = action
        return Decision(
            observation, proposal.action, action, acted_by, proposal.version, sequence, row,
            stamp_ns, proposal.plan, proposal.plan_row,
        )  # fmt: skip

    def _send_rows(self, rows_ta: Array, version: int, start_ns: int) -> int:
        """Send rows of a policy elsewhere; the number of their chunk."""
        self._sequence += 1
        self._transmit(rows_ta, ActedBy.POLICY, version, self._sequence, start_ns)
        return self._sequence

    def _transmit(
        self, rows_ta: Array, acted_by: ActedBy, version: int, sequence: int, start_ns: int = 0
    ) -> None:
        self._robot.send(
            ActionChunk(
                np.ascontiguousarray(rows_ta),
                self._period_ns,
                start_ns,
                sequence,
                acted_by=acted_by,
                policy_version=version,
            )
        )
