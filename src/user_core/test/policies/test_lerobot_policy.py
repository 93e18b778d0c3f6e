"""LeRobot's own classes, small and on the CPU, as policies of ours. Skips where LeRobot is not installed."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from user_core.conformance import check_policy
from user_core.errors import ConfigError, PluginError, PolicyError, SpecError
from user_core.interfaces import Query
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Task
from user_testing.small_vlm import (
    make_small_clip,
    make_small_fast,
    make_small_florence,
    make_small_internvl,
    make_small_qwen,
    make_small_vlm,
    make_tokenizer,
    tiny_pi0,
)

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((3,), low=-2.0, high=2.0, unit="rad"),
        "image_front": ArraySpec((64, 64, 3), "uint8"),
    },
    ArraySpec((3,), low=(-1.0, -1.0, 0.0), high=1.0),
)
TASK = Task("reach", "reach the target")
ACT = {
    "chunk_size": 8, "n_action_steps": 8, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip
DIFFUSION = {
    "n_obs_steps": 1, "horizon": 8, "n_action_steps": 8, "down_dims": [16, 32], "num_train_timesteps": 10,
    "spatial_softmax_num_keypoints": 4, "diffusion_step_embed_dim": 16, "pretrained_backbone_weights": None,
    "crop_ratio": 1.0,
}  # fmt: skip


VQBET = {
    "n_obs_steps": 1, "n_action_pred_token": 1, "action_chunk_size": 8, "crop_shape": [56, 56], "crop_is_random": False,
    "pretrained_backbone_weights": None, "spatial_softmax_num_keypoints": 4, "n_vqvae_training_steps": 2,
    "vqvae_n_embed": 4, "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8, "gpt_block_size": 16, "gpt_input_dim": 16,
    "gpt_output_dim": 16, "gpt_n_layer": 1, "gpt_n_head": 2, "gpt_hidden_dim": 16, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return make_small_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Settings of policies by their type, each with the small models that it wants."""
    makers = {
        "act": lambda folder: ACT,
        "diffusion": lambda folder: DIFFUSION,
        "evo1": make_small_internvl,
        "multi_task_dit": make_small_clip,
        "xvla": make_small_florence,
        "eo1": lambda folder: make_small_qwen(folder, "eo1"),
        "vla_jepa": lambda folder: make_small_qwen(folder, "vla_jepa"),
    }
    made = {}

    def settings(kind):
        if kind not in made:
            made[kind] = makers[kind](tmp_path_factory.mktemp(f"{kind}_clip"))
        return made[kind]

    return settings


KINDS = ["act", "diffusion", "smolvla", "evo1", "multi_task_dit", "xvla", "eo1", "vla_jepa"]


@pytest.fixture(params=KINDS)
def policy(request, vlm, others):
    kind = request.param
    made = make(type=kind, config=vlm if kind == "smolvla" else others(kind))
    made.reset(TASK)
    return made


def make(spec=SPEC, **params):
    params = {"config": ACT, "instruction": "reach the target"} | params
    return LeRobotPolicy(LeRobotConfig(**params), spec)


def seen(spec=SPEC, rows=None, seed=0):
    rng = np.random.default_rng(seed)

    def draw(one):
        return one.sample(rng) if rows is None else np.stack([one.sample(rng) for _ in range(rows)])

    return {name: draw(one) for name, one in spec.observation.items()}


def learned(policy, updates=3, seed=0):
    """Some steps of plain gradient descent, as an algorithm makes them."""
    network = policy.network()
    generator = torch.Generator().manual_seed(seed)
    for i in range(updates):
        inputs = network.inputs(seen(rows=4, seed=i))
        network.observe(inputs)
        action = torch.rand((4, 3 * network.rows), generator=generator) - 0.5
        weight = torch.ones_like(action)
        weight[0, 12:] = 0
        network.observe_actions(action, weight)
        loss = network.loss(inputs, action, weight, generator)
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in network.named_parameters()], 1.0)
        with torch.no_grad():
            for _, p in network.named_parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
    return network


def test_it_keeps_the_promises_of_a_policy(policy):
    check_policy(policy, SPEC).require()
    assert policy.rows == 8 and policy.act(seen()).shape == (8, 3)


def test_what_is_learned_acts(policy):
    before = policy.act(seen(), deterministic=True)
    network = learned(policy)
    policy.load(network.arrays())
    after = policy.act(seen(), deterministic=True)
    assert not np.array_equal(before, after)
    inputs = network.inputs(seen(rows=1) | {n: a[None] for n, a in seen().items()})
    np.testing.assert_allclose(
        policy._scale.to_robot(network.generate(inputs, 0)[0].numpy()), after, atol=1e-5
    )


def test_its_noise_is_that_of_the_generator(policy):
    losses = [
        learned(policy, 1, seed).loss(
            policy.network().inputs(seen(rows=2)), torch.zeros(2, 24), None,
            torch.Generator().manual_seed(7),
        ).item()
        for seed in (0, 0)
    ]  # fmt: skip
    state = torch.random.get_rng_state()
    learned(policy, 1)
    assert losses[0] == losses[1] and torch.equal(state, torch.random.get_rng_state())


def test_rows_beyond_the_end_of_an_episode_do_not_count(policy):
    network = policy.network()
    inputs, weight = network.inputs(seen(rows=2)), torch.ones(2, 24)
    weight[:, 12:] = 0
    action = torch.zeros(2, 24)
    other = action.clone()
    other[:, 12:] = 0.9

    def loss(of):
        network.policy.eval = network.policy.train  # as it learns
        return network.loss(inputs, of, weight, torch.Generator().manual_seed(1)).item()

    if network.policy.config.type not in ("diffusion", "xvla"):
        # LeRobot's diffusion counts them unless it is told otherwise, X-VLA always
        assert loss(action) == pytest.approx(loss(other), rel=1e-5)


def test_lerobot_opens_what_was_learned_and_does_the_same(policy, tmp_path):
    policy.load(learned(policy).arrays())
    policy.save(tmp_path / "saved")
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    theirs = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    model = get_policy_class(theirs.type).from_pretrained(tmp_path / "saved", config=theirs)
    before, after = make_pre_post_processors(theirs, pretrained_path=str(tmp_path / "saved"))
    one = seen()
    batch = {
        "observation.state": torch.from_numpy(one["joint_position"])[None],
        "observation.images.image_front": torch.from_numpy(one["image_front"]).permute(2, 0, 1)[None] / 255,
        "task": ["reach the target"],
    }  # fmt: skip
    one_by_one = theirs.type == "multi_task_dit"  # its chunks are made of what it was shown before
    if theirs.observation_delta_indices is not None and not one_by_one:
        batch = {n: v[:, None] if n.startswith("obs") else v for n, v in batch.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ready = before(batch)
        if one_by_one:
            chunk = np.stack([after(model.select_action(ready))[0].numpy() for _ in range(8)])
        else:
            chunk = after(model.predict_action_chunk(ready))[0].numpy()
    ours = policy.act(one, deterministic=True)
    low, high = SPEC.action.low_array, SPEC.action.high_array
    np.testing.assert_allclose(ours, np.clip(chunk, low, high), atol=1e-5)
    # and back again, as a checkpoint of somebody else
    again = make(type=theirs.type, checkpoint=str(tmp_path / "saved"), config={})
    again.reset(TASK)
    np.testing.assert_allclose(again.act(one, deterministic=True), ours, atol=1e-5)


def fill_in_place(policy, other):
    with policy.in_place() as mine, other.in_place() as theirs:
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])


def test_versions_hold_what_is_trained_and_name_their_base(vlm, tmp_path):
    fresh = make(type="smolvla", config=vlm)
    fresh.save(tmp_path / "a")
    make(type="smolvla", config=vlm, seed=1).save(tmp_path / "b")
    one, other = (make(type="smolvla", checkpoint=str(tmp_path / n), config={}) for n in "ab")
    size = {
        name: sum(a.nbytes for a in p.arrays().values())
        for name, p in (("all", fresh), ("part", one))
    }
    assert size["part"] < 0.6 * size["all"]
    assert not any("vision" in name for name in one.arrays())
    one.load(learned(one).arrays())
    with pytest.raises(PolicyError, match="base of a policy version"):
        other.load(one.arrays())
    with one.in_place() as tensors:
        assert tensors.keys() == one.arrays().keys()
    with pytest.raises(PolicyError, match="base of a policy version"):
        fill_in_place(other, one)
    with pytest.raises(PolicyError, match="SHA-256"):
        make(type="smolvla", checkpoint=str(tmp_path / "a"), config={}, checkpoint_hash="0" * 64)


def test_adapters_are_part_of_the_weights_that_lerobot_opens(tmp_path):
    make(type="act").save(tmp_path / "base")
    adapted = make(checkpoint=str(tmp_path / "base"), config={}, adapter={"rank": 2})
    adapted.load(learned(adapted, 5).arrays())
    adapted.save(tmp_path / "saved")
    plain = make(checkpoint=str(tmp_path / "saved"), config={})
    np.testing.assert_allclose(
        plain.act(seen(), deterministic=True), adapted.act(seen(), deterministic=True), atol=1e-5
    )
    assert not np.allclose(
        plain.act(seen(), deterministic=True),
        make(checkpoint=str(tmp_path / "base"), config={}).act(seen(), deterministic=True),
        atol=1e-4,
    )


def test_plans_go_on_where_lerobot_can(vlm):
    policy = make(type="smolvla", config=vlm)
    policy.reset(TASK)
    plan = policy.act(seen(), deterministic=True)
    going_on = policy.continue_plan(seen(), plan[2:], 3, deterministic=True)
    assert going_on.shape == (8, 3)
    np.testing.assert_array_equal(going_on[:3], plan[2:5])
    assert not hasattr(make(type="act"), "continue_plan")


@pytest.fixture(scope="module")
def two_that_go_on(vlm, tmp_path_factory):
    words = tmp_path_factory.mktemp("words")
    make_tokenizer(words, ("reach", "the", "target"))
    with tiny_pi0():
        pi0 = make(
            type="pi0", config={"chunk_size": 8, "n_action_steps": 8, "num_inference_steps": 3},
            processors={"tokenizer_processor": {"tokenizer_name": str(words)}},
        )  # fmt: skip
    return {"pi0": pi0, "smolvla": make(type="smolvla", config=vlm)}


@pytest.mark.parametrize("kind", ["pi0", "smolvla"])
def test_plans_go_on_as_lerobots_own_real_time_chunking_makes_them(two_that_go_on, kind):
    """Without gradients, and with weights that are given to it."""
    policy = two_that_go_on[kind]
    policy.reset(TASK)
    network, theirs = policy._network, policy._network.policy
    plan = np.linspace([-0.9, -0.5, 0.1], [0.5, 0.9, 0.9], 6).astype(np.float32)
    inputs = network.inputs(seen(rows=1))
    with torch.no_grad():
        goes_on = policy._goes_on_from([plan], [2])
        given = network.batch(inputs) | {"action": network.theirs(goes_on.plans)}
        batch = network.prepared(given)
        left_over = batch.pop("action")
        noise = torch.randn(1, 8, theirs.config.max_action_dim)
        made = network.continue_chunk(batch, noise, *network._guide(left_over, goes_on))
        expected = theirs.predict_action_chunk(
            batch, noise=noise, prev_chunk_left_over=left_over[:, :6], inference_delay=2, execution_horizon=6,
        )  # fmt: skip
        alone = theirs.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(made, alone, atol=1e-3)


@pytest.mark.parametrize("kind", ["pi0", "smolvla"])
def test_robots_are_answered_by_one_pass_wherever_their_plans_are(
    two_that_go_on, kind, monkeypatch
):
    """Those that do not explore have the answer that they would have alone."""
    policy = two_that_go_on[kind]
    rng, passes = np.random.default_rng(0), []
    plans = [SPEC.action.sample(rng) * np.ones((n, 1), np.float32) for n in (6, 3, 8)]
    queries = [
        Query(seen(seed=i), i != 1, TASK, plan, frozen)
        for i, (plan, frozen) in enumerate(
            [*zip(plans, (1, 2, 3), strict=True), (None, 0), (None, 0)]
        )
    ]
    alone = [policy.act_batch([one])[0] for one in queries]
    for name in ("chunk", "continue_chunk"):
        own = getattr(policy._network, name)
        monkeypatch.setattr(
            policy._network, name, lambda *a, own=own, n=name: passes.append(n) or own(*a)
        )
    made = policy.act_batch(queries)
    assert sorted(passes) == ["chunk", "continue_chunk"]
    for i, (one, other) in enumerate(zip(made, alone, strict=True)):
        if i != 1:  # it explores
            np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(made[2][:3], plans[2][:3])


def test_a_robot_with_other_units_and_names(tmp_path):
    make(type="act").save(tmp_path)
    other = RobotSpec(
        "other",
        {
            "q": ArraySpec((3,), low=-200.0, high=200.0, unit="deg"),
            "image_top": ArraySpec((32, 32, 3), "uint8"),
        },
        ArraySpec((3,), low=(-100.0, -100.0, 0.0), high=100.0),
    )
    with pytest.raises(SpecError, match="image_top"):
        make(other, checkpoint=str(tmp_path), config={})
    policy = make(
        other, checkpoint=str(tmp_path), config={}, resize_images=True,
        mapping={"observation.images.image_front": "image_top"},
        scale={"observation.state": 0.01, "action": 0.01},
    )  # fmt: skip
    check_policy(policy, other).require()


def test_settings_of_steps_that_nothing_would_take_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="rename_observations_processor"):
        make(type="act", processors={"rename_observations_processor": {"rename_map": {}}})
    make(type="act").save(tmp_path)
    for file in tmp_path.glob("policy_*"):
        file.unlink()
    with pytest.raises(ConfigError, match="device_processor"):
        make(checkpoint=str(tmp_path), config={}, statistics="data",
             processors={"device_processor": {"device": "cpu"}})  # fmt: skip


def test_bad_checkpoints(tmp_path):
    make(type="act").save(tmp_path)
    with pytest.raises(PolicyError, match="type diffusion"):
        make(type="diffusion", checkpoint=str(tmp_path), config={})
    with pytest.raises(PolicyError, match="another architecture"):
        make(checkpoint=str(tmp_path), config={"dim_model": 64})
    with pytest.raises(PolicyError, match="no such folder"):
        make(checkpoint=str(tmp_path / "nothing"), config={})
    with pytest.raises(ConfigError, match="chunk_size"):
        make(checkpoint=str(tmp_path), config={"chunk_siz": 4})
    for file in tmp_path.glob("policy_*normalizer*"):
        file.unlink()
    with pytest.raises(PolicyError):
        make(checkpoint=str(tmp_path), config={})
    for file in tmp_path.glob("policy_*"):
        file.unlink()
    with pytest.raises(PolicyError, match="no policy_preprocessor.json"):
        make(checkpoint=str(tmp_path), config={})
    make(checkpoint=str(tmp_path), config={}, statistics="data")
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PolicyError, match=r"a whole model\.safetensors"):
        make(checkpoint=str(tmp_path), config={}, statistics="data")
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"type": "unheard"}))
    with pytest.raises(PolicyError, match="unheard"):
        make(checkpoint=str(tmp_path), config={})


def test_statistics_of_a_data_set_that_lacks_some(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/stats.json").write_text(
        json.dumps({"action": {"mean": [0] * 3, "std": [1] * 3}})
    )
    with pytest.raises(PolicyError, match=r"observation.state \(mean, std\)"):
        make(type="act", statistics=str(tmp_path))


def test_without_an_instruction_nothing_is_trained_and_nothing_moves(vlm):
    policy = make(type="smolvla", config=vlm, instruction="")
    with pytest.raises(PolicyError, match="instruction"):
        policy.network()
    with pytest.raises(PolicyError, match="instruction"):
        policy.reset(Task("reach"))
    policy.reset(TASK)


def test_unknown_types_and_chunks_that_begin_before_now():
    with pytest.raises(PluginError, match="smolvla"):
        make(type="magic")
    policy = make(type="diffusion", config=DIFFUSION | {"n_obs_steps": 2})
    assert policy.observation_history == 2
    past = {name: np.stack([array, array]) for name, array in seen().items()}
    assert policy.act(past).shape[1] == 3, "it acts"
    with pytest.raises(PolicyError, match="n_obs_steps: 1"):
        policy.network()


def test_pi0_fast_learns_acts_and_is_saved(tmp_path, monkeypatch):
    dynamic = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    with tiny_pi0("pi0_fast"):
        policy = make(type="pi0_fast", config=make_small_fast(tmp_path, 8, 3))
        policy.reset(TASK)
        before = policy.act(seen(), deterministic=True)
        assert before.shape == (8, 3)
        network = learned(policy, 2)
        now = network.arrays()
        assert any(
            name.startswith("policy.") and not np.array_equal(one, now[name])
            for name, one in policy.arrays().items()
        )
        policy.load(network.arrays())
        policy.save(tmp_path / "saved")
        # LeRobot does not write which words its tokens of actions are among
        again = make(type="pi0_fast", checkpoint=str(tmp_path / "saved"), config={})
        again.reset(TASK)
        np.testing.assert_array_equal(
            again.act(seen(), deterministic=True), policy.act(seen(), deterministic=True)
        )


def test_what_lerobot_trains_in_a_way_of_its_own_says_so(others):
    acts = make(type="vqbet", config=VQBET)
    acts.reset(TASK)
    assert acts.act(seen()).shape == (8, 3)
    with pytest.raises(PolicyError, match="lerobot-train"):
        acts.network()
    for kind in ("tdmpc", "gaussian_actor"):
        with pytest.raises(PolicyError, match="Train and run it with LeRobot"):
            make(type=kind, config={})
    foresees = make(type="vla_jepa", config=others("vla_jepa"))
    foresees._network.sees_ahead = 7  # as with its model of the world, another large network
    with pytest.raises(PolicyError, match="7 steps after now"):
        foresees.network()


def test_a_policy_that_reads_by_itself_is_told_the_task(others):
    policy = make(type="vla_jepa", config=others("vla_jepa"), instruction="")
    with pytest.raises(PolicyError, match="in words"):
        policy.reset(Task("reach"))
    chunks = []
    for words in ("reach the target", "target the reach"):
        policy.reset(Task("reach", words))
        chunks.append(policy.act(seen(), deterministic=True))
    assert not np.array_equal(*chunks)


def test_a_policy_that_fetches_its_defaults_is_made_without_them(others, monkeypatch):
    """EO1 asks the hub for the configuration of its backbone, unless it is told of another."""
    import transformers

    asked, whole = [], transformers.Qwen2_5_VLConfig.from_pretrained
    monkeypatch.setattr(
        transformers.Qwen2_5_VLConfig, "from_pretrained",
        lambda name, *args, **more: asked.append(str(name)) or whole(name, *args, **more),
    )  # fmt: skip
    theirs = others("eo1")
    make(type="eo1", config=theirs)
    assert set(asked) == {theirs["vlm_base"]}


def test_a_policy_that_remembers_what_it_was_shown_sees_a_history(others):
    two = {"n_obs_steps": 2, "n_action_steps": 7}
    policy = make(type="multi_task_dit", config=others("multi_task_dit") | two)
    policy.reset(TASK)
    assert policy.observation_history == 2
    rng = np.random.default_rng(0)  # as it is made nothing that is seen counts
    arrays = {
        n: a + 0.1 * rng.standard_normal(a.shape).astype(a.dtype) if a.dtype == np.float32 else a
        for n, a in policy.arrays().items()
    }
    policy.load(arrays)
    pasts = [
        {name: np.stack([array, seen(seed=9)[name]]) for name, array in seen(seed=seed).items()}
        for seed in (1, 2, 1)
    ]
    chunks = [policy.act(past, deterministic=True) for past in pasts]
    assert not np.array_equal(chunks[0], chunks[1])
    np.testing.assert_array_equal(chunks[0], chunks[2])


@pytest.mark.parametrize(
    ("kind", "theirs", "history"),
    [
        ("act", ACT, 1),
        ("diffusion", DIFFUSION, 1),
        ("diffusion", {**DIFFUSION, "n_obs_steps": 2}, 2),
    ],
)
def test_its_history_is_known_before_it_is_made(kind, theirs, history):
    config = LeRobotConfig(type=kind, config=theirs)
    assert LeRobotPolicy.history_of(config, SPEC) == history
    assert LeRobotPolicy(config, SPEC).observation_history == history


def test_a_process_that_only_asks_for_its_history_keeps_no_lerobot(tmp_path):
    """The actor of a robot whose plans come from an inference server: a gigabyte, for a number."""
    program = """
import sys
from user_core import plugins
from user_core.errors import ConfigError
from user_core.specs import RobotSpec

kind = plugins.load("policies", "lerobot")
spec = RobotSpec.from_dict(json.loads(sys.argv[1]))
history = kind.history_of(kind.Config(type="diffusion", config={"n_obs_steps": 2}), spec)
assert history == 2, history
try:
    kind.history_of(kind.Config(type="diffusion", config={"n_obs_step": 2}), spec)
except ConfigError as error:
    assert "n_obs_steps" in error.hint, error
else:
    raise AssertionError("no error for a setting that is not there")
assert not {"torch", "lerobot"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", "import json" + program, json.dumps(SPEC.to_dict())],
        capture_output=True, text=True, timeout=120, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert not done.returncode, done.stderr


def test_several_tasks_are_told_apart_by_their_words(vlm):
    words = {"reach": "reach the red ball", "push": "push the blue cube to the left"}
    policy = make(type="smolvla", config=vlm, instruction="", instructions=words)
    assert policy.tasks == ("reach", "push")
    network = policy.network()
    inputs = network.inputs(seen(rows=3) | {"@task": np.array([1, 0, 2])})
    assert network.batch(inputs)["task"] == [words["push"], words["reach"], ""]
    one = {n: a[:1] for n, a in seen(rows=3).items()}
    losses = {
        name: network.loss(
            network.inputs(one | {"@task": np.array([i])}), torch.zeros(1, 24), None,
            torch.Generator().manual_seed(0),
        ).item()
        for i, name in enumerate(words)
    }  # fmt: skip
    assert losses["reach"] != losses["push"]
    acts = {}
    for name in words:
        policy.reset(Task(name))
        acts[name] = policy.act(seen(), deterministic=True)
    assert not np.array_equal(acts["reach"], acts["push"])
    queries = [Query(seen(), True, Task(name)) for name in words]
    for name, answer in zip(words, policy.act_batch(queries), strict=True):
        np.testing.assert_allclose(answer, acts[name], atol=1e-5)
    with pytest.raises(PolicyError, match="instructions"):
        policy.act_batch([Query(seen(), True, Task("pour"))])


def test_loading_copies_no_weights_but_those_that_come(monkeypatch):
    policy = make(type="act")
    arrays = policy.arrays()
    assert policy._network.shapes() == {name: a.shape for name, a in arrays.items()}
    monkeypatch.setattr(type(policy._network), "arrays", lambda self: pytest.fail("a copy"))
    policy.load(arrays)


def test_policies_are_opened_by_two_threads_and_others_print_on(vlm, capsys):
    """Each has its own tokenizer, and standard output is what it was."""
    out, errors = sys.stdout, []

    def opens():
        try:
            for _ in range(2):
                make(type="smolvla", config=vlm)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=opens) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        print("said")
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert sys.stdout is out and not errors
    said = capsys.readouterr().out
    assert said.count("said") > 10 and set(said.split()) == {"said"}
