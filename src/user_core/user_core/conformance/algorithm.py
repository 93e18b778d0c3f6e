"""The promises of a learning algorithm."""

from __future__ import annotations

import math

import numpy as np

from user_core.conformance.report import Report, expect
from user_core.interfaces import Algorithm, Policy
from user_core.specs import Array, RobotSpec
from user_core.types import Batch


def check_algorithm(
    algorithm: Algorithm, twin: Algorithm, policy: Policy, spec: RobotSpec, *, batch_size: int = 32
) -> Report:
    """Try an algorithm on random batches.

    Args:
        algorithm: The one to be checked.
        twin: A second, built alike; takes over the first one's state.
        policy: A policy of the actor's, which takes the weights.
        spec: The robot spec that all were built for.
        batch_size: Rows of a batch for one gradient update.
    """
    report = Report(f"algorithm {type(algorithm).__module__}.{type(algorithm).__qualname__}")
    rng = np.random.default_rng(0)
    batch_size *= algorithm.updates_per_call
    with report.promise("update takes a batch and gives finite metrics") as seen:
        for _ in range(3):
            metrics = algorithm.update(_random_batch(spec, batch_size, rng))
        bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        expect(not bad, f"{bad}")
        seen.append(", ".join(sorted(metrics)))
    with report.promise("the actor's policy takes its weights"):
        policy.load(algorithm.policy_arrays())
    with report.promise("a twin that takes over the state goes on exactly alike"):
        twin.load_state(algorithm.state())
        batch = _random_batch(spec, batch_size, rng)
        one, other = algorithm.update(batch), twin.update(batch)
        expect(dict(one) == dict(other), f"metrics {dict(one)} and {dict(other)}")
        arrays, twins = algorithm.policy_arrays(), twin.policy_arrays()
        for name, array in arrays.items():
            expect(np.array_equal(array, twins[name]), f"weights {name!r} differ")
    return report


def _random_batch(spec: RobotSpec, size: int, rng: np.random.Generator) -> Batch:
    def observations() -> dict[str, Array]:
        return {
            k: np.stack([v.sample(rng) for _ in range(size)]) for k, v in spec.observation.items()
        }

    return Batch(
        observation=observations(),
        action=np.stack([spec.action.sample(rng) for _ in range(size)]),
        reward=rng.standard_normal(size).astype(np.float32),
        discount=np.where(rng.random(size) < 0.1, 0, 0.99).astype(np.float32),
        next_observation=observations(),
        extras={"demonstration": rng.random(size) < 0.5},
    )
