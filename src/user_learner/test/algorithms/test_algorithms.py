"""SAC, RLPD and BC on batches: promises, exact continuation, bootstrapping, learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from user_core.config import from_mapping
from user_core.conformance import check_algorithm
from user_core.errors import ConfigError, PolicyError, SpecError, StoreError
from user_core.fakes import LinearGaussianConfig, LinearGaussianPolicy
from user_core.plugins import build
from user_core.policies.action_chunks import ActionChunksConfig, ActionChunksPolicy
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.reasons import ACTIONS_OUTSIDE, NOTHING_AFTER_END
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import AfterTheEnd, Minibatcher, Waits
from user_learner.algorithms.common.torch_tools import random_shift
from user_learner.algorithms.imitation.bc import BC
from user_learner.algorithms.off_policy.rlpd import RLPD
from user_learner.algorithms.off_policy.sac import SAC
from user_testing.tensors import assert_close
from user_testing.worlds.batches import random_batch

ACTION = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0))
STATE = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ACTION)
PICTURES = RobotSpec(
    "r", {"x": ArraySpec((3,)), "image_front": ArraySpec((16, 16, 3), "uint8")}, ACTION
)

SMALL = {"critic_hidden": [32, 32]}
CASES = [(SAC, SMALL), (RLPD, {**SMALL, "critics": 4, "critic_updates": 3}), (BC, {})]


def policy_for(spec, **settings):
    settings = {"hidden": (32, 32), "image_channels": (4, 8), "image_embedding": 8, **settings}
    return TanhGaussianPolicy(TanhGaussianConfig(**settings), spec)


def make(cls, settings, spec=STATE, **policy):
    return cls(from_mapping(cls.Config, settings), spec, policy_for(spec, **policy))


def batch_of(spec, rows, seed=0, **changes):
    return random_batch(spec, rows, np.random.default_rng(seed), **changes)


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("spec", [STATE, PICTURES], ids=["state", "pictures"])
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=["sac", "rlpd", "bc"])
def test_promises_are_kept(cls, settings, spec, device):
    settings = {**settings, "device": device}
    check_algorithm(
        make(cls, settings, spec), make(cls, settings, spec), policy_for(spec), spec, batch_size=8
    ).require()


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=["sac", "rlpd", "bc"])
def test_a_restored_training_goes_on_bit_by_bit(cls, settings):
    unsettled = {"normalization": "data", "normalization_calls": 6}
    one = make(cls, settings, **unsettled)
    batches = [batch_of(STATE, 12, seed) for seed in range(8)]
    for batch in batches[:4]:
        one.update(batch)
    kept = one.state()
    straight = [dict(one.update(batch)) for batch in batches[4:]]
    other = make(cls, {**settings, "seed": 99}, **unsettled)  # nothing of its own may remain
    other.load_state(kept)
    again = [dict(other.update(batch)) for batch in batches[4:]]
    assert again == straight
    _assert_same_state(one.state(), other.state())


def _assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            _assert_same_state(value, other[name])
        else:
            np.testing.assert_array_equal(value, other[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", [STATE, PICTURES], ids=["state", "pictures"])
def test_critics_learn_alike_on_both_devices(spec):
    """Only what has no noise in it: the first critic update where nothing lies beyond."""
    losses = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        settings = {**SMALL, "device": device, "precision": precision, "image_shift": 0}
        batch = batch_of(spec, 24, discount=np.zeros(24, np.float32))
        losses[device, precision] = make(SAC, settings, spec).update(batch)["critic_loss"]
    assert losses["cuda", "float32"] == pytest.approx(losses["cpu", "float32"], rel=1e-3)
    assert losses["cuda", "bfloat16"] == pytest.approx(losses["cpu", "float32"], rel=0.05)


def test_a_state_from_another_device_brings_all_but_its_noise():
    one, other = make(SAC, SMALL), make(SAC, SMALL)
    one.update(batch_of(STATE, 8))
    other.load_state(one.state() | {"generator": np.zeros(16, np.uint8)})  # as of a GPU
    for name, array in one.policy_arrays().items():
        np.testing.assert_array_equal(array, other.policy_arrays()[name])
    other.update(batch_of(STATE, 8))


def test_a_state_is_a_copy():
    algorithm = make(SAC, SMALL)
    algorithm.update(batch_of(STATE, 8))
    state = algorithm.state()
    before = {name: array.copy() for name, array in state["critics"].items()}
    algorithm.update(batch_of(STATE, 8, 1))
    for name, array in before.items():
        np.testing.assert_array_equal(array, state["critics"][name])


def test_states_that_do_not_fit_are_refused():
    small, large = make(SAC, SMALL), make(SAC, {"critic_hidden": [64, 32]})
    with pytest.raises(StoreError, match="critics"):
        small.load_state(large.state())
    with pytest.raises(StoreError, match="SAC"):
        small.load_state(make(BC, {}).state())


@pytest.mark.parametrize(("cls", "settings"), CASES[:2], ids=["sac", "rlpd"])
def test_where_the_discount_is_zero_the_next_observation_does_not_count(cls, settings):
    results = []
    for seed in (1, 2):
        algorithm = make(cls, settings)
        other = batch_of(STATE, 12, seed).next_observation
        batch = batch_of(STATE, 12, discount=np.zeros(12, np.float32), next_observation=other)
        algorithm.update(batch)
        results.append(algorithm.state()["critics"])
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])


def test_values_become_reward_plus_discounted_value():
    """One state that leads to itself: the value must become r / (1 - discount)."""
    spec = RobotSpec("r", {"x": ArraySpec((1,))}, ArraySpec((1,), low=-1.0, high=1.0))
    settings = {
        "critic_hidden": [32], "critic_learning_rate": 3e-3, "target_rate": 0.05,
        "entropy_in_target": False,
    }  # fmt: skip
    algorithm = SAC(from_mapping(SAC.Config, settings), spec, policy_for(spec))
    rng = np.random.default_rng(0)
    here = {"x": np.zeros((64, 1), np.float32)}
    for _ in range(600):
        metrics = algorithm.update(
            Batch(
                here,
                rng.uniform(-1, 1, (64, 1)).astype(np.float32),
                np.full(64, 0.5, np.float32),
                np.full(64, 0.8, np.float32),
                here,
            )
        )
    assert metrics["value"] == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(SAC, {}), (RLPD, {"critics": 4, "critic_updates": 2})],
    ids=["sac", "rlpd"],
)
def test_the_actor_finds_the_action_that_pays(cls, settings):
    """A bandit: reward falls with the distance to an action that depends on the state."""
    settings = {
        "critic_hidden": [64, 64], "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3,
        "temperature_learning_rate": 3e-3, "initial_temperature": 0.1, **settings,
    }  # fmt: skip
    algorithm = make(cls, settings)
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, unit = rng.uniform(-2, 2, (128, 3)), rng.uniform(-1, 1, (128, 2))
        reward = -((unit - 0.5 * x[:, :2] / 2) ** 2).sum(1).astype(np.float32)
        algorithm.update(Batch({"x": x}, unit * (1, 2) + (0, 2), reward, 0 * reward, {"x": x}))
    policy = policy_for(STATE)
    policy.load(algorithm.policy_arrays())
    errors = []
    for _ in range(50):
        observation = {"x": rng.uniform(-2, 2, 3).astype(np.float32)}
        action = policy.act(observation, deterministic=True)[0]
        errors.append(np.abs((action - (0, 2)) / (1, 2) - 0.5 * observation["x"][:2] / 2))
    assert np.mean(errors) < 0.1  # an untrained policy is at 0.25


@pytest.mark.parametrize("loss", ["likelihood", "squared_error"])
def test_cloning_finds_the_function_behind_the_actions(loss):
    algorithm = make(BC, {"learning_rate": 3e-3, "loss": loss})
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = rng.uniform(-2, 2, (128, 3))
        action = np.stack([np.tanh(x[:, 0]), 2 + 0.9 * x[:, 1]], 1)
        none = np.zeros(128, np.float32)
        metrics = algorithm.update(Batch({"x": x}, action, none, none, {"x": x}))
    assert metrics["squared_error"] < 0.01
    policy = policy_for(STATE)
    policy.load(algorithm.policy_arrays())
    errors = []
    for _ in range(50):
        x = rng.uniform(-1.5, 1.5, 3).astype(np.float32)
        action = policy.act({"x": x}, deterministic=True)[0]
        errors.append(np.abs(action - (np.tanh(x[0]), 2 + 0.9 * x[1])))
    assert np.mean(errors) < 0.15  # an untrained policy is at 0.6


def test_depth_is_learned_from_as_an_image():
    depth = {
        "x": ArraySpec((3,)),
        "depth_near": ArraySpec((16, 20, 1), "float32", 0.0, 2.0, "m"),
        "depth_far": ArraySpec((16, 16, 1), "uint16", 0.0, 4000.0, "0.001 m"),
    }
    spec = RobotSpec("r", depth, ACTION)
    algorithm = make(RLPD, {**SMALL, "critics": 4, "critic_updates": 3, "image_shift": 2}, spec)
    before = algorithm.policy_arrays()
    metrics = algorithm.update(batch_of(spec, 12))
    assert all(np.isfinite(value).all() for value in metrics.values())
    after = algorithm.policy_arrays()
    for name in ("encoder.depth_near.conv0.weight", "encoder.depth_far.conv0.weight"):
        assert before[name].shape == (4, 2, 3, 3)
        assert not np.allclose(before[name], after[name], atol=1e-6)


@pytest.mark.parametrize("critics", [2, 10])
def test_the_cut_of_gradients_means_the_same_for_any_number_of_critics(critics):
    """Their losses are summed; the norm is that of the mean, as the references have it."""
    limit = 0.01
    algorithm = make(SAC, {**SMALL, "critics": critics, "max_grad_norm": limit})
    algorithm.update(batch_of(STATE, 16, reward=np.full(16, 100, np.float32)))
    for name, count in (("critics", critics), ("actor", 1)):
        first_moment = algorithm.state()["optimizers"][name]["exp_avg"]
        assert np.linalg.norm(first_moment) == pytest.approx(0.1 * limit * count, rel=0.01)


def test_the_encoder_learns_with_the_critics_only():
    algorithm = make(SAC, {**SMALL, "critic_learning_rate": 1e-12}, PICTURES)
    before = algorithm.policy_arrays()
    algorithm.update(batch_of(PICTURES, 8))
    after = algorithm.policy_arrays()
    for name in before:
        same = np.allclose(before[name], after[name], atol=1e-9)
        assert same == name.startswith(("encoder.", "input."))
    learning = make(SAC, SMALL, PICTURES)
    learning.update(batch_of(PICTURES, 8))
    name = "encoder.image_front.conv0.weight"
    assert not np.allclose(before[name], learning.policy_arrays()[name], atol=1e-6)


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=["sac", "rlpd", "bc"])
def test_the_scale_comes_from_the_first_data_and_then_follows_where_they_grow(cls, settings):
    spec = RobotSpec(
        "r",
        {"free": ArraySpec((2,)), "still": ArraySpec((1,), low=0.0, high=10.0)},
        ACTION,
    )
    algorithm = make(cls, settings, spec, normalization="data", normalization_calls=3)
    rng = np.random.default_rng(0)

    def update(middle):
        free = rng.normal(middle, 0.02, (120, 2)).astype(np.float32)
        seen = {"free": free, "still": np.full((120, 1), 4.0, np.float32)}
        none = np.zeros(120, np.float32)
        algorithm.update(Batch(seen, rng.uniform(-1, 1, (120, 2)), none, none, seen))

    for _ in range(3):
        update(0.5)
    arrays = algorithm.policy_arrays()
    np.testing.assert_allclose(arrays["input.offset"], [0.5, 0.5, 4.0], atol=0.005)
    np.testing.assert_allclose(arrays["input.scale"], [50, 50, 1 / (0.05 * 5)], rtol=0.1)
    for _ in range(3):
        update(0.5)
    np.testing.assert_array_equal(arrays["input.scale"], algorithm.policy_arrays()["input.scale"])
    for _ in range(3):
        update(-3.0)
    later = algorithm.policy_arrays()
    np.testing.assert_array_equal(arrays["input.offset"], later["input.offset"])
    assert (later["input.scale"][:2] < 2).all()  # 1 / 3.5, as far as it has come
    assert later["input.scale"][2] == arrays["input.scale"][2]


@pytest.mark.parametrize(("cls", "settings"), CASES[:2], ids=["sac", "rlpd"])
def test_values_and_actions_stay_where_the_scale_follows(cls, settings):
    rates = ("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate")
    still = {**settings, **dict.fromkeys(rates, 1e-30), "target_rate": 1e-30}
    algorithm = make(cls, still, normalization="data", normalization_calls=3)
    for seed in range(4):
        algorithm.update(batch_of(STATE, 60, seed))
    networks, wide = algorithm.networks, batch_of(STATE, 60, 9)
    probe = networks.policy.inputs(wide.observation)

    def outputs():
        with torch.no_grad():
            features = networks.policy.encode(probe)
            action = networks.policy.distribution(features).mode
            return [
                action,
                *(
                    networks.values(p.frozen, features, action)
                    for p in (networks.critics, networks.target)
                ),
            ]

    before, scale = outputs(), algorithm.policy_arrays()["input.scale"]
    far = {name: (3 * array).astype(array.dtype) for name, array in wide.observation.items()}
    for _ in range(20):
        algorithm.update(Batch(far, wide.action, wide.reward, wide.discount, far))
    assert (algorithm.policy_arrays()["input.scale"] < 0.8 * scale).any()
    for one, other in zip(outputs(), before, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=["sac", "rlpd", "bc"])
def test_actions_outside_the_bounds_are_counted_and_said(cls, settings):
    """Demonstrations of a robot with other actions: half of a batch was clamped in silence."""
    algorithm, batch = make(cls, settings), batch_of(STATE, 120)
    algorithm.update(batch)
    assert algorithm.warnings() == []
    action = batch.action.copy()
    action[::2] = 117.0
    outside = Batch(batch.observation, action, batch.reward, batch.discount, batch.next_observation)
    for _ in range(8):
        algorithm.update(outside)
    [warning] = algorithm.warnings()
    assert warning.code == ACTIONS_OUTSIDE and "25 %" in warning.text


def chunks_for(spec, rows=4, **settings):
    config = ActionChunksConfig(rows=rows, **{"hidden": (32, 32), **settings})
    return ActionChunksPolicy(config, spec)


@pytest.mark.parametrize("loss", ["likelihood", "squared_error"])
def test_cloning_learns_to_plan_several_actions_and_not_from_what_an_episode_cuts_off(loss):
    """Action i of a window is a known function of the observation; beyond the mask is nonsense."""
    rng = np.random.default_rng(0)
    config = from_mapping(BC.Config, {"learning_rate": 3e-3, "loss": loss})
    algorithm = BC(config, STATE, chunks_for(STATE))
    middle, half = np.array([0.0, 2.0]), np.array([1.0, 2.0])

    def wanted(x):
        return np.stack([middle + half * np.tanh(x[:, :2] * (1 - 0.5 * i)) for i in range(4)], 1)

    for _ in range(400):
        x = rng.uniform(-1, 1, (64, 3)).astype(np.float32)
        mask = np.arange(4) < rng.integers(1, 5, 64)[:, None]
        action = np.where(mask[..., None], wanted(x), middle + half).astype(np.float32)
        none = np.zeros((64, 4), np.float32)
        algorithm.update(Batch({"x": x}, action, none, none, {"x": x}, {"mask": mask}))
    policy = chunks_for(STATE)
    policy.load(algorithm.policy_arrays())
    seen = rng.uniform(-1, 1, (50, 3)).astype(np.float32)
    planned = np.stack([policy.act({"x": row}, deterministic=True) for row in seen])
    assert planned.shape == (50, 4, 2)
    assert np.abs((planned - wanted(seen)) / half).mean() < 0.1


def test_after_the_end_of_a_task_the_last_motion_fades_and_what_is_a_place_stays():
    """Rows: ended in the second step; cut short by a person; ended after what was not his; ended in the last one; a
    whole window. The first element is a change, the second an opening, the third a choice."""
    action = ArraySpec((3,), low=(-1.0, 0.0, 0.0), high=(1.0, 4.0, 2.0), categorical=(2,))
    spec = RobotSpec(
        "r", STATE.observation, action, action_kind=ActionKind.EE_DELTA, grippers=(1,)
    )  # fmt: skip
    mask = np.array(
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool
    )  # fmt: skip
    discount = np.full((5, 4), 0.9, np.float32)
    discount[~mask] = 1.0
    discount[[0, 2, 3], [1, 2, 3]] = 0.0
    done = np.tile(np.float32([0.8, 3.0, 2.0]), (5, 4, 1))
    none = np.zeros((5, 4), np.float32)
    x = np.zeros((5, 3), np.float32)
    batch = Batch({"x": x}, done, none, discount, {"x": x}, {"mask": mask})
    for share, left in ((0.5, [0.8, 0.8, 0.4, 0.2]), (0.0, [0.8, 0.8, 0, 0])):
        made = AfterTheEnd(spec, share)(batch)
        counts = mask.copy()
        counts[[0, 2]] |= [[False, False, True, True], [False, False, False, True]]
        np.testing.assert_array_equal(made.extras["mask"], counts)
        moves = np.full((5, 4), 0.8)
        moves[0], moves[2, 3] = left, 0.8 * share
        np.testing.assert_allclose(made.action[:, :, 0], moves, rtol=1e-6)
        np.testing.assert_array_equal(made.action[:, :, 1:], done[:, :, 1:])
    assert (done[:, :, 0] == np.float32(0.8)).all(), "what the sampler has is left alone"
    with pytest.raises(SpecError, match=r"sampler.gamma above 0"):
        AfterTheEnd(spec, 0.5)(replace(batch, discount=none))


def test_what_was_done_after_an_end_that_was_told_later_is_learned_as_it_was():
    """A column of rewards says that the task ended in the second of three recorded steps."""
    spec = replace(STATE, action_kind=ActionKind.EE_DELTA, grippers=(1,))
    done = np.float32([[[0.8, 3.0], [0.6, 3.0], [0.4, 2.0], [0.4, 2.0]]])
    none, x, mask = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32), np.arange(4) < 3
    told = np.float32([[0.9, 0.0, 1.0, 1.0]])
    made = AfterTheEnd(spec, 0.5)(Batch({"x": x}, done, none, told, {"x": x}, {"mask": mask[None]}))
    assert made.extras["mask"].all()
    np.testing.assert_array_equal(made.action[:, :3], done[:, :3])
    np.testing.assert_allclose(made.action[0, 3], [0.2, 2.0], rtol=1e-6)


def test_an_end_that_nobody_tells_is_warned_of():
    spec = replace(STATE, action_kind=ActionKind.EE_DELTA, grippers=(1,))
    some, x = np.ones((5000, 4), np.float32), np.zeros((5000, 3), np.float32)
    done, mask = np.zeros((5000, 4, 2), np.float32), np.ones((5000, 4), bool)
    open_ended = Batch({"x": x}, done, 0 * some, 0.9 * some, {"x": x}, {"mask": mask})
    fading = AfterTheEnd(spec, 0.5)
    fading(open_ended)
    assert not fading.warnings(), "few windows say nothing yet"
    fading(open_ended)
    (warning,) = fading.warnings()
    assert warning.code == NOTHING_AFTER_END and "terminated" in warning.text
    ended = open_ended.discount.copy()
    ended[7, 3] = 0.0
    fading(replace(open_ended, discount=ended))
    assert not fading.warnings()
    fading(replace(open_ended, extras={}))
    assert "pad_windows" in fading.warnings()[0].text
    assert "action_kind" in AfterTheEnd(STATE, 0.5).warnings()[0].text


def test_windows_that_wait_stand_still_first_and_then_do_what_was_done():
    """The first element is a change, the second an opening, the third a choice of which 1 changes nothing."""
    action = ArraySpec((3,), low=(-1.0, 0.0, 0.0), high=(1.0, 4.0, 2.0), categorical=(2,))
    spec = RobotSpec(
        "r", STATE.observation, action, action_kind=ActionKind.EE_DELTA, grippers=(1,), hold_choices=(1,)
    )  # fmt: skip
    rng = np.random.default_rng(0)
    done = rng.uniform(0.1, 1.0, (400, 5, 3)).astype(np.float32)
    done[:, :, 2] = 2.0
    mask = np.arange(5) < 4
    mask = np.tile(mask, (400, 1))
    mask[300:, 0] = False  # what was somebody else's: it is given already
    kept, none = done.copy(), np.zeros((400, 5), np.float32)
    x = np.zeros((400, 3), np.float32)
    batch = Batch({"x": x}, done, none, none, {"x": x}, {"mask": mask})
    made = Waits(spec, 0.5, 3, seed=0)(batch, 7)
    acted, counts = np.asarray(made.action), np.asarray(made.extras["mask"])
    waits = counts[:300].argmax(1)
    assert set(waits.tolist()) == {0, 1, 2, 3} and 100 < (waits > 0).sum() < 200
    for i, wait in enumerate(waits):
        np.testing.assert_array_equal(acted[i, wait:], done[i, : 5 - wait])
        np.testing.assert_array_equal(counts[i], (np.arange(5) >= wait) & (np.arange(5) < 4 + wait))
        np.testing.assert_array_equal(acted[i, :wait, 0], np.zeros(wait))
        np.testing.assert_array_equal(acted[i, :wait, 1], np.full(wait, done[i, 0, 1]))
        np.testing.assert_array_equal(acted[i, :wait, 2], np.ones(wait))
    np.testing.assert_array_equal(acted[300:], done[300:])
    np.testing.assert_array_equal(counts[300:], mask[300:])
    np.testing.assert_array_equal(done, kept, "what the sampler has is left alone")
    again, other = (np.asarray(Waits(spec, 0.5, 3, seed=0)(batch, at).action) for at in (7, 8))
    np.testing.assert_array_equal(again, acted, "a training that is resumed draws the same")
    assert (other != acted).any()
    whole = Waits(spec, 0.5, 3, seed=0)(replace(batch, extras={}), 7)
    np.testing.assert_array_equal(np.asarray(whole.extras["mask"])[:300].argmax(1), waits)


def test_positions_wait_at_the_first_and_move_on_with_the_first_row_that_counts():
    """Else a row that repeats what was given would be learned."""
    spec = replace(STATE, action_kind=ActionKind.JOINT_POSITION, grippers=(1,))
    done = np.tile(np.arange(1, 6, dtype=np.float32)[None, :, None], (300, 1, 2))
    x, none = np.zeros((300, 3), np.float32), np.zeros((300, 5), np.float32)
    mask = np.tile(np.arange(5) < 4, (300, 1))
    batch = Batch({"x": x}, done, none, none, {"x": x}, {"mask": mask})
    made = Waits(spec, 0.5, 3, seed=0)(batch, 7)
    acted, counts = np.asarray(made.action), np.asarray(made.extras["mask"])
    waits = counts.argmax(1)
    assert set(waits.tolist()) == {0, 1, 2, 3}
    for i, wait in enumerate(waits):
        follows = done[i, min(wait, 1) : 5 - max(wait - 1, 0)]
        np.testing.assert_array_equal(acted[i, :wait], np.ones((wait, 2)))
        np.testing.assert_array_equal(acted[i, wait:], follows)
        np.testing.assert_array_equal(counts[i, wait:], (follows < 5).all(1), "of rows that count")


def test_waiting_is_refused_where_nobody_is_told_of_it_or_nothing_says_what_stands_still():
    config = from_mapping(BC.Config, {"waits": 0.1})
    moving = replace(STATE, action_kind=ActionKind.EE_DELTA, grippers=(1,))
    with pytest.raises(ConfigError, match="prefix_rows"):
        BC(config, moving, chunks_for(moving))
    told = {"rows": 4, "hidden": [8], "prefix_rows": 2}
    BC(config, moving, build("policies", "flow", told, moving))
    with pytest.raises(SpecError, match="action_kind"):
        BC(config, STATE, build("policies", "flow", told, STATE))


def test_a_plan_that_goes_on_from_standing_still_does_what_is_left_to_do():
    """Whatever is seen, the task ends after one motion. Told that the robot stands still for two rows, a network that
    never saw this plans nothing, and one that did the motion."""
    spec = replace(STATE, action_kind=ActionKind.EE_DELTA, grippers=(1,))
    x, action = np.zeros((64, 3), np.float32), np.tile(np.float32([0.8, 3.0]), (64, 4, 1))
    mask = np.tile(np.arange(4) < 1, (64, 1))
    none, ended = np.zeros((64, 4), np.float32), np.tile(np.float32([0, 1, 1, 1]), (64, 1))
    params = {"rows": 4, "hidden": [32, 32], "prefix_rows": 2, "prefix_weights": "own",
              "deterministic_noise": 0.0, "action_normalization": "bounds"}  # fmt: skip
    still, moved = np.tile(np.float32([0.0, 3.0]), (3, 1)), []
    for waits in (0.0, 0.3):
        settings = {"learning_rate": 1e-2, "after_end": "hold", "waits": waits, "weight_decay": 0.0}
        policy = build("policies", "flow", params, spec)
        algorithm = BC(from_mapping(BC.Config, settings), spec, policy)
        for _ in range(400):
            algorithm.update(Batch({"x": x}, action, none, ended, {"x": x}, {"mask": mask}))
        policy.load(algorithm.policy_arrays())
        moved.append(policy.continue_plan({"x": x[0]}, still, 2, deterministic=True)[2, 0])
        assert policy.act({"x": x[0]}, deterministic=True)[0, 0] == pytest.approx(0.8, abs=0.1)
    assert moved[0] < 0.3 and moved[1] > 0.6, moved


@pytest.mark.parametrize("after_end", ["fade", "hold"])
def test_cloned_chunks_go_on_after_the_end_as_they_are_told(after_end):
    spec = replace(STATE, action_kind=ActionKind.EE_DELTA, grippers=(1,))
    settings = {"learning_rate": 2e-2, "loss": "squared_error", "after_end": after_end}
    algorithm = BC(from_mapping(BC.Config, settings), spec, chunks_for(spec))
    x, action = np.zeros((64, 3), np.float32), np.tile(np.float32([0.8, 3.0]), (64, 4, 1))
    mask = np.tile(np.arange(4) < 1, (64, 1))
    none, ended = np.zeros((64, 4), np.float32), np.tile(np.float32([0, 1, 1, 1]), (64, 1))
    for _ in range(300):
        algorithm.update(Batch({"x": x}, action, none, ended, {"x": x}, {"mask": mask}))
    policy = chunks_for(spec)
    policy.load(algorithm.policy_arrays())
    planned = policy.act({"x": x[0]}, deterministic=True)
    np.testing.assert_allclose(planned[0], [0.8, 3.0], atol=0.1)
    np.testing.assert_allclose(planned[:, 1], 3.0, atol=0.1)
    left = 0.5 if after_end == "fade" else 0.0
    np.testing.assert_allclose(planned[1:, 0], 0.8 * left ** np.arange(1, 4), atol=0.08)


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=["sac", "rlpd", "bc"])
def test_chunks_need_windows(cls, settings):
    algorithm = cls(from_mapping(cls.Config, settings), STATE, chunks_for(STATE))
    with pytest.raises(SpecError, match="window"):
        algorithm.update(batch_of(STATE, 12))


def test_each_minibatch_has_its_share_of_every_source():
    network = policy_for(STATE, observations=("x",)).network()
    batch = batch_of(STATE, 12, reward=np.repeat([1.0, 0.0], 6))  # as a mixture lays them
    cpu = torch.device("cpu")
    parts = Minibatcher(network, STATE, cpu).cut(batch, 3)
    assert [part.reward.sum().item() for part in parts] == [2, 2, 2]
    rows = torch.cat([part.inputs["state"] for part in parts])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, batch.observation["x"].tolist()))
    assert parts[1].next_inputs["state"][1].tolist() == batch.next_observation["x"][4].tolist()


def test_what_a_network_reads_on_the_host_is_not_brought_to_a_gpu():
    network = policy_for(STATE, observations=("x",)).network()
    network.on_host = frozenset({"state"})
    (part,) = Minibatcher(network, STATE, torch.device("meta")).cut(batch_of(STATE, 4), 1)
    assert part.inputs["state"].device.type == "cpu"
    assert {t.device.type for t in (part.action, part.reward, part.discount)} == {"meta"}


def test_batches_that_cannot_be_are_refused():
    algorithm = make(RLPD, CASES[1][1])
    with pytest.raises(SpecError, match="multiple of 3"):
        algorithm.update(batch_of(STATE, 8))
    with pytest.raises(SpecError, match="actions"):
        algorithm.update(batch_of(STATE, 9, action=np.zeros((9, 4, 2), np.float32)))
    pictures = make(SAC, SMALL, PICTURES)
    wrong = batch_of(PICTURES, 4).observation | {"image_front": np.zeros((4, 8, 8, 3), np.uint8)}
    with pytest.raises(SpecError, match="image_front"):
        pictures.update(batch_of(PICTURES, 4, observation=wrong))


def test_another_policy_or_impossible_settings_are_refused():
    with pytest.raises(PolicyError, match="add_a_policy"):
        SAC(SAC.Config(), STATE, LinearGaussianPolicy(LinearGaussianConfig(), STATE))
    with pytest.raises(ConfigError, match="target_critics"):
        SAC.Config(critics=2, target_critics=3)
    with pytest.raises(ConfigError, match="value_min"):
        SAC.Config(value_min=1.0, value_max=0.0)


def test_a_shift_moves_whole_pictures_and_repeats_their_edges():
    picture = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1).repeat(200, 1, 1, 3)
    shifted = random_shift(picture, 2, torch.Generator().manual_seed(0))
    assert shifted.dtype == torch.uint8
    corners = {tuple(row) for row in shifted[:, 4, 4, :1].tolist()}
    assert corners == {(8 * (4 + dy) + 4 + dx,) for dy in range(-2, 3) for dx in range(-2, 3)}
    assert set(shifted[:, 0, 0, 0].tolist()) == {0, 1, 2, 8, 9, 10, 16, 17, 18}
    assert random_shift(picture, 0, torch.Generator()) is picture
