"""Of policies of LeRobot all that is to be recorded as CUDA graphs is done without the host: tried on torch's device
"meta", which has shapes and no numbers, so that whatever looks at numbers, or needs some of the host, fails."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from user_core.policies.cuda_graphs import Recorder, _Operations, mapped, rehearsed
from user_core.policies.language.config import TASK
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.policies.lerobot.recordable import _of_whole_images, padded_words
from user_core.specs import ArraySpec, RobotSpec
from user_testing.small_vlm import make_small_vlm, make_tokenizer, two_layers_of_pi0

pytest.importorskip("lerobot", reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((3,), low=-2.0, high=2.0),
        "image_front": ArraySpec((64, 64, 3), "uint8"),
        "image_wrist": ArraySpec((64, 64, 3), "uint8"),
    },
    ArraySpec((3,), low=-1.0, high=1.0),
)
ROWS = 2


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return make_small_vlm(tmp_path_factory.mktemp("vlm"))


def smolvla(vlm):
    return LeRobotPolicy(
        LeRobotConfig(type="smolvla", config=vlm, instruction="reach the target"), SPEC
    )


def seen(rows=ROWS):
    rng = np.random.default_rng(0)
    return {
        n: np.stack([one.sample(rng) for _ in range(rows)]) for n, one in SPEC.observation.items()
    }


def on_meta(tensors):
    return mapped(tensors, lambda one: one.to("meta"))


def tape():
    return "graph", lambda: None


def recorded(what, notes_on=""):
    """What is launched, as a GPU would record it."""
    with _Operations(lambda seconds: None, notes_on), rehearsed("meta") as constants:
        what()
    recorder = Recorder(tape, notes_on=notes_on, constants=constants)
    with recorder.recording():
        made = what()
    assert recorder.graphs == ["graph"]
    return made


def all_is_recorded(policy, network, ready, plain):
    """An update of ``network``, a chunk, and one that goes on from another."""
    policy._let_go_on()
    for module in network.modules():  # what its own code found on the host, once
        places = module.__dict__.get("_kept_places", {})
        places |= {(*key[:2], torch.device("meta")): on_meta(one) for key, one in places.items()}
    network.to("meta")
    network.noise_from = lambda generator: nullcontext()
    action = torch.zeros((ROWS, network.rows * 3), device="meta")

    def update():
        network.zero_grad()
        network.loss(on_meta(ready), action, None, torch.Generator()).backward()

    noise = torch.rand((ROWS, network.rows, network.policy.config.max_action_dim), device="meta")
    weights = torch.rand((ROWS, network.rows, 1), device="meta")

    def chunk():
        network.policy.eval()
        with torch.no_grad():
            return network.chunk(on_meta(plain), noise)

    def going_on():
        with torch.no_grad():
            return network.continue_chunk(on_meta(plain), noise, noise, weights)

    recorded(update, "meta")
    unreached = [name for name, p in network.named_parameters() if p.grad is None]
    for call in (chunk, going_on):
        assert recorded(call).shape == (ROWS, network.rows, 3)
    return unreached


def test_smolvla_needs_the_host_for_nothing_that_is_recorded(vlm):
    policy = smolvla(vlm)
    network = policy._network
    inputs = network.inputs(seen())
    ready = network.ready(inputs, torch.zeros(ROWS, network.rows * 3), None, torch.Generator())
    plain = network._tensors(network.prepared(network.batch(inputs)), ROWS)
    assert {"ready/drawn.times", "ready/observation.language.tokens"} <= set(ready)
    with torch.no_grad():
        network.chunk(dict(plain))
    network.policy.reset()
    all_is_recorded(policy, network, ready, plain)


def test_pi0_needs_the_host_for_nothing_that_is_recorded_and_trains_what_its_loss_reaches(
    tmp_path, monkeypatch
):
    """Without memory for its weights; of 2 layers of each kind."""
    make_tokenizer(tmp_path)
    config = LeRobotConfig(
        type="pi0", instruction="reach", config={"dtype": "bfloat16", "chunk_size": 8, "n_action_steps": 8},
        processors={"tokenizer_processor": {"tokenizer_name": str(tmp_path)}},
    )  # fmt: skip
    with monkeypatch.context() as patch, torch.device("meta"), two_layers_of_pi0():
        patch.setattr(torch.nn.Module, "to", lambda self, *args, **keywords: self)
        policy = LeRobotPolicy(config, SPEC)
    network = policy._network
    heads = [n for n, p in network.policy.named_parameters() if not p.requires_grad]
    assert {n.split(".")[-2] for n in heads} >= {"lm_head", "o_proj", "down_proj"}
    images = {f"observation.images.{n}": torch.rand(ROWS, 3, 64, 64) for n in ("image_front", "image_wrist")}  # fmt: skip
    plain = images | {
        "observation.state": torch.rand(ROWS, 3),
        "observation.language.tokens": torch.zeros((ROWS, 48), dtype=torch.int64),
        "observation.language.attention_mask": torch.ones((ROWS, 48), dtype=torch.bool),
    }
    learned = {"action": torch.rand(ROWS, 8, 3), "action_is_pad": torch.zeros(ROWS, 8, dtype=torch.bool)}  # fmt: skip
    ready = {f"ready/{n}": one for n, one in (plain | learned | {"drawn.times": torch.rand(ROWS)}).items()}  # fmt: skip
    assert all_is_recorded(policy, network, ready, plain) == []


def test_images_without_padding_are_seen_as_by_its_own_code(vlm):
    vision = smolvla(vlm)._network.policy.model.vlm_with_expert.get_vlm_model().vision_model
    own = type(vision).__mro__[1]
    assert type(vision) is _of_whole_images(own) and own.__module__.startswith("transformers")
    for shape in ((64, 64), (64, 32)):
        pixels = torch.rand((3, 3, *shape), generator=torch.Generator().manual_seed(0))
        expected = own.forward(vision, pixel_values=pixels).last_hidden_state
        assert torch.equal(vision(pixel_values=pixels).last_hidden_state, expected)


def test_what_is_ready_teaches_what_the_inputs_do(vlm):
    """But for the noise, which is drawn at other times."""
    network = smolvla(vlm).network()
    action = torch.rand((ROWS, network.rows * 3), generator=torch.Generator().manual_seed(1))
    inputs = network.inputs(seen())
    weight = torch.ones_like(action)
    weight[0, 6:] = 0

    def loss(given):
        with pytest.MonkeyPatch.context() as patch:
            model = network.policy.model
            patch.setattr(model, "sample_noise", lambda shape, device: torch.full(shape, 0.3))
            patch.setattr(model, "sample_time", lambda rows, device: torch.full((rows,), 0.5))
            made = given if isinstance(given, dict) else given()
            return network.loss(made, action, weight, torch.Generator().manual_seed(0)).item()

    plain = loss(inputs)
    ready = loss(lambda: network.ready(inputs, action, weight, torch.Generator()))
    assert ready == pytest.approx(plain, rel=1e-5)


def test_the_task_of_each_row_is_read_on_the_host(vlm):
    tasks = {"reach": "reach the target", "leave": "leave the target"}
    config = LeRobotConfig(type="smolvla", config=vlm, instructions=tasks)
    network = LeRobotPolicy(config, SPEC).network()
    inputs = network.inputs({**seen(), TASK: np.array([1, 7])})
    assert network.on_host <= inputs.keys()
    network.to("meta")  # from which nothing can be read
    far = {n: t if n in network.on_host else t.to("meta") for n, t in inputs.items()}
    assert network.batch(far)["task"] == ["leave the target", ""], "the last is none of them"


def test_instructions_of_other_lengths_have_the_same_shape():
    for length in (1, 3, 16):
        tokens = torch.arange(2 * length).reshape(2, length)
        batch = {
            "observation.language.tokens": tokens,
            "observation.language.attention_mask": torch.ones_like(tokens, dtype=torch.bool),
        }
        found = padded_words(batch)
        assert {tuple(one.shape) for one in found.values()} == {(2, 16)}
        assert found["observation.language.attention_mask"].sum() == 2 * length
    assert padded_words({"x": torch.ones(2, 3)})["x"].shape == (2, 3)
