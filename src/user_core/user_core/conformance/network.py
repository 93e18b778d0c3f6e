"""The promises of a policy's network, which algorithms train. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.conformance.report import Report, expect
from user_core.interfaces import Policy
from user_core.policies.features import ActionScale
from user_core.specs import Array, RobotSpec

_BATCH = 16


def check_network(policy: Policy, spec: RobotSpec, report: Report, *, seed: int = 0) -> None:
    """Try the network of a policy that was built for ``spec``; adds to a report."""
    rng = np.random.default_rng(seed)
    history = policy.observation_history
    samples = [spec.sample_observation(rng, history) for _ in range(_BATCH)]
    batch = {name: np.stack([one[name] for one in samples]) for name in spec.observation}
    with report.promise("network gives what can be trained: parameters, T, the layout") as seen:
        network: Any = policy.network()
        parameters = dict(network.named_parameters())
        expect(bool(parameters), "it has no parameters")
        expect(network.rows >= 1, f"rows is {network.rows}")
        inputs = network.inputs(batch)
        sizes = {name: len(tensor) for name, tensor in inputs.items()}
        expect(set(sizes.values()) == {_BATCH}, f"inputs of {_BATCH} rows have {sizes}")
        numbers = sum(parameter.numel() for parameter in parameters.values())
        kinds = {"loss": "a loss of its own", "distribution": "a distribution"}
        found = [text for name, text in kinds.items() if hasattr(network, name)]
        kind = found[0] if found else "for an algorithm of its own"
        seen.append(f"{numbers} parameters, T={network.rows}, {kind}")
    if not report.checks[-1].passed:
        return
    with report.promise("network and policy have the same arrays"):
        mine, theirs = policy.arrays(), network.arrays()
        expect(mine.keys() == theirs.keys(), f"{sorted(mine)} and {sorted(theirs)}")
        wrong = [name for name, array in mine.items() if not np.array_equal(array, theirs[name])]
        expect(not wrong, f"{wrong} differ")
        policy.load(theirs)
    with report.promise("two networks share no memory, with each other or with the policy"):
        before, other = policy.arrays(), policy.network()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(1.0)
        for name, array in before.items():
            expect(np.array_equal(array, policy.arrays()[name]), f"the policy's {name!r} moved")
            expect(np.array_equal(array, other.arrays()[name]), f"{name!r} of the other moved")
        network = other
    if hasattr(network, "distribution"):
        _DistributionCheck(policy, network, spec, samples, batch).run(report)
    if hasattr(network, "loss"):
        with report.promise("loss is a scalar with a gradient, the same from the same noise"):
            scale = ActionScale(spec, choices=True)
            units = (scale.unit(spec.action.sample(rng)) for _ in range(_BATCH * network.rows))
            action = torch.from_numpy(np.stack(list(units))).reshape(_BATCH, -1)
            losses = [
                network.loss(network.inputs(batch), action, None, torch.Generator())
                for _ in range(2)
            ]
            expect(losses[0].dim() == 0, f"shape {tuple(losses[0].shape)}")
            expect(bool(torch.equal(*losses)), "noise does not come from the generator alone")
            losses[0].backward()
            expect(any(p.grad is not None for p in network.parameters()), "no gradient")


class _DistributionCheck:
    """The promises of a :class:`~user_core.interfaces.DistributionNetwork`, one method each."""

    def __init__(
        self,
        policy: Policy,
        network: Any,
        spec: RobotSpec,
        samples: list[dict[str, Array]],
        batch: dict[str, Array],
    ) -> None:
        self.policy, self.network, self.samples, self.batch = policy, network, samples, batch
        self.size, self.scale = network.rows * spec.action.size, ActionScale(spec, choices=True)
        self.low, self.high = (
            torch.from_numpy(np.tile(side, network.rows))
            for side in (self.scale.unit_low, self.scale.unit_high)
        )
        moves = np.isin(np.arange(spec.action.size), self.scale.continuous)
        #: Which elements of T x A are no choices.
        self.moved = torch.from_numpy(np.tile(moves, network.rows))

    def run(self, report: Report) -> None:
        """Try them all, as far as there is something to try them with."""
        if (features := self._check_encoder(report)) is None:
            return
        if (drawn := self._check_samples(report, features)) is None:
            return
        action, log_prob = drawn
        if self.scale.categorical:
            self._check_choices(report, features)
        self._check_gradients(report, features, action)
        self._check_densities(report, features, action.detach(), log_prob.detach())
        self._check_mode(report, features)

    def _check_encoder(self, report: Report) -> Tensor | None:
        """Also gives the features (B, F)."""
        network, features = self.network, None
        with report.promise("what encode trains lies in the submodule encoder") as seen:
            features = network.encode(network.inputs(self.batch))
            expect(
                features.dim() == 2 and len(features) == _BATCH, f"shape {tuple(features.shape)}"
            )
            if features.requires_grad:
                features.sum().backward()
            outside = [
                name
                for name, parameter in network.named_parameters()
                if parameter.grad is not None and not name.startswith("encoder.")
            ]
            expect(not outside, f"{outside} would not be trained by SAC")
            seen.append(f"F={features.shape[1]}")
        return features.detach() if isinstance(features, Tensor) else None

    def _check_samples(self, report: Report, features: Tensor) -> tuple[Tensor, Tensor] | None:
        """Also gives a sample (B, T x A) and its log-density (B,)."""
        drawn: tuple[Tensor, Tensor] | None = None
        with report.promise(
            "samples and modes are (B, T x A), within -1 to 1 or choices; densities (B,), finite"
        ):
            found = self.network.distribution(features)
            action, log_prob = found.sample(torch.Generator().manual_seed(0))
            drawn = action, log_prob
            for name, tensor in (("sample", action), ("mode", found.mode)):
                shape = tuple(tensor.shape)
                expect(shape == (_BATCH, self.size), f"{name} is {shape}")
                inside = bool(((tensor >= self.low) & (tensor <= self.high)).all())
                expect(inside, f"{name} is beyond 1, or no choice")
                whole = bool((tensor[:, ~self.moved] % 1 == 0).all())
                expect(whole, f"{name} has parts of a choice")
            expect(tuple(log_prob.shape) == (_BATCH,), f"log_prob is {tuple(log_prob.shape)}")
            expect(bool(torch.isfinite(log_prob).all()), "log_prob is not finite")
            again = self.network.distribution(features).sample(torch.Generator().manual_seed(0))[0]
            expect(bool(torch.equal(action, again)), "noise does not come from the generator alone")
        return drawn

    def _check_choices(self, report: Report, features: Tensor) -> None:
        with report.promise("choice_log_probs and sample_continuous are what it samples from"):
            found = self.network.distribution(features)
            shapes = [tuple(one.shape) for one in found.choice_log_probs]
            wanted = [(_BATCH, count) for count in self.scale.counts * self.network.rows]
            expect(shapes == wanted, f"choice_log_probs are {shapes}, expected {wanted}")
            sums = [one.exp().sum(1) for one in found.choice_log_probs]
            ones = torch.ones(_BATCH)
            expect(all(torch.allclose(s, ones, atol=1e-4) for s in sums), "they are not normalised")
            continuous, density = found.sample_continuous(torch.Generator().manual_seed(0))
            count = int(self.moved.sum())
            expect(tuple(continuous.shape) == (_BATCH, count), f"{tuple(continuous.shape)}")
            expect(tuple(density.shape) == (_BATCH,), f"log_prob is {tuple(density.shape)}")

    def _check_gradients(self, report: Report, features: Tensor, action: Tensor) -> None:
        network = self.network
        with report.promise("gradients reach the parameters through samples and densities"):
            tensors = [network.distribution(features).log_prob(action.detach()).sum()]
            for tensor in [action.sum(), *tensors] if self.moved.any() else tensors:
                network.zero_grad(set_to_none=True)
                tensor.backward()
                expect(any(p.grad is not None for p in network.parameters()), "no gradient")

    def _check_densities(
        self, report: Report, features: Tensor, action: Tensor, log_prob: Tensor
    ) -> None:
        with report.promise(
            "log_prob agrees with sample, is finite at the bounds, and can be weighted"
        ):
            found = self.network.distribution(features)
            inside = (action[:, self.moved].abs() < 0.99).all(1)
            again = found.log_prob(action)
            close = torch.isclose(again, log_prob, rtol=1e-2, atol=1e-2) | ~inside
            expect(bool(close.all()), f"differs by {(again - log_prob).abs()[inside].max():.3g}")
            ends = found.log_prob(self.high.expand(_BATCH, self.size))
            expect(bool(torch.isfinite(ends).all()), "not finite at the bounds")
            none = found.log_prob(action, torch.zeros(_BATCH, self.size))
            expect(bool((none == 0).all()), "elements of weight 0 count")

    def _check_mode(self, report: Report, features: Tensor) -> None:
        with report.promise(
            "the actor's deterministic action is the mode, in the robot's units"
        ) as seen:
            worst, scale = 0.0, self.scale
            modes = self.network.distribution(features).mode.detach().numpy()
            for one, mode in zip(self.samples, modes, strict=True):
                acted = self.policy.act(one, deterministic=True)
                expected = scale.to_robot(mode.reshape(self.network.rows, -1))
                span = np.maximum(scale.half, 1e-9)
                worst = max(worst, float((np.abs(acted - expected) / span).max()))
            expect(worst < 1e-3, f"they differ by {worst:.2g} of half the range")
            seen.append(f"within {worst:.1g}")
