"""Do a policy, an algorithm and a reward keep their promises?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from user_core.conformance.report import Broken, Report, Skip, expect
from user_core.errors import PolicyError
from user_core.interfaces import (
    Algorithm,
    GoalReward,
    Policy,
    Query,
    Reward,
    answers_in_batches,
)
from user_core.specs import Array, RobotSpec
from user_core.types import Batch, Task, TaskFeedback


def check_policy(policy: Policy, spec: RobotSpec, *, seed: int = 0) -> Report:
    """Try a policy that was built for ``spec``."""
    report = Report(f"policy {type(policy).__module__}.{type(policy).__qualname__}")
    rng = np.random.default_rng(seed)
    history = policy.observation_history
    observations = [spec.sample_observation(rng, history) for _ in range(8)]
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
    with report.promise("in_place gives what arrays gives, where load leaves it"):
        _check_in_place(policy)
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
    if answers_in_batches(policy):
        with report.promise("act_batch gives what act and continue_plan give, except for rounding"):
            _check_batches(policy, spec, observations)
    if type(policy).network is Policy.network:
        with report.promise("network gives what can be trained"):
            raise Skip("it only acts")
    else:
        from user_core.conformance.network import check_network  # imports torch

        check_network(policy, spec, report, seed=seed)
    return report


def _expect_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    expect(one.keys() == other.keys(), f"names {sorted(one)} became {sorted(other)}")
    for name, array in one.items():
        if not np.array_equal(array, other[name]):
            raise Broken(f"array {name!r} differs")


def _check_in_place(policy: Policy) -> None:
    place, arrays = policy.in_place(), policy.arrays()
    if place is None:
        raise Skip("only load takes weights")
    with place as tensors:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expect(shapes == {n: a.shape for n, a in arrays.items()}, f"they are {sorted(tensors)[:9]}")
        changed = next((n for n, t in tensors.items() if t.is_floating_point()), None)
        if changed is not None:
            tensors[changed].add_(1)
    differing = [n for n, a in policy.arrays().items() if not np.array_equal(a, arrays[n])]
    policy.load(arrays)
    expect(differing == ([] if changed is None else [changed]), f"of {changed} became {differing}")


def _check_batches(policy: Policy, spec: RobotSpec, observations: list[dict[str, Array]]) -> None:
    """Queries of several robots, of which some go on from a plan where the policy can."""
    one: Any = policy
    goes_on = hasattr(policy, "continue_plan")
    plan = policy.act(observations[0], deterministic=True)
    queries = [
        Query(seen, True, Task("check", "keep your promises"), plan if goes_on and i % 2 else None, i % 3)
        for i, seen in enumerate(observations)
    ]  # fmt: skip
    answers = one.act_batch(queries)
    expect(len(answers) == len(queries), f"{len(answers)} answers to {len(queries)} queries")
    for query, answer in zip(queries, answers, strict=True):
        policy.reset(query.task)
        if query.plan is None:
            alone = policy.act(query.observation, deterministic=True)
        else:
            alone = one.continue_plan(
                query.observation, query.plan, query.frozen, deterministic=True
            )
        expect(answer.dtype == alone.dtype, f"{answer.dtype} instead of {alone.dtype}")
        expect(answer.shape == alone.shape, f"shape {answer.shape} instead of {alone.shape}")
        expect(np.allclose(answer, alone, atol=1e-4), f"off by {np.abs(answer - alone).max():.2g}")


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
    windows, history = _rows_planned(policy), policy.observation_history
    report = Report(f"algorithm {type(algorithm).__module__}.{type(algorithm).__qualname__}")
    rng = np.random.default_rng(0)
    batch_size *= algorithm.updates_per_call
    with report.promise("update takes a batch and gives finite metrics") as seen:
        for _ in range(3):
            metrics = algorithm.update(_random_batch(spec, batch_size, rng, windows, history))
        bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        expect(not bad, f"{bad}")
        seen.append(", ".join(sorted(metrics)))
    with report.promise("the actor's policy takes its weights"):
        policy.load(algorithm.policy_arrays())
    with report.promise("a twin that takes over the state goes on exactly alike"):
        twin.load_state(algorithm.state())
        batch = _random_batch(spec, batch_size, rng, windows, history)
        one, other = algorithm.update(batch), twin.update(batch)
        expect(dict(one) == dict(other), f"metrics {dict(one)} and {dict(other)}")
        arrays, twins = algorithm.policy_arrays(), twin.policy_arrays()
        for name, array in arrays.items():
            expect(np.array_equal(array, twins[name]), f"weights {name!r} differ")
    return report


def _rows_planned(policy: Policy) -> int:
    """Actions that the policy plans at once: batches are windows of this many steps."""
    if type(policy).network is Policy.network:
        return 1
    return policy.network().rows


def _random_batch(
    spec: RobotSpec, size: int, rng: np.random.Generator, windows: int, history: int
) -> Batch:
    shape = (size,) if windows == 1 else (size, windows)

    def observations() -> dict[str, Array]:
        several = [spec.sample_observation(rng, history) for _ in range(size)]
        return {name: np.stack([one[name] for one in several]) for name in spec.observation}

    return Batch(
        observation=observations(),
        action=np.stack([spec.action.sample(rng) for _ in range(size * windows)]).reshape(
            *shape, -1
        ),
        reward=rng.standard_normal(shape).astype(np.float32),
        discount=np.where(rng.random(shape) < 0.1, 0, 0.99).astype(np.float32),
        next_observation=observations(),
        extras={"demonstration": rng.random(size) < 0.5},
    )


def check_reward(reward: Reward, spec: RobotSpec, *, seed: int = 0) -> Report:
    """Try a reward on random observations of a robot with this spec."""
    report = Report(f"reward {type(reward).__module__}.{type(reward).__qualname__}")
    rng = np.random.default_rng(seed)
    task = TaskFeedback(reward=0.5, success=False)
    steps = [
        (
            {k: v.sample(rng) for k, v in spec.observation.items()},
            spec.action.sample(rng),
            {k: v.sample(rng) for k, v in spec.observation.items()},
        )
        for _ in range(20)
    ]
    with report.promise("it gives finite rewards") as seen:
        rewards = [reward(*step, task).reward for step in steps]
        expect(all(math.isfinite(r) for r in rewards), f"{rewards}")
        seen.append(f"{min(rewards):.3g} to {max(rewards):.3g}")
    with report.promise("it is pure: the same step gives the same verdict, in any order"):
        forward = [reward(*step, task) for step in steps]
        backward = [reward(*step, task) for step in reversed(steps)][::-1]
        expect(forward == backward, "the verdicts depend on what was judged before")
    with report.promise("it leaves its arguments alone"):
        before, action, after = steps[0]
        copies = {k: v.copy() for k, v in before.items()}
        reward(before, action, after, task)
        expect(all(np.array_equal(before[k], copies[k]) for k in copies), "it wrote to them")
    return report


def check_goal_reward(reward: GoalReward, size: int, *, seed: int = 0) -> Report:
    """Try a goal reward on random goals of this many numbers."""
    report = Report(f"goal reward {type(reward).__module__}.{type(reward).__qualname__}")
    rng, rows = np.random.default_rng(seed), 20
    achieved, desired = rng.standard_normal((2, rows, size)).astype(np.float32)
    desired[: rows // 2] = achieved[: rows // 2]
    with report.promise("rewards (B,) are finite; terminated and reached are flags") as seen:
        outcome = reward(achieved, desired)
        expect(outcome.reward.shape == (rows,), f"rewards of shape {outcome.reward.shape}")
        expect(bool(np.isfinite(outcome.reward).all()), f"{outcome.reward}")
        flags = [outcome.terminated, *([] if outcome.reached is None else [outcome.reached])]
        expect(all(f.shape == (rows,) and f.dtype == bool for f in flags), f"{flags}")
        seen.append(f"{outcome.reward.min():.3g} to {outcome.reward.max():.3g}")
    with report.promise("each pair is judged by itself: alone, and in any order"):
        whole = reward(achieved, desired).reward
        order = rng.permutation(rows)
        expect(np.allclose(reward(achieved[order], desired[order]).reward, whole[order]), "order")
        single = [reward(achieved[i : i + 1], desired[i : i + 1]).reward[0] for i in range(rows)]
        expect(np.allclose(single, whole), "alone, a pair gets another reward")
        none = reward(achieved[:0], desired[:0]).reward
        expect(none.shape == (0,), f"no pairs give shape {none.shape}")
    with report.promise("it leaves its arguments alone"):
        copies = achieved.copy(), desired.copy()
        reward(achieved, desired)
        same = np.array_equal(achieved, copies[0]) and np.array_equal(desired, copies[1])
        expect(same, "it wrote to them")
    return report
