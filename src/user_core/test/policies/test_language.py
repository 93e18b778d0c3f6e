"""Policies of several tasks, which are told apart by instructions in words."""

import sys
import types

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.errors import ConfigError, PluginError, SpecError
from user_core.policies import policy_config_hash
from user_core.policies.language import sentence
from user_core.policies.language.config import INSTRUCTION, INSTRUCTION_SIZE, TASK
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Task

SPEC = RobotSpec("r", {"x": ArraySpec((2,), low=-1, high=1)}, ArraySpec((1,), low=-1.0, high=1.0))
TASKS = {"left": "go to the left", "right": "go to the right"}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Embeddings without the model: one direction for each word; counts what is encoded."""
    counts = []

    def embeddings(sentences, weights=""):
        counts.append(list(sentences))
        found = np.zeros((len(sentences), INSTRUCTION_SIZE), np.float32)
        for row, text in enumerate(sentences):
            for word in text.split():
                found[row, sum(word.encode()) % INSTRUCTION_SIZE] += 0.5
        return found

    monkeypatch.setattr(sentence, "embeddings", embeddings)
    return counts


def policy(name="flow", **params):
    small = {"rows": 2, "steps": 2, "hidden": [16], "embedding": 16, "layers": 1, "heads": 2}
    if name == "act":
        small = {k: v for k, v in small.items() if k not in ("steps", "hidden")}
    return plugins.build("policies", name, small | {"language": {"tasks": TASKS}} | params, SPEC)


def test_pieces_of_words_are_the_longest_that_are_known():
    known = ["[CLS]", "[SEP]", "[UNK]", "un", "##believ", "##able", "put", ".", "##a", "a"]
    vocabulary = {word: number for number, word in enumerate(known)}
    wanted = ["[CLS]", "put", "a", "un", "##believ", "##able", ".", "[UNK]", "[SEP]"]
    found = sentence.pieces("Put Á unbelievable. xyz", vocabulary)
    assert [known[number] for number in found] == wanted


def test_sentences_become_what_the_model_of_the_package_makes_of_them(monkeypatch):
    """The numbers are those of transformers' BertModel and tokenizer with the same files (looked at once)."""
    pytest.importorskip(sentence.MODEL_PACKAGE, reason="extra_language.txt is not installed")
    monkeypatch.undo()
    texts = [
        "put the peg into the hole", "insert the peg", "open the drawer", "naïve café—test 123,456 (x)",
    ]  # fmt: skip
    found = sentence.embeddings(texts)
    assert found.shape == (4, INSTRUCTION_SIZE) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, :4], [0.01893, 0.04918, -0.06022, 0.01095], atol=1e-4)
    np.testing.assert_allclose(found[3, :4], [0.0279, 0.02008, -0.00182, -0.03306], atol=1e-4)
    near = [
        [1, 0.8841, 0.3661],
        [0.8841, 1, 0.3414],
        [0.3661, 0.3414, 1],
    ]  # who means alike is alike
    np.testing.assert_allclose(found[:3] @ found[:3].T, near, atol=1e-3)
    numbers = sentence.pieces(texts[3], sentence._model("")[1])
    assert numbers == [101, 15743, 7668, 1517, 3231, 13138, 1010, 3429, 2575, 1006, 1060, 1007, 102]
    sentence._model.cache_clear()


@pytest.mark.parametrize("params", [{}, {"backbone": "transformer"}, {"name": "act"}])
def test_instructions_are_encoded_once_and_go_to_actors_with_the_weights(words, params):
    learner, actor = policy(**params), policy(**params)
    network = learner.network()
    learner.network()
    assert words == [["go to the left", "go to the right"]]
    rng = np.random.default_rng(0)
    arrays = network.arrays()
    arrays = {
        n: a if n == "instructions" or "scale" in n else a + 0.1 * rng.standard_normal(a.shape).astype("f4")
        for n, a in arrays.items()
    }  # fmt: skip
    actor.load(arrays)
    seen, acts = {"x": np.zeros(2, np.float32)}, {}
    for task in (Task("left"), Task("right"), Task("left"), Task("other", "go to the left")):
        actor.reset(task)
        announced = len(words)
        acts.setdefault(task.name, []).append(actor.act(seen, deterministic=True))
        assert len(words) == announced, "a step of the control loop encodes nothing"
    assert np.array_equal(*acts["left"]) and np.array_equal(acts["left"][0], acts["other"][0])
    assert not np.allclose(acts["left"][0], acts["right"][0])
    assert words[1:] == [["go to the left"]]  # words that no task had are encoded where it acts


def test_batches_say_which_task_each_step_is_of():
    network = policy(backbone="transformer").network()
    seen = {"x": np.zeros((3, 2), np.float32), TASK: np.array([0, 1, 2])}
    told = network.inputs(seen)[INSTRUCTION]
    assert torch.equal(told[:2], network.instructions[:2]) and not told[2].any()
    with pytest.raises(SpecError, match="policy.tasks"):
        network.inputs({"x": seen["x"]})
    loss = network.loss(network.inputs(seen), torch.zeros(3, 2), None, torch.Generator())
    loss.backward()


def test_what_instructions_mean_is_asked_of_a_gpu_once_and_after_a_load():
    network = policy().network()
    seen = {"x": np.zeros((2, 2), np.float32), TASK: np.array([0, 1])}
    told = network.inputs(seen)[INSTRUCTION]
    state = network.state_dict()
    network.load_state_dict(state | {"instructions": 2 * state["instructions"]})
    assert torch.equal(network.inputs(seen)[INSTRUCTION], 2 * told)
    network.to("meta")  # from which nothing can be read
    assert torch.equal(network.inputs(seen)[INSTRUCTION], 2 * told)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.undo()
    sentence._model.cache_clear()
    monkeypatch.setitem(sys.modules, sentence.MODEL_PACKAGE, None)
    with pytest.raises(PluginError, match="extra_language"):
        sentence.embeddings(["go"])
    module = types.ModuleType(sentence.MODEL_PACKAGE)
    module.get_model_path = lambda: tmp_path
    monkeypatch.setitem(sys.modules, sentence.MODEL_PACKAGE, module)
    with pytest.raises(ConfigError, match="vocab.txt"):
        sentence.embeddings(["go"])
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="all-MiniLM"):
        sentence.embeddings(["go"], str(tmp_path))


def test_where_the_model_lies_does_not_count_and_which_tasks_do():
    hashes = [
        policy_config_hash("flow", {"language": {"tasks": TASKS, **more}}, SPEC)
        for more in ({}, {"weights": "/there"}, {"tasks": {"left": "go"}})
    ]
    assert hashes[0] == hashes[1] != hashes[2]
