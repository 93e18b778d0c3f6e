"""What LeRobot's policies see of our robots, and what is said where that does not fit. Needs no LeRobot."""

import json
import sys
import threading
import time

import numpy as np
import pytest
import torch

from user_core.errors import ConfigError, PluginError, PolicyError, SpecError
from user_core.plugins import build
from user_core.policies.fingerprint import policy_config_hash
from user_core.policies.lerobot.config import AdapterConfig, LeRobotConfig
from user_core.policies.lerobot.inputs import ACTION, Feature, InputMap, features_of
from user_core.policies.lerobot.opening import seeded
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.policies.lerobot.statistics import (
    Statistics,
    from_bounds,
    least_widths,
    read_statistics,
    require_statistics,
)
from user_core.specs import ArraySpec, RobotSpec

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((2,), low=-2.0, high=2.0, unit="rad"),
        "gripper": ArraySpec((), low=0.0, high=1.0),
        "image_front": ArraySpec((48, 64, 3), "uint8"),
        "image_wrist": ArraySpec((32, 32, 3), "uint8"),
        "contact": ArraySpec((1,), "bool"),
    },
    ArraySpec((3,), low=(-1.0, -1.0, 0.0), high=1.0, names=("a", "b", "gripper")),
)
FRONT, WRIST = "observation.images.image_front", "observation.images.image_wrist"
STATE = Feature("observation.state", False, (3,))


def mapped(*features, action=3, resizes=False, **params):
    config = LeRobotConfig(type="act", **params)
    return InputMap(features, action, SPEC, config, resizes)


def test_a_new_policy_sees_what_an_export_holds():
    features = features_of(SPEC, {})
    assert [(f.name, f.shape) for f in features] == [
        (FRONT, (3, 48, 64)), (WRIST, (3, 32, 32)), ("observation.state", (3,)),
    ]  # fmt: skip
    inputs = mapped(*features)
    assert inputs.images == {FRONT: "image_front", WRIST: "image_wrist"}
    assert inputs.vectors == {"observation.state": ("joint_position", "gripper")}


def test_a_mapping_chooses_what_a_new_policy_sees():
    mapping = {
        "observation.images.top": "image_wrist",
        "observation.environment_state": ["gripper"],
    }
    features = features_of(SPEC, mapping)
    assert [(f.name, f.image, f.shape) for f in features] == [
        ("observation.images.top", True, (3, 32, 32)), ("observation.environment_state", False, (1,)),
    ]  # fmt: skip
    assert mapped(*features, mapping=mapping).images == {"observation.images.top": "image_wrist"}


def test_cameras_are_found_by_their_last_name():
    inputs = mapped(Feature("observation.images.front", True, (3, 48, 64)), STATE)
    assert inputs.images == {"observation.images.front": "image_front"}


def test_a_camera_that_the_robot_lacks_is_named_with_a_mapping_that_would_help():
    wanted = Feature("observation.images.top", True, (3, 48, 64))
    with pytest.raises(SpecError) as told:
        mapped(wanted, STATE)
    text = str(told.value)
    assert "observation.images.top" in text and "image_front" in text
    assert "mapping: {observation.images.top: image_front}" in text
    assert mapped(wanted, STATE, mapping={wanted.name: "image_front"}).images
    assert not mapped(wanted, STATE, mapping={wanted.name: []}).images


def test_where_no_camera_is_left_the_way_to_do_without_is_said():
    more = Feature("observation.images.third", True, (3, 48, 64))
    cameras = [Feature(FRONT, True, (3, 48, 64)), Feature(WRIST, True, (3, 32, 32))]
    with pytest.raises(SpecError, match=r"mapping: \{observation.images.third: \[\]\}"):
        mapped(*cameras, more, STATE)


def test_sizes_of_images():
    other = Feature(FRONT, True, (3, 24, 24))
    with pytest.raises(SpecError, match="resize_images: true"):
        mapped(other, STATE)
    assert mapped(other, STATE, resize_images=True).sizes == {FRONT: (24, 24)}
    assert mapped(other, STATE, resizes=True).sizes == {}, "the policy does it itself"
    with pytest.raises(SpecError, match="channels"):
        mapped(Feature(FRONT, True, (1, 48, 64)), STATE)


def test_a_state_of_another_size_lists_what_there_is():
    with pytest.raises(SpecError) as told:
        mapped(Feature("observation.state", False, (2,)))
    assert "'joint_position': 2" in str(told.value) and "3 numbers" in str(told.value)
    narrow = mapped(
        Feature("observation.state", False, (2,)), mapping={"observation.state": "joint_position"}
    )
    assert narrow.vectors["observation.state"] == ("joint_position",)


def test_actions_of_another_robot():
    with pytest.raises(SpecError, match="another robot"):
        mapped(STATE, action=6)


@pytest.mark.parametrize(
    "params",
    [
        {"mapping": {"observation.images.none": "image_front"}},
        {"scale": {"observation.velocity": 2.0}},
        {"scale": {"observation.state": [1.0, 2.0]}},
        {"scale": {"action": 0.0}},
        {"mapping": {"observation.state": ["elbow"]}},
    ],
)
def test_a_mapping_or_scale_of_what_is_not_there(params):
    with pytest.raises((ConfigError, SpecError)):
        mapped(STATE, **params)


def test_other_units():
    inputs = mapped(STATE, scale={"observation.state": [57.29578, 57.29578, 100], "action": 100})
    seen = {
        "joint_position": np.array([[1.0, -1.0]], np.float32),
        "gripper": np.array([0.5], np.float32),
    }
    state = inputs.vector("observation.state", seen, (1,))
    np.testing.assert_allclose(state, [[57.29578, -57.29578, 50]], rtol=1e-6)
    np.testing.assert_allclose(inputs.bounds(ACTION), [[-100, -100, 0], [100, 100, 100]])


def test_statistics_begin_with_bounds_and_settle_from_data():
    inputs = mapped(*features_of(SPEC, {}))
    values = from_bounds(inputs)
    np.testing.assert_allclose(values["observation.state"]["max"], [2, 2, 1])
    assert values[FRONT]["mean"].shape == (3, 1, 1)
    statistics = Statistics(values, least_widths(inputs), calls=3)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal([1, 0, 0.5], [0.5, 0, 0.1], (3, 4096, 3)).astype(np.float32))
    for part in rows:
        statistics.settle("observation.state", part)
    statistics.settle("observation.state", rows[0] + 100)  # one call too many
    assert [statistics.settles(name) for name in ("observation.state", ACTION, FRONT)] == [False, True, False]  # fmt: skip
    found = {n: t.numpy() for n, t in statistics.values()["observation.state"].items()}
    whole = rows.flatten(0, 1).numpy()
    np.testing.assert_allclose(found["mean"], whole.mean(0), atol=1e-5)
    np.testing.assert_allclose(
        found["std"], np.maximum(whole.std(0), [0.04, 0.04, 0.01]), atol=1e-5
    )
    np.testing.assert_allclose(found["min"][0], whole[:, 0].min(), atol=1e-5)
    np.testing.assert_allclose(found["q99"][0], np.quantile(whole[:, 0], 0.99), atol=0.02)
    assert (found["max"] - found["min"])[1] == pytest.approx(0.08), "never a range of nothing"
    statistics.load_state_dict(statistics.state_dict())
    assert statistics.settles("observation.state"), "it is looked up again"


def test_rows_that_are_not_finite_spoil_no_statistics():
    inputs = mapped(*features_of(SPEC, {}))
    statistics = Statistics(from_bounds(inputs), least_widths(inputs), calls=1)
    rows = torch.rand((64, 3), generator=torch.Generator().manual_seed(0))
    statistics.settle("observation.state", torch.full((4, 3), torch.nan))  # counts as no call
    statistics.settle("observation.state", torch.cat([rows, torch.tensor([[0.0, torch.inf, 0.0]])]))
    found = {n: t.numpy() for n, t in statistics.values()["observation.state"].items()}
    np.testing.assert_allclose(found["mean"], rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["max"], rows.max(0).values, atol=1e-6)


@pytest.mark.parametrize("adapter", [{"targets": ["q_proj"]}, {"whole": ["model.head"]}])
def test_parts_to_adapt_without_a_rank_are_refused(adapter):
    with pytest.raises(ConfigError, match="rank"):
        AdapterConfig(**adapter)


class Step:
    """A step of LeRobot's that normalises."""

    def __init__(self, mode):
        named = type("Named", (), {})
        kind, what = named(), named()
        kind.name, what.type = mode, "STATE"
        self.features, self.norm_map = {"observation.state": what}, {"STATE": kind}


@pytest.mark.parametrize(
    ("mode", "lacking"), [("MEAN_STD", "mean, std"), ("QUANTILES", "q01, q99"), ("MIN_MAX", "max")]
)
def test_statistics_that_are_missing_are_named(mode, lacking):
    values = {"observation.state": {"min": 0, "q10": 1, "q90": 2}}
    with pytest.raises(PolicyError, match=rf"observation.state \({lacking}\)"):
        require_statistics([Step(mode)], values, "act")
    require_statistics([Step("QUANTILE10"), Step("IDENTITY")], values, "act")


def test_statistics_of_a_data_set(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/stats.json").write_text(
        json.dumps({"action": {"mean": [1, 2], "count": [3]}})
    )
    np.testing.assert_array_equal(read_statistics(str(tmp_path))["action"]["mean"], [1, 2])
    for bad in ("nothing", tmp_path / "meta"):
        with pytest.raises(PolicyError, match="statistics: data"):
            read_statistics(str(bad))


def test_without_lerobot_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(PluginError, match="USER_EXTRA=lerobot make setup"):
        build("policies", "user_core.policies.lerobot.policy:LeRobotPolicy", {"type": "act"}, SPEC)


def test_a_policy_is_named_and_where_its_files_lie_is_not_what_it_is():
    with pytest.raises(ConfigError, match="type: act"):
        LeRobotConfig()
    name = "user_core.policies.lerobot.policy:LeRobotPolicy"
    here, there, other = (
        policy_config_hash(name, LeRobotConfig(type="act", **params), SPEC)
        for params in ({"checkpoint": "/a"}, {"checkpoint": "/b"}, {"config": {"chunk_size": 4}})
    )
    assert here == there != other
    revisions, places, tokenizers = (
        {policy_config_hash(name, LeRobotConfig(type="act", **params), SPEC) for params in alike}
        for alike in (
            [{}, {"revision": "main"}],
            [{"config": {"vlm_model_name": path}} for path in ("/models/vlm", "~/vlm", "./vlm")],
            [
                {"processors": {"tokenizer_processor": {"tokenizer_name": path}}}
                for path in ("/models/a", "/home/somebody/b")
            ],
        )
    )
    assert len(revisions) == len(places) == len(tokenizers) == 1
    hub = policy_config_hash(
        name, LeRobotConfig(type="act", config={"vlm_model_name": "owner/name"}), SPEC
    )
    assert {hub} != places


def test_a_host_without_lerobot_goes_by_what_the_parameters_say():
    config = LeRobotConfig(checkpoint="/nowhere", config={"n_obs_steps": 3})
    assert LeRobotPolicy.history_of(config, SPEC) == 3
    assert LeRobotPolicy.history_of(LeRobotConfig(checkpoint="/nowhere"), SPEC) == 1


def test_threads_that_draw_at_once_have_each_the_noise_of_its_seed():
    cpu, usual = torch.device("cpu"), {}
    for seed in (1, 2):
        with seeded(seed, cpu):
            usual[seed] = torch.rand(6).tolist()
    before, drawn, began = torch.get_rng_state(), {}, threading.Barrier(2)

    def draw(seed):
        began.wait(60)
        with seeded(seed, cpu):
            drawn[seed] = []
            for _ in range(6):
                drawn[seed] += torch.rand(1).tolist()
                time.sleep(0.001)  # the other one may go on

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in usual]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == usual
    assert torch.equal(torch.get_rng_state(), before)
