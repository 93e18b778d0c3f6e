"""The promises of a policy."""

from __future__ import annotations

import numpy as np

from user_core.conformance.report import Broken, Report, expect
from user_core.errors import PolicyError
from user_core.interfaces import Policy
from user_core.specs import Array, RobotSpec
from user_core.types import Task


def check_policy(policy: Policy, spec: RobotSpec, *, seed: int = 0) -> Report:
    """Try a policy that was built for ``spec``."""
    report = Report(f"policy {type(policy).__module__}.{type(policy).__qualname__}")
    rng = np.random.default_rng(seed)
    observations = [{k: v.sample(rng) for k, v in spec.observation.items()} for _ in range(8)]
    with report.promise(
        "act returns (T, A) actions of the spec's dtype, within its bounds"
    ) as seen:
        for observation in observations:
            for deterministic in (False, True):
                actions_ta = policy.act(observation, deterministic=deterministic)
                expect(actions_ta.ndim == 2, f"shape {actions_ta.shape}")
                for action in actions_ta:
                    spec.action.check(action, "action")
                    expect(bool((action >= spec.action.low_array).all()), "below the bounds")
                    expect(bool((action <= spec.action.high_array).all()), "above the bounds")
        seen.append(f"T={len(actions_ta)}")
    with report.promise("a deterministic action depends on observation and arrays only"):
        policy.reset(Task("check", "keep your promises"))
        first = policy.act(observations[0], deterministic=True)
        policy.reset(Task("check", "keep your promises"))
        expect(np.array_equal(first, policy.act(observations[0], deterministic=True)), "it changed")
    with report.promise("arrays is a copy; load takes it back") as seen:
        arrays = policy.arrays()
        seen.append(f"{sum(a.nbytes for a in arrays.values())} bytes in {len(arrays)} arrays")
        expect(
            not any(
                np.shares_memory(a, b)
                for a, b in zip(arrays.values(), policy.arrays().values(), strict=True)
            ),
            "arrays() gives views of the policy's own memory",
        )
        policy.load(arrays)
        _expect_equal(policy.arrays(), arrays)
    with report.promise("weights that do not fit raise PolicyError and change nothing"):
        arrays = policy.arrays()
        name = next(iter(arrays))
        for wrong in (
            {k: v for k, v in arrays.items() if k != name},
            {**arrays, name: np.zeros((3, *arrays[name].shape), arrays[name].dtype)},
        ):
            try:
                policy.load(wrong)
            except PolicyError:
                _expect_equal(policy.arrays(), arrays)
                continue
            expect(False, "they were taken")
    return report


def _expect_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    expect(one.keys() == other.keys(), f"names {sorted(one)} became {sorted(other)}")
    for name, array in one.items():
        if not np.array_equal(array, other[name]):
            raise Broken(f"array {name!r} differs")
