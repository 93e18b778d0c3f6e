"""What the networks see of an input that wakes up late, or has no bounds: nothing is lost."""

import numpy as np
import pytest
import torch

from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.policies.tanh_gaussian_layout import INPUT_LIMIT, soft_limit
from user_core.specs import ArraySpec, RobotSpec
from user_testing.tensors import assert_close

SPEC = RobotSpec(
    "r",
    {"angle": ArraySpec((2,), low=-1.0, high=1.0), "sensor": ArraySpec((1,))},
    ArraySpec((1,), low=-1.0, high=1.0),
)

SENSOR = 2  # angle, angle, sensor


def policy_of(**settings):
    return TanhGaussianPolicy(TanhGaussianConfig(hidden=(16, 16), **settings), SPEC)


def rows_of(sensor, rng, rows=64):
    """Rows in which the angles move and the sensor has one of these values."""
    angle = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    values = rng.choice(np.atleast_1d(sensor), (rows, 1)).astype(np.float32)
    return {"angle": angle, "sensor": values}


def observe(network, observation):
    before = network.statistics()
    network.observe(network.inputs(observation))
    return None if before is None else network.keep_outputs(before)


def seen(network, *values):
    """The input of the sensor, as the network sees values of it."""
    states = np.zeros((len(values), 2), np.float32), np.float32(values)[:, None]
    features = network.encode(network.inputs({"angle": states[0], "sensor": states[1]}))
    return features[:, SENSOR].tolist()


def test_a_sensor_that_wakes_up_after_2500_steps_is_seen():
    """The case: 0 for 2,500 calls, then 0.1, 0.5 and 3 matter."""
    policy, rng = policy_of(normalization="data"), np.random.default_rng(0)
    network = policy.network()
    for _ in range(2500):
        observe(network, rows_of(0.0, rng))
    small, middle, large = seen(network, 0.1, 0.5, 3.0)
    assert small < middle < large  # also before it ever woke up
    for _ in range(200):
        observe(network, rows_of([0.0, 0.0, 0.0, 0.1, 0.5, 3.0], rng))
    small, middle, large = seen(network, 0.1, 0.5, 3.0)
    assert small > 0.02 and small + 0.1 < middle and large - middle > 1.0 and large < INPUT_LIMIT
    assert not network.far_inputs()
    policy.load(network.arrays())  # and the actor sees what the learner sees
    actions = [
        policy.act(
            {"angle": np.zeros(2, np.float32), "sensor": np.float32([value])}, deterministic=True
        ).item()
        for value in (0.1, 0.5, 3.0)
    ]
    assert len(set(actions)) == 3


def test_outputs_stay_where_the_scale_follows_an_input_in_use():
    network, rng = policy_of(normalization="data").network(), np.random.default_rng(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    for _ in range(30):
        observe(network, rows_of([-0.2, 0.2], rng))
    probe = network.inputs(rows_of([-0.3, 0.1, 1.0], rng))
    scale, offset, changed = network.arrays()["input.scale"], network.arrays()["input.offset"], 0
    for _ in range(300):
        before = network.distribution(network.encode(probe)).mode
        changed += observe(network, rows_of([-2.0, 2.0], rng)) is not None
        after = network.distribution(network.encode(probe)).mode
        assert_close(after, before, rtol=1e-3, atol=1e-4)
    fallen = network.arrays()["input.scale"]
    assert changed > 2 and fallen[SENSOR] < 0.3 * scale[SENSOR]
    np.testing.assert_array_equal(fallen[:2], scale[:2])  # what did not grow stays
    np.testing.assert_array_equal(network.arrays()["input.offset"], offset)


def test_data_like_the_first_change_nothing():
    network, rng = policy_of(normalization="data").network(), np.random.default_rng(2)
    for _ in range(20):
        observe(network, rows_of([-1.0, 1.0], rng, 256))
    arrays = network.arrays()
    for _ in range(500):
        assert observe(network, rows_of([-1.0, 1.0], rng, 256)) is None
    for name, array in network.arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_the_step_of_the_statistics_closes():
    network, rng = policy_of(normalization="data").network(), np.random.default_rng(3)
    moved = []
    for calls in (100, 1000):
        while int(network.calls_left) > 20 - calls:
            observe(network, rows_of([-1.0, 1.0], rng))
        before = network.sums.clone()
        observe(network, rows_of([-3.0, 3.0], rng))
        moved.append(float((network.sums / network.sums[0] - before / before[0])[2, SENSOR]))
    assert 0 < moved[1] < 0.4 * moved[0]


@pytest.mark.parametrize("normalization", ["bounds", "data"])
def test_an_input_without_bounds_is_never_cut_and_a_far_one_is_named(normalization):
    network = policy_of(normalization=normalization).network()
    rng = np.random.default_rng(4)
    for _ in range(20):
        observe(network, rows_of([-1.0, 1.0], rng))
    eleven, many = seen(network, 11.0, 500.0)
    assert eleven < many < 20
    for _ in range(400):
        far = rows_of([0.0, 0.0, 0.0, 500.0], rng) if normalization == "bounds" else None
        observe(network, far or rows_of([-1.0, 1.0], rng))
    expected = [("sensor", pytest.approx(0.25, abs=0.1))] if normalization == "bounds" else []
    assert network.far_inputs() == expected


def test_the_soft_limit_is_one_function_in_numpy_and_torch_and_always_increases():
    from user_core.policies.tanh_gaussian_network import soft_limit_batch

    values = np.float32([-1e30, -500, -11, -10, -3, 0, 3, 10, 10.5, 11, 500, 1e30, np.inf])
    limited = soft_limit(values)
    np.testing.assert_allclose(
        limited, soft_limit_batch(torch.from_numpy(values)).numpy(), rtol=1e-6
    )
    assert (np.diff(limited[:-1]) > 0).all() and np.isfinite(limited).all()
    np.testing.assert_array_equal(limited[3:8], values[3:8])
