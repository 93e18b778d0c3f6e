"""Batches of numpy arrays as minibatches of tensors, in the layout that a policy's network wants."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.body.action_groups import group_views, standing_still
from user_core.errors import PluginError, SpecError, StoreError
from user_core.interfaces import DistributionNetwork, Policy, PolicyNetwork
from user_core.policies.features import ActionScale
from user_core.reasons import ACTIONS_OUTSIDE, INPUT_CUT, NOTHING_AFTER_END, Reason
from user_core.specs import ActionKind, Array, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.distributed import gathered, share_all_
from user_learner.algorithms.common.torch_tools import random_shift

Inputs = dict[str, Tensor]
#: Cuts between two looks at actions outside the bounds, how many looks are averaged, how far
#: outside counts, in half ranges, and which share is worth a warning.
_LOOK_EVERY, _LOOKS, _SLACK, _MANY = 8, 20, 2e-3, 0.01
#: Windows without any end of a task that are worth a warning.
_ENOUGH = 10_000


# --------------------------------------------------------------------------------------------------
# What an algorithm asks of a policy
# --------------------------------------------------------------------------------------------------


def network_of(policy: Policy, needs: type, algorithm: str, device: torch.device) -> Any:
    """The network of a policy, on a device.

    Args:
        policy: The policy to be trained.
        needs: What the algorithm needs of it, one of the protocols in
            :mod:`user_core.interfaces`.
        algorithm: Its name, for messages.
        device: Where to train.

    Raises:
        PolicyError: The policy cannot be trained.
        PluginError: Its network lacks what the algorithm needs.
    """
    network: Any = policy.network()
    lacking = [name for name in members(needs) if not hasattr(network, name)]
    if lacking:
        raise PluginError(
            f"policy of {algorithm}",
            got=f"{type(policy).__name__}, whose network has no {', '.join(lacking)}",
            expected=f"a network as user_core.interfaces.{needs.__name__} describes it",
            hint="See docs/how_to/add_a_policy.md",
        )
    return network.to(device)


def require_choices(
    network: DistributionNetwork, spec: RobotSpec, algorithm: str, device: torch.device
) -> None:
    """Raise PluginError unless the network gives distributions of the choices that a robot has."""
    if not spec.action.categorical:
        return
    with torch.no_grad():
        found = network.distribution(tried(network, nothing_seen(spec), device))
    lacking = [
        name for name in ("choice_log_probs", "sample_continuous") if not hasattr(found, name)
    ]
    if lacking:
        raise PluginError(
            f"policy of {algorithm} for {spec.robot!r}, whose actions have choices",
            got=f"{type(found).__name__}, which has no {', '.join(lacking)}",
            expected="a distribution as user_core.interfaces.ChoiceDistribution describes it",
            hint="The policy tanh_gaussian has it; see docs/how_to/add_a_policy.md",
        )


def nothing_seen(spec: RobotSpec) -> dict[str, Array]:
    """One observation of zeros, (1, ...) each, to try a network on."""
    return {name: array.zeros()[None] for name, array in spec.observation.items()}


@torch.no_grad()
def tried(network: Any, observation: Mapping[str, Array], device: torch.device) -> Tensor:
    """What a network makes of observations, (B, F)."""
    inputs = {name: tensor.to(device) for name, tensor in network.inputs(observation).items()}
    features: Tensor = network.encode(inputs)
    return features


def members(protocol: type) -> list[str]:
    """Names that an object must have to fulfil a protocol."""
    names = {
        name
        for cls in protocol.__mro__
        if getattr(cls, "_is_protocol", False)
        for name in (*vars(cls), *inspect.get_annotations(cls))
        if not name.startswith("_")
    }
    return sorted(names)


def buffers_state(network: PolicyNetwork) -> dict[str, Any]:
    """Buffers of a network, for a checkpoint; a copy. bfloat16, which numpy does not have, becomes float32, which holds
    it exactly."""
    return {
        name: buffer.item() if buffer.dim() == 0 else _in_numpy(buffer)
        for name, buffer in network.named_buffers()
    }


def _in_numpy(buffer: Tensor) -> Array:
    wider = buffer.float() if buffer.dtype == torch.bfloat16 else buffer
    found: Array = wider.cpu().numpy().copy()
    return found


def load_buffers(network: PolicyNetwork, state: Mapping[str, Any], where: str) -> None:
    """Take over what :func:`buffers_state` gave; raises StoreError where names differ."""
    buffers = dict(network.named_buffers())
    if buffers.keys() != state.keys():
        raise StoreError(f"buffers of {where}", got=sorted(state), expected=sorted(buffers))
    for name, buffer in buffers.items():
        buffer.copy_(torch.as_tensor(np.array(state[name])))
    for module in getattr(network, "modules", tuple)():
        if (changed := getattr(module, "buffers_changed", None)) is not None:
            changed()


# --------------------------------------------------------------------------------------------------
# Minibatches
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minibatch:
    """B transitions as tensors.

    Attributes:
        inputs: Of the policy's network, (B, ...) each.
        action: (B, T x A), scaled to -1 to 1; choices as their numbers from 0.
        reward: (B,); of a window the discounted sum over its steps.
        discount: (B,), of the value of the next observation, which is the one behind the window; 0
            behind a terminal step.
        next_inputs: As ``inputs``; empty where they were not asked for.
        weight: How much each element of the actions counts, (B, T x A): what the end of an
            episode cuts off does not. None where all do.
        counts: How many choices each element of the actions has, (T x A,), 0 where it is none. None where
            no element is.
    """

    inputs: Inputs
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_inputs: Inputs
    weight: Tensor | None
    counts: Tensor | None = None

    @property
    def judged(self) -> Tensor | None:
        """Which windows tell what their actions are worth, (B,) of 0 and 1: those that are whole, or end
        with the task. One that a time limit cut short does not show what its last actions would have
        brought, and one that begins before a person took over (``before_steps`` of a stratum) is there for what he did.
        None: all do."""
        if self.weight is None:
            return None
        whole = (self.weight[:, -1] > 0) | (self.discount == 0)
        return (whole & (self.weight[:, 0] > 0)).to(self.reward.dtype)

    def critic_loss(self, values: Tensor, target: Tensor) -> Tensor:
        """Squared errors of critics, 0 of rows that are not :attr:`judged`: means over rows, summed over critics.

        Args:
            values: Of what was done, (E, B), with gradients.
            target: What they should be, (B,).
        """
        error, judged = values - target, self.judged
        if judged is not None:
            error = error * judged
        return error.square().mean(1).sum()

    def over_the_end(self, generator: torch.Generator) -> Tensor:
        """The actions, with any others where the episode had ended: what comes then is worth nothing, whatever it
        is, and critics should know."""
        if self.weight is None:
            return self.action
        noise = torch.rand(self.action.shape, generator=generator, device=self.action.device)
        drawn = 2 * noise - 1
        if self.counts is not None:  # numbers from 0, each as likely
            drawn = torch.where(self.counts > 0, (noise * self.counts).floor(), drawn)
        return torch.where(self.weight > 0, self.action, drawn)


class AfterTheEnd:
    """What a robot does after its task has ended, for who clones windows of several actions.

    There are no data of it. Left out of what is learned, near the goal most of a chunk is whatever the network makes of
    it, and where such rows are carried out (plans that are late, or not replaced at each step) the robot may stand or
    circle just outside the goal. Here the last action goes on (so Chi et al., "Diffusion Policy", 2023, pad chunks),
    with motions that fade away; positions, openings of grippers and choices stay.

    Args:
        spec: The robot's.
        share: What is left of a motion from one row to the next: 1, it goes on; 0, the robot stands still.
    """

    def __init__(self, spec: RobotSpec, share: float) -> None:
        moves, still = standing_still(spec)
        moves[list(spec.action.categorical)] = False
        self._moves, self._share = torch.from_numpy(moves), share
        self._still = torch.from_numpy(still.astype(spec.action.dtype))
        self._generic = any(v.spec.action_kind is ActionKind.GENERIC for v in group_views(spec))
        self._padded, self._drawn, self._ended = True, 0, False

    def __call__(self, batch: Batch) -> Batch:
        """The batch, in which rows after the end count where the last step does: of windows, actions (B, T, A), of
        which the last is repeated past what is there, and ``extras["mask"]`` (B, T). What was done after an end that
        was told later is there, and stays. Raises SpecError where discounts do not tell the end."""
        self._padded = "mask" in batch.extras
        if not self._padded:
            return batch
        action, mask = torch.as_tensor(batch.action), torch.as_tensor(batch.extras["mask"])
        ends = (torch.as_tensor(batch.discount) == 0) & mask
        if (ends.sum(1) > 1).any():
            raise SpecError(
                "discounts of windows", got="0 of several steps of one",
                expected="0 only where the task ended: after_end goes by it",
                hint="Set sampler.gamma above 0, or after_end to nothing",
            )  # fmt: skip
        if not self._ended:
            self._drawn, self._ended = self._drawn + len(ends), bool(ends.any())
        added = (ends.cumsum(1) > 0) & ~mask
        since = added.cumsum(1)[:, :, None]
        fading = torch.full((), self._share, dtype=action.dtype) ** since
        moved = self._still + (action - self._still) * fading
        made = torch.where(self._moves & added[:, :, None], moved, action)
        if action.is_pinned():  # a copy of other memory to a GPU may wait for what runs there
            made = made.pin_memory()
        return replace(batch, action=made, extras={**batch.extras, "mask": mask | added})

    def warnings(self) -> list[Reason]:
        """Why chunks do not learn, or not as one might expect, what comes after the end."""
        found = []
        if self._generic:
            found.append(
                "action_kind is generic, which does not say what is a motion: the last action goes on as it is; say "
                "action_kind in the robot's spec (of imported data: kind of the action in their mapping), or set "
                "after_end to nothing"
            )
        if not self._padded:
            found.append(
                "batches are no padded windows: set sampler.pad_windows, or after_end to nothing"
            )
        elif not self._ended and self._drawn >= _ENOUGH:
            found.append(
                f"no end of a task (terminated) in {self._drawn} drawn windows: episodes that just stop do not say "
                "what comes then"
            )
        return [Reason(NOTHING_AFTER_END, f"after_end: {text}") for text in found]


class Waits:
    """Windows in which the robot stands still before it does what was done.

    A late plan goes on from rows that are carried out meanwhile. Demonstrations show such rows as part of what leads on,
    so near the end of a task a network learns that nothing is left to do after them; where they did not lead on, or stand
    still themselves, each later plan stands still as well, just outside the goal. Here some windows begin with a few rows
    that do not move, after which what was done follows, from where the robot still is: true of a scene that does not move
    by itself. The first rows do not count, so that a network with ``prefix_rows`` is given them.

    Of positions, to stand still is to be told the first one again; what follows is the second, so that the first row
    that counts moves here as well. Else a network would learn to repeat a given row, which is the only one that is
    carried out where each plan is replaced after a row.

    Args:
        spec: The robot's.
        share: Of the windows.
        most: Rows that do not move, at most; each number from 1 is as likely.
        seed: Of which windows, and how many rows.

    Raises:
        SpecError: The spec does not say what stands still.
    """

    def __init__(self, spec: RobotSpec, share: float, most: int, seed: int) -> None:
        if any(view.spec.action_kind is ActionKind.GENERIC for view in group_views(spec)):
            raise SpecError(
                "action_kind of a robot that is to wait", got=ActionKind.GENERIC.value,
                expected="one that says what stands still: a change, a velocity or a position",
                hint="Say it in the robot's spec (of imported data: kind of the action in their mapping), or set waits to 0",
            )  # fmt: skip
        moves, still = standing_still(spec)
        others = [*spec.grippers, *spec.action.categorical]
        # Grippers and choices keep step with motions.
        positions = ~moves
        positions[others] = not moves[np.setdiff1d(np.arange(moves.size), others)].any()
        self._moves, self._positions = torch.from_numpy(moves), torch.from_numpy(positions)
        self._still = torch.from_numpy(still.astype(spec.action.dtype))
        self._share, self._most, self._seed = share, most, seed

    def __call__(self, batch: Batch, update: int) -> Batch:
        """The batch of an update, of windows, actions (B, T, A) and ``extras["mask"]`` (B, T) of what counts; all where
        that is not there. Rewards and discounts stay as they were. Windows whose first row does not count stay, too:
        something is given there already."""
        action = torch.as_tensor(batch.action)
        count, rows = action.shape[:2]
        mask = torch.as_tensor(batch.extras.get("mask", np.ones((count, rows), bool)))
        rng = np.random.default_rng([self._seed, update])
        drawn = rng.integers(1, self._most + 1, count) * (rng.random(count) < self._share)
        waits = torch.from_numpy(drawn) * mask[:, 0]
        at = torch.arange(rows) - waits[:, None]
        before, source = at < 0, at.clamp_min(0)
        later = torch.where(before | (waits == 0)[:, None], source, source + 1).clamp_max(rows - 1)
        of = torch.where(self._positions, later[:, :, None], source[:, :, None])
        moved = action.gather(1, of)
        made = torch.where(before[:, :, None] & self._moves, self._still, moved)
        if action.is_pinned():  # a copy of other memory to a GPU may wait for what runs there
            made = made.pin_memory()
        counts = mask.gather(1, later if self._positions.any() else source) & ~before
        return replace(batch, action=made, extras={**batch.extras, "mask": counts})


class Minibatcher:
    """Cuts batches into minibatches for one network, on one device.

    Args:
        network: Says in which layout it wants observations, and takes notice of them.
        spec: The robot's.
        device: Where the tensors go.
        next_observations: Whether they are needed.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        spec: RobotSpec,
        device: torch.device,
        next_observations: bool = True,
    ) -> None:
        self.network, self.device, self._next = network, device, next_observations
        scale, rows = ActionScale(spec, choices=True), network.rows
        self._action_size = spec.action.size
        self._action_shape: tuple[int, ...] = (self._action_size,)
        if rows > 1:
            self._action_shape = (rows, self._action_size)
        half = np.where(scale.half > 0, scale.half, 1)
        self._action_middle = torch.from_numpy(np.tile(scale.middle, rows)).to(device)
        self._action_scale = torch.from_numpy(np.tile(1 / half, rows)).to(device)
        self._limits: tuple[Tensor, Tensor] | None = None  # of actions that are not -1 to 1
        self._counts: Tensor | None = None
        if scale.categorical:
            counts = np.zeros(self._action_size, np.float32)
            counts[scale.categorical] = scale.counts
            self._counts = torch.from_numpy(np.tile(counts, rows)).to(device)
            low, high = (np.tile(side, rows) for side in (scale.unit_low, scale.unit_high))
            self._limits = torch.from_numpy(low).to(device), torch.from_numpy(high).to(device)
        #: Names of inputs that the network reads as numbers.
        self._on_host: frozenset[str] = getattr(network, "on_host", frozenset())
        self._cuts, self._outside = 0, torch.zeros((), device=device)
        #: What the rows of the network's first layer were multiplied by in the newest cut, (O,),
        #: so that its outputs stayed while the scale of inputs changed; None: nothing changed.
        self.factors: Tensor | None = None

    def cut(self, batch: Batch, count: int) -> list[Minibatch]:
        """Cut into ``count`` minibatches of equal size.

        Minibatch i takes every count-th row from row i on, so that each has the same mixture of
        sources whether the sampler shuffles them or lays them one behind the other.

        Args:
            batch: G x B rows; windows of T steps where the network plans T actions.
            count: G.

        Raises:
            SpecError: The rows cannot be divided, or are windows instead of single steps, or
                the other way round.
        """
        rows = len(batch)
        if rows == 0 or rows % count:
            raise SpecError(
                "rows of a batch", got=rows, expected=f"a positive multiple of {count} (the "
                "gradient updates of one call)",
            )  # fmt: skip
        shape, planned = np.shape(batch.action), self.network.rows
        if shape != (rows, *self._action_shape):
            hint = f"Set sampler.window to {planned if planned > 1 else 0}"
            raise SpecError(
                "actions of a batch", got=shape, expected=(rows, *self._action_shape),
                hint=hint + (", and pad_windows" if planned > 1 else ""),
            )  # fmt: skip
        inputs = self._inputs(batch.observation)
        next_inputs = self._inputs(batch.next_observation) if self._next else {}
        self._observe([inputs, next_inputs] if self._next else [inputs], count)
        action = self._tensor(batch.action).reshape(rows, -1)
        action = (action - self._action_middle) * self._action_scale
        if self._cuts % _LOOK_EVERY == 0:
            outside = self._is_outside(action).any(1).float().mean()
            self._outside.lerp_(outside, 1 / (1 + min(self._cuts // _LOOK_EVERY, _LOOKS)))
        self._cuts += 1
        action = action.clamp_(*(self._limits or (-1, 1)))
        reward, discount = self._tensor(batch.reward), self._tensor(batch.discount)
        if planned > 1:
            reward, discount = chunk_returns(reward, discount)
        weight = batch.extras.get("mask") if planned > 1 else None
        if weight is not None:
            weight = self._tensor(weight).repeat_interleave(self._action_size, 1)
        actions, rewards, discounts = (
            _strided(tensor, count) for tensor in (action, reward, discount)
        )
        parts, next_parts = _cut(inputs, count), _cut(next_inputs, count)
        return [
            Minibatch(
                parts[i],
                actions[i],
                rewards[i],
                discounts[i],
                next_parts[i],
                None if weight is None else weight[i::count],
                self._counts,
            )
            for i in range(count)
        ]

    def _is_outside(self, action: Tensor) -> Tensor:
        """Which elements of actions (B, T x A) are out of bounds."""
        if self._limits is None:
            return action.abs() > 1 + _SLACK
        low, high = self._limits
        return (action < low - _SLACK) | (action > high + _SLACK)

    def warnings(self) -> list[Reason]:
        """What a person should know of the data: actions that were cut, inputs far out."""
        found = []
        share = float(self._outside)
        if share > _MANY:
            found.append(
                Reason(
                    ACTIONS_OUTSIDE,
                    f"{100 * share:.2g} % of the drawn actions lie outside the robot's bounds, and "
                    "are cut there: `user replay info` shows what each store means",
                )
            )
        for name, share in getattr(self.network, "far_inputs", list)():
            found.append(
                Reason(
                    INPUT_CUT,
                    f"input {name}: {100 * share:.2g} % of its values lie more than ten times its "
                    "usual range away, and reach the policy by their logarithm",
                )
            )
        return found

    def _observe(self, inputs: list[Inputs], count: int) -> None:
        """Let the network take notice, and keep its outputs where that changes its scale. Of several
        processes each takes notice of what all have, but for images."""
        network: Any = self.network
        follows, apart = hasattr(network, "keep_outputs"), self._on_host
        before = network.statistics() if follows else None
        network.observe(
            *(
                {n: t if n in apart or _is_image(t) else gathered(t, count) for n, t in one.items()}
                for one in inputs
            )
        )
        # Processes that train together settle on the first one's.
        share_all_(buffer for _, buffer in network.named_buffers())
        self.factors = network.keep_outputs(before) if before is not None else None

    def _inputs(self, observation: Mapping[str, Array]) -> Inputs:
        return {
            name: tensor if name in self._on_host else tensor.to(self.device, non_blocking=True)
            for name, tensor in self.network.inputs(observation).items()
        }

    def _tensor(self, array: object) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32).to(self.device, non_blocking=True)


def chunk_returns(reward: Tensor, discount: Tensor) -> tuple[Tensor, Tensor]:
    """Of windows the discounted sum of rewards, and what is left for the value behind them, (B,) each.

    Args:
        reward: Of each step, (B, T); 0 where there is none.
        discount: Behind each step, (B, T); 0 behind a terminal one, 1 where there is none.
    """
    left = discount.cumprod(1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)
    return (before * reward).sum(1), left[:, -1]


def shifted(inputs: Inputs, pad: int, generator: torch.Generator) -> Inputs:
    """Inputs with every image shifted at random by up to ``pad`` pixels."""
    return {
        name: random_shift(tensor, pad, generator) if _is_image(tensor) else tensor
        for name, tensor in inputs.items()
    }


def _is_image(tensor: Tensor) -> bool:
    return tensor.dim() == 4  # depth, too


def _cut(inputs: Inputs, count: int) -> list[Inputs]:
    """Inputs of each minibatch: views of images, which are large; the rest side by side."""
    parts = {
        name: [tensor[i::count] for i in range(count)]
        if _is_image(tensor)
        else _strided(tensor, count)
        for name, tensor in inputs.items()
    }
    return [{name: part[i] for name, part in parts.items()} for i in range(count)]


def _strided(tensor: Tensor, count: int) -> Tensor:
    if count == 1:
        return tensor[None]
    rows = len(tensor) // count
    return tensor.view(rows, count, *tensor.shape[1:]).transpose(0, 1).contiguous()
