"""Policies that generate chunks: their promises, numpy beside torch, modes that are kept, plans that go on."""

import numpy as np
import pytest
import torch
from torch.optim.adam import adam

from user_core.conformance import check_policy
from user_core.errors import ConfigError, PolicyError, SpecError
from user_core.interfaces import Query
from user_core.plugins import build
from user_core.policies.fingerprint import policy_config_hash
from user_core.policies.generative.coding import ChunkCode, soft_mask
from user_core.policies.generative.network import model_of
from user_core.policies.generative.objectives import Flow, Given
from user_core.specs import ArraySpec, RobotSpec

ACTION = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0))
NUMBERS = RobotSpec("r", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ACTION)
EYES = RobotSpec(
    "r",
    {
        "x": ArraySpec((3,), low=-2.0, high=2.0),
        "image_front": ArraySpec((16, 16, 3), "uint8"),
        "image_wrist": ArraySpec((16, 24, 3), "uint8"),
        "depth": ArraySpec((16, 16, 1), "uint16", low=0, high=3000, unit="0.001 m"),
    },
    ACTION,
)
CHOICES = RobotSpec(
    "r", NUMBERS.observation,
    ArraySpec((3,), low=(-1.0, 0.0, 0.0), high=(1.0, 2.0, 4.0), categorical=(1,)),
)  # fmt: skip
SMALL = {"rows": 4, "embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}


def make(name, spec=NUMBERS, **params):
    return build("policies", name, SMALL | params, spec)


@pytest.mark.parametrize("spec", [NUMBERS, EYES, CHOICES], ids=["numbers", "eyes", "choices"])
@pytest.mark.parametrize("name", ["flow", "diffusion", "act"])
def test_each_keeps_the_promises_of_a_policy(name, spec):
    check_policy(make(name, spec), spec).require()


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_a_transformer_sees_numbers_too(name):
    policy = make(name, backbone="transformer", prefix_rows=2, prefix_weights="own")
    check_policy(policy, NUMBERS).require()
    assert not policy.acts_without_torch


def stirred(policy):
    rng = np.random.default_rng(1)
    arrays = {
        k: a + 0.3 * rng.standard_normal(a.shape).astype(np.float32)
        if k.startswith("denoiser") else np.abs(a) + 0.2
        for k, a in policy.arrays().items()
    }  # fmt: skip
    policy.load(arrays)
    return policy


@pytest.mark.parametrize(
    ("name", "params"), [("flow", {}), ("flow", {"distill": True}), ("diffusion", {}), ("act", {})]
)
def test_one_that_is_filled_in_place_acts_as_one_that_loads(name, params):
    policy, other = (make(name, EYES, seed=0, **params) for _ in range(2))
    source = {
        k: a * 1.5 if "scale" in k else a + 0.1
        for k, a in make(name, EYES, seed=5, **params).arrays().items()
    }
    seen = {n: EYES.observation[n].zeros() for n in EYES.observation}
    before = policy.act(seen, deterministic=True)
    addresses = [p.data_ptr() for p in policy._network.parameters()]
    with policy.in_place() as tensors:
        assert tensors.keys() == source.keys() == policy.arrays().keys()
        for key, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(source[key]))
    other.load(source)
    assert addresses == [p.data_ptr() for p in policy._network.parameters()]
    planned = policy.act(seen, deterministic=True)
    np.testing.assert_array_equal(planned, other.act(seen, deterministic=True))
    assert (planned != before).any()
    for key, array in policy.arrays().items():
        np.testing.assert_array_equal(array, source[key])
    with pytest.raises(PolicyError, match="shapes"):
        policy.load({k: a[..., None] for k, a in source.items()})
    copied = policy.network().tensors()
    np.testing.assert_array_equal(copied["action_scale"].numpy(), source["action_scale"])
    policy.load(source)
    np.testing.assert_array_equal(planned, policy.act(seen, deterministic=True))


def test_one_that_acts_without_torch_is_not_filled_in_place():
    assert make("flow").in_place() is None


@pytest.mark.parametrize("name", ["flow", "diffusion"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_the_light_form_does_what_the_network_does(name, prefix):
    policy = stirred(make(name, hidden=[24, 24, 16], prefix_rows=prefix))
    seen = {"x": np.array([0.3, -0.7, 1.1], np.float32)}
    noise = policy.noise()
    network = policy.network()
    inputs = network.inputs({"x": seen["x"][None]})
    there = network.generate(inputs, torch.from_numpy(noise)[None]).detach().numpy()
    there = policy.code.scale.to_robot(there.reshape(policy.rows, -1))
    np.testing.assert_allclose(policy.act_from(seen, noise), there, atol=1e-4)


@pytest.mark.parametrize("weights", ["shared", "own"])
def test_the_light_form_is_told_of_given_rows_as_the_network_is(weights):
    """Also of several robots, of which one has nothing given: by that one no further weights count."""
    policy = stirred(make("flow", hidden=[24, 24, 16], prefix_rows=2, prefix_weights=weights))
    network = policy.network()
    state = np.array([[0.3, -0.7, 1.1], [0.1, 0.4, -0.2]], np.float32)
    seen = {"x": state}
    light = policy._model(policy._scaled(policy.features.vectors(seen, 2), None))
    model = model_of(network, network.inputs(seen))
    x = np.stack([policy.noise(), policy.noise()])
    mask = np.float32([[1, 1, 0, 0], [0, 0, 0, 0]])
    said = light(x, 0.3, mask)
    with torch.no_grad():
        there = model(torch.from_numpy(x), 0.3, torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(said, there, atol=1e-4)
    np.testing.assert_allclose(said[1], light(x, 0.3, None)[1], atol=1e-5)
    assert ("denoiser.given.weight" in policy.arrays()) == (weights == "own")


def test_half_of_the_windows_have_nothing_given():
    """Plans begin: if few windows showed it, a chunk that nothing precedes would be made as one that goes on."""
    network = make("flow", hidden=[8], prefix_rows=3).network()
    seen, told = [], network.denoiser.forward
    network.denoiser.forward = lambda *given: seen.append(given[3]) or told(*given)
    inputs = network.inputs({"x": np.zeros((2000, 3), np.float32)})
    network.loss(inputs, torch.zeros((2000, 8)), None, torch.Generator().manual_seed(0))
    counts = seen[0].sum(1).int().bincount(minlength=4) / 2000
    np.testing.assert_allclose(counts, [4 / 7, 1 / 7, 1 / 7, 1 / 7], atol=0.04)


def test_the_gradient_written_by_hand_is_that_of_autograd():
    policy = stirred(make("flow", hidden=[24, 24, 16]))
    network = policy.network()
    inputs = network.inputs({"x": np.array([[0.3, -0.7, 1.1]], np.float32)})
    x = policy.noise()
    policy.act_from({"x": np.array([0.3, -0.7, 1.1], np.float32)}, x)
    mine = policy._perceptron.with_gradient(x, 0.4, lambda said: said * 2 + 1)
    theirs = model_of(network, inputs).with_gradient(
        torch.from_numpy(x)[None], 0.4, lambda said: said * 2 + 1
    )
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other[0].numpy(), rtol=1e-3, atol=1e-5)


def train(policy, spec, draw, updates, rate=5e-3, size=128):
    network, generator = policy.network(), torch.Generator().manual_seed(0)
    parameters = list(network.parameters())
    moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    steps = [torch.zeros(()) for _ in parameters]
    rng = np.random.default_rng(0)
    for _ in range(updates):
        x, unit = draw(rng, size)
        inputs = network.inputs({"x": x})
        action = torch.from_numpy(unit.reshape(size, -1))
        network.observe(inputs)
        network.observe_actions(action, None)
        loss = network.loss(inputs, action, None, generator)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():  # the function: to make the class imports half of torch
            adam(
                parameters, list(gradients), *moments, [], steps, amsgrad=False, beta1=0.9,
                beta2=0.999, lr=rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
    policy.load(network.arrays())
    return policy


def two_ways(rng, size):
    """All rows of a chunk go left, or all go right."""
    x = rng.uniform(-1, 1, (size, 3)).astype(np.float32)
    side = rng.choice([-0.5, 0.5], (size, 1, 1))
    return x, (side + np.zeros((1, 4, 2))).astype(np.float32)


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_two_ways_are_kept_apart_and_chunks_are_of_one_of_them(name):
    policy = train(make(name, hidden=[64, 64]), NUMBERS, two_ways, 400)
    seen = {"x": np.zeros(3, np.float32)}
    first = np.stack([policy.act(seen)[:, 0] for _ in range(60)])  # (60, T)
    assert 12 <= (first[:, 0] > 0).sum() <= 48  # both are taken
    assert (np.abs(first) > 0.3).mean() > 0.85  # and hardly ever the middle
    assert (np.sign(first) == np.sign(first[:, :1])).mean() > 0.95
    still = [policy.act(seen, deterministic=True) for _ in range(2)]
    np.testing.assert_array_equal(*still)


@pytest.mark.parametrize(("name", "prefix"), [("flow", 0), ("flow", 2), ("diffusion", 0)])
def test_a_plan_that_goes_on_keeps_its_side(name, prefix):
    hard = {"guidance": 5.0} if name == "flow" else {}  # the paper's weight
    made = make(name, hidden=[64, 64], prefix_rows=prefix, **hard)
    policy = train(made, NUMBERS, two_ways, 400)
    seen = {"x": np.zeros(3, np.float32)}
    for side in (-0.5, 0.5):
        plan = np.full((3, 2), side, np.float32)
        plan[:, 1] = 2 + 2 * side
        made = np.stack([policy.continue_plan(seen, plan, 2) for _ in range(30)])
        np.testing.assert_array_equal(made[:, :2], np.broadcast_to(plan[:2], made[:, :2].shape))
        assert (np.sign(made[:, 2:, 0]) == np.sign(side)).mean() > 0.8


def test_a_network_that_is_told_what_is_carried_out_is_held_to_the_rows_after_that_too():
    """By the soft mask of Black et al. 2025, equation 5: less and less, and not where the plan before has ended."""
    seen, plan = {"x": np.zeros(3, np.float32)}, np.tile(np.float32([0.5, 3.0]), (4, 1))
    for guidance in (0.0, 1.0, 2.0):
        # A fresh network says that nothing moves: a row stays its noise, but for what it is held to.
        policy = make("flow", prefix_rows=2, guidance=guidance, steps=8)
        made = policy.continue_plan(seen, plan[:3], 1, deterministic=True)
        np.testing.assert_array_equal(made[:1], plan[:1])
        free = policy.act(seen, deterministic=True)
        left = (1 - guidance * soft_mask(4, 3, 1)[1:, None] / 8) ** 8
        np.testing.assert_allclose(made[1:] - plan[1:], (free - plan)[1:] * left, atol=1e-5)


def test_a_diffusion_that_is_told_is_held_to_the_rows_after_that_as_well():
    seen, plan = {"x": np.zeros(3, np.float32)}, np.tile(np.float32([0.5, 3.0]), (3, 1))
    off = {}
    for guidance in (0.0, 0.5, 1.0, 2.0):
        policy = make("diffusion", prefix_rows=2, guidance=guidance)
        made = policy.continue_plan(seen, plan, 1, deterministic=True)
        np.testing.assert_array_equal(made[:1], plan[:1])
        off[guidance] = np.abs(made - policy.act(seen, deterministic=True))
    np.testing.assert_allclose(off[0.0][1:], 0, atol=1e-6)
    assert (off[0.5][1:3] > 1e-3).all() and (off[1.0][1:3] > off[0.5][1:3]).all()
    assert (off[1.0][1] > off[1.0][2]).all(), "less and less"
    np.testing.assert_allclose(off[1.0][3], 0, atol=1e-6)  # the plan before has ended
    assert (off[2.0][1:3] > off[1.0][1:3]).all()


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_smoothing_takes_rows_between_their_neighbours_and_leaves_what_is_carried_out_and_grippers(
    backbone,
):
    gripped = RobotSpec("r", NUMBERS.observation, ACTION, grippers=(1,))
    rough, smooth = (
        make("flow", gripped, rows=6, backbone=backbone, prefix_rows=3, smoothing=share)
        for share in (0.0, 0.5)
    )  # fmt: skip
    hashes = {policy_config_hash("flow", policy.config, gripped) for policy in (rough, smooth)}
    assert len(hashes) == 1, "actors may differ from who trains"
    seen = {"x": np.float32([0.3, -0.7, 1.1])}
    plan = np.float32([[0.1, 3], [-0.2, 3], [0.3, 3], [0.1, 2], [0.0, 1]])
    for given, frozen in ((None, 0), (plan, 2)):
        query = Query(seen, deterministic=True, plan=given, frozen=frozen)
        was, now = (policy.act_batch([query, query])[1] for policy in (rough, smooth))
        wanted, kept = was.copy(), max(1, frozen)  # a row at the beginning has nothing before it
        wanted[kept:-1, 0] = was[kept:-1, 0] / 2 + (was[kept - 1 : -2, 0] + was[kept + 1 :, 0]) / 4
        np.testing.assert_allclose(now, wanted, atol=1e-5)
        assert np.abs(np.diff(now[:, 0], 2)).mean() < np.abs(np.diff(was[:, 0], 2)).mean()
        alone = (
            smooth.act(seen, deterministic=True) if given is None
            else smooth.continue_plan(seen, plan, frozen, deterministic=True)
        )  # fmt: skip
        np.testing.assert_allclose(now, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_the_first_rows_of_a_window_that_do_not_count_are_always_given(name):
    network = make(name, hidden=[8], prefix_rows=3).network()
    seen, told = [], network.denoiser.forward

    def forward(context, noisy, t, mask):
        seen.append((noisy, mask))
        return told(context, noisy, t, mask)

    network.denoiser.forward = forward
    generator = torch.Generator().manual_seed(0)
    action = torch.rand((600, 8), generator=generator) - 0.5
    weight = torch.ones((600, 4, 2))
    for first in (1, 2, 3):  # so many rows of 200 windows each were somebody else's
        weight[200 * (first - 1) : 200 * first, :first] = 0
    inputs = network.inputs({"x": np.zeros((600, 3), np.float32)})
    network.loss(inputs, action, weight.flatten(1), generator)
    network.loss(inputs, action, None, generator)
    (noisy, mask), (_, usual) = seen
    counts = mask.sum(1).reshape(3, 200)
    assert [sorted(set(some.tolist())) for some in counts] == [[1, 2, 3], [2, 3], [3]]
    assert set(usual.sum(1).tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(noisy[mask > 0], network.scaled(action)[mask > 0])


def test_guidance_is_the_gradient_of_the_distance_to_the_given_rows():
    """Equations 2 to 4 of Black et al. 2025, with autograd of that distance instead of a product."""
    network = stirred(make("flow", hidden=[24, 24, 16])).network()
    model = model_of(network, network.inputs({"x": np.array([[0.3, -0.7, 1.1]], np.float32)}))
    generator = torch.Generator().manual_seed(0)
    x, code = torch.randn((2, 4, 2), generator=generator)[:, None]
    weight = torch.from_numpy(soft_mask(4, 3, 1))[:, None]
    for t, strength in ((0.0, 5.0), (0.25, 100.0), (0.75, 5.0)):
        noisy = x.clone().requires_grad_()
        velocity = model(noisy, t, None)
        off = code - (noisy + (1 - t) * velocity)
        (uphill,) = torch.autograd.grad(-(weight * off.square()).sum() / 2, noisy)
        share = strength if t == 0 else min(strength, (t**2 + (1 - t) ** 2) / (t * (1 - t)))
        given = Given(code, weight, weight.floor(), False, strength)
        guided = Flow()._guided(model, x, t, given)
        torch.testing.assert_close(guided, (velocity + share * uphill).detach())


def waves(rng, size):
    """A sine whose phase nothing tells: chunks that begin alike go on alike."""
    x = rng.uniform(-1, 1, (size, 3)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (size, 1, 1))
    return x, (0.6 * np.sin(0.6 * np.arange(12)[:, None] + phase)).astype(np.float32)


def from_waves(rows):
    """How far rows (12,) are from the sine that is nearest to them, on average."""
    i = 0.6 * np.arange(12)
    (of_sine, of_cosine), *_ = np.linalg.lstsq(np.stack([np.sin(i), np.cos(i)], 1), rows)
    return np.abs(rows - 0.6 * np.sin(i + np.arctan2(of_cosine, of_sine))).mean()


def test_guided_rows_are_reproduced_before_they_are_copied_and_the_rest_follows_from_them(
    monkeypatch,
):
    spec = RobotSpec("r", NUMBERS.observation, ArraySpec((1,), low=-1.0, high=1.0))
    policy = make("flow", spec, rows=12, hidden=[128, 128], guidance=5.0)  # the paper's weight
    train(policy, spec, waves, 600, rate=3e-3, size=256)
    seen, sampled = {"x": np.zeros(3, np.float32)}, []
    generate = policy._generate

    def spied(observation, noise, given):
        made = generate(observation, noise, given)
        sampled.append(made[:, 0].copy())
        return made

    monkeypatch.setattr(policy, "_generate", spied)
    free = np.mean([from_waves(policy.act(seen)[:, 0]) for _ in range(30)])
    sampled.clear()
    rng = np.random.default_rng(3)
    wholes = 0.6 * np.sin(0.6 * np.arange(12) + rng.uniform(0, 2 * np.pi, (30, 1)))
    for whole in wholes:
        policy.continue_plan(seen, whole[:8, None].astype(np.float32), 3)
    made = np.stack(sampled)
    assert np.abs(made[:, :3] - wholes[:, :3]).mean() < 0.1  # a free one is off by 0.5
    assert np.abs(made[:, 8:] - wholes[:, 8:]).mean() < 0.15  # nothing but the manifold says these
    assert np.mean([from_waves(rows) for rows in made]) < free + 0.03


def test_small_actions_are_learned_in_their_own_scale():
    def small(rng, size):
        x = rng.uniform(-1, 1, (size, 3)).astype(np.float32)
        return x, (0.01 * x[:, :2])[:, None].repeat(4, 1)

    for how in ("data", "quantiles"):
        policy = make("flow", hidden=[64, 64], action_normalization=how, normalization=how)
        policy = train(policy, NUMBERS, small, 200)
        acted = policy.act({"x": np.array([0.8, -0.8, 0.0], np.float32)}).mean(0)
        assert acted[0] == pytest.approx(0.008, abs=0.003)
        assert acted[1] == pytest.approx(2 - 0.016, abs=0.006)


def test_choices_come_out_as_they_were_shown():
    def shown(rng, size):
        x = rng.uniform(-1, 1, (size, 3)).astype(np.float32)
        unit = np.zeros((size, 4, 3), np.float32)
        unit[..., 1] = np.where(x[:, :1] > 0, 2, 1)
        return x, unit

    policy = train(make("flow", CHOICES, hidden=[64, 64]), CHOICES, shown, 200)
    for x, wanted in ((0.7, 2), (-0.7, 1)):
        acted = policy.act({"x": np.array([x, 0, 0], np.float32)})
        assert (acted[:, 1] == wanted).all()


def test_codes_go_there_and_back():
    code = ChunkCode(CHOICES, 5)
    unit = np.array([[0.3, 2, -0.5], [-1, 0, 1]], np.float32)
    np.testing.assert_array_equal(code.decode(code.encode(unit)), unit)
    batch = torch.from_numpy(np.tile(unit[:1], (5, 1)).reshape(1, -1))
    assert code.encode_batch(batch).shape == (1, 5, code.size)
    assert torch.equal(code.decode_batch(code.encode_batch(batch)), batch)
    weight = torch.zeros(1, 15)
    weight[0, 1] = 1.0
    assert code.weights(weight)[0, 0].tolist() == [0, 0, 1, 1, 1]


def test_the_mask_falls_from_what_is_frozen_to_what_is_open():
    mask = soft_mask(8, 6, 2)
    assert mask[:2].tolist() == [1, 1] and mask[6:].tolist() == [0, 0]
    assert (np.diff(mask[1:7]) < 0).all()
    # equation 5 for i = 2, s = 2: c = (8 - 2 - 2) / (8 - 2 - 2 + 1)
    assert mask[2] == pytest.approx(0.8 * (np.exp(0.8) - 1) / (np.e - 1))


def test_gradients_pass_codes_that_were_used_to_act_before():
    """An acting policy makes no tensors that autograd may keep."""
    code = ChunkCode(CHOICES, 5)
    made = torch.zeros(1, 5, code.size)
    with torch.inference_mode():
        code.decode_batch(made)
    made.requires_grad_()
    code.decode_batch(made).sum().backward()
    assert made.grad[..., : code.moved].eq(1).all() and made.grad[..., code.moved :].eq(0).all()


def test_where_it_acts_is_no_part_of_what_it_is():
    for name in ("flow", "act"):
        here, there = (
            policy_config_hash(name, SMALL | {"device": d}, EYES) for d in ("cpu", "cuda")
        )
        assert here == there == policy_config_hash(name, SMALL, EYES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["flow", "diffusion", "act"])
def test_on_a_gpu_it_does_what_it_does_on_the_cpu(name):
    here, there = make(name, EYES), make(name, EYES, device="cuda")
    check_policy(there, EYES).require()
    there.load(here.arrays())
    rng = np.random.default_rng(0)
    seen = {
        n: rng.integers(0, 99, s.shape).astype(s.dtype) for n, s in EYES.observation.items()
    }  # fmt: skip
    queries = [Query(seen, True), Query(seen, True, plan=np.ones((2, 2), np.float32), frozen=1)]
    for mine, theirs in zip(here.act_batch(queries), there.act_batch(queries), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3)
    assert next(there.network().parameters()).device.type == "cpu"


def test_what_cannot_be_is_refused_in_words():
    with pytest.raises(ConfigError, match="device of the policy"):
        make("flow", EYES, device="cuda:99")
    with pytest.raises(ConfigError, match="device of the"):
        make("act", EYES, device="gpu")
    with pytest.raises(ConfigError, match="ignored_observations"):
        make("flow", EYES, backbone="mlp")
    with pytest.raises(ConfigError, match="fewer than rows"):
        make("flow", prefix_rows=4)
    with pytest.raises(ConfigError, match="prefix_rows above 0"):
        make("flow", prefix_weights="own")
    with pytest.raises(ConfigError, match="multiple of heads"):
        make("act", embedding=17)
    with pytest.raises(SpecError, match="finite bounds"):
        make("flow", RobotSpec("r", NUMBERS.observation, ArraySpec((2,))))
    policy = make("flow")
    arrays = policy.arrays()
    arrays["denoiser.head.bias"][0] = np.nan
    with pytest.raises(PolicyError, match="not finite"):
        policy.load(arrays)
