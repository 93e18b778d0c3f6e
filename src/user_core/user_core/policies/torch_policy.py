"""The base class of policies that are a torch network and nothing else.

Extend :class:`Network` with a forward pass and :class:`TorchPolicy` with the method that makes
it; ``docs/how_to/add_a_policy.md`` shows both. This module imports torch.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from user_core.config import Config, setting
from user_core.errors import ConfigError, SpecError
from user_core.interfaces import DistributionNetwork, Policy, Query
from user_core.policies.features import ActionScale, FeatureLayout, is_image, together
from user_core.policies.loading import check_fits
from user_core.specs import Array, Arrays, RobotSpec


class Network(nn.Module):
    """All of :class:`~user_core.interfaces.PolicyNetwork`, with the usual answers.

    A subclass adds ``encode`` and ``distribution``
    (:class:`~user_core.interfaces.DistributionNetwork`), or ``loss``
    (:class:`~user_core.interfaces.LossNetwork`).

    Args:
        spec: The robot's.
    """

    #: Actions that are planned at once, T.
    rows: int = 1

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__()
        self.spec = spec

    def inputs(self, observation: Arrays) -> dict[str, Tensor]:
        """Every array of the spec under its name, (B, ...): images as uint8, the rest float32."""
        found = {}
        for name, spec in self.spec.observation.items():
            tensor = torch.as_tensor(observation[name])
            if tensor.shape[1:] != spec.shape:
                raise SpecError(
                    f"observations {name!r} of a batch", got=tuple(tensor.shape),
                    expected=("B", *spec.shape),
                )  # fmt: skip
            found[name] = tensor if is_image(spec) and spec.dtype == "uint8" else tensor.float()
        return found

    def observe(self, *inputs: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def arrays(self) -> dict[str, Array]:
        """Parameters and buffers by the names that torch gives them; a copy."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self.state_dict().items()}

    def tensors(self) -> dict[str, Tensor] | None:
        """The same, where they are; not copies. None of a network whose arrays are others than these."""
        if type(self).arrays is not Network.arrays:
            return None
        return {name: t.detach() for name, t in self.state_dict().items()}


def batch_inputs(features: FeatureLayout, observation: Arrays) -> dict[str, Tensor]:
    """Observations as a policy with a :class:`~user_core.policies.features.FeatureLayout` sees them:
    ``state``, (B, O) float32, and images under their names; depth as float32 in m.

    Raises SpecError where images have another shape.
    """
    rows = len(observation[next(iter(features.specs))])
    _require_history(features, observation)
    found = {"state": torch.from_numpy(features.vectors(observation, rows))}
    for name in features.image_names:
        given = observation[name]
        if given.dtype in (np.float16, torch.float16):  # stored beside it by a frozen encoder
            kept = torch.as_tensor(given)
            found[name] = kept.reshape(rows, -1, kept.shape[-1])
            continue
        image = torch.as_tensor(
            given if features.history == 1 else features.image(name, observation)
        )
        if image.shape != (rows, *features.specs[name].shape):
            raise SpecError(
                f"images {name!r} of a batch", got=tuple(image.shape),
                expected=(rows, *features.specs[name].shape),
            )  # fmt: skip
        found[name] = in_metres(features, name, image)
    return found


def _require_history(features: FeatureLayout, observation: Arrays) -> None:
    """Raise SpecError unless there are as many observations in each row as are seen at once."""
    for name in features.state_names[:1]:
        spec = features.specs[name]
        lead = () if features.history == 1 else (features.history,)
        if np.shape(observation[name])[1:] != (*lead, *spec.shape):
            raise SpecError(
                f"observations {name!r} of a batch", got=np.shape(observation[name]),
                expected=("B", *lead, *spec.shape),
                hint=f"Set sampler.observation_history to {features.history}, as the policy's",
            )  # fmt: skip


def in_metres(features: FeatureLayout, name: str, image: Tensor) -> Tensor:
    """Depth in m; other images as they are."""
    depth = features.depths.get(name)
    if depth is None or image.dtype == torch.float32:
        return image
    return image.float() * depth[0]


class TorchPolicyConfig(Config):
    """What every policy of this kind has."""

    seed: int = setting(0, doc="Seed of first weights and exploration noise.", ge=0)


class TorchPolicy(Policy):
    """Acts with its torch network, one observation at a time, on the CPU.

    One that knows categorical elements says so by :attr:`knows_choices`: its network then gives a
    :class:`~user_core.interfaces.ChoiceDistribution` for a robot that has some
    (:class:`user_core.policies.choices.MixedActions` is one). :meth:`network` gives a copy of the network, for an
    algorithm to train.

    Args:
        config: Parameters.
        spec: The robot's; its actions have finite bounds.
    """

    Config = TorchPolicyConfig

    #: Whether it can choose; if not, robots with categorical elements are refused.
    knows_choices: ClassVar[bool] = False

    def __init__(self, config: TorchPolicyConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        self._scale = ActionScale(spec, choices=self.knows_choices)
        self._generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = self.make_network()

    @abstractmethod
    def make_network(self) -> DistributionNetwork:
        """The network with its first weights; ``config`` and ``spec`` are there already."""

    def network(self) -> DistributionNetwork:
        return copy.deepcopy(self._network)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next T actions, (T, A): a sample, or the mode when ``deterministic``."""
        network = self._network
        with torch.inference_mode():
            inputs = network.inputs({name: np.array(a)[None] for name, a in observation.items()})
            distribution = network.distribution(network.encode(inputs))
            unit = distribution.mode if deterministic else distribution.sample(self._generator)[0]
        return self._scale.to_robot(unit.float().numpy().reshape(network.rows, -1))

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots by one pass, see :class:`~user_core.interfaces.BatchingPolicy`."""
        network = self._network
        with torch.inference_mode():
            inputs = network.inputs(together([one.observation for one in queries]))
            distribution = network.distribution(network.encode(inputs))
            unit = distribution.mode
            still = torch.tensor([one.deterministic for one in queries])[:, None]
            if not still.all():
                unit = torch.where(still, unit, distribution.sample(self._generator)[0])
        rows = unit.float().numpy().reshape(len(queries), network.rows, -1)
        return list(self._scale.to_robot(rows))

    def acting_calls(self) -> list[tuple[Any, str]]:
        return [(self._network, "encode")]

    def arrays(self) -> dict[str, Array]:
        return self._network.arrays()

    def load(self, arrays: Arrays) -> None:
        check_fits(arrays, self.arrays(), type(self).__name__)
        state = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
        network: Any = self._network
        tensors = self._tensors()
        if tensors is None:
            network = copy.deepcopy(network)
            network.load_state_dict(state)
            self._network = network
            return
        # Where they are: compiled calls are of this network, and recorded ones read its memory.
        before = {key: tensor.clone() for key, tensor in tensors.items()}
        with torch.inference_mode():  # some may have been made in it, by acting
            try:
                network.load_state_dict(state)
            except BaseException:  # of a network of others
                for key, tensor in tensors.items():
                    tensor.copy_(before[key])
                raise

    def in_place(self) -> AbstractContextManager[dict[str, Tensor]] | None:
        own = (type(self).load, type(self).arrays) == (TorchPolicy.load, TorchPolicy.arrays)
        tensors = self._tensors() if own else None
        return None if tensors is None else nullcontext(tensors)

    def _tensors(self) -> dict[str, Tensor] | None:
        """Those of the network, where they may be filled; None: it does not name them."""
        return self._network.tensors() if isinstance(self._network, Network) else None


def require_device(name: str, whose: str) -> torch.device:
    """The torch device of this name, as torch knows it with its number. Raises ConfigError where this machine does not
    have it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        count = torch.cuda.device_count()
        gpus = ", ".join(f"cuda:{i}" for i in range(count))
        raise ConfigError(
            f"device of the {whose}", got=name,
            expected=f"cpu or {gpus}" if count else f"cpu: torch {torch.__version__} finds no GPU here",
            hint=str(error).splitlines()[0],
        ) from error  # fmt: skip


def in_precision(precision: str, device: str) -> torch.autocast:
    """In it, networks compute with ``precision`` (such as ``bfloat16``) where torch finds that safe."""
    return torch.autocast(torch.device(device).type, getattr(torch, precision))
