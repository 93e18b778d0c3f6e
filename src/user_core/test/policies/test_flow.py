"""The policy flow: gated velocities, paths with noise, and the student that makes a chunk at once."""

import numpy as np
import pytest
import torch

from user_core.codecs.weights import encode_version
from user_core.conformance import check_policy
from user_core.errors import ConfigError
from user_core.plugins import build
from user_core.policies import policy_config_hash
from user_core.policies.generative.network import model_of
from user_core.policies.generative.objectives import Flow
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import PolicyVersion

NUMBERS = RobotSpec(
    "arm", {"x": ArraySpec((3,), low=-2.0, high=2.0)}, ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 4.0)),
    period_s=0.1,
)  # fmt: skip
EYES = RobotSpec(
    "arm", {**NUMBERS.observation, "eye": ArraySpec((16, 16, 3), "uint8", low=0, high=255)},
    NUMBERS.action, period_s=0.1,
)  # fmt: skip
SEEN = {"x": np.array([0.3, -0.7, 1.1], np.float32)}
ONLINE = {"velocity": "gated", "path_noise": 0.5}


def make(spec=NUMBERS, **params):
    small = {"rows": 4, "embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}
    return build("policies", "flow", {"hidden": [24, 24, 16], **small, **params}, spec)


def stirred(policy):
    rng = np.random.default_rng(1)
    policy.load(
        {
            k: a + 0.3 * rng.standard_normal(a.shape).astype(np.float32)
            if k.startswith(("denoiser", "student")) else np.abs(a) + 0.2
            for k, a in policy.arrays().items()
        }
    )  # fmt: skip
    return policy


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
@pytest.mark.parametrize(
    "params", [ONLINE, {"distill": True}, {**ONLINE, "path_noise": 0.0, "distill": True}]
)
def test_each_form_keeps_the_promises_of_a_policy(backbone, params):
    policy = make(backbone=backbone, **params)
    check_policy(policy, NUMBERS).require()
    assert policy.acts_without_torch is (backbone == "mlp")


@pytest.mark.parametrize("params", [ONLINE, {"distill": True}])
def test_they_see_images_too(params):
    check_policy(make(EYES, **params), EYES).require()


@pytest.mark.parametrize(
    "params", [ONLINE, {"distill": True}, {"velocity": "gated", "prefix_rows": 2}]
)
def test_the_light_form_does_what_the_network_does(params):
    policy = stirred(make(**params))
    network, noise = policy.network(), policy.noise()
    inputs = network.inputs({"x": SEEN["x"][None]})
    there = network.generate(inputs, torch.from_numpy(noise)[None]).detach().numpy()
    there = policy.code.scale.to_robot(there.reshape(policy.rows, -1))
    np.testing.assert_allclose(policy.act_from(SEEN, noise), there, atol=1e-4)


def test_so_do_its_paths_with_noise():
    policy = stirred(make(**ONLINE))
    network, rng = policy.network(), np.random.default_rng(0)
    noise, noises = (
        rng.standard_normal((2, 9, 4, 2), dtype=np.float32)[:, 0],
        rng.standard_normal((8, 4, 2), dtype=np.float32),
    )
    model = policy._model(policy._state(SEEN))
    made, sizes = Flow().wander(model, noise[0], noises)
    theirs = model_of(network, network.inputs({"x": SEEN["x"][None]}))
    with torch.no_grad():
        there, widths = Flow().wander(
            theirs, torch.from_numpy(noise[0])[None], torch.from_numpy(noises)[:, None]
        )
    np.testing.assert_allclose(made, there[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(np.stack(sizes), torch.cat(widths).numpy(), atol=1e-5)


@pytest.mark.parametrize("params", [ONLINE, {"velocity": "gated"}])
def test_the_gradient_written_by_hand_is_that_of_autograd(params):
    policy = stirred(make(**params))
    network, x = policy.network(), policy.noise()
    policy.act_from(SEEN, x)
    mine = policy._perceptron.with_gradient(x, 0.4, lambda said: said * 2 + 1)
    theirs = model_of(network, network.inputs({"x": SEEN["x"][None]})).with_gradient(
        torch.from_numpy(x)[None], 0.4, lambda said: said * 2 + 1
    )
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other[0].numpy(), rtol=1e-3, atol=1e-5)


class Exact:
    """The velocity of a flow to chunks that are normal with standard deviation 0.3 around 0.5."""

    def with_noise(self, x, t):
        left, share = 1 - t, t * 0.3
        mean = t * 0.5
        whole = left**2 + share**2
        chunk = 0.5 + t * 0.09 / whole * (x - mean)
        return (chunk - x) / left, np.float32(0.7)


def test_paths_with_noise_generate_what_those_without_do():
    rng, steps = np.random.default_rng(0), 200
    noises = rng.standard_normal((steps + 1, 4000))
    made, _ = Flow().wander(Exact(), noises[0], noises[1:])
    assert made.mean() == pytest.approx(0.5, abs=0.02)
    assert made.std() == pytest.approx(0.3, abs=0.03)


def test_the_density_of_a_path_is_that_of_its_steps():
    """Of one step it is a Gaussian's, whose mean and width are known."""
    policy = stirred(make(steps=1, action_normalization="bounds", **ONLINE))
    arrays = policy.arrays()
    arrays["action_scale"][:], arrays["action_offset"][:] = 0.01, 0.0  # far from the bounds
    policy.load(arrays)
    network = policy.network()
    features = network.encode(network.inputs({"x": np.tile(SEEN["x"], (6, 1))}))
    with torch.no_grad():
        _, density = network.wander(features, torch.Generator().manual_seed(3))
        noise = torch.randn((2, 6, 4, 2), generator=torch.Generator().manual_seed(3))
        _, sigma = model_of(network, network.inputs({"x": np.tile(SEEN["x"], (6, 1))})).with_noise(
            noise[0], 0.0
        )
    normal = torch.distributions.Normal(torch.zeros(()), sigma)
    expected = normal.log_prob(sigma * noise[1]).sum((1, 2))
    np.testing.assert_allclose(density, expected, rtol=1e-4)


def learned(policy, updates):
    network, generator = policy.network(), torch.Generator().manual_seed(0)
    parameters, rng = list(network.parameters()), np.random.default_rng(0)
    optimizer = torch.optim.Adam(parameters, 5e-3)
    for _ in range(updates):
        x = rng.uniform(-1, 1, (128, 3)).astype(np.float32)
        unit = rng.choice([-0.5, 0.5], (128, 1, 1)) + np.zeros((1, 4, 2))  # two ways
        inputs, action = network.inputs({"x": x}), torch.from_numpy(unit.reshape(128, -1)).float()
        network.observe(inputs)
        network.observe_actions(action, None)
        optimizer.zero_grad()
        network.loss(inputs, action, None, generator).backward()
        optimizer.step()
    policy.load(network.arrays())
    return network


def units(policy, count=60):
    rng = np.random.default_rng(0)
    made = [policy.act({"x": rng.uniform(-1, 1, 3).astype(np.float32)}) for _ in range(count)]
    return policy.code.scale.unit(np.stack(made))


@pytest.mark.parametrize("params", [{"distill": True}, ONLINE], ids=["distilled", "gated"])
def test_two_ways_are_kept_apart(params):
    policy = make(hidden=[64, 64], steps=6, **params)
    learned(policy, 400)
    made = units(policy).mean(1)[:, 0]
    assert np.abs(np.abs(made) - 0.5).mean() < 0.2
    assert 0.2 < (made > 0).mean() < 0.8


def test_only_the_student_of_a_distilled_flow_goes_to_actors():
    plain, policy = make(), make(distill=True)
    assert not any(name.startswith("denoiser") for name in policy.arrays())
    assert len(policy.arrays()) == len(plain.arrays())
    network = policy.network()
    assert any(name.startswith("denoiser") for name, _ in network.named_parameters())
    assert {name: a.shape for name, a in network.arrays().items()} == {
        name: a.shape for name, a in policy.arrays().items()
    }
    version = PolicyVersion(1, policy.arrays(), policy_config_hash("flow", {}, NUMBERS), 1, 1, 0)
    assert (
        len(encode_version(version)) < 1.2 * sum(a.nbytes for a in plain.arrays().values()) + 4096
    )


def test_what_a_teacher_sees_is_encoded_once_and_its_student_does_not_move_it():
    network = make(EYES, distill=True).network()
    rng, count, seen = np.random.default_rng(0), 3, []
    with torch.no_grad():  # else all agree from the start
        for parameter in network.parameters():
            parameter.add_(0.1)
    inputs = network.inputs({
        "x": rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        "eye": rng.integers(0, 255, (count, 16, 16, 3), np.uint8),
    })  # fmt: skip
    action, usual = torch.zeros((count, 8)), network.denoiser.see
    network.denoiser.see = lambda *given: seen.append(1) or usual(*given)
    network.loss(inputs, action, None, torch.Generator().manual_seed(0)).backward()
    assert len(seen) == 1
    moved = [p.grad.clone() for p in network.denoiser.parameters() if p.grad is not None]
    assert any(p.grad is not None and p.grad.any() for p in network.student.parameters())
    network.zero_grad()
    context = network.seen_by(network.denoiser, inputs)
    network.loss_of(context, action, None, torch.Generator().manual_seed(0)).backward()
    alone = [p.grad for p in network.denoiser.parameters() if p.grad is not None]
    for one, other in zip(moved, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_a_student_learns_from_noise_as_small_as_deterministic_chunks_begin_with():
    network, noises = make(distill=True).network(), []
    network.student.register_forward_pre_hook(lambda _, given: noises.append(given[1]))
    inputs = network.inputs({"x": np.zeros((400, 3), np.float32)})
    network.loss(inputs, torch.zeros((400, 8)), None, torch.Generator().manual_seed(0))
    size = noises[0].flatten(1).square().mean(1).sqrt()
    assert 0.4 < (size > 0.7).float().mean() < 0.8
    assert (size < 0.25).float().mean() > 0.05


def test_scales_that_weights_brought_stay():
    policy = make()
    learned(policy, 3)
    network, scale = policy.network(), policy.arrays()["action_scale"].copy()
    inputs = network.inputs({"x": np.full((8, 3), 1.5, np.float32)})
    network.observe(inputs)
    network.observe_actions(torch.zeros((8, 8)), None)
    np.testing.assert_array_equal(network.arrays()["action_scale"], scale)
    np.testing.assert_array_equal(network.arrays()["input_offset"], policy.arrays()["input_offset"])


def test_weights_of_before_fit_still():
    before = {"rows": 4, "hidden": [8], "steps": 3}
    for late in ({"velocity": "plain"}, {"path_noise": 0.0}, {"distill": False}):
        assert policy_config_hash("flow", before, NUMBERS) == policy_config_hash(
            "flow", before | late, NUMBERS
        )
    assert policy_config_hash("flow", before, NUMBERS) != policy_config_hash(
        "flow", before | ONLINE, NUMBERS
    )


@pytest.mark.parametrize("params", [{"path_noise": 0.5}, {"prefix_rows": 2}])
def test_what_needs_steps_is_refused_where_there_are_none(params):
    with pytest.raises(ConfigError, match="has no steps on which"):
        make(distill=True, **params)
