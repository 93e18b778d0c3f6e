from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, SpecError
from user_core.plugins import build
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import EpisodeSource, TrajectorySchema
from user_learner.replay import StoreWriter
from user_learner.sampling import HALF_DEMONSTRATIONS, ReplaySource, SamplerConfig
from user_learner.sampling.hindsight import check_hindsight
from user_testing.worlds.replay import QUICK, STILL, Actor, Plan, fill, reward_of

GAMMA = 0.9
GOALS = {"achieved_goal": ArraySpec((3,)), "desired_goal": ArraySpec((3,))}
SPEC = RobotSpec(
    "arm", {"place": ArraySpec((3,), "int32"), "rest": ArraySpec((3,)), **GOALS}, ArraySpec((2,))
)
IMAGE_SPEC = replace(
    SPEC, observation={**SPEC.observation, "image_wrist": ArraySpec((40, 41, 3), "uint8")}
)
#: No goal is another's: reached at the very row where it was achieved only.
EXACT = {"plugin": "goal_distance", "params": {"threshold": 0.1}}


@dataclass
class GoalActor(Actor):
    """The goal achieved in a row is its place; the desired one is nowhere."""

    def columns(self, episode, plan):
        columns = super_columns(self, episode, plan)
        place = columns["observation.place"].astype(np.float32)
        columns["observation.achieved_goal"] = place
        columns["observation.desired_goal"] = place * 0 + np.float32([-1, episode, -1])
        columns["observation.rest"] = columns["observation.desired_goal"] - place
        return {name: columns[name] for name in self.schema.columns}


def super_columns(actor, episode, plan):
    known = Actor(number=actor.number, schema=without_goals(actor.schema))
    return dict(Actor.columns(known, episode, plan))


def without_goals(schema):
    extra = {f"observation.{name}" for name in ("achieved_goal", "desired_goal", "rest")}
    return TrajectorySchema({n: s for n, s in schema.columns.items() if n not in extra})


def store_of(path, plans, spec=SPEC, chunk_rows=3, **kwargs):
    with StoreWriter(path, config=QUICK.replace(segment_bytes=1)) as writer:
        schema = TrajectorySchema.of(spec)
        filler = GoalActor(9, schema=schema, chunk_rows=512)
        # few rows are left in the first segment, so that the episodes go on in the next
        fill(writer, filler, [Plan(1017, source=EpisodeSource.EVALUATION)])
        fill(writer, GoalActor(1, schema=schema, chunk_rows=chunk_rows, **kwargs), plans)
    return path


def config_of(goal_reward=EXACT, n_step=1, **hindsight):
    return from_mapping(
        SamplerConfig,
        {
            "prefetch": 0, "refresh_period_s": 0, "gamma": GAMMA, "n_step": n_step,
            "hindsight": {"strategy": "future", "goal_reward": goal_reward, **hindsight},
        },
    )  # fmt: skip


def test_goals_are_drawn_uniformly_from_the_rest_of_the_same_episode(tmp_path):
    plans = [Plan(12), Plan(7, final=False), Plan(1), Plan(9, terminated=True)]
    store_of(tmp_path / "store", plans)
    seen, own = Counter(), Counter()
    with ReplaySource(tmp_path / "store", config_of()) as source:
        for _ in range(200):
            batch = source.sample(256)
            goals = batch.observation["desired_goal"]
            np.testing.assert_array_equal(goals, batch.next_observation["desired_goal"])
            for i, (actor, episode, row) in enumerate(batch.observation["place"].tolist()):
                assert actor == 1
                if not batch.extras["relabelled"][i]:
                    own[episode, row] += 1
                    assert goals[i].tolist() == [-1, episode, -1]
                    assert batch.reward[i] == reward_of(episode, row)
                    continue
                assert goals[i][0] == 1, "of another actor"
                assert goals[i][1] == episode, "of another episode"
                at = int(goals[i][2])
                assert row < at < plans[episode].rows
                seen[episode, row, at] += 1
                assert batch.reward[i] == (0 if at == row + 1 else -1)
    relabelled, kept = sum(seen.values()), sum(own.values())
    share = relabelled / (relabelled + kept)
    assert share == pytest.approx(0.8, abs=5 * np.sqrt(0.8 * 0.2 / (relabelled + kept)))
    chi_square, freedom = 0.0, 0
    for episode, plan in enumerate(plans):
        for row in range(plan.rows - 1):
            rest = range(row + 1, plan.rows)
            counts = np.array([seen[episode, row, at] for at in rest])
            expected = counts.sum() / len(rest)
            assert expected > 5
            chi_square += ((counts - expected) ** 2 / expected).sum()
            freedom += len(rest) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("k", [1, 9])
def test_k_is_how_many_get_another_goal_for_one_that_keeps_its_own(tmp_path, k):
    store_of(tmp_path / "store", [Plan(30)])
    with ReplaySource(tmp_path / "store", config_of(k=k)) as source:
        share = np.mean([source.sample(256).extras["relabelled"].mean() for _ in range(40)])
    assert share == pytest.approx(k / (k + 1), abs=0.02)


@pytest.mark.parametrize("terminates", [True, False])
def test_n_step_returns_are_those_for_the_new_goal(tmp_path, terminates):
    plans, n = [Plan(9), Plan(6, terminated=True), Plan(5, final=False)], 3
    store_of(tmp_path / "store", plans)
    reward = {
        "plugin": "goal_distance",
        "params": {"threshold": 0.1, "reached_reward": 10.0, "terminates": terminates},
    }
    with ReplaySource(tmp_path / "store", config_of(reward, n_step=n)) as source:
        for _ in range(20):
            batch = source.sample(128)
            for i in np.flatnonzero(batch.extras["relabelled"]):
                _, episode, row = batch.observation["place"][i].tolist()
                plan, goal = plans[episode], int(batch.observation["desired_goal"][i][2])
                total, discount = 0.0, 1.0
                for after in range(row + 1, min(row + n, plan.rows - 1) + 1):
                    total += discount * (10.0 if after == goal else -1.0)
                    discount *= GAMMA
                    # it terminated in a way that its own goal does not explain
                    if (after == goal and terminates) or (plan.terminated and after == plan.steps):
                        discount = 0.0
                        break
                assert batch.reward[i] == pytest.approx(total)
                assert batch.discount[i] == pytest.approx(discount)


def test_reaching_its_own_goal_ends_an_episode_for_no_other_goal(tmp_path):
    class AtTheEnd(GoalActor):
        def columns(self, episode, plan):
            columns = super().columns(episode, plan)
            columns["observation.desired_goal"] = np.repeat(
                columns["observation.achieved_goal"][-1:], plan.rows, 0
            )
            return columns

    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        actor = AtTheEnd(1, schema=TrajectorySchema.of(SPEC))
        fill(writer, actor, [Plan(4, terminated=True)])
    reward = {"plugin": "goal_distance", "params": {"threshold": 1.5, "terminates": False}}
    with ReplaySource(tmp_path / "store", config_of(reward)) as source:
        batch = source.sample(256)
    relabelled = batch.extras["relabelled"]
    last = batch.observation["place"][:, 2] == 3
    assert (batch.discount[relabelled] == np.float32(GAMMA)).all()
    assert (batch.discount[last & ~relabelled] == 0).all()


def test_windows_are_judged_step_by_step(tmp_path):
    store_of(tmp_path / "store", [Plan(9)])
    config = config_of().replace(window=4)
    with ReplaySource(tmp_path / "store", config) as source:
        batch = source.sample(128)
    for i in np.flatnonzero(batch.extras["relabelled"]):
        row, goal = batch.observation["place"][i][2], batch.observation["desired_goal"][i][2]
        wanted = np.where(np.arange(row + 1, row + 5) == goal, 0, -1)
        assert batch.reward[i].tolist() == wanted.tolist()


def test_goals_come_from_the_whole_episode_where_the_store_does_not_fit_into_memory(tmp_path):
    plans = [Plan(300) for _ in range(8)]
    store_of(tmp_path / "store", plans, IMAGE_SPEC, chunk_rows=50)
    config = config_of().replace(memory_bytes=14 * 2**20, draws_per_load=0.1)
    seen = 0
    with ReplaySource(tmp_path / "store", config) as source:
        for _ in range(50):
            batch = source.sample(64)
            which = batch.extras["relabelled"]
            place, goal = (
                batch.observation["place"][which],
                batch.observation["desired_goal"][which],
            )
            assert (place[:, :2] == goal[:, :2]).all()
            assert (place[:, 2] < goal[:, 2]).all()
            seen = max(seen, int((goal[:, 2] - place[:, 2]).max()))
        assert source.cached
    assert seen > 150


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_batches_prepared_ahead_are_right_too_while_the_store_grows(tmp_path, output):
    path, schema = tmp_path / "store", TrajectorySchema.of(SPEC)
    config = config_of().replace(prefetch=3, prefetch_above_bytes=0, workers=2, output=output)
    actor = GoalActor(1, schema=schema, chunk_rows=7)
    with StoreWriter(path, config=QUICK) as writer:
        fill(writer, actor, [Plan(20)])
        with ReplaySource(path, config) as source:
            for _ in range(30):
                batch = source.sample(64)
                which = np.asarray(batch.extras["relabelled"])
                goal = np.asarray(batch.observation["desired_goal"])[which]
                place = np.asarray(batch.observation["place"])[which]
                assert (goal[:, :2] == place[:, :2]).all()
                assert (goal[:, 2] > place[:, 2]).all()
                wanted = np.where(goal[:, 2] == place[:, 2] + 1, 0, -1)
                np.testing.assert_array_equal(np.asarray(batch.reward)[which], wanted)
                fill(writer, actor, [Plan(5)])
                source.refresh()


def test_the_mixture_of_sources_is_kept(tmp_path):
    plans = [Plan(20), Plan(5, source=EpisodeSource.DEMONSTRATION)]
    store_of(tmp_path / "store", plans)
    config = config_of().replace(strata=HALF_DEMONSTRATIONS)
    with ReplaySource(tmp_path / "store", config) as source:
        batch = source.sample(512)
    demonstration = batch.extras["demonstration"]
    assert demonstration.sum() == 256
    for part in (demonstration, ~demonstration):
        assert batch.extras["relabelled"][part].mean() == pytest.approx(0.8, abs=0.1)


def test_what_shows_the_difference_to_the_goal_is_written_anew(tmp_path):
    store_of(tmp_path / "store", [Plan(9)])
    with ReplaySource(tmp_path / "store", config_of(differences=["rest"])) as source:
        batch = source.sample(128)
    for observation in (batch.observation, batch.next_observation):
        np.testing.assert_array_equal(
            observation["rest"], observation["desired_goal"] - observation["achieved_goal"]
        )


def test_a_goal_may_be_some_elements_of_an_observation(tmp_path):
    spec = replace(SPEC, observation={**SPEC.observation, "desired_goal": ArraySpec((2,))})

    class Planar(GoalActor):
        def columns(self, episode, plan):
            columns = super().columns(episode, plan)
            columns["observation.desired_goal"] = columns["observation.desired_goal"][:, :2]
            return columns

    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        fill(writer, Planar(1, schema=TrajectorySchema.of(spec)), [Plan(9), Plan(9)])
    with ReplaySource(tmp_path / "store", config_of(achieved_elements=[2, 1])) as source:
        batch = source.sample(64)
    which = batch.extras["relabelled"]
    place, goal = batch.observation["place"][which], batch.observation["desired_goal"][which]
    assert (goal[:, 0] > place[:, 2]).all()
    assert (goal[:, 1] == place[:, 1]).all()


def test_the_same_draws_follow_after_a_restart(tmp_path):
    store_of(tmp_path / "store", [Plan(50)])
    with ReplaySource(tmp_path / "store", config_of()) as source:
        source.sample(32)
        state = source.state()
        wanted = [source.sample(32).observation["desired_goal"].copy() for _ in range(3)]
    with ReplaySource(tmp_path / "store", config_of()) as source:
        source.load_state(state)
        for goals in wanted:
            np.testing.assert_array_equal(source.sample(32).observation["desired_goal"], goals)


def test_nothing_changes_where_it_is_not_asked_for(tmp_path):
    store_of(tmp_path / "store", [Plan(9)])
    with ReplaySource(tmp_path / "store", STILL) as source:
        batch = source.sample(32)
    assert "relabelled" not in batch.extras
    assert (batch.observation["desired_goal"][:, 0] == -1).all()


def test_rewards_that_are_not_those_of_the_store_are_told(tmp_path):
    store_of(tmp_path / "store", [Plan(30)])
    with ReplaySource(tmp_path / "store", config_of()) as source:
        for _ in range(30):
            source.sample(256)
        reasons = source.reasons()
    assert [reason.code for reason in reasons] == ["hindsight_reward"]
    assert "goal_distance" in reasons[0].text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"achieved": "tcp_pose"}, "'tcp_pose', which is no observation.*achieved_goal"),
        ({"desired": "nowhere"}, "'nowhere', which is no observation"),
        ({"achieved": "image_wrist"}, "numbers of less than"),
        ({"achieved_elements": [0, 3]}, "0 to 2"),
        ({"achieved_elements": [0, 1]}, "size of 'desired_goal': got 3, expected 2"),
        ({"differences": ["placed"]}, "'placed', which is no observation"),
    ],
)
def test_goals_that_are_not_there_are_refused_in_words(settings, words):
    config = config_of(**settings).hindsight
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        check_hindsight(config, IMAGE_SPEC.observation)


def by_plane(achieved, desired, info, scale=1.0):
    """A reward of somebody, with Gymnasium's signature."""
    assert info == {}
    return -scale * np.abs(achieved - desired)[..., 0]


def test_a_function_can_give_the_reward():
    function = f"{__name__}:by_plane"
    achieved, desired = np.float32([[0, 0], [3, 0]]), np.zeros((2, 2), np.float32)
    for one_by_one in (False, True):
        params = {
            "function": function, "kwargs": {"scale": 2.0}, "one_by_one": one_by_one,
            "reached_reward": 0.0, "terminates": True,
        }  # fmt: skip
        outcome = build("goal_rewards", "goal_function", params)(achieved, desired)
        assert outcome.reward.tolist() == [0, -6]
        assert outcome.terminated.tolist() == outcome.reached.tolist() == [True, False]
    wrong = build("goal_rewards", "goal_function", {"function": "numpy:subtract"})
    with pytest.raises(SpecError, match=r"one_by_one"):
        wrong(achieved, desired)
