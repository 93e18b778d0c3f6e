"""Policies that generate chunks, as the actor uses them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from user_core.errors import ConfigError
from user_core.interfaces import FrozenFeatures, Policy, Query
from user_core.policies.features import FeatureLayout, encoder_by_image, together
from user_core.policies.generative.coding import ChunkCode, soft_mask
from user_core.policies.generative.config import ChunkConfig, GenerativeConfig
from user_core.policies.generative.mlp import NumpyPerceptron, PerceptronLayout
from user_core.policies.generative.objectives import Diffusion, Flow, Given, Model, Objective
from user_core.policies.generative.velocity import PLAIN, Velocity
from user_core.policies.image_encoders.config import require_same_encoder
from user_core.policies.language.config import INSTRUCTION
from user_core.policies.loading import check_fits
from user_core.policies.tanh_gaussian_layout import soft_limit
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Task

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from torch import Tensor

    from user_core.policies.generative.network import ChunkNetwork, GenerativeNetwork

#: Seed of the noise of deterministic actions: always the same. None at all is where several ways meet.
_STILL = 0
#: Sentences that are remembered with their embeddings.
_SENTENCES = 256
_NOTHING = np.zeros(0, np.float32)


class ChunkPolicy(Policy):
    """Arrays and their checks.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
    """

    Config = ChunkConfig
    may_be_rounded = True
    _arrays: Mapping[str, Array]

    def __init__(self, config: ChunkConfig, spec: RobotSpec) -> None:
        self.config, self.spec, self.rows = config, spec, config.rows
        self.observation_history = config.observation_history
        self.tasks, self._task = config.language.names, Task()
        self.features = FeatureLayout(
            spec, config.observations, config.ignored_observations, config.observation_history,
            config.language.size,
        )  # fmt: skip
        self.code = ChunkCode(spec, config.rows)
        self._rng = np.random.default_rng(config.seed)
        self._sentences: dict[str, Array] = {}
        self._take(self._first())

    def _first(self) -> dict[str, Array]:
        """First arrays."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return self._fresh().arrays()

    def _fresh(self) -> ChunkNetwork:
        """The network with first weights."""
        raise NotImplementedError

    def _take(self, arrays: dict[str, Array]) -> None:
        """Take over arrays that were checked. Raises ConfigError where the device is not there."""
        from user_core.policies.torch_policy import require_device

        self._device = device = require_device(self.config.device, "policy")
        there: Any = getattr(self, "_network", None)
        if there is not None and device.type == "cuda":
            # CUDA graphs read the weights where they are.
            _fill(there, arrays)
            self._arrays = arrays
            return
        network = self._fresh()
        _fill(network, arrays)
        self._arrays, self._network = arrays, network.to(device)

    def network(self) -> Any:
        network = self._copied()
        _fill(network, self._with_instructions(self._arrays))
        network.keep_settled()
        return network

    def _copied(self) -> ChunkNetwork:
        """A network of its own for who trains it, on the CPU."""
        return copy.deepcopy(self._network).cpu()

    def reset(self, task: Task) -> None:
        """An episode begins. Words that no learned task has are encoded now: in the first step there is no time."""
        self._task = task
        self._instruction(task)

    def _inputs(self, observation: Arrays) -> dict[str, Any]:
        """What the network sees of one observation and the instruction: a batch of one."""
        return self._seen(self._batch([Query(observation, task=self._task)]))

    def _seen(self, batch: Arrays) -> dict[str, Any]:
        """What the network sees of a batch, where it acts."""
        device = self._device
        return {name: tensor.to(device) for name, tensor in self._network.inputs(batch).items()}

    def _instruction(self, task: Task) -> Array:
        """The embedding of the words that were given, or of the learned task; of none without either."""
        if not self.tasks:
            return _NOTHING
        words = task.instruction
        if words and task.name not in self.tasks:
            found = self._sentences.get(words)
            if found is None:
                from user_core.policies.language.sentence import embeddings

                if len(self._sentences) >= _SENTENCES:
                    self._sentences.clear()
                found = embeddings([words], self.config.language.weights)[0]
                self._sentences[words] = found
            return found
        row = (
            self.tasks.index(task.name) if task.name in self.tasks else -1
        )  # the last: no instruction
        learned: Array = self._arrays["instructions"][row]
        return learned

    def _batch(self, queries: Sequence[Query]) -> Arrays:
        """What several robots see, and their instructions, each array (B, ...)."""
        seen = together([one.observation for one in queries])
        if self.tasks:
            seen[INSTRUCTION] = np.stack([self._instruction(one.task) for one in queries])
        return seen

    def _with_instructions(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Arrays with the instructions of all tasks; they are encoded once, where it is trained."""
        table = arrays.get("instructions")
        if table is not None and not table.any():
            from user_core.policies.language.sentence import embeddings

            language = self.config.language
            sentences = [language.tasks[name] for name in self.tasks]
            table[: len(self.tasks)] = embeddings(sentences, language.weights)
        return arrays

    def image_features(self) -> Mapping[str, FrozenFeatures]:
        """A frozen encoder, for each image that it sees."""
        encoder = (
            self._network.frozen_encoder
            if self.config.image_encoder.frozen and self.features.image_names
            else None
        )
        return encoder_by_image(self.features, encoder)

    def arrays(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._arrays.items()}

    def in_place(self) -> AbstractContextManager[dict[str, Tensor]] | None:
        network: Any = getattr(self, "_network", None)
        tensors = {} if network is None else network.tensors()
        # None of what acts without torch, and of what has more than its network.
        return self._filled(network, tensors) if set(tensors) == set(self._arrays) else None

    @contextmanager
    def _filled(
        self, network: ChunkNetwork, tensors: dict[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """They are overwritten in the block. Raises PolicyError where a pretrained encoder is another one."""
        yield tensors
        network.buffers_changed()
        self._arrays = _InNetwork(network)
        if "eye_key" in tensors:
            require_same_encoder(network.frozen_encoder.key, self._arrays["eye_key"])

    def load(self, arrays: Arrays) -> None:
        mine = self._arrays
        shapes = mine.shapes if isinstance(mine, _InNetwork) else mine
        check_fits(arrays, shapes, type(self).__name__)
        if "eye_key" in mine:
            require_same_encoder(self._network.frozen_encoder.key, arrays["eye_key"])
        self._take({key: np.array(arrays[key], np.float32, order="C") for key in mine})

    def _to_robot(self, code: Array) -> Array:
        """Codes (T, D) in the scale of the data as actions (T, A)."""
        unit = self.code.decode(code / self._arrays["action_scale"] + self._arrays["action_offset"])
        return self.code.scale.to_robot(unit)


class _InNetwork(Mapping[str, Array]):
    """Arrays that lie in a network and nowhere else: copied when they are looked at, except for buffers, which acting
    looks at.

    Args:
        network: It may be given other memory later, where it is kept in bfloat16.
    """

    def __init__(self, network: ChunkNetwork) -> None:
        self._network, self._names = network, list(network.tensors())
        buffers = [name for name, _ in network.named_buffers() if name in self._names]
        self._small = {name: self._copied(name) for name in buffers}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all arrays."""
        return {name: tuple(tensor.shape) for name, tensor in self._network.tensors().items()}

    def __getitem__(self, name: str) -> Array:
        found = self._small.get(name)
        return self._copied(name) if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _copied(self, name: str) -> Array:
        copied: Array = self._network.tensors()[name].cpu().float().numpy().copy()
        return copied


class GenerativePolicy(ChunkPolicy):
    """Chunks from noise: a sample each time, or always from the same noise when deterministic."""

    Config = GenerativeConfig
    objective: ClassVar[Objective]
    #: What the names of the arrays begin with that make chunks, and how what these say is read.
    _acting: str = "denoiser."
    _velocity: Velocity = PLAIN

    def __init__(self, config: GenerativeConfig, spec: RobotSpec) -> None:
        self.generation = config
        super().__init__(config, spec)

    @property
    def acts_without_torch(self) -> bool:
        """Where its network is a perceptron."""
        return self._layout is not None

    @property
    def _steps(self) -> int:
        """Steps from noise to a chunk."""
        return self.generation.steps

    @property
    def _layout(self) -> PerceptronLayout | None:
        config = self.generation
        images = bool(self.features.image_names)
        if config.backbone == "mlp" and images:
            raise ConfigError(
                f"backbone of {type(self).__name__}", got="mlp, and images to look at",
                expected="transformer, or auto",
                hint=f"Or leave them out: ignored_observations {list(self.features.image_names)}",
            )  # fmt: skip
        if config.backbone == "transformer" or images:
            return None
        return PerceptronLayout(
            self.features.conditioning_size, config.rows, self.code.size, config.prefix_rows > 0,
            config.hidden, self._velocity.parts, config.prefix_weights == "own",
        )  # fmt: skip

    def _first(self) -> dict[str, Array]:
        layout = self._layout
        if layout is None:
            return super()._first()
        size = self.code.size
        first = layout.initial(np.random.default_rng(self.config.seed))
        return {
            "input_offset": self.features.offset.copy(),
            "input_scale": self.features.scale.copy(),
            "action_offset": np.zeros(size, np.float32),
            "action_scale": np.ones(size, np.float32),
            **self._no_instructions(),
            **{self._acting + name: array for name, array in first.items()},
        }

    def _no_instructions(self) -> dict[str, Array]:
        shape = (len(self.tasks) + 1, self.config.language.size)
        return {"instructions": np.zeros(shape, np.float32)} if self.tasks else {}

    def _copied(self) -> ChunkNetwork:
        return super()._copied() if self._layout is None else self._fresh()

    def _fresh(self) -> GenerativeNetwork:
        from user_core.policies.generative.network import GenerativeNetwork

        return GenerativeNetwork(
            self.generation, self.features, self.code, self.objective, self._layout
        )

    def _take(self, arrays: dict[str, Array]) -> None:
        layout = self._layout
        if layout is None:
            super()._take(arrays)
            return
        start = len(self._acting)
        mine = {name[start:]: a for name, a in arrays.items() if name.startswith(self._acting)}
        self._perceptron = NumpyPerceptron(layout, mine, self._velocity)
        self._arrays = arrays

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next T actions, (T, A)."""
        return self._generate(observation, self.noise(deterministic), None)

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots by one pass, or by two where plans go on in two ways, see
        :class:`~user_core.interfaces.BatchingPolicy`."""
        given = [None if one.plan is None else self._given(one.plan, one.frozen) for one in queries]
        some_are_told = any(one is not None and one.told for one in given)
        # By whether they are told; those without a plan go with any others.
        alike: dict[bool, list[int]] = {}
        for i, one in enumerate(given):
            alike.setdefault(some_are_told if one is None else one.told, []).append(i)
        made: list[Array] = [_NOTHING] * len(queries)
        for rows in alike.values():
            chunks = self._generate_batch([queries[i] for i in rows], [given[i] for i in rows])
            for i, chunk in zip(rows, chunks):
                made[i] = self._carried_on(chunk, queries[i].plan, queries[i].frozen)
        return made

    def acting_calls(self) -> list[tuple[Any, str]]:
        if self._layout is not None:
            return []
        acting: Any = self._network.acting  # type: ignore[attr-defined]
        return [(acting, "see"), (acting, "forward")]

    def graphed_calls(self) -> list[tuple[Any, str]]:
        return [] if self._layout is not None else [(self._network, "sample")]

    def _generate_batch(
        self, queries: Sequence[Query], given: Sequence[Given | None]
    ) -> Sequence[Array]:
        noise = np.stack([self.noise(one.deterministic) for one in queries])
        joined = _joined(given)
        seen = self._batch(queries)
        if self._layout is None:
            return self._with_torch(self._seen(seen), noise, joined)
        state = self._scaled(self.features.vectors(seen, len(queries)), seen.get(INSTRUCTION))
        made = self._sample(self._model(state), noise, joined)
        return list(self._to_robot(self._smoothed(made, joined)))

    def continue_plan(
        self, observation: Arrays, plan: Array, frozen: int, *, deterministic: bool = False
    ) -> Array:
        """Actions for the next T periods that go on from a plan, see
        :class:`~user_core.interfaces.ContinuingPolicy`."""
        if not len(plan):
            return self.act(observation, deterministic=deterministic)
        given = self._given(plan, frozen)
        made = self._generate(observation, self.noise(deterministic), given)
        return self._carried_on(made, plan, frozen)

    def _given(self, plan: Array, frozen: int) -> Given | None:
        """A plan to go on from; None: it is over."""
        config, arrays = self.generation, self._arrays
        plan, frozen = plan[: self.rows], min(frozen, len(plan), self.rows)
        if not len(plan):
            return None
        rows = np.concatenate([plan, np.repeat(plan[-1:], self.rows - len(plan), 0)])
        unit = self.code.scale.unit(rows)
        code = (self.code.encode(unit) - arrays["action_offset"]) * arrays["action_scale"]
        told = 0 < config.prefix_rows >= frozen
        weight = soft_mask(self.rows, len(plan), frozen)
        held = (np.arange(self.rows) < frozen).astype(np.float32)
        return Given(code, weight[:, None], held[:, None], told, config.guidance)

    def _carried_on(self, made: Array, plan: Array | None, frozen: int) -> Array:
        """They are carried out, whatever was generated."""
        if plan is not None:
            frozen = min(frozen, len(plan), self.rows)
            made[:frozen] = plan[:frozen]
        return made

    def noise(self, deterministic: bool = False) -> Array:
        """Noise of a chunk, (T, D) float32."""
        rng = np.random.default_rng(_STILL) if deterministic else self._rng
        noise = rng.standard_normal((self.rows, self.code.size), dtype=np.float32)
        return noise * np.float32(self.generation.deterministic_noise) if deterministic else noise

    def act_from(self, observation: Arrays, noise: Array) -> Array:
        """The next T actions, (T, A), from noise (T, D): what steers it may choose the noise."""
        return self._generate(observation, noise, None)

    def _generate(self, observation: Arrays, noise: Array, given: Given | None) -> Array:
        if self._layout is None:
            return self._with_torch(self._inputs(observation), noise[None], _joined([given]))[0]
        model = self._model(self._state(observation))
        return self._to_robot(self._smoothed(self._sample(model, noise, given), given))

    def _smoothed(self, code: Array, given: Given | None) -> Array:
        """Codes (..., T, D) with less between neighbouring rows, see ``smoothing``. A mean over the row before and the
        row after has no lag; the rows at both ends have one neighbour only, and stay."""
        share, even = self.generation.smoothing, self._even
        if not share or not len(even):
            return code
        between = code[..., 1:-1, even]
        moved = between + share * ((code[..., :-2, even] + code[..., 2:, even]) / 2 - between)
        if given is not None:
            moved = np.where(given.frozen[..., 1:-1, :] > 0, between, moved)
        smooth = code.copy()
        smooth[..., 1:-1, even] = moved
        return smooth

    @property
    def _even(self) -> Array:
        """Which numbers of codes are motions and no grippers'."""
        elements = self.code.scale.continuous
        return np.flatnonzero(~np.isin(elements, list(self.spec.grippers)))

    def _state(self, observation: Arrays) -> Array:
        """The numbers of an observation in the scale of the data, (O,), and those of the instruction."""
        instruction = self._instruction(self._task) if self.tasks else None
        return self._scaled(self.features.vector(observation), instruction)

    def _scaled(self, vector: Array, instruction: Array | None) -> Array:
        """The same of a vector (O,), or of those of several robots (B, O)."""
        arrays = self._arrays
        state = soft_limit((vector - arrays["input_offset"]) * arrays["input_scale"])
        return state if instruction is None else np.concatenate([state, instruction], -1)

    def _model(self, state: Array) -> Model:
        """The network for these numbers."""
        self._perceptron.see(state)
        return self._perceptron

    def _sample(self, model: Model, noise: Array, given: Given | None = None) -> Array:
        """Codes from noise, (..., T, D), in the scale of the data; without torch."""
        offset, scale = self._arrays["action_offset"], self._arrays["action_scale"]
        bounds = (-1 - offset) * scale, (1 - offset) * scale
        made: Array = self.objective.sample(model, noise, self._steps, bounds, given)
        return made

    def _with_torch(self, inputs: dict[str, Any], noise: Array, given: Given | None) -> list[Array]:
        """Chunks (B, T, A) for a batch, from noise (B, T, D)."""
        import torch

        network, device = self._network, self._device  # type: Any, Any
        plan = given
        with torch.no_grad():
            if given is not None:
                code, weight, frozen = (
                    torch.from_numpy(a).to(device) for a in (given.code, given.weight, given.frozen)
                )
                given = Given(code, weight, frozen, given.told, given.strength)
            made = network.sample(inputs, torch.from_numpy(noise).to(device), self._steps, given)
        return list(self._to_robot(self._smoothed(made.float().cpu().numpy(), plan)))

    def _torch_model(self, network: Any, inputs: dict[str, Any]) -> Model:
        from user_core.policies.generative.network import model_of

        model: Model = model_of(network, inputs)
        return model


class PlainFlowPolicy(GenerativePolicy):
    """Conditional flow matching over chunks (Lipman et al. 2022; Black et al., "pi0", 2024): what policies share that
    are flows."""

    objective = Flow()


class DiffusionPolicy(GenerativePolicy):
    """Diffusion over chunks, sampled by DDIM (Chi et al., "Diffusion Policy", 2023)."""

    objective = Diffusion()


def _joined(given: Sequence[Given | None]) -> Given | None:
    """Plans of several robots as one batch; rows without one are free."""
    some = next((one for one in given if one is not None), None)
    if some is None:
        return None

    def together_of(name: str) -> Array:
        usual: Array = getattr(some, name)
        return np.stack(
            [np.zeros_like(usual) if one is None else getattr(one, name) for one in given]
        )

    code, weight, frozen = (together_of(name) for name in ("code", "weight", "frozen"))
    return Given(code, weight, frozen, some.told, some.strength)


def _fill(network: Any, arrays: Arrays) -> None:
    import torch

    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    network.load_state_dict(state, strict=False)
