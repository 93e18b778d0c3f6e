"""Progress learned from successes: it orders observations, tells success, refuses what it was not made for."""

import io
import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from user_core.config import from_mapping
from user_core.errors import ConfigError, SpecError
from user_core.plugins import build
from user_core.rewards.progress import ProgressModel, is_progress_model, read_model
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    NO_TASK,
    EpisodeKey,
    EpisodeSource,
    Outcome,
    TrajectorySchema,
)
from user_learner.cli import reward as command
from user_learner.edits import EditedEpisodes
from user_learner.replay import StoreWriter
from user_learner.success.progress_training import (
    ProgressTrainConfig,
    order_of,
    progress_by_stages,
    train_progress,
)
from user_testing.worlds.replay import QUICK, blank_episode, whole_episode

SIDE = 32
SPEC = RobotSpec(
    "arm",
    {
        "image_front": ArraySpec((SIDE, SIDE, 3), "uint8"),
        "tool": ArraySpec((2,)),
        "goal": ArraySpec((2,)),
    },
    ArraySpec((2,)),
)
SCHEMA = TrajectorySchema.of(SPEC)
QUICKLY = ["--set", "epochs=15"]


def episode(solved, rng, steps):
    """A tool goes to its goal, in a straight line; where it is not solved, half the way and back."""
    start, goal = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
    way = np.linspace(0, 1, steps + 1)
    way = way if solved else np.minimum(way, 1 - way)
    tool = start + (goal - start) * way[:, None]
    images = np.full((steps + 1, SIDE, SIDE, 3), 40, np.uint8)
    for n, share in enumerate(way):  # a bar that fills
        images[n, :, : int(1 + share * (SIDE - 1))] = 200
    return tool.astype(np.float32), np.repeat(goal[None], steps + 1, 0).astype(np.float32), images


def record(path, count, seed, solved=lambda n: True):
    rng = np.random.default_rng(seed)
    with StoreWriter(path, config=QUICK) as writer:
        for number in range(count):
            steps = int(rng.integers(15, 30))
            tool, goal, images = episode(solved(number), rng, steps)
            columns = blank_episode(SCHEMA, steps + 1)
            columns["observation.image_front"] = images
            columns["observation.tool"], columns["observation.goal"] = tool, goal
            key = EpisodeKey("arm", seed, number)
            outcome = Outcome.SUCCESS if solved(number) else Outcome.FAILURE
            shown = EpisodeSource.DEMONSTRATION
            writer.append(whole_episode(key, SCHEMA, columns, outcome, shown, task="fill"))
    return path


def told(*words):
    out = io.StringIO()
    status = command.main([str(word) for word in words], Console(file=out, width=500))
    return status, out.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    record(folder / "train", 16, 1)
    status, said = told(
        "train", folder / "train", "--kind", "progress", "--out", folder / "p.st", *QUICKLY
    )
    assert status == 0, said
    assert float(said.partition("rank correlation with time ")[2][:5]) > 0.9
    return folder


def test_it_orders_unseen_episodes_and_tells_successes_from_failures(trained, tmp_path, capsys):
    record(tmp_path / "other", 12, 2, lambda n: n % 2 == 0)
    status, _ = told(
        "eval", tmp_path / "other", "--model", trained / "p.st", "--out", tmp_path, "--json"
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0 and found["order"] > 0.95
    assert found["precision"] == 1.0 and found["recall"] >= 0.8
    assert (tmp_path / "progress.png").stat().st_size > 5000


def test_its_reward_is_a_difference_of_progress_and_of_success_beside(trained):
    reward = build(
        "rewards", "progress", {"model": str(trained / "p.st"), "scale": 2.0, "gamma": 1.0}
    )
    tool, goal, images = episode(True, np.random.default_rng(9), 20)
    seen = [
        {"image_front": i, "tool": t, "goal": g} for i, t, g in zip(images, tool, goal, strict=True)
    ]
    reward.reset()
    outcomes = [reward(a, np.zeros(2), b, NO_TASK) for a, b in itertools.pairwise(seen)]
    total = sum(outcome.reward for outcome in outcomes)
    ends = [outcome.success for outcome in outcomes]
    assert total - sum(ends) == pytest.approx(2.0, abs=0.4), "the whole way is worth `scale`"
    assert ends[-1] and outcomes[-1].terminated and not any(ends[:12])
    reward.reset()
    back = [reward(a, np.zeros(2), b, NO_TASK).reward for a, b in itertools.pairwise(seen[12::-1])]
    assert sum(back) < -0.5, "who goes back gives it back"


def test_numbers_alone_do_where_there_are_no_images_or_they_are_named(trained, tmp_path):
    record(tmp_path / "more", 60, 5)  # how far it is must be learned from where both are
    with EditedEpisodes(tmp_path / "more") as view:
        config = ProgressTrainConfig(observations=("tool", "goal"), epochs=60)
        model, _, about = train_progress(view, config)
    assert dict(model.numbers) == {"tool": 2, "goal": 2} and not model.cameras
    assert about["order"] > 0.8


def test_stored_data_are_judged_anew_by_it(trained, tmp_path):
    record(tmp_path / "store", 4, 3)
    params = f"{{model: {trained / 'p.st'}, gamma: 1.0}}"
    status, said = told("relabel", tmp_path / "store", "--reward", "progress", "--params", params)
    assert status == 0 and "a success in" in said


def test_what_it_was_not_made_for_is_refused(trained, tmp_path):
    reward = build("rewards", "progress", {"model": str(trained / "p.st")})
    wrong = {"image_front": np.zeros((16, 16, 3), np.uint8)}
    with pytest.raises(SpecError, match="cameras"):
        reward(wrong, np.zeros(2), wrong, NO_TASK)
    record(tmp_path / "few", 3, 4)
    with EditedEpisodes(tmp_path / "few") as view, pytest.raises(ConfigError, match="4 or more"):
        train_progress(view, ProgressTrainConfig())
    record(tmp_path / "failed", 2, 4, lambda n: False)
    with EditedEpisodes(tmp_path / "failed") as view:
        with pytest.raises(ConfigError, match="4 or more"):
            train_progress(view, ProgressTrainConfig(stages=("tool[0]",)))
    with (
        EditedEpisodes(trained / "train") as view,
        pytest.raises(ConfigError, match="observations"),
    ):
        train_progress(view, from_mapping(ProgressTrainConfig, {"observations": ["lamp"]}))
    (tmp_path / "broken").write_bytes((trained / "p.st").read_bytes()[:500])
    with pytest.raises(ConfigError, match="--kind progress"):
        read_model(tmp_path / "broken")
    assert not is_progress_model(tmp_path / "broken") and is_progress_model(trained / "p.st")
    assert ProgressModel().images.cameras == {}


def test_order():
    assert order_of(np.arange(9.0)) == 1.0 and order_of(-np.arange(9.0)) == -1.0
    assert order_of(np.zeros(5)) == 0.0


# --- stages ---


def grip(*lengths):
    """A gripper that is open, closed, open, ... for so many rows each, with other numbers than 0 and 1."""
    values = [np.full(n, 0.7 if i % 2 else 0.02) for i, n in enumerate(lengths)]
    return np.concatenate(values)[:, None]


def test_within_a_stage_time_counts_and_each_stage_has_its_mean_share():
    signals = [grip(10, 10, 20), grip(30, 10, 40), grip(20, 20, 40)]
    courses, shares = progress_by_stages(signals, 3)
    assert shares == pytest.approx([(0.25 + 0.375 + 0.25) / 3, (0.25 + 0.125 + 0.25) / 3, 0.5])
    for one, (first, second, last) in zip(courses, [(10, 10, 20), (30, 10, 40), (20, 20, 40)]):
        assert len(one) == first + second + last and (np.diff(one) > 0).all()
        assert (one[0], one[-1]) == (0, 1)
        assert one[first] == pytest.approx(shares[0])  # however long it took to get there
        assert one[first + second] == pytest.approx(shares[0] + shares[1])


def test_what_only_flickers_is_no_stage_and_another_number_of_stages_is_left_out():
    signals = [grip(10, 1, 9, 10), grip(20, 10), grip(15, 15), grip(5, 5, 5, 15)]
    courses, shares = progress_by_stages(signals, 3)
    assert [course is None for course in courses] == [False, False, False, True]
    assert len(shares) == 2
    two = [np.concatenate([a, b], 1) for a, b in [(grip(10, 20), grip(20, 10))] * 2]
    assert progress_by_stages(two, 3)[1] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_a_model_is_trained_on_stages_and_bad_ones_are_refused(tmp_path):
    store = record(tmp_path / "store", 16, 5)
    words = ["train", store, "--kind", "progress", "--out", tmp_path / "p.st"]
    status, text = told(*words, "--set", "epochs=1", "--set", "stages=['tool[0]']")
    assert status == 0 and "stages" in text, text
    model, _ = read_model(tmp_path / "p.st")
    about = model.trained_on
    assert sum(about["stages"]) == pytest.approx(1, abs=0.01)
    assert about["episodes"] + about["left_out"] == 16
    with EditedEpisodes(store) as view:
        for wrong in ("nothing", "tool", "tool[9]", "tool[x]", "image_front"):
            with pytest.raises(ConfigError, match="stages"):
                train_progress(view, ProgressTrainConfig(stages=(wrong,)))
