"""The words of USER, on one page: start reading here.

Everything a user may replace is one of these classes. Two loops use them. One acts: it observes,
decides, sends, waits, judges and records, until an episode ends. Everything that moves a robot
runs it, from the actor node to ``user evaluate`` (``user_actor/loop/episode.py``)::

    while ending is None:
        self.timing.await_turn(source, self.recorder.steps)  # only lockstep can wait
        decision = self.actions.decide(observation)  # policy, person, chance; and send
        self.timing.acted(self.actions.inference_ns)
        if decision is None:  # a person has not begun, or a remote policy not answered
            ending = self._pass_time(observation) or self._cut(source)
            observation = self.robot.observations.newest or observation
            continue
        self.recorder.decided(decision)
        after = self.timing.next_observation(decision, self.actions.send_again)
        if after is None:
            ending = aborted(self.timing.why_lost())
            break
        before, observation = observation, after
        task = self._listen(after)  # a person may judge, or want to drive
        action, acted_by = self.recorder.executed(after.applied)  # what the motors got
        outcome, ending = self._judge(before, action, after, task)
        self.recorder.complete(action, acted_by, outcome)
        self.stats.step(self.clock.monotonic_ns())
        self._on_step(after)
        ending = ending or self._interruption(source)

The other one learns. Here are both in one process (``examples/single_process.py``)::

    steps = actor.run(seed=version).length  # collect an episode; before version 1 at random
    for _ in range(-(-steps // algorithm.updates_per_call)):  # learn: one update a step
        algorithm.update(memory.sample(128 * algorithm.updates_per_call))
    version += 1
    mailbox.publish(types.PolicyVersion(version, algorithm.policy_arrays()))
    policies.load_newest()  # the loop swaps it in before its next step

In the running system they are processes, so that neither waits for the other: the sink is a
durable outbox, the memory a replay store on disk, and policy versions are pulled over Zenoh.
Plugins of each kind are found by name through entry points (:mod:`user_core.plugins`); each takes
its own frozen ``Config`` first, and :mod:`user_core.conformance` tells an author whether a plugin
keeps its promises. A test compares the excerpts above with the files that they are from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from user_core.config import Config
from user_core.errors import PolicyError
from user_core.reasons import NO_REASON, Reason
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec
from user_core.types import (
    Batch,
    EpisodeResult,
    FinalObservation,
    Observation,
    PolicyVersion,
    RewardSource,
    Step,
    Task,
    TaskFeedback,
)

if TYPE_CHECKING:  # torch is imported by what trains, not by this page
    from torch import Generator, Tensor, device
    from torch.nn import Parameter


@dataclass(frozen=True)
class Discovered:
    """A device that was found.

    Attributes:
        name: What to call it.
        params: The parameters that select it, ready to be put into a configuration.
        detail: What it is, for people.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


class Robot(ABC):
    """A robot, real or simulated. One driver, one process; drivers run in ``hal_node``.

    Calls come from one thread at a time, except :meth:`stop`, which may come from any.
    """

    Config: ClassVar[type[Config]] = Config
    #: Nothing real moves: a fleet offers it as ``simulated``.
    simulated: ClassVar[bool] = False

    @property
    @abstractmethod
    def spec(self) -> RobotSpec:
        """What it shows and takes. Known before :meth:`connect`; never changes afterwards."""

    @abstractmethod
    def connect(self) -> None:
        """Open the connection. Raises DeviceError when the robot cannot be reached."""

    @abstractmethod
    def read(self) -> Observation:
        """Return the newest observation, stamped when it was taken.

        Raises DeviceTimeout when the newest is older than the driver allows: never returns
        an old reading as if it were new. Raises DeviceNotConnected before :meth:`connect`.
        """

    @abstractmethod
    def command(self, action: Array) -> Array:
        """Start to carry out one action, shape (A,); return what was really sent.

        Returns at once, except for a lockstep robot, which returns when the period of
        simulated time has passed. Raises SpecError for a wrong shape and DeviceError when
        the robot refuses.
        """

    @abstractmethod
    def stop(self) -> None:
        """Come to a safe stop and hold. Idempotent; may be called from any thread."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> Observation:
        """Go to the start of an episode and return its first observation. May take seconds.

        ``seed`` makes the start reproducible where the robot has a say in it.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop, and let go of everything. Idempotent."""

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Find the robots of this kind that could be connected from this machine now."""
        return ()


@dataclass(frozen=True)
class Frame:
    """One image of a camera.

    Attributes:
        image_hwc: Pixels, (height, width, 3) uint8, RGB; of a depth camera (height, width, 1),
            as its spec says. Not to be written to.
        stamp_ns: When it was exposed, nanoseconds since the epoch.
        sequence: Counts the images of this camera.
    """

    image_hwc: Array
    stamp_ns: int
    sequence: int = 0


class Camera(ABC):
    """A source of images."""

    Config: ClassVar[type[Config]] = Config

    @property
    @abstractmethod
    def spec(self) -> ArraySpec:
        """Spec of its images; ``frame`` is its optical frame (REP-105)."""

    @abstractmethod
    def connect(self) -> None:
        """Open the camera. Raises DeviceError when it is not there."""

    @abstractmethod
    def read(self) -> Frame:
        """Return the newest image; raise DeviceTimeout when it is older than allowed."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the camera. Idempotent."""

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Find the cameras of this kind that could be connected from this machine now."""
        return ()


@dataclass(frozen=True)
class TeleopCommand:
    """What a person wants at this moment.

    Attributes:
        engaged: The person holds the dead-man switch and wants to drive.
        action: The action, shape (A,), in the robot's action spec; meaningful when engaged.
        stamp_ns: When it was given, nanoseconds.
        success: The person says that the task is solved.
        failure: The person says that the attempt has failed.
        abort: The person wants the episode to end without a verdict.
    """

    engaged: bool
    action: Array
    stamp_ns: int
    success: bool = False
    failure: bool = False
    abort: bool = False


class Teleop(ABC):
    """A device by which a person (or a scripted expert in his place) drives the robot."""

    Config: ClassVar[type[Config]] = Config

    @abstractmethod
    def connect(self, spec: RobotSpec) -> None:
        """Open the device for a robot with this spec. Raises DeviceError when it is not there."""

    @abstractmethod
    def read(self, observation: Observation) -> TeleopCommand:
        """Return what the person wants now. Never blocks for longer than a millisecond."""

    def trouble(self) -> Reason:
        """Why the open device could not drive now, whatever the person does with it: nothing is
        heard of it, or it lacks what the configuration asks for."""
        return NO_REASON

    @abstractmethod
    def close(self) -> None:
        """Let go of the device. Idempotent."""

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Find the devices of this kind that could be used on this machine now."""
        return ()


class Policy(ABC):
    """Decides actions. Built from ``(config, spec)``, by actor and learner alike.

    It has two forms. The actor calls :meth:`act`, one observation at a time, in whatever way
    is fast; a learner asks for :meth:`network`, the same function in torch, for batches and
    with gradients. Weights go from one to the other as :meth:`arrays`. A policy may have one
    implementation for both (:class:`user_core.policies.torch_policy.TorchPolicy` needs the
    network only) or a lighter one for the actor, as ``tanh_gaussian`` has in numpy.
    """

    Config: ClassVar[type[Config]] = Config

    #: How many of the last observations it is given at once, N. With more than one every array has a
    #: leading dimension N, oldest first, here and in the batches of its network: (B, N, ...). An episode
    #: begins with its first observation N times. So a policy need not remember observations, and misses
    #: none where it is asked every few steps only.
    observation_history: int = 1

    @classmethod
    def history_of(cls, config: Any, spec: RobotSpec) -> int:
        """The :attr:`observation_history` of the policy that a configuration makes, without making it: an actor whose
        policy acts on another host sends that many observations."""
        return int(getattr(config, "observation_history", 1))

    #: Names of the tasks that it tells apart. Batches that it learns from then have the observation ``@task``,
    #: (B,) int64: the place of each step's task among these names, or their number for any other task. While it
    #: acts, :meth:`reset` tells it the task.
    tasks: tuple[str, ...] = ()

    @property
    def kept_from_actors(self) -> str:
        """What its network has learned and needs in order to learn on, but :meth:`arrays` leave out; in words, empty:
        nothing. A training cannot begin with the arrays of such a policy alone."""
        return ""

    @property
    def acts_without_torch(self) -> bool:
        """Whether :meth:`act` and :meth:`load` need no torch: its import costs an actor seconds
        of its start and hundreds of megabytes. ``user check policy`` tries it."""
        return False

    #: Another policy that answers in its place, and may remember what happens; None: it answers itself.
    answers_by: Policy | None = None

    #: Whether an inference host that computes in bfloat16 may also keep the weights of its layers in bfloat16. They are
    #: then no longer exactly those of the version, in :meth:`arrays` either.
    may_be_rounded: ClassVar[bool] = False

    def acting_calls(self) -> list[tuple[Any, str]]:
        """Where nearly all of the time of acting goes: torch objects and names of their methods. An inference host may
        compile these; each is called with the same kinds of arguments every time. Most policies name none."""
        return []

    def graphed_calls(self) -> list[tuple[Any, str]]:
        """What an inference host may record as CUDA graphs, in the same form. The more work a call does, the fewer
        launches are left. Each does all its work on the GPU, looks at no values of tensors, and reads weights that
        :meth:`load` leaves where they are. By default the :meth:`acting_calls`."""
        return self.acting_calls()

    @abstractmethod
    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """Return actions for the next T periods, shape (T, A), within the action bounds."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The named arrays that make this policy what it is for an actor; a copy."""

    @abstractmethod
    def load(self, arrays: Arrays) -> None:
        """Take over weights. Raises PolicyError, and changes nothing, unless all fit."""

    def in_place(self) -> AbstractContextManager[dict[str, Tensor]] | None:
        """Another way to :meth:`load`, while this policy does not act: a block with its tensors, by the names of
        :meth:`arrays`, in which the caller overwrites all of them in place.

        The end of the block raises PolicyError where what was written is not for this policy. bfloat16 may be written
        as the uint16 of its bits, and float32 is rounded where the policy has bfloat16 (:attr:`may_be_rounded`).
        None: :meth:`load` is the only way.
        """
        return None

    def reset(self, task: Task) -> None:
        """An episode begins: forget what was remembered of the last one. ``task`` is what is to
        be done now."""

    def image_features(self) -> Mapping[str, FrozenFeatures]:
        """Encoders that are never trained, by the name of the image that each sees. A learner may compute the
        features of each image once, keep them, and give them in the place of the image: (B, K, C) float16."""
        return {}

    def network(self) -> PolicyNetwork:
        """This policy in torch, with its present weights, for an algorithm to train; a copy.

        Raises PolicyError for a policy that cannot be trained, for instance a scripted one.
        """
        raise PolicyError(
            f"policy {type(self).__name__}", got="no network", expected="one that can be trained",
            hint="Implement Policy.network, see docs/how_to/add_a_policy.md",
        )  # fmt: skip


class FrozenFeatures(Protocol):
    """Features of images that a policy never trains.

    Attributes:
        channels: Numbers of a feature, C.
        key: Tells it from others, uint8.
    """

    channels: int
    key: Array

    def places(self, height: int, width: int) -> int:
        """Features of an image, K."""

    def __call__(self, image_bhwc: Tensor) -> Tensor:
        """Features (B, K, C) float16 of images (B, h, w, 3) uint8."""


class ContinuingPolicy(Protocol):
    """A policy that can go on from a plan that is being carried out: for real-time chunking."""

    def continue_plan(
        self, observation: Arrays, plan: Array, frozen: int, *, deterministic: bool = False
    ) -> Array:
        """Actions for the next T periods, (T, A), that begin as ``plan`` does.

        Args:
            observation: What is seen now.
            plan: Rows of the plan before that are left from now on, (P, A).
            frozen: How many of these will be carried out in any case, before a new plan can take
                over; the answer repeats them.
            deterministic: Whether to act without noise.
        """


@dataclass(frozen=True)
class Query:
    """What one of several robots asks of the policy that they share.

    Attributes:
        observation: What it sees, as :meth:`Policy.act` takes it.
        deterministic: Whether to act without noise.
        task: What is to be done there.
        plan: Rows of the plan before that are left from now on, (P, A), to go on from; None: any plan will do.
        frozen: How many of these will be carried out in any case.
    """

    observation: Arrays
    deterministic: bool = False
    task: Task = field(default_factory=Task)
    plan: Array | None = None
    frozen: int = 0


class BatchingPolicy(Protocol):
    """A policy that answers several robots with one pass. It remembers nothing of any of them."""

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """For each query (T, A), as :meth:`Policy.act` or :meth:`ContinuingPolicy.continue_plan` would have
        answered after a :meth:`Policy.reset` with its task."""


def answers_in_batches(policy: Policy) -> bool:
    """Whether a policy is a :class:`BatchingPolicy`.

    It is not where a subclass acts in another way than the class that defines ``act_batch``, and not where another
    policy answers for it (:attr:`Policy.answers_by`) that is none.
    """
    if policy.answers_by is not None and not answers_in_batches(policy.answers_by):
        return False
    kinds = type(policy).__mro__
    made = next((kind for kind in kinds if "act_batch" in vars(kind)), None)
    if made is None:
        return False
    younger = kinds[: kinds.index(made)]
    return not any(name in vars(kind) for kind in younger for name in ("act", "continue_plan"))


class PolicyNetwork(Protocol):
    """What every algorithm may ask of a policy that it trains: a ``torch.nn.Module`` with these.

    Some ask for more: :class:`DistributionNetwork` (SAC, RLPD and BC), :class:`LossNetwork`
    (BC). An algorithm trains any policy whose network has what it needs.

    Actions are scaled by the algorithm: in a network they are in -1 to 1, which are the bounds
    of the robot's spec (a categorical element is the number of its choice, counted from 0), and one
    row of a batch holds all T actions, (B, T x A).
    :class:`user_core.policies.torch_policy.Network` has all of this but the forward pass.

    Attributes:
        rows: Actions that it plans at once, T. Batches are windows of T steps where T > 1.
    """

    rows: int

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """The layout that it wants a batch in, from observations, each array (B, ...).

        Tensors (B, ...) on the CPU, by names of its own. What is uint8 and (B, h, w, 3) is an
        image, which algorithms may shift at random. Raises SpecError where shapes do not fit.
        """

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Take notice of inputs before each update, for instance to settle their scale in
        buffers of the module."""

    def arrays(self) -> dict[str, Array]:
        """What the actor's :meth:`Policy.load` takes; a copy."""

    # Of torch.nn.Module, as it is:
    def to(self, device: device) -> Any:
        """Move it to a device."""

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """What is trained."""

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """What is kept with it, in checkpoints too, and not trained."""


class ActionDistribution(Protocol):
    """Distributions of actions, one for each row of a batch, in -1 to 1.

    Of a robot with categorical elements it is a :class:`ChoiceDistribution`.
    """

    @property
    def mode(self) -> Tensor:
        """What a deterministic policy does, (B, T x A)."""

    def sample(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Samples, (B, T x A), and the logarithms of their probability densities, (B,).

        Both with gradients (reparameterised). All noise comes from ``generator``, so that a
        restored training goes on as if never stopped.
        """

    def log_prob(self, action: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log-probability densities of actions, (B,); finite also at the bounds.

        ``weight`` (B, T x A), says how much each element of an action counts.
        """


class ChoiceDistribution(ActionDistribution, Protocol):
    """Distributions of actions of a robot that has categorical elements.

    In actions such an element is the number of its choice, counted from 0; the others are in -1 to 1.
    Given what is seen, the elements are independent: :meth:`log_prob` is the sum over them.
    """

    @property
    def choice_log_probs(self) -> Sequence[Tensor]:
        """Log-probabilities of the choices of each categorical element in turn, (B, n) each."""

    def sample_continuous(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`sample`, of the elements that are no choices: (B, C), and (B,). C may be 0."""


class DistributionNetwork(PolicyNetwork, Protocol):
    """A network that gives distributions of actions: what SAC and RLPD need, and BC can use."""

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features, (B, F), which critics see too.

        Its parameters lie in a submodule called ``encoder``: actor-critic algorithms train these
        with the critics.
        """

    def distribution(self, features: Tensor) -> ActionDistribution:
        """What it would do, given features (B, F); a :class:`ChoiceDistribution` for a robot with
        categorical elements."""


class LossNetwork(PolicyNetwork, Protocol):
    """A network that knows its own loss for imitation (diffusion, a variational one): for BC.

    It may have more, of which nothing is required:

    - ``observe_actions(action, weight)`` is called with the arguments of :meth:`loss` before each update, for instance
      to settle the scale of actions in buffers of the module.
    - ``decaying()`` gives the names of those parameters that an optimiser may decay.
    - ``ready(inputs, action, weight, generator)`` does before :meth:`loss` what cannot be recorded in a CUDA graph,
      such as making tokens of words. It gives inputs, (B, ...) each, that :meth:`loss` also takes.
    - ``on_host`` is the set of names of inputs that stay on the CPU, because ``ready`` reads them as numbers.
    - ``recompute()`` switches on activation checkpointing in a way of its own; it gives False where it has none.
    """

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        action: Tensor,
        weight: Tensor | None,
        generator: Generator,
    ) -> Tensor:
        """What is to be minimised so that it does ``action`` (B, T x A), a scalar.

        ``weight`` (B, T x A) as in :meth:`ActionDistribution.log_prob`; noise comes from
        ``generator``.
        """


@dataclass(frozen=True)
class RewardOutcome:
    """A reward's verdict on one step.

    Attributes:
        reward: The reward.
        terminated: The task ended here, and no value lies beyond.
        success: Whether the task is solved; None where the reward cannot tell.
        source: Where the verdict comes from.
    """

    reward: float
    terminated: bool = False
    success: bool | None = None
    source: RewardSource = RewardSource.FUNCTION


class Reward(ABC):
    """Judges the steps of an episode one after another. Pure: the same steps give the same verdicts,
    so that it can run in the actor and can relabel stored data."""

    Config: ClassVar[type[Config]] = Config

    def reset(self) -> None:
        """An episode begins: forget what was remembered of the last one. Most remember nothing."""

    @abstractmethod
    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        """Judge what ``action`` brought; ``task`` is what the robot says about its task."""


@dataclass(frozen=True)
class GoalOutcome:
    """What states are worth for goals; arrays (B,).

    Attributes:
        reward: Rewards of the steps that led there, float32.
        terminated: Whether the task ended there, bool.
        reached: Whether the goal is reached, bool; None where the reward cannot tell.
    """

    reward: Array
    terminated: Array
    reached: Array | None = None


class GoalReward(ABC):
    """Judges what was achieved, whatever the goal: for hindsight relabelling, at the learner. Pure, and
    called from several threads."""

    Config: ClassVar[type[Config]] = Config

    @abstractmethod
    def __call__(self, achieved: Array, desired: Array) -> GoalOutcome:
        """Judge ``achieved`` goals by ``desired`` ones, (B, G) each."""


class Algorithm(ABC):
    """Learns: a batch in, metrics out, and named weights for the actors. Built from
    ``(config, spec, policy)``; knows nothing of ROS, transport or storage.

    What it trains is ``policy.network()``, of which it may ask what :class:`PolicyNetwork` and
    its kin say, and nothing else."""

    Config: ClassVar[type[Config]] = Config

    #: Gradient updates that one call of :meth:`update` makes, each on its share of the batch:
    #: the caller draws this many times the batch size at once.
    updates_per_call: int = 1

    #: Why its network cannot be spread over the processes that train together (``shard``); empty where it can.
    why_not_sharded: ClassVar[str] = (
        "its networks are used in several losses, so each process has all of them"
    )

    @abstractmethod
    def update(self, batch: Batch) -> Mapping[str, float]:
        """Make ``updates_per_call`` gradient updates; return metrics for people, which may be read when the next call
        has been made."""

    @abstractmethod
    def policy_arrays(self) -> dict[str, Array]:
        """The arrays that the actor's ``Policy.load`` takes; a copy."""

    def policy_tensors(self) -> AbstractContextManager[Mapping[str, Tensor] | None]:
        """A block with what :meth:`policy_arrays` would give, as tensors where they are: to be copied within a GPU.
        None in the place of the tensors: :meth:`policy_arrays` is the only way."""
        return nullcontext(None)

    def published(self, number: int, arrays: Arrays) -> None:
        """A policy version got its number; robots will act with it from now on, and batches say so
        in ``extras["policy_version"]``. Called from another thread. Most need not know."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if never stopped: networks, optimisers, counters, RNG.

        Nested mappings of arrays and plain values; never code.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""

    def shards(self) -> dict[str, Tensor]:
        """This process's parts of what is spread over all that train together, by names; not copies.

        Values of type ``DTensor``, and tensors under names that no other process has. Where an algorithm gives any,
        all processes call :meth:`policy_arrays` at the same time, and :meth:`state` has the rest. Most give none.
        """
        return {}

    def load_shards(self, shards: Mapping[str, Tensor]) -> None:
        """Called after :meth:`load_state` with what was loaded of the parts that :meth:`shards` gave; those that the
        checkpoint lacks are left out."""


class TransitionSink(Protocol):
    """Where an actor puts what it experiences."""

    def append(self, step: Step | FinalObservation) -> None:
        """Take one step; returns without waiting for disk or network."""

    def end_episode(self, result: EpisodeResult) -> None:
        """Close the episode; it has got its final observation."""


class TransitionSource(Protocol):
    """Where an algorithm gets its batches from."""

    def __len__(self) -> int:
        """Number of steps that can be drawn."""

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions. Raises StoreError while there is nothing to draw."""


class PolicySink(Protocol):
    """Where a learner puts new policy versions."""

    def publish(self, version: PolicyVersion) -> None:
        """Take a version; returns without waiting for anybody to fetch it."""


class PolicySource(Protocol):
    """Where an actor gets new policy versions from."""

    def newest(self, after: int) -> PolicyVersion | None:
        """The newest complete, verified version with a number above ``after``, if any."""
