"""Success from images: learned from labelled episodes, tried on others; what it refuses."""

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.numpy import save

from user_core.config import from_mapping
from user_core.errors import ConfigError, SpecError
from user_core.rewards.classifier import (
    ClassifierConfig,
    ClassifierModel,
    ClassifierReward,
    make_network,
    mean_of,
    read_model,
    write_model,
)
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    NO_TASK,
    EpisodeKey,
    Outcome,
    TrajectorySchema,
)
from user_learner.cli import reward as command
from user_learner.edits import Edit, EditedEpisodes, EditLog
from user_learner.replay import StoreWriter
from user_learner.success import training
from user_learner.success.evaluation import best_run, evaluate
from user_learner.success.training import TrainConfig, choose_threshold, labelled, train
from user_testing.worlds.replay import QUICK, blank_episode, whole_episode

SIDE = 32
SPEC = RobotSpec("arm", {"image_front": ArraySpec((SIDE, SIDE, 3), "uint8")}, ArraySpec((2,)))
SCHEMA = TrajectorySchema.of(SPEC)


def images_of(solved, rng, steps=24):
    """A bright square walks over a noisy floor; solved: it ends in a dark box, else beside it."""
    frames = rng.integers(60, 110, (steps + 1, SIDE, SIDE, 3)).astype(np.uint8)
    frames[:, 4:14, 18:28] = 20
    goal = np.array([9, 23]) if solved else rng.uniform([18, 6], [28, 26])
    start = rng.uniform([20, 4], [28, 28])
    for n, frame in enumerate(frames):
        at = start + (goal - start) * min(1.0, n / (steps - 3))
        y, x = np.clip(at.round().astype(int), 3, SIDE - 4)
        frame[y - 2 : y + 3, x - 2 : x + 3] = (230, 200, 40)
    return frames


def record(path, count, seed, solved=lambda n: n % 2 == 0):
    rng = np.random.default_rng(seed)
    with StoreWriter(path, config=QUICK) as writer:
        for number in range(count):
            images = images_of(solved(number), rng)
            columns = blank_episode(SCHEMA, len(images))
            columns["observation.image_front"] = images
            key = EpisodeKey("arm", seed, number)
            outcome = Outcome.SUCCESS if solved(number) else Outcome.FAILURE
            writer.append(whole_episode(key, SCHEMA, columns, outcome, task="box"))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other take longer than the work, on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier")
    store, model = record(path / "train", 24, 1), path / "success.safetensors"
    text = io.StringIO()
    status = command.main(
        ["train", str(store), "--out", str(model), "--set", "size=32", "--set", "epochs=15",
         "--set", "batch=32", "--set", "parts=2"],
        Console(file=text, width=200),
    )  # fmt: skip
    assert status == 0, text.getvalue()
    return path, model


def test_it_tells_successes_of_episodes_that_it_never_saw(trained, capsys):
    path, model = trained
    store = record(path / "test", 20, 2)
    text = io.StringIO()
    out = path / "judged"
    words = ["eval", str(store), "--model", str(model), "--out", str(out)]
    assert command.main(words, Console(file=text, width=200)) == 0
    assert command.main([*words, "--json"], Console(file=text)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] >= 0.9
    assert found["recall"] >= 0.9
    for name in ("curve.png", "mistakes.png"):
        assert np.asarray(Image.open(out / name)).std() > 5


def test_as_a_reward_it_wants_frames_in_a_row_and_holds_on(trained, monkeypatch):
    _, model = trained
    params = {"model": str(model), "threshold": 0.8, "hysteresis": 0.2, "frames": 3}
    reward = ClassifierReward(from_mapping(ClassifierConfig, params))
    frame = {"image_front": np.zeros((SIDE, SIDE, 3), np.uint8)}
    scores = iter([0.9, 0.9, 0.1, 0.7, 0.9, 0.7, 0.7, 0.5, 0.9])
    monkeypatch.setattr(reward, "scores", lambda observation: np.array([next(scores)]))
    said = [reward(frame, np.zeros(2), frame, NO_TASK) for _ in range(9)]
    assert [one.success for one in said] == [False] * 6 + [True, False, False]
    assert [one.reward for one in said] == [0.0] * 6 + [1.0, 0.0, 0.0]
    assert [one.terminated for one in said] == [one.success for one in said]
    reward.reset()
    assert reward._run == 0


def test_judging_a_robot_frame_by_frame_is_what_evaluation_says(trained):
    path, model = trained
    reward = ClassifierReward(from_mapping(ClassifierConfig, {"model": str(model)}))
    with EditedEpisodes(path / "train") as view:
        episodes = labelled(view)[:6]
        found = evaluate(view, reward, episodes)
        for episode, judged in zip(episodes, found.episodes):
            columns, success = view.read(episode), False
            reward.reset()
            frames = [{"image_front": f} for f in columns["observation.image_front"]]
            for before, after in itertools.pairwise(frames):
                success |= bool(reward(before, np.zeros(2), after, NO_TASK).success)
            assert success == judged.found


def test_the_networks_that_the_threshold_was_chosen_with_judge(trained, monkeypatch):
    """Another one need not agree with it: by one network of all episodes, a quarter of the successes was once
    missed."""
    path, _ = trained
    made, fitted = [], training.fitted
    monkeypatch.setattr(training, "fitted", lambda *args: made.append(fitted(*args)) or made[-1])
    with EditedEpisodes(path / "train") as view:
        model, network, _ = train(view, TrainConfig(size=32, epochs=1, parts=3))
    assert model.networks == len(made) == 3 and list(network.members) == made
    assert not any(module.training for module in network.modules())
    write_model(path / "three", model, network)
    frames = {
        "image_front": np.random.default_rng(0).integers(0, 255, (5, SIDE, SIDE, 3), np.uint8)
    }
    one = replace(model, networks=1)
    each = [training.score_frames(one, member, frames) for member in made]
    logits = np.mean([np.log(score / (1 - score)) for score in each], axis=0)
    reward = ClassifierReward(from_mapping(ClassifierConfig, {"model": str(path / "three")}))
    np.testing.assert_allclose(reward.scores(frames), 1 / (1 + np.exp(-logits)), rtol=1e-3)


def test_a_file_of_one_network_that_says_nothing_of_networks_judges_as_it_did(tmp_path):
    model = ClassifierModel({"image_front": (SIDE, SIDE, 3)}, 32, 0.7, {"episodes": 40})
    network = make_network(model).eval()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    assert sorted(weights)[:2] == ["0.bias", "0.weight"]  # as such files name them
    about = {"cameras": model.cameras, "size": 32, "threshold": 0.7, "trained_on": {"episodes": 40}}
    metadata = {"user_success_classifier": json.dumps(about)}
    (tmp_path / "older").write_bytes(save(weights, metadata))
    reward = ClassifierReward(from_mapping(ClassifierConfig, {"model": str(tmp_path / "older")}))
    assert reward.model == model
    frames = {
        "image_front": np.random.default_rng(0).integers(0, 255, (5, SIDE, SIDE, 3), np.uint8)
    }
    assert (reward.scores(frames) == training.score_frames(model, network, frames)).all()


def test_other_cameras_are_refused(trained):
    _, model = trained
    reward = ClassifierReward(from_mapping(ClassifierConfig, {"model": str(model)}))
    for other in (
        {"image_wrist": np.zeros((SIDE, SIDE, 3), np.uint8)},
        {"image_front": np.zeros((SIDE, 2 * SIDE, 3), np.uint8)},
        {"image_front": np.zeros((SIDE, SIDE, 3), np.float32)},
    ):
        with pytest.raises(SpecError, match="cameras"):
            reward(other, np.zeros(2), other, NO_TASK)


def test_labels_of_one_class_only_are_refused(tmp_path):
    store = record(tmp_path / "store", 10, 3, solved=lambda n: True)
    with EditedEpisodes(store) as view:
        with pytest.raises(ConfigError, match="10 successes, 0 failures"):
            train(view, TrainConfig(size=32))
        keys = [episode.key for episode in view.episodes()]
        # labels that came later count: then there are both, and a second of each
        EditLog(store).append(Edit.relabel(keys[:4], Outcome.FAILURE))
        view.refresh()
        model, _, about = train(view, TrainConfig(size=32, epochs=1, parts=2))
        assert (about["successes"], about["episodes"]) == (6, 10)
        assert 0 < model.threshold < 1
    few = record(tmp_path / "few", 4, 3)
    with EditedEpisodes(few) as view, pytest.raises(ConfigError, match="8 or more"):
        train(view, TrainConfig(size=32))


def test_a_model_of_other_cameras_judges_nothing_stored_and_leaves_the_column_to_another(tmp_path):
    store = record(tmp_path / "store", 2, 3)
    shapes = {"other": {"image_wrist": (SIDE, SIDE, 3)}, "mine": {"image_front": (SIDE, SIDE, 3)}}
    said = {}
    for name, cameras in shapes.items():
        model = ClassifierModel(cameras, 32)
        write_model(tmp_path / name, model, make_network(model))
        text = io.StringIO()
        params = f"{{model: {tmp_path / name}}}"
        status = command.main(
            ["relabel", str(store), "--reward", "classifier", "--params", params],
            Console(file=text, width=200),
        )
        with EditedEpisodes(store) as view:
            said[name] = (status, text.getvalue(), view.state.reward_column)
    status, text, column = said["other"]
    assert (status, column) == (1, "") and "image_wrist" in text and "nothing was judged" in text
    status, text, column = said["mine"]
    assert (status, column) == (0, "classifier"), text


def test_cameras_that_are_not_there_are_named(tmp_path):
    store = record(tmp_path / "store", 8, 3)
    with EditedEpisodes(store) as view, pytest.raises(ConfigError, match="wrist.*image_front"):
        train(view, TrainConfig(cameras=("wrist",)))
    blind = TrajectorySchema.of(replace(SPEC, observation={"joint": ArraySpec((2,))}))
    with StoreWriter(tmp_path / "blind", config=QUICK) as writer:
        columns = blank_episode(blind, 5)
        writer.append(whole_episode(EpisodeKey("arm", 1, 0), blind, columns, Outcome.SUCCESS))
    with EditedEpisodes(tmp_path / "blind") as view:
        with pytest.raises(ConfigError, match=r"images of the store.*joint.*--kind progress"):
            train(view, TrainConfig())


def test_a_file_that_is_no_model_is_refused(tmp_path):
    for name, data in (("empty", b""), ("text", b"hello" * 10), ("huge", b"\xff" * 64)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match="user reward train"):
            read_model(tmp_path / name)
    with pytest.raises(ConfigError, match="user reward train"):
        read_model(tmp_path / "nowhere")
    model = ClassifierModel({"image": (32, 32, 3)}, 32)
    write_model(tmp_path / "good", model, make_network(model))
    assert read_model(tmp_path / "good")[0] == model
    for wrong in (0, 21):
        members = [make_network(model) for _ in range(2)]
        write_model(tmp_path / "many", replace(model, networks=wrong), mean_of(members))
        with pytest.raises(ConfigError, match=f"{wrong} networks"):
            read_model(tmp_path / "many")
    write_model(tmp_path / "fewer", replace(model, networks=3), mean_of(members))
    with pytest.raises(ConfigError, match="user reward train"):
        read_model(tmp_path / "fewer")


def test_the_threshold_has_the_precision_and_the_recall_that_are_wanted():
    rng = np.random.default_rng(0)
    fails = 1 / (1 + np.exp(-rng.normal(-2, 1.5, 20)))
    successes = 1 / (1 + np.exp(-rng.normal(6, 1.5, 40)))
    solved = np.arange(60) >= 20
    chosen = choose_threshold(np.append(fails, successes), solved, 0.95, 0.9)
    assert chosen.is_reached and chosen.precision == 1.0 and chosen.recall >= 0.9
    assert fails.max() < chosen.threshold
    assert (successes >= chosen.threshold).sum() >= 37  # (37 + 1) / (40 + 2) is above 0.9


def test_of_few_episodes_no_share_is_promised():
    scores, solved = np.array([0.1, 0.2, 0.9, 0.95]), np.array([False, False, True, True])
    chosen = choose_threshold(scores, solved, 0.95, 0.9)
    assert 0.2 < chosen.threshold < 0.9 and (chosen.precision, chosen.recall) == (1.0, 1.0)
    assert not chosen.is_reached  # 2 of 2 are no 0.9


def test_where_both_cannot_be_had_it_is_said():
    rng = np.random.default_rng(1)
    scores, solved = rng.uniform(0, 1, 100), np.arange(100) % 2 == 0  # it knows nothing
    chosen = choose_threshold(scores, solved, 0.95, 0.9)
    assert not chosen.is_reached and 0.4 < chosen.threshold < 0.6


def test_a_few_odd_episodes_do_not_move_it_far():
    """A failure that looks like a success, and a success that was hardly seen: what is usual decides."""
    solved = np.arange(40) >= 12
    logits = np.where(solved, 8.0, -5.0)
    score = 1 / (1 + np.exp(-logits))
    plain = choose_threshold(score, solved, 0.95, 0.9)
    odd = score.copy()
    odd[[0, 1, 12, 13, 14]] = [0.999, 0.99, 0.05, 0.4, 0.6]
    chosen = choose_threshold(odd, solved, 0.95, 0.9)
    assert plain.is_reached and not chosen.is_reached
    assert plain.threshold > 0.9 and abs(plain.threshold - chosen.threshold) < 0.02


@pytest.mark.parametrize("scores", [np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])])
def test_scores_at_both_ends_have_a_threshold_between(scores):
    chosen = choose_threshold(scores, np.array([False, False, True, True]), 0.95, 0.9)
    assert 0 < chosen.threshold < 1 and np.isfinite(chosen.precision)


def test_the_best_run_of_frames():
    scores = np.array([0.9, 0.1, 0.6, 0.7, 0.5, 0.95])
    assert best_run(scores, 1) == (0.95, 6)
    score, at = best_run(scores, 3)
    assert (round(score, 2), at) == (0.5, 5)
    assert best_run(scores[:2], 3) == (0.0, 2)
    assert best_run(scores, 3, 0.1)[0] == pytest.approx(0.6)  # the later ones may lie lower by that
