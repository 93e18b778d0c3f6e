"""What algorithms train of a policy of LeRobot: its own loss, on batches of ours. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.nn.modules.batchnorm import _BatchNorm

from user_core.errors import PolicyError, SpecError
from user_core.policies.features import ActionScale
from user_core.policies.generative.coding import ChunkCode
from user_core.policies.language.config import ADVANTAGE, TASK, with_advantage_in_words
from user_core.policies.lerobot.adapters import merged
from user_core.policies.lerobot.config import STILL
from user_core.policies.lerobot.inputs import ACTION
from user_core.policies.lerobot.opening import Opened, lags_of, noise_state, normalising, seeded
from user_core.policies.lerobot.recordable import (
    drawn_by_host,
    given_by_host,
    going_on,
    has_words,
    make_recordable,
    noise_for,
    padded_words,
    recomputing,
    takes_noise,
)
from user_core.policies.lerobot.statistics import widened
from user_core.policies.lerobot.weights import alias_frozen, share
from user_core.specs import Array, Arrays

_BASE = "base.sha256"
#: What names of inputs begin with that LeRobot's preprocessor has made, and the actions among them.
_READY = "ready/"
#: What policies that keep what they have seen call all cameras together.
_IMAGES = "observation.images"


@dataclass(frozen=True)
class GoesOn:
    """What chunks go on from.

    Attributes:
        plans: In network units, (B, P x A).
        frozen: Rows of each that are carried out whatever is generated.
        left: Rows of each that there are; of policies that do not take noise the same for all, as ``frozen`` is.
    """

    plans: Tensor
    frozen: Sequence[int]
    left: Sequence[int]


class LeRobotNetwork(nn.Module):
    """A :class:`~user_core.interfaces.LossNetwork` around a policy of LeRobot and its processors.

    Args:
        opened: Policy and processors.
        scale: Of actions.
        instruction: The task in words, where a batch says nothing else.
        instructions: The tasks in words that batches tell apart, in the order of their numbers.

    Attributes:
        rows: Actions of a chunk that it learns, T.
        sees_ahead: How many steps after now its loss also looks at; 0: none.
        lags: How many steps before now each observation that it sees was taken; the last is now.
        history: Observations that batches must hold for that, N.
        draws_noise: Whether what it generates depends on noise; None before it has generated anything.
    """

    def __init__(
        self, opened: Opened, scale: ActionScale, instruction: str,
        instructions: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.policy, self.statistics = opened.policy, opened.statistics
        make_recordable(self.policy)
        self.inputs_map, self.base_hash, self.reads = opened.inputs, opened.base_hash, opened.reads
        self.before, self.after, self.scale = opened.before, opened.after, scale
        self.instruction, self.sentences = instruction, list((instructions or {}).values())
        theirs = self.policy.config
        ahead = list(theirs.action_delta_indices or [0])
        self.first_row = int(ahead[0])
        self.rows = len(ahead)
        self.stacked = theirs.observation_delta_indices is not None
        ahead_of = max(theirs.observation_delta_indices or [0])
        self.sees_ahead = ahead_of if getattr(theirs, "enable_world_model", True) else 0
        self.lags = lags_of(theirs)
        self.history = max(self.lags) + 1
        self._code = ChunkCode(opened.inputs.spec, 1)
        of_choices = np.zeros(self._code.size - self._code.moved, np.float32)
        middle, half = (
            torch.from_numpy(np.concatenate([one[scale.continuous], of_choices + fill]))
            for one, fill in ((scale.middle, np.float32(0)), (scale.half, np.float32(1)))
        )
        factor = opened.inputs.action_scale
        factors = torch.ones_like(half) if factor is None else torch.from_numpy(np.array(factor))
        self._middle, self._half, self._factor = middle, half, factors
        self._kept = self._names_of_versions()
        self.draws_noise: bool | None = None

    # What is trained, kept and sent ---------------------------------------------------------------

    def named_parameters(self, *args: Any, **keywords: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained; what LeRobot has frozen is not."""
        for name, parameter in super().named_parameters(*args, **keywords):
            if parameter.requires_grad:
                yield name, parameter

    def arrays(self) -> dict[str, Array]:
        """What an actor needs: all weights, or those that differ from the base, the hash of which says which it is;
        and statistics. bfloat16 travels as the uint16 that it consists of."""
        found = {name: _to_numpy(tensor) for name, tensor in self._of_versions().items()}
        if self.base_hash:
            found[_BASE] = np.frombuffer(bytes.fromhex(self.base_hash), np.uint8).copy()
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of :meth:`arrays`, without a copy of the weights."""
        found = {name: tuple(tensor.shape) for name, tensor in self._of_versions().items()}
        if self.base_hash:
            found[_BASE] = (len(bytes.fromhex(self.base_hash)),)
        return found

    def take(self, arrays: Arrays) -> None:
        """Take over what :meth:`arrays` gave; raises PolicyError, and changes nothing, where its base is another."""
        self._require_base(np.asarray(arrays[_BASE]).tobytes().hex() if self.base_hash else "")
        with torch.no_grad():
            for name, tensor in self._of_versions().items():
                _copy(tensor, arrays[name])

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`arrays` gives, where it is; the base's hash is a copy."""
        found = {name: tensor.detach() for name, tensor in self._of_versions().items()}
        if self.base_hash:
            own = torch.tensor(list(bytes.fromhex(self.base_hash)), dtype=torch.uint8)
            found[_BASE] = own.to(self.device)
        return found

    @contextmanager
    def in_place(self) -> Iterator[dict[str, Tensor]]:
        """:meth:`tensors`, to be filled in the block; at its end raises PolicyError where the base is another."""
        found = self.tensors()
        yield found
        if self.base_hash:
            self._require_base(bytes(found[_BASE].tolist()).hex())

    def _require_base(self, base_hash: str) -> None:
        if base_hash != self.base_hash:
            raise PolicyError(
                "base of a policy version", got=f"SHA-256 {base_hash}",
                expected=f"{self.base_hash}, which is the checkpoint here",
                hint="Robot and learner must begin with the same checkpoint",
            )  # fmt: skip

    def _of_versions(self) -> dict[str, Tensor]:
        """What :meth:`arrays` gives except for the hash; not copies."""
        state = self.policy.state_dict()
        return {f"policy.{name}": state[name] for name in self._kept} | self.statistics.named()

    def _names_of_versions(self) -> list[str]:
        names = list(self.policy.state_dict())
        if not self.base_hash:
            return names
        changing = {
            name
            for name, p in self.policy.named_parameters(remove_duplicate=False)
            if p.requires_grad
        }
        for prefix, module in self.policy.named_modules():
            if isinstance(module, _BatchNorm):
                changing |= {f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False)}
        return [name for name in names if name in changing]

    def to(self, *args: Any, **keywords: Any) -> LeRobotNetwork:
        """Also tells policy and processors where they are."""
        super().to(*args, **keywords)
        device = self.device
        self._middle, self._half, self._factor = (
            t.to(device) for t in (self._middle, self._half, self._factor)
        )
        self.policy.config.device = str(device)
        for step in self.before.steps:
            if hasattr(step, "tensor_device"):
                step.tensor_device, step.device = device, device.type
        return self

    def share_base(self) -> None:
        """Have the frozen weights of its base once in this process; see
        :func:`~user_core.policies.lerobot.weights.share`."""
        share(self.policy, self.base_hash, frozenset(self._kept))

    def copied(self) -> LeRobotNetwork:
        """A copy. What is frozen of a base lies in the same memory, as nothing writes to it."""
        return copy.deepcopy(self, alias_frozen(self) if self.base_hash else None)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        found: torch.device = next(self.policy.parameters()).device
        return found

    # What it sees ---------------------------------------------------------------------------------

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """Its features by their names: images (B, h, w, 3) uint8, vectors (B, S) float32 in its units; with more than
        one observation at once (B, N, ...)."""
        mine, specs = self.inputs_map, self.inputs_map.spec.observation
        found = {}
        for feature, name in mine.images.items():
            image = torch.as_tensor(observation[name])
            self._lead(tuple(image.shape), specs[name].shape, name)
            found[feature] = self._lagged(image)
        for feature, names in mine.vectors.items():
            shape = np.shape(observation[names[0]])
            lead = self._lead(shape, specs[names[0]].shape, names[0])
            vectors = torch.from_numpy(mine.vector(feature, observation, lead))
            found[feature] = self._lagged(vectors)
        if self.sentences and TASK in observation:
            found[TASK] = torch.as_tensor(observation[TASK])
        return found

    def _lagged(self, tensor: Tensor) -> Tensor:
        return tensor if self.history == 1 else tensor[:, [self.history - 1 - i for i in self.lags]]

    def _lead(self, shape: tuple[int, ...], wanted: tuple[int, ...], name: str) -> tuple[int, ...]:
        lead = shape[: len(shape) - len(wanted)]
        past = (self.history,) if self.history > 1 else ()
        if lead[1:] != past or not lead or shape[len(lead) :] != wanted:
            raise SpecError(
                f"observations {name!r} of a batch", got=shape, expected=("B", *past, *wanted),
                hint=f"Set sampler.observation_history to {self.history}, as the policy's"
                if self.history > 1 else "",
            )  # fmt: skip
        return lead

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Let statistics of what is seen settle."""
        for one in inputs:
            for name in self.inputs_map.vectors:
                self.statistics.settle(name, one[name].reshape(-1, one[name].shape[-1]))

    def observe_actions(self, action: Tensor, weight: Tensor | None) -> None:
        """Let statistics of actions (B, T x A) settle, of those that are there."""
        if not self.statistics.settles(ACTION):
            return  # to pick rows by what is in them is to wait for the GPU
        rows = self.theirs(action).flatten(0, 1)
        if weight is not None:
            rows = rows[weight.reshape(len(rows), -1).sum(1) > 0]
        self.statistics.settle(ACTION, rows)

    # What it does ---------------------------------------------------------------------------------

    def theirs(self, action: Tensor) -> Tensor:
        """Actions (B, T x A) in network units as LeRobot has them, (B, T, D): of an element that is a choice one number
        for each that there is, see :class:`~user_core.policies.generative.coding.ChunkCode`."""
        one_by_one = action.reshape(-1, len(self.scale.middle))
        rows = self._code.encode_batch(one_by_one).reshape(len(action), -1, self._code.size)
        return (self._middle + self._half * rows) * self._factor

    def ours(self, chunk: Tensor) -> Tensor:
        """Chunks (B, T, D) of LeRobot in network units, (B, T, A); what lies outside the bounds is cut, and of choices
        the one with the largest number is made."""
        half = torch.where(self._half > 0, self._half, torch.ones_like(self._half))
        chunk = chunk.to(half.device, torch.float32)
        code = (chunk / self._factor - self._middle) / half
        return self._code.decode_batch(code).reshape(*code.shape[:2], -1)

    def ready(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None, generator: torch.Generator,
    ) -> dict[str, Tensor]:  # fmt: skip
        """What :meth:`loss` may be given instead of ``inputs``, (B, ...) each: after LeRobot's preprocessor, with the
        instructions as tokens, and with what LeRobot draws on the host. What is left for the loss is the same
        operations on the GPU each time. The inputs themselves where a policy wants more than tensors of rows."""
        batch = self.prepared(self._with_actions(inputs, action, weight))
        made = self._tensors(batch, len(action))
        if made is None:
            return {name: one.to(self.device) for name, one in inputs.items()}
        with seeded(_seed_of(generator), self.device):
            made |= drawn_by_host(self.policy, len(action), self.device)
        return {_READY + name: tensor for name, tensor in made.items()}

    def _tensors(self, batch: Mapping[str, Any], rows: int) -> dict[str, Tensor] | None:
        """Of what a preprocessor has made the tensors; None where a policy may want what else there is."""
        made = {name: one for name, one in batch.items() if isinstance(one, Tensor)}
        if any(one.dim() == 0 or len(one) != rows for one in made.values()):
            return None
        return None if self.reads and not has_words(made) else padded_words(made)

    def _with_actions(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None
    ) -> dict[str, Any]:
        batch = self.batch(inputs)
        chunk = self.theirs(action)
        batch[ACTION] = (
            chunk if self.policy.config.action_delta_indices is not None else chunk[:, 0]
        )
        there = torch.ones(chunk.shape[:2], dtype=torch.bool, device=chunk.device)
        if weight is not None:
            there = weight.reshape(*chunk.shape[:2], -1).sum(-1) > 0
        batch["action_is_pad"] = ~there
        return batch

    def loss(
        self, inputs: Mapping[str, Tensor], action: Tensor, weight: Tensor | None, generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """The policy's own loss. A row whose elements all have weight 0 counts as beyond the end of its episode."""
        ready = {
            name.removeprefix(_READY): one
            for name, one in inputs.items()
            if name.startswith(_READY)
        }
        self.policy.train()
        with self.noise_from(generator):
            batch = ready or self.prepared(self._with_actions(inputs, action, weight))
            with given_by_host(self.policy, batch):
                try:
                    found = self.policy.forward(batch)
                    loss: Tensor = found[0] if isinstance(found, tuple) else found["loss"]
                except KeyError as error:
                    kind = self.policy.config.type
                    raise PolicyError(
                        f"training of LeRobot's {kind}", got=f"a loss that wants, or lacks, {error}",
                        expected="one of what is seen, said and done, as other policies have it",
                        hint="LeRobot trains it in a way of its own (lerobot-train); here it can act",
                    ) from error  # fmt: skip
        return loss

    #: Of which task each row is: to read it on a GPU would be to wait until that has computed all that was launched.
    on_host = frozenset({TASK})
    #: What a loss reads back from there goes into LeRobot's notes of it, which are not looked at here.
    notes_on = "cuda"

    @contextmanager
    def noise_from(self, generator: torch.Generator) -> Iterator[None]:
        """Where LeRobot's losses draw noise, by the device's own generator: seeded anew for each loss. What is being
        recorded as CUDA graphs draws nothing; each replay is made in this instead."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            yield
            return
        with seeded(_seed_of(generator), self.device):
            yield

    def generate(
        self, inputs: Mapping[str, Tensor], seed: int, words: Sequence[str] | None = None, *,
        still: Sequence[bool] = (), goes_on: GoesOn | None = None,
    ) -> Tensor:  # fmt: skip
        """Chunks (B, T, A) in network units.

        Args:
            inputs: Of :meth:`inputs`.
            seed: Of the noise.
            words: The task of each row.
            still: Rows whose noise is always the same, wherever they are in a batch; only where :attr:`takes_noise`.
            goes_on: The plans that they go on from, by LeRobot's real-time chunking.
        """
        self.policy.eval()
        if hasattr(self.policy, "reset"):
            self.policy.reset()
        rows = len(next(iter(inputs.values())))
        with torch.no_grad(), seeded(seed, self.device):
            given = self.batch(inputs, words)
            if goes_on is not None:
                given[ACTION] = self.theirs(goes_on.plans.to(self.device))
            batch, before = self.prepared(given), noise_state(self.device)
            left_over = None if goes_on is None else batch.pop(ACTION)
            tensors = self._tensors(batch, rows)
            known = batch if tensors is None else tensors
            if self.takes_noise:
                noise = self._noise(rows, still)
                if goes_on is None or left_over is None:
                    made = self.chunk(known, noise)
                else:
                    made = self.continue_chunk(known, noise, *self._guide(left_over, goes_on))
            elif goes_on is not None:
                made = self.policy.predict_action_chunk(
                    batch, prev_chunk_left_over=left_over, inference_delay=goes_on.frozen[0],
                    execution_horizon=goes_on.left[0],
                )  # fmt: skip
            else:
                made = self.chunk(known)
            self.draws_noise = not torch.equal(before, noise_state(self.device))
            self._bind()
            return self.ours(self.after(made))

    @property
    def takes_noise(self) -> bool:
        """Whether rows of a batch may differ in how they draw noise, and in how much of which plan they go on from."""
        return takes_noise(self.policy)

    def _noise(self, rows: int, still: Sequence[bool]) -> Tensor:
        noise = noise_for(self.policy, rows, self.device)
        if not any(still):
            return noise
        with seeded(STILL, self.device):
            same = noise_for(self.policy, 1, self.device)
        return torch.where(torch.tensor(still, device=self.device)[:, None, None], same, noise)

    def _guide(self, left_over: Tensor, goes_on: GoesOn) -> tuple[Tensor, Tensor]:
        """What is left of plans, as LeRobot's network has actions, and the weights of its rows."""
        theirs, rows = self.policy.config, left_over.shape[1]
        weights_of = self.policy.model.rtc_processor.get_prefix_weights
        weights = [weights_of(f, n, theirs.chunk_size) for f, n in zip(goes_on.frozen, goes_on.left, strict=True)]  # fmt: skip
        there = torch.arange(rows) < torch.tensor(goes_on.left)[:, None]
        known = torch.where(there.to(self.device)[..., None], left_over, torch.zeros_like(left_over))  # fmt: skip
        lacking = (0, theirs.max_action_dim - known.shape[2], 0, theirs.chunk_size - rows)
        return pad(known.float(), lacking), torch.stack(weights).to(self.device)[..., None]

    def chunk(self, batch: dict[str, Any], noise: Tensor | None = None) -> Tensor:
        """Chunks (B, T, A) as LeRobot makes them of what its preprocessor gave: all of it on the GPU, with its own
        noise where none is given."""
        given = {} if noise is None else {"noise": noise}
        made: Tensor = self.policy.predict_action_chunk(self._remembered(batch), **given)
        return made

    def _remembered(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The same, for policies that make a chunk only of what they have kept of earlier calls: they get it as kept."""
        kept = getattr(self.policy, "_queues", {})
        names = [name for name in kept if name != ACTION]
        if not names or self.policy.config.type == "diffusion":  # which also takes what it is given
            return batch
        batch, images = dict(batch), list(self.policy.config.image_features)
        for name in names:
            if name == _IMAGES:
                batch[name] = torch.stack([batch[one] for one in images], dim=-4)
            kept[name].clear()
            kept[name].extend(batch[name].unbind(1))
        return batch

    def continue_chunk(
        self, batch: dict[str, Any], noise: Tensor, before: Tensor, weights: Tensor
    ) -> Tensor:
        """:meth:`chunk`, going on from what is left of others; see
        :func:`~user_core.policies.lerobot.recordable.going_on`."""
        with going_on(self.policy, before, weights):
            made: Tensor = self.policy.predict_action_chunk(
                batch, noise=noise, prev_chunk_left_over=before
            )
        return made

    def recompute(self) -> bool:
        """Let LeRobot compute again on the way back what it would keep, in its own way; whether this policy has one."""
        return recomputing(self.policy)

    def batch(
        self, inputs: Mapping[str, Tensor], words: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """What LeRobot's preprocessor takes: images as floats with channels first, and the task of each row."""
        found: dict[str, Any] = {}
        rows = 0
        for name, tensor in inputs.items():
            if name in (TASK, ADVANTAGE):
                continue
            tensor = tensor.to(self.device)
            rows = len(tensor)
            if name in self.inputs_map.images:
                tensor = self._image(name, tensor)
            if self.stacked and len(self.lags) == 1:
                tensor = tensor[:, None]
            found[name] = tensor
        if words is None and TASK in inputs:
            known = [*self.sentences, self.instruction]  # the last: of any other task
            words = [known[min(i, len(known) - 1)] for i in inputs[TASK].tolist()]
        said = [self.instruction] * rows if words is None else list(words)
        if ADVANTAGE in inputs:
            good = inputs[ADVANTAGE].tolist()
            said = [with_advantage_in_words(*pair) for pair in zip(said, good, strict=True)]
        found["task"] = said
        return found

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch after the preprocessor, normalised with the present statistics."""
        self._bind()
        found: dict[str, Any] = self.before(batch)
        return found

    def _image(self, name: str, image: Tensor) -> Tensor:
        found = image.movedim(-1, -3).float() / 255
        size = self.inputs_map.sizes.get(name)
        if size is None:
            return found
        lead = found.shape[:-3]
        flat = interpolate(
            found.flatten(0, -4), size, mode="bilinear", antialias=True, align_corners=False
        )
        return flat.reshape(*lead, *flat.shape[1:])

    def _bind(self) -> None:
        """The processors normalise with the buffers of this module, wherever these are now."""
        values = self.statistics.values()
        for step in normalising(self.before, self.after):
            step._tensor_stats = step.stats = widened(values, step.features)
            step.device = self.device

    def save(self, folder: Path) -> None:
        """Write a checkpoint of LeRobot: configuration, weights (adapters are added to them) and processors."""
        self._bind()
        folder.mkdir(parents=True, exist_ok=True)
        policy: Any = merged(self.policy)
        policy.save_pretrained(folder)
        self.before.save_pretrained(folder)
        self.after.save_pretrained(folder)


def _to_numpy(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    found: Array = tensor.numpy().copy()
    return found


def _copy(target: Tensor, array: Array) -> None:
    source = torch.from_numpy(np.array(array))
    if target.dtype == torch.bfloat16 and source.dtype == torch.uint16:
        source = source.view(torch.bfloat16)
    target.copy_(source.reshape(target.shape))


def _seed_of(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))
