"""A world in virtual time for the loop's tests: one thread, no sleeping, exact to the nanosecond.

Whoever waits lets the time pass; what is due meanwhile happens then.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from user_actor.loop import ActorLoop, ActorLoopConfig, EpisodeLoop, PolicyHolder
from user_actor.loop.acting.policy import planned
from user_actor.loop.acting.remote import Answer, Lateness
from user_actor.loop.ports import NOBODY, HumanInput, MemorySink
from user_core.config import Config, from_mapping
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy, Reward, RewardOutcome
from user_core.reasons import INFERENCE_SILENT, NO_REASON, SAFETY_STOP, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import (
    ActionChunk,
    AppliedAction,
    FinalObservation,
    Label,
    Observation,
    Outcome,
    PolicyVersion,
    Step,
    Task,
    TaskFeedback,
)

MS = 1_000_000
WALL_NS = 1_700_000_000_000_000_000


class World(Clock):
    """Virtual time; also the clock of the loop."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return WALL_NS + self.now_ns

    def at(self, when_ns: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_ns, next(self._order), action))

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, action)

    def wait(self, condition: object, timeout_s: float) -> None:
        """Until the next event, or for the whole time."""
        end_ns = self.now_ns + max(1, math.ceil(timeout_s * 1e9))
        if self._events and self._events[0][0] <= end_ns:
            self.now_ns = max(self.now_ns, self._events[0][0])
            while self._events and self._events[0][0] <= self.now_ns:
                heapq.heappop(self._events)[2]()
        else:
            self.now_ns = end_ns

    def spend(self, duration_ns: int) -> None:
        """Be busy: what happens meanwhile is noticed, but not waited for."""
        end_ns = self.now_ns + duration_ns
        while self._events and self._events[0][0] <= end_ns:
            when_ns, _, action = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, when_ns)
            action()
        self.now_ns = end_ns


class _InTheWorld(Future):
    """What is waited for in the world's time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def result(self, timeout: float | None = None) -> Any:
        end_ns = self._world.now_ns + int((timeout or 0.0) * 1e9)
        while not self.done() and self._world.now_ns < end_ns:
            self._world.wait(self, (end_ns - self._world.now_ns) * 1e-9)
        return super().result(0)


class Arm:
    """RobotPort of a real-time robot: observes on its own grid, applies a command after a delay.

    Observations count its readings, so that a test can tell which one was used.
    """

    def __init__(self, world: World, period_ns=20 * MS, observe_ns=5 * MS, delay_ns=1 * MS, **spec):
        self.world, self.observe_ns, self.delay_ns = world, observe_ns, delay_ns
        self._spec = RobotSpec(
            **{
                "robot": "arm",
                "observation": {"reading": ArraySpec((1,), "float64")},
                "action": ArraySpec((2,), "float32", -1.0, 1.0, names=("x", "gripper")),
                "action_kind": ActionKind.EE_DELTA,
                "period_s": period_ns * 1e-9,
                "grippers": (1,),
                **spec,
            }
        )
        self.observations = ObservationBox(world)
        self.episode = self.sequence = 0
        self.applied: AppliedAction | None = None
        self.chunks: list[ActionChunk] = []
        self.sent_ns: list[int] = []
        self.seeds: list[int | None] = []
        self.problem = ""
        self.task: Callable[[], TaskFeedback] = lambda: TaskFeedback(reward=1.0)
        self.silent = False
        self.reset_ns = 0
        self.resets_fail: list[Exception] = []
        self.deaf = 0
        self._playing: ActionChunk | None = None
        self._first_row: dict[int, int] = {}

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def reading(self) -> Observation:
        self.sequence += 1
        arrays = {"reading": np.array([float(self.sequence)])}
        return Observation(
            arrays, self.world.wall_ns(), self.sequence, self.episode, self.task(), self.applied
        )

    def _observe(self) -> None:
        if not self.silent:
            self.observations.put(self.reading())
        self.world.after(self.observe_ns, self._observe)

    def start(self) -> None:
        if not self.spec.lockstep:
            self._observe()

    def send(self, chunk: ActionChunk) -> None:
        self.chunks.append(chunk)
        self.sent_ns.append(self.world.now_ns)
        if self.deaf:
            self.deaf -= 1
            return
        episode, now_ns = self.episode, self.world.now_ns
        start_ns = chunk.start_ns - WALL_NS if chunk.start_ns else now_ns
        over = max(0, (now_ns - start_ns) // chunk.period_ns)
        self._first_row = {**self._first_row, chunk.sequence: over}
        for row in range(over, len(chunk.actions_ta)):
            due_ns = max(now_ns, start_ns + row * chunk.period_ns)
            self.world.at(
                due_ns + self.delay_ns,
                lambda row=row: self._apply(chunk, row, episode),
            )

    def _apply(self, chunk: ActionChunk, row: int, episode: int) -> None:
        if row == self._first_row[chunk.sequence]:
            self._playing = chunk
        if chunk is not self._playing or episode != self.episode or self.silent:
            return
        executed = np.clip(chunk.actions_ta[row], -0.5, 0.5)
        changed = bool((executed != chunk.actions_ta[row]).any())
        self.applied = AppliedAction(executed, chunk.sequence, row, changed, self.world.wall_ns())
        if self.spec.lockstep:
            self.observations.put(self.reading())

    def reset(self, seed: int | None) -> Future:
        self.seeds.append(seed)
        future = _InTheWorld(self.world)

        def done() -> None:
            if self.resets_fail:
                future.set_exception(self.resets_fail.pop(0))
                return
            self.episode += 1
            self.applied = None
            first = self.reading()
            self.observations.put(first)
            future.set_result(first)

        if self.reset_ns:
            self.world.after(self.reset_ns, done)
        else:
            done()
        return future

    def trouble(self) -> Reason:
        return Reason(SAFETY_STOP if self.problem else "", self.problem)

    def unready(self) -> Reason:
        return self.trouble()


class Ramp(Policy):
    """Proposes (version, count of calls) as its action, T rows; notes how it was asked."""

    Config = Config

    def __init__(
        self, world: World, rows: int = 1, takes_ns: int = 0, scale: float = 0.001
    ) -> None:
        self.world, self.rows, self.takes_ns, self.scale = world, rows, takes_ns, scale
        self.weight = np.zeros(1)
        self.calls: list[tuple[float, bool, int]] = []
        self.resets = 0
        self.task: Task | None = None
        self.fails: Exception | None = None
        self.bad = False

    def act(self, observation, *, deterministic=False):
        self.calls.append((float(observation["reading"][0]), deterministic, self.world.now_ns))
        if self.fails is not None:
            raise self.fails
        self.world.spend(self.takes_ns)
        rows = np.arange(self.rows) + len(self.calls)
        action = np.stack([np.full(self.rows, self.weight[0]), rows * self.scale], 1)
        if self.bad:
            action = action * np.nan
        return action.astype(np.float32)

    def arrays(self):
        return {"weight": self.weight.copy()}

    def load(self, arrays):
        if not np.isfinite(arrays["weight"]).all():
            from user_core.errors import PolicyError

            raise PolicyError("weight", got="NaN", expected="a number")
        self.weight = np.array(arrays["weight"])

    def reset(self, task):
        self.resets += 1
        self.task = task


class Elsewhere:
    """InferencePort in virtual time: each observation is answered after ``round_trip_ns``, by the
    policy that the holder has, unless the link is cut. ``frozen``: what each plan that went on kept; ``lost``:
    by their number, from 0, those that are never answered."""

    may_lose = True

    def __init__(self, world, spec, holder, round_trip_ns):
        self.world, self.holder, self.round_trip_ns = world, holder, round_trip_ns
        self.version = 0
        self.cut = False
        self.lost: frozenset[int] = frozenset()
        self.asked: list[tuple[float, int, bool]] = []
        self.frozen: list[int] = []
        self.probes = 0
        self._newest = None
        self._epoch = 0
        self._heard_ns = world.now_ns
        self._waits_since_ns = 0

    def begin(self):
        self._epoch += 1
        self._newest = None
        self._waits_since_ns = 0

    def ask(self, observation, step, *, deterministic=False, going_on=None):
        self.asked.append((float(observation.arrays["reading"][0]), step, deterministic))
        self.frozen += [] if going_on is None else [going_on.frozen]
        epoch, number = self._epoch, len(self.asked)
        lost = number - 1 in self.lost
        self._waits_since_ns = self._waits_since_ns or self.world.now_ns

        def arrive():
            if self.cut or lost:
                return
            self._heard_ns = self.world.now_ns
            self._waits_since_ns = self._heard_ns if number < len(self.asked) else 0
            ready = self.holder.current()
            self.version = ready.number
            acts = planned(ready.policy, observation.arrays, going_on, deterministic)
            if epoch == self._epoch and step >= 0:
                self._newest = Answer(acts, step, ready.number)

        self.world.after(self.round_trip_ns, arrive)

    def take(self):
        answer, self._newest = self._newest, None
        return answer

    def wait(self, until_ns):
        while self._newest is None and self.world.now_ns < until_ns:
            self.world.wait(None, (until_ns - self.world.now_ns) * 1e-9)
        return self.take()

    def why_silent(self):
        silent = self.world.now_ns - self._heard_ns > 200 * MS
        return Reason(INFERENCE_SILENT, "away") if silent else NO_REASON

    def why_lost(self):
        return Reason(INFERENCE_SILENT, "away") if self.lateness(0.2).why else NO_REASON

    def lateness(self, after_s):
        late = self._waits_since_ns and self.world.now_ns - self._waits_since_ns > after_s * 1e9
        why = Reason(INFERENCE_SILENT, "nothing came") if late else NO_REASON
        return Lateness(why, self._heard_ns)

    def probe(self, observation):
        self.probes += 1
        self.ask(observation, -1)


class OnePerStep(Reward):
    """One a step; ends where told."""

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []
        self.ends: Callable[[int], RewardOutcome | None] = lambda step: None
        self.fails: Exception | None = None

    def __call__(self, observation, action, next_observation, task):
        if self.fails is not None:
            raise self.fails
        self.actions.append(action)
        return self.ends(len(self.actions)) or RewardOutcome(1.0)


class Person:
    """TeleopPort: says what a test lets him say, step by step."""

    def __init__(self) -> None:
        self.script: Callable[[int], HumanInput] = lambda step: NOBODY
        self.step = -1

    def read(self, observation) -> HumanInput:
        self.step += 1
        return self.script(self.step)


def drives(x: float, age_s: float = 0.0, scripted: bool = False, label: Label = Label.NONE):
    return HumanInput(True, np.array([x, 1.0], np.float32), age_s, scripted, label)


@dataclass
class Setup:
    """A loop with everything around it."""

    world: World
    arm: Arm
    policies: list[Ramp]
    mailbox: PolicyMailbox
    holder: PolicyHolder
    reward: OnePerStep
    sink: MemorySink
    person: Person
    loop: ActorLoop
    results: list = field(default_factory=list)

    def publish(self, number: int, weight: float = 0.1, config_hash: str = "") -> bool:
        """A version comes, and is made ready at once."""
        self.mailbox.publish(
            PolicyVersion(number, {"weight": np.array([weight])}, config_hash, created_ns=1)
        )
        return self.holder.load_newest()

    def at_step(self, number: int, action: Callable[[], None]) -> None:
        """Do something while step ``number`` is judged."""
        before = self.reward.ends

        def ends(step: int):
            if step == number:
                action()
            return before(step)

        self.reward.ends = ends

    def run(self) -> list:
        self.arm.start()
        self.loop.run()
        return self.sink.results

    def steps(self, episode: int = 0) -> list[Step]:
        rows = list(self.sink.rows.values())[episode]
        return [row for row in rows if isinstance(row, Step)]

    def final(self, episode: int = 0) -> FinalObservation:
        rows = list(self.sink.rows.values())[episode]
        assert isinstance(rows[-1], FinalObservation)
        assert sum(isinstance(row, FinalObservation) for row in rows) == 1
        return rows[-1]


def build(
    config=None,
    rows=1,
    takes_ns=0,
    config_hash="",
    policy=True,
    inference=None,
    fallback=None,
    **arm,
) -> Setup:
    """A loop over one episode, unless the configuration says more; ``inference`` makes the policy
    elsewhere from the world and a holder, ``fallback`` what acts here meanwhile, from the world."""
    world = World()
    robot = Arm(world, **arm)
    values = {"max_episodes": 1, "exploration": {"before_first_version": "initial"}}
    settings = from_mapping(ActorLoopConfig, {**values, **(config or {})})
    policies: list[Ramp] = []

    def make() -> Ramp:
        policies.append(Ramp(world, rows, takes_ns))
        return policies[-1]

    mailbox = PolicyMailbox()
    holder = PolicyHolder(make, robot.spec, mailbox, config_hash, clock_ns=world.wall_ns)
    reward, sink, person = OnePerStep(), MemorySink(), Person()
    elsewhere = inference(world, robot.spec, holder) if inference else None
    acts = elsewhere or (holder if policy else None)
    here = fallback(world) if fallback else None
    episodes = EpisodeLoop(
        robot, acts, reward, sink, settings, teleop=person, clock=world, fallback=here
    )
    loop = ActorLoop(episodes)
    return Setup(world, robot, policies, mailbox, holder, reward, sink, person, loop)


def ends_at(step: int, success: bool | None = True):
    """A reward that terminates at a step."""
    return lambda now: RewardOutcome(5.0, True, success) if now == step else None


SUCCESS = Outcome.SUCCESS
