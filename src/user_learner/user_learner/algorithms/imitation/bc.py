"""Behaviour cloning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Algorithm, DistributionNetwork, LossNetwork, Policy, PolicyNetwork
from user_core.reasons import BATCH_SPLIT, Reason
from user_core.specs import Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.activation_checkpointing import RecomputedBlocks
from user_learner.algorithms.common.averaging import AVERAGE, MovingAverage, share_after
from user_learner.algorithms.common.batches import (
    AfterTheEnd,
    Inputs,
    Minibatch,
    Minibatcher,
    Waits,
    buffers_state,
    load_buffers,
    network_of,
    require_choices,
    shifted,
)
from user_learner.algorithms.common.cuda_graph import GraphedUpdate, Places, hooked_modules
from user_learner.algorithms.common.distributed import (
    gathered,
    rank,
    share_,
    share_of,
    together,
)
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.shardable import require_shardable
from user_learner.algorithms.common.torch_tools import (
    LaterNumbers,
    generator_state,
    make_generator,
    numbers_of,
    require_parts,
    restore_generator,
    training_device,
)

if TYPE_CHECKING:
    from torch.nn import Parameter


#: Share of a motion that is left from row to row after a task has ended.
_LEFT_OF_A_MOTION = {"fade": 0.5, "hold": 0.0}


class BCConfig(Config):
    """Behaviour cloning. Settings that are not ``read_only`` may change between two runs."""

    loss: Literal["likelihood", "squared_error"] = setting(
        "likelihood",
        doc="Negative log-likelihood of the action, which also teaches the spread, or the "
        "squared error of the squashed mean. Of choices it is the cross entropy in both.",
    )
    learning_rate: float = setting(3e-4, doc="Learning rate of Adam.", gt=0, read_only=False)
    weight_decay: float = setting(
        1.0,
        doc="Decay of weights at each update, as a share of the learning rate (AdamW), of policies that say which of "
        "theirs may (perceptrons of flow and diffusion). Without it the shaking of a hand is learned by heart. 0: none.",
        ge=0,
        le=100,
        read_only=False,
        late=True,
    )
    after_end: Literal["nothing", "fade", "hold"] = setting(
        "nothing",
        doc="What chunks learn to do after a task has ended (terminated), of which there are no data: nothing, which leaves "
        "most of a chunk near the goal to chance; fade: the last motion goes on, halved from row to row; hold: it ends at "
        "once. Positions, grippers and choices stay as they were. Needs sampler.pad_windows.",
        read_only=False,
        late=True,
    )
    waits: float = setting(
        0.0,
        doc="Share of windows in which the robot first stands still for up to prefix_rows rows, which are given, and then does "
        "what was done: else plans that come late go on standing once they stand. Of policies with prefix_rows, in scenes that "
        "do not move by themselves.",
        ge=0,
        le=0.5,
        read_only=False,
        late=True,
    )
    max_grad_norm: float = setting(
        10.0, doc="Norm that gradients are cut to; 0: never.", ge=0, read_only=False
    )
    average: float = setting(
        0.999,
        doc="Published of policies with a loss of their own (flow, diffusion, act): a moving average of their weights with "
        "up to this decay, shorter at first. 0: the newest weights.",
        ge=0,
        lt=1,
        read_only=False,
        late=True,
    )
    image_shift: int = setting(
        4, doc="Largest random shift of images while learning.", unit="px", ge=0, read_only=False
    )
    accumulate: int = setting(
        1,
        doc="Parts in which a batch is computed, one after the other: the update is the same, and takes the "
        "memory of one part. Where a GPU's memory is short, more are made, and a warning says so.",
        ge=1,
        read_only=False,
    )
    shard: Literal["", "blocks", "layers"] = setting(
        "",
        doc="Spread parameters, gradients and the state of Adam over all processes that train together (FSDP2). "
        "blocks: what a block of the network has is gathered when it is computed; layers: each large layer by "
        "itself, for networks that call the layers of their blocks. Empty: each process has all.",
        late=True,
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        doc="What is computed in. With bfloat16, weights and the state of Adam are still kept in float32.",
        read_only=False,
    )
    activation_checkpointing: bool = setting(
        False,
        doc="Compute what happens within a block again on the way back instead of keeping it: less memory, a third "
        "more time.",
        read_only=False,
    )
    cuda_graphs: bool = setting(
        True,
        doc="Launch updates as CUDA graphs on a GPU: as one, or as short ones where training gives way to inference "
        "(training.gives_way). Where that cannot be they are launched one operation after the other, and a warning says why.",
        read_only=False,
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    seed: int = setting(0, doc="Seed of the random shifts.", ge=0)


# --------------------------------------------------------------------------------------------------
# The update of behaviour cloning
# --------------------------------------------------------------------------------------------------


class BC(Algorithm):
    """Makes the actions in the data likely. Draw from demonstrations only to clone these.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: One whose network is a :class:`~user_core.interfaces.DistributionNetwork`, or a
            :class:`~user_core.interfaces.LossNetwork`, whose own loss is then minimised; its
            weights are the first ones. For T actions at once batches are windows of T steps
            (``sampler.window``).
    """

    Config: ClassVar[type[BCConfig]] = BCConfig
    #: What it asks of a policy's network; None: a loss of its own, or else a distribution.
    needs: ClassVar[type | None] = None
    #: Whether it looks at what came after a step, too.
    looks_ahead: ClassVar[bool] = False
    why_not_sharded: ClassVar[str] = ""  # its network is used in its loss only

    def __init__(self, config: BCConfig, spec: RobotSpec, policy: Policy) -> None:
        self.config, name = config, type(self).__name__
        self.device = device = training_device(config.device)
        if config.shard:
            require_shardable(type(self), config.shard)
        first = torch.device("cpu") if config.shard else device
        network = network_of(policy, self.needs or PolicyNetwork, name, first)
        self._own_loss = hasattr(network, "loss")
        needs = self.needs or (LossNetwork if self._own_loss else DistributionNetwork)
        self.network: Any = network_of(policy, needs, name, first)
        rows, size = self.network.rows, spec.action.size
        chosen = [row * size + i for row in range(rows) for i in spec.action.categorical]
        self._chosen = torch.zeros(rows * size, device=device)  # 1 where an element is a choice
        self._chosen[chosen] = 1
        self._chooses = bool(chosen) and not self._own_loss
        if self._chooses:
            require_choices(self.network, spec, name, device)
        # LeRobot has a way of its own, which keeps nothing in the processor's memory either.
        own_way = config.activation_checkpointing and getattr(self.network, "recompute", bool)()
        self._blocks = None
        if config.activation_checkpointing and not own_way:
            self._blocks = RecomputedBlocks(self.network)
        self._sharded: Any = None
        if config.shard:
            self._sharded = self._shard(lambda: network_of(policy, needs, name, first))
        else:
            self.parameters = FlatParameters(self._cloned(), device, keep_half=True)
            share_(self.parameters.flat)
            self.parameters.show()
            self._optimizer = FlatAdam(
                self.parameters, config.learning_rate, config.max_grad_norm, self._decay()
            )
        self._average: MovingAverage | None = None
        if self._own_loss and config.average:
            self._average = MovingAverage((self._sharded or self.parameters).parts)
        self.generator = make_generator(config.seed, device)
        self._minibatcher = Minibatcher(self.network, spec, device, self.looks_ahead)
        self._after_the_end: AfterTheEnd | None = None
        if config.after_end != "nothing":
            self._after_the_end = AfterTheEnd(spec, _LEFT_OF_A_MOTION[config.after_end])
        self._waits = self._waiting(spec, name) if config.waits else None
        self._updates, self._parts = 0, config.accumulate
        around = getattr(self.network, "noise_from", None)
        self._graphed = GraphedUpdate(
            self._fit, self.generator, enabled=False,
            around=nullcontext if around is None else lambda: around(self.generator),
            notes_on=getattr(self.network, "notes_on", ""),
        )  # fmt: skip
        self._let_graphs()

    def _waiting(self, spec: RobotSpec, name: str) -> Waits:
        """What has windows wait. Raises ConfigError where that would be learned by who is not told of it."""
        share = self.config.waits
        most = getattr(getattr(self.network, "generation", None), "prefix_rows", 0)
        if self.looks_ahead or not most:
            why = "a policy with prefix_rows" if not most else "an algorithm that learns no values"
            raise ConfigError(f"waits of {name}", got=share, expected=f"0, or {why}")
        return Waits(spec, share, most, self.config.seed)

    def _cloned(self) -> dict[str, Parameter]:
        """The parameters that learn to do what was done."""
        return dict(self.network.named_parameters())

    def _decay(self) -> dict[str, float]:
        """By which share each weight is made smaller at each update; of those that are."""
        share = self.config.learning_rate * self.config.weight_decay
        names: list[str] = getattr(self.network, "decaying", list)() if share else []
        return dict.fromkeys(names, share)

    def _shard(self, copy: Callable[[], Any]) -> Any:
        """Spread the network over all processes; ``copy`` makes another one."""
        from user_learner.algorithms.common.sharded import ShardedParameters, whole_copy

        config = self.config
        return ShardedParameters(
            self.network, whole_copy(copy), self._loss, self.device, by=config.shard,
            bfloat16=config.precision == "bfloat16", learning_rate=config.learning_rate,
            max_grad_norm=config.max_grad_norm, decay=self._decay(),
        )  # fmt: skip

    def update(self, batch: Batch) -> Mapping[str, float]:
        if self._after_the_end is not None:
            batch = self._after_the_end(batch)
        if self._waits is not None:
            batch = self._waits(batch, self._updates)
        (minibatch,) = self._minibatcher.cut(batch, 1)
        if self._minibatcher.factors is not None:
            self._optimizer.rescale("layer0.weight", self._minibatcher.factors)
        metrics = self._learn(minibatch, batch)
        self._updates += 1
        # To read them is to wait for the device, and each process would wait for the slowest one.
        return numbers_of(metrics) if self._sharded is None else LaterNumbers(metrics)

    def _learn(self, minibatch: Minibatch, batch: Batch) -> dict[str, Tensor]:
        """One update from a batch and its minibatch, with its metrics."""
        return self._clone(minibatch, minibatch.inputs)

    def _clone(self, minibatch: Minibatch, inputs: Inputs) -> dict[str, Tensor]:
        """Make the actions of a minibatch likelier where ``inputs`` are seen."""
        inputs = shifted(inputs, self.config.image_shift, self.generator)
        action, weight = minibatch.action, minibatch.weight
        if self._own_loss and hasattr(self.network, "observe_actions"):
            of_all = None if weight is None else gathered(weight)
            self.network.observe_actions(gathered(action), of_all)
        # A loss of its own is a mean over what counts, also where others have more or less of it.
        whole = share_of(weight.sum()) if self._own_loss and weight is not None else 1.0
        newest = share_after(self._updates, self.config.average)
        share: float | Tensor = newest
        if self._graphed.enabled:  # what is recorded reads it where it is
            share = torch.full((), newest, device=self.device)
        if (ready := getattr(self.network, "ready", None)) is not None:
            inputs = ready(inputs, action, weight, self.generator)
        metrics = self._graphed((inputs, action, weight, whole, share))
        if self._blocks is not None:
            self._blocks.require_called()
            self._blocks = None
        return dict(metrics)

    def _fit(
        self, given: tuple[Inputs, Tensor, Tensor | None, Tensor | float, Tensor | float]
    ) -> dict[str, Tensor]:
        """Gradients of a batch, a step along them, and the average: what may be recorded."""
        inputs, action, weight, whole, share = given
        while True:
            try:
                metrics = self._accumulate(inputs, action, weight, whole)
                break
            except torch.OutOfMemoryError as error:
                if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                    raise  # it is not recorded, then
                self._split(len(action), error)
        (self._sharded or self._optimizer).step()
        if self._average is not None:
            self._average.follow(share)
        return metrics

    def give_way(self, places: Places) -> None:
        """Make updates in pieces, and call this between any two: in short CUDA graphs where these can be recorded."""
        if self._sharded is None:
            self.parameters.between = places
        if self._average is not None:
            self._average.between = places
        self._graphed.between = places
        self._graphed.forget()  # as one
        self._let_graphs()

    def _let_graphs(self) -> None:
        """Let updates be recorded, where that is wanted and possible."""
        if not self.config.cuda_graphs or self.device.type != "cuda":
            return
        if why := self._why_not_graphs():
            if self._graphed.between is not None:  # only there it is missed
                self._graphed.leave(why)
        else:
            self._graphed.enabled = not self._graphed.why_not

    def _why_not_graphs(self) -> str:
        """Why updates cannot be recorded; empty where that is to be tried."""
        config = self.config
        if self._sharded is not None:
            return f"shard: {config.shard}, whose exchanges with other processes are not recorded"
        if together():
            return "several processes train together"
        if self._blocks is not None:
            return (
                "activation_checkpointing, which keeps the state of noise in the processor's memory"
            )
        if hasattr(self.network, "noise_from") and config.accumulate > 1:
            return f"accumulate: {config.accumulate}, of a policy whose every part has noise of its own"
        if hooked := hooked_modules(self.network):
            return (
                f"hooks on {hooked[0]}, which would be called while it is recorded and never again"
            )
        return ""

    def _accumulate(
        self, inputs: Inputs, action: Tensor, weight: Tensor | None, whole: Tensor | float
    ) -> dict[str, Tensor]:
        """Gradients of a batch, one part of its rows after the other; its metrics."""
        (self._sharded or self.parameters).zero_grad()
        compute = self._sharded or self._loss
        half = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        )
        total: dict[str, Tensor] = {}
        for rows in torch.arange(len(action)).chunk(self._parts):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            some = None if weight is None else weight[part]
            if self._sharded is not None and self._parts > 1:
                self._sharded.part_of_batch(last=part.stop == len(action))
            with half:
                loss, metrics = compute({k: t[part] for k, t in inputs.items()}, action[part], some)
            share = whole * (len(rows) / len(action))
            if self._own_loss and weight is not None and some is not None:
                share = whole * some.sum() / weight.sum().clamp_min(1)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            for name, value in metrics.items():
                total[name] = total.get(name, 0) + value.detach() * share
        return total

    def _split(self, rows: int, error: torch.OutOfMemoryError) -> None:
        """The GPU's memory does not hold what a part takes: make smaller parts."""
        self._graphed.forget()
        torch.cuda.empty_cache()
        if self._sharded is not None and self._parts < rows:
            # The others are within an exchange that this process has left; they cannot be told.
            raise ConfigError(
                f"training {type(self).__name__} on {self.device}",
                got=f"no room for {-(-rows // self._parts)} rows at once: {str(error).splitlines()[0]}",
                expected=f"accumulate: {2 * self._parts} or more, of a sharded network",
                hint="Or activation_checkpointing, or more processes",
            ) from error
        if self._parts >= rows:
            free, there = (size / 2**30 for size in torch.cuda.mem_get_info(self.device))
            raise ConfigError(
                f"training {type(self).__name__} on {self.device}, {there:.0f} GiB",
                got=f"no room for a single row of a batch: {str(error).splitlines()[0]}",
                expected=f"a policy that fits; {free:.1f} GiB are free now",
                hint="Fewer trained parameters (adapters), smaller images, or another GPU",
            ) from error
        self._parts = min(rows, 2 * self._parts)

    def _loss(
        self, inputs: Inputs, action: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be minimised for these rows, and metrics of them; means over rows."""
        if self._own_loss:
            own: Tensor = self.network.loss(inputs, action, weight, self.generator)
            return own, {"loss": own}
        distribution = self.network.distribution(self.network.encode(inputs))
        errors = (distribution.mode - action).square()
        if self._chooses:
            errors = errors * (1 - self._chosen)
        error = (errors if weight is None else errors * weight).mean()
        likelihood = distribution.log_prob(action, weight).mean()
        loss = -likelihood if self.config.loss == "likelihood" else error
        metrics = {"log_likelihood": likelihood, "squared_error": error}
        if self._chooses:
            share = self._chosen.expand_as(action) if weight is None else self._chosen * weight
            right = (distribution.mode == action.round()).float() * share
            metrics["choices_right"] = right.sum() / share.sum().clamp_min(1)
            if self.config.loss == "squared_error":
                loss = error - distribution.log_prob(action, share).mean()
        return loss, metrics

    def warnings(self) -> list[Reason]:
        """What a person should know of the data, and of the GPU's memory."""
        found = self._minibatcher.warnings()
        if self._after_the_end is not None:
            found += self._after_the_end.warnings()
        if self._parts > self.config.accumulate:
            text = f"the GPU's memory holds a batch in {self._parts} parts only: set accumulate to that"
            found.append(Reason(BATCH_SPLIT, text))
        return found

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the weights that are published, for as long as this lasts."""
        if self._average is None:
            yield
            return
        show = nullcontext if self._sharded is not None else self.parameters.show
        try:
            with self._average.in_place():
                show()
                yield
        finally:
            show()

    def policy_arrays(self) -> dict[str, Array]:
        with self.averaged():
            arrays: dict[str, Array] = (self._sharded or self.network).arrays()
        return arrays

    @contextmanager
    def policy_tensors(self) -> Iterator[Mapping[str, Tensor] | None]:
        named = getattr(self.network, "tensors", None)
        if self._sharded is not None or named is None:
            yield None
            return
        with self.averaged():
            yield named()

    def state(self) -> dict[str, Any]:
        sharded = self._sharded is not None
        return {
            "updates": self._updates,
            "policy": {} if sharded else self.parameters.arrays(),
            "average": self._averages(),
            "inputs": buffers_state(self.network),
            "optimizer": (self._sharded or self._optimizer).state(),
            "generator": generator_state(self.generator),
        }

    def _averages(self) -> dict[str, Array]:
        """The average of weights that are not sharded, by name; a copy."""
        if self._average is None or self._sharded is not None:
            return {}
        (flat,) = self._average.average
        return self.parameters.arrays(flat)

    def shards(self) -> dict[str, Tensor]:
        if self._sharded is None:
            return {}
        averages = [] if self._average is None else self._average.average
        return {
            **self._sharded.shards(averages), f"generator/{rank()}": self.generator.get_state()
        }  # fmt: skip

    def load_shards(self, shards: Mapping[str, Tensor]) -> None:
        if self._average is not None and not any(name.startswith(AVERAGE) for name in shards):
            self._average.begin_anew()  # of a training that had none
        if (own := shards.get(f"generator/{rank()}")) is not None:
            restore_generator(self.generator, own.numpy(), self.config.seed, own=True)

    def load_state(self, state: Mapping[str, Any]) -> None:
        name = type(self).__name__
        state = {"average": {}, **state}  # older ones have none
        require_parts(state, self.state(), name)
        if self._sharded is None:
            if self._average is not None:
                with self._average.in_place():
                    self.parameters.load(state["average"] or state["policy"], name)
            self.parameters.load(state["policy"], name)
            self._optimizer.load_state(state["optimizer"], name)
        else:
            self._sharded.load_state(state["optimizer"])
        load_buffers(self.network, state["inputs"], name)
        self._updates = int(state["updates"])
        self._graphed.forget()
        restore_generator(self.generator, state["generator"], self.config.seed + self._updates)
