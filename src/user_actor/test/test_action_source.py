"""Who decides what: policy, person, chance; chunks of several rows; lockstep robots."""

import numpy as np
import pytest

from user_actor.loop.acting.action_source import RandomActions
from user_actor.loop.config import ArbiterConfig, ExplorationConfig
from user_actor.loop.interventions import InterventionArbiter
from user_actor.loop.ports import NOBODY, HumanInput
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_core.types import ActedBy, EpisodeSource, Label, Outcome, Step
from user_testing.worlds.actor_loop import MS, Ramp, build, drives, ends_at

DELTA = RobotSpec(
    "arm",
    {"x": ArraySpec((1,))},
    ArraySpec((3,), "float32", -1.0, 1.0, names=("dx", "dy", "gripper")),
    ActionKind.EE_DELTA,
    grippers=(2,),
)
POSE = RobotSpec("arm", {"x": ArraySpec((1,))}, ArraySpec((3,)), ActionKind.JOINT_POSITION)


def human(*action, **changes):
    return HumanInput(True, np.array(action, np.float32), **changes)


# --- the arbiter


def test_a_person_takes_over_at_once_and_the_policy_comes_back_after_a_while():
    arbiter = InterventionArbiter(ArbiterConfig(hold_s=0.5), DELTA)
    assert arbiter.decide(NOBODY, 0) is None
    taken = arbiter.decide(human(0.1, 0.2, 1.0), 1000 * MS)
    assert taken.action.tolist() == pytest.approx([0.1, 0.2, 1.0])
    assert (taken.acted_by, taken.holding) == (ActedBy.HUMAN, False)
    for moment_ms in (1100, 1300, 1499):
        held = arbiter.decide(NOBODY, moment_ms * MS)
        assert held.action.tolist() == [0.0, 0.0, 1.0]  # still, and the gripper stays as it is
        assert held.holding
    assert arbiter.decide(NOBODY, 1500 * MS) is None


def test_a_shaky_switch_does_not_make_the_two_alternate():
    arbiter = InterventionArbiter(ArbiterConfig(hold_s=0.3), DELTA)
    decided = [
        arbiter.decide(human(0.1, 0.0, 0.0) if i % 3 == 0 else NOBODY, i * 50 * MS) is not None
        for i in range(40)
    ]
    assert all(decided)


def test_an_intervention_has_a_shortest_length():
    arbiter = InterventionArbiter(ArbiterConfig(hold_s=0.0, min_takeover_s=1.0), DELTA)
    arbiter.decide(human(0.1, 0.0, 0.0), 0)
    assert arbiter.decide(NOBODY, 900 * MS) is not None
    assert arbiter.decide(NOBODY, 1000 * MS) is None


def test_absolute_actions_are_held_by_repeating_them():
    arbiter = InterventionArbiter(ArbiterConfig(), POSE)
    arbiter.decide(human(0.5, -0.5, 2.0), 0)
    assert arbiter.decide(NOBODY, MS).action.tolist() == [0.5, -0.5, 2.0]


def test_each_group_of_a_robot_is_held_as_its_kind_asks():
    groups = (
        ActionGroup("arm", ActionKind.JOINT_POSITION, 2),
        ActionGroup("base", ActionKind.BASE_TWIST, 2),
    )
    spec = RobotSpec(
        "rover", {"x": ArraySpec((1,))}, ArraySpec((4,), low=-1, high=1), ActionKind.MIXED,
        action_groups=groups,
    )  # fmt: skip
    arbiter = InterventionArbiter(ArbiterConfig(), spec)
    held = arbiter.hold_still(np.array([0.3, -0.4, 0.5, 0.5], np.float32))
    np.testing.assert_allclose(held, [0.3, -0.4, 0, 0])


@pytest.mark.parametrize(
    ("said", "stale", "misfits"),
    [
        (human(0.1, 0.0, 0.0, age_s=0.3), 1, 0),
        (human(0.1, 0.0), 0, 1),
        (human(0.1, np.nan, 0.0), 0, 1),
        (HumanInput(True, None), 0, 0),
        (human(0.1, 0.0, 0.0).__class__(False, np.zeros(3, np.float32)), 0, 0),
    ],
)
def test_what_does_not_count_as_taking_over(said, stale, misfits):
    arbiter = InterventionArbiter(ArbiterConfig(max_age_s=0.25), DELTA)
    assert arbiter.decide(said, 0) is None
    assert (arbiter.stale, arbiter.misfits) == (stale, misfits)


def test_the_person_stays_within_the_bounds():
    arbiter = InterventionArbiter(ArbiterConfig(), DELTA)
    taken = arbiter.decide(human(7.0, -7.0, 0.0, scripted=True), 0)
    assert taken.action.tolist() == [1.0, -1.0, 0.0]
    assert taken.action.dtype == np.float32
    assert taken.acted_by is ActedBy.SCRIPT


def test_both_actions_are_recorded():
    setup = build({"max_episode_steps": 8, "arbiter": {"hold_s": 0.03}})
    setup.person.script = lambda step: drives(0.25, scripted=step == 4) if 2 < step < 5 else NOBODY
    (result,) = setup.run()
    steps = setup.steps()
    by = [step.acted_by for step in steps]
    policy, person, script = ActedBy.POLICY, ActedBy.HUMAN, ActedBy.SCRIPT
    assert by == [policy] * 3 + [person, script, script, policy, policy]
    assert (result.interventions, result.takeovers) == (3, 1)
    assert steps[3].action[0] == 0.25
    assert steps[3].proposed_action[0] == 0.0
    assert steps[5].action[0] == 0.0  # held still
    assert all(chunk.acted_by is acted for chunk, acted in zip(setup.arm.chunks, by, strict=True))


def test_nobody_takes_over_an_evaluation_and_who_tries_ends_it():
    setup = build(
        {"max_episodes": 2, "max_episode_steps": 9, "evaluation": {"every": 1}, "retry_s": 0.0}
    )
    setup.publish(1)
    setup.person.script = lambda step: drives(0.25) if step == 15 else NOBODY
    online, evaluation = setup.run()
    assert (online.source, online.length) == (EpisodeSource.ONLINE, 9)
    assert (evaluation.source, evaluation.outcome) == (EpisodeSource.EVALUATION, Outcome.ABORTED)
    assert "took over" in evaluation.reason
    assert evaluation.reason_code == "person_took_over"
    assert evaluation.interventions == 0


# --- chance


def test_the_first_steps_are_random_over_episodes_and_processes():
    setup = build({"max_episodes": 3, "max_episode_steps": 4, "exploration": {"random_steps": 6}})
    setup.publish(3)
    setup.run()
    by = [step.acted_by for number in range(3) for step in setup.steps(number)]
    assert by == [ActedBy.RANDOM] * 6 + [ActedBy.POLICY] * 6
    versions = [step.policy_version for number in range(3) for step in setup.steps(number)]
    assert versions == [0] * 6 + [3] * 6
    assert (setup.steps(0)[0].proposed_action == setup.arm.chunks[0].actions_ta[0]).all()


@pytest.mark.parametrize(
    ("mode", "first"), [("random", ActedBy.RANDOM), ("initial", ActedBy.POLICY), ("wait", None)]
)
def test_what_is_done_before_the_first_version(mode, first):
    setup = build({"max_episode_steps": 3, "exploration": {"before_first_version": mode}})
    setup.world.after(1000 * MS, lambda: setup.publish(1))
    begin_ns = setup.world.wall_ns()
    (result,) = setup.run()
    if first is None:
        assert result.start_ns - begin_ns >= 999 * MS
        assert setup.steps()[0].policy_version == 1
    else:
        assert setup.steps()[0].acted_by is first


def test_evaluation_alone_waits_for_a_version():
    setup = build({"mode": "evaluation", "max_episodes": 2, "max_episode_steps": 3,
                   "evaluation": {"seed": 50}})  # fmt: skip
    setup.world.after(1000 * MS, lambda: setup.publish(1))
    results = setup.run()
    assert [result.source for result in results] == [EpisodeSource.EVALUATION] * 2
    assert setup.arm.seeds == [50, 51]
    assert all(call[1] for policy in setup.policies for call in policy.calls)


@pytest.mark.parametrize("kind", ["uniform", "smooth"])
def test_random_actions_are_uniform_within_the_bounds(kind):
    spec = ArraySpec((2,), "float32", (-1.0, 0.0), (1.0, 3.0))
    source = RandomActions(ExplorationConfig(kind=kind, correlation=0.8, seed=0), spec)
    actions = np.stack([source.sample() for _ in range(20_000)])
    assert actions.dtype == np.float32
    shares = (actions - spec.low_array) / (spec.high_array - spec.low_array)
    for share in shares.T:
        counts = np.histogram(share, bins=10, range=(0, 1))[0]
        assert counts.sum() == 20_000  # none outside
        assert abs(counts - 2000).max() < (600 if kind == "smooth" else 200)
    alike = np.corrcoef(shares[:-1, 0], shares[1:, 0])[0, 1]
    assert alike == pytest.approx(0.79 if kind == "smooth" else 0.0, abs=0.03)


def test_random_actions_of_robots_without_bounds_and_with_choices():
    free = RandomActions(ExplorationConfig(kind="smooth"), ArraySpec((2,)))
    assert np.isfinite(free.sample()).all()
    choice = RandomActions(ExplorationConfig(), ArraySpec((1,), "int64", 0, 3))
    assert {int(choice.sample()[0]) for _ in range(200)} == {0, 1, 2, 3}


# --- chunks


def test_a_chunk_is_sent_ahead_and_played_by_the_robot():
    setup = build({"max_episode_steps": 12}, rows=4)
    setup.run()
    assert [len(chunk.actions_ta) for chunk in setup.arm.chunks] == [4, 4, 4]
    assert all(chunk.start_ns > 0 and chunk.period_ns == 20 * MS for chunk in setup.arm.chunks)
    assert len(setup.policies[0].calls) == 3
    for number, step in enumerate(setup.steps()):
        expected = (number // 4 + 1 + number % 4) * 0.001
        assert step.proposed_action[1] == pytest.approx(expected)
        assert step.action[1] == pytest.approx(expected)
    assert setup.loop.episodes.recorder.feedback.total() == 12
    assert setup.loop.episodes.recorder.feedback["exact"] == 12


def test_a_plan_may_be_renewed_before_it_is_used_up():
    setup = build({"max_episode_steps": 8, "replan_every": 2}, rows=5)
    setup.run()
    assert [len(chunk.actions_ta) for chunk in setup.arm.chunks] == [5] * 4
    proposed = [step.proposed_action[1] * 1000 for step in setup.steps()]
    assert proposed == pytest.approx([1, 2, 2, 3, 3, 4, 4, 5])


def test_a_person_interrupts_a_chunk_and_the_policy_plans_anew():
    setup = build({"max_episode_steps": 8, "arbiter": {"hold_s": 0.0}}, rows=4)
    setup.person.script = lambda step: drives(0.25) if step in (2, 3) else NOBODY
    setup.run()
    assert [len(chunk.actions_ta) for chunk in setup.arm.chunks] == [4, 1, 1, 4]
    by = [step.acted_by for step in setup.steps()]
    assert by == [ActedBy.POLICY] * 2 + [ActedBy.HUMAN] * 2 + [ActedBy.POLICY] * 4
    assert [step.action[0] for step in setup.steps()][2:4] == [0.25, 0.25]
    assert setup.loop.episodes.recorder.feedback["exact"] == 8


def test_a_lockstep_robot_gets_a_chunk_row_by_row():
    setup = build({"max_episode_steps": 6}, rows=3, lockstep=True)
    setup.run()
    assert [len(chunk.actions_ta) for chunk in setup.arm.chunks] == [1] * 6
    proposed = [step.proposed_action[1] * 1000 for step in setup.steps()]
    assert proposed == pytest.approx([1, 2, 3, 2, 3, 4])


def test_sequence_numbers_rise_over_episodes_and_processes():
    setup = build({"max_episodes": 2, "max_episode_steps": 3})
    setup.run()
    numbers = [chunk.sequence for chunk in setup.arm.chunks]
    assert numbers == sorted(set(numbers))
    later = build()
    later.world.now_ns += 1_000_000_000
    from user_actor.loop.acting.action_source import ActionSource

    source = ActionSource(
        later.loop._config,
        later.arm,
        later.holder,
        None,
        later.loop.episodes.timing.pacer,
        later.world,
        later.loop.stats,
        int,
    )
    assert source._sequence > numbers[-1]


# --- lockstep


def test_a_lockstep_robot_is_answered_at_once():
    setup = build({"max_episode_steps": 30}, lockstep=True, delay_ns=3 * MS)
    setup.run()
    sent_ns = np.diff(setup.arm.sent_ns)
    assert (sent_ns == 3 * MS).all()
    assert setup.loop.episodes.recorder.feedback["exact"] == 30


def test_a_command_that_was_lost_is_sent_again_and_counts_once():
    setup = build({"max_episode_steps": 6, "answer_timeout_s": 0.5}, lockstep=True)
    setup.at_step(3, lambda: setattr(setup.arm, "deaf", 1))
    (result,) = setup.run()
    assert result.length == 6
    numbers = [chunk.sequence for chunk in setup.arm.chunks]
    assert len(numbers) == 7
    assert numbers[3] == numbers[4]
    readings = [float(step.observation["reading"][0]) for step in setup.steps()]
    assert readings == sorted(set(readings))
    assert setup.loop.episodes.timing.asked_again == 1


def test_a_lockstep_robot_that_never_answers_is_lost():
    setup = build({"answer_timeout_s": 0.5, "answer_attempts": 3, "max_episodes": 1}, lockstep=True)
    setup.at_step(2, lambda: setattr(setup.arm, "deaf", 99))
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.ABORTED, 2)
    assert "asked 3 times" in result.reason


# --- demonstrations


def test_a_demonstration_begins_with_the_person_and_needs_no_policy():
    setup = build({"mode": "demonstration", "arbiter": {"hold_s": 0.1}}, policy=False)
    setup.reward.ends = ends_at(6)

    def script(step):
        return drives(0.2, scripted=True) if step >= 10 and step != 13 else NOBODY

    setup.person.script = script
    (result,) = setup.run()
    assert (result.source, result.length) == (EpisodeSource.DEMONSTRATION, 6)
    assert result.outcome is Outcome.SUCCESS
    steps = setup.steps()
    assert all(step.acted_by is ActedBy.SCRIPT for step in steps)
    assert [round(float(step.action[0]), 1) for step in steps] == [0.2, 0.2, 0.2, 0.0, 0.2, 0.2]
    assert all(step.action[0] == step.proposed_action[0] for step in steps)
    assert {step.policy_version for step in steps} == {0}


def test_a_label_before_the_demonstration_has_begun_starts_it_over():
    setup = build({"mode": "demonstration", "max_episodes": 1}, policy=False)
    setup.reward.ends = ends_at(2)
    setup.person.script = lambda step: (
        HumanInput(label=Label.ABORT) if step == 3 else drives(0.1) if step > 8 else NOBODY
    )
    (result,) = setup.run()
    assert result.length == 2
    assert setup.arm.episode == 2


def test_a_demonstration_without_a_teleoperator_waits():
    from user_actor.loop import ActorLoop, EpisodeLoop

    setup = build({"mode": "demonstration"}, policy=False)
    config = setup.loop.episodes.config
    loop = ActorLoop(
        EpisodeLoop(setup.arm, None, setup.reward, setup.sink, config, clock=setup.world)
    )
    setup.world.after(500 * MS, lambda: seen.append(loop.status()) or loop.stop())
    seen = []
    loop.run()
    assert "teleoperator" in seen[0].reason.text


def test_a_limit_of_steps_that_changes_holds_from_the_next_episode_on():
    setup = build({"max_episodes": 3, "max_episode_steps": 4})
    seen = []

    def step(observation):
        seen.append(observation)
        if len(seen) == 2:  # in the first episode
            setup.loop.episodes.limit_episodes(7, 0.0)

    setup.loop.episodes._on_step = step
    assert [result.length for result in setup.run()] == [4, 7, 7]


@pytest.mark.parametrize("replan_every", [1, 3])
def test_a_policy_that_sees_several_observations_gets_the_last_ones_of_its_episode(
    monkeypatch, replan_every
):
    asked = []

    def act(self, observation, *, deterministic=False):
        asked.append(observation["reading"][:, 0].tolist())
        return np.zeros((3, 2), np.float32)

    monkeypatch.setattr(Ramp, "observation_history", 3)
    monkeypatch.setattr(Ramp, "act", act)
    limits = {"max_episode_steps": 7, "max_episodes": 2, "replan_every": replan_every}
    setup = build(limits, rows=3)
    results = setup.run()
    assert [result.length for result in results] == [7, 7]
    wanted = []
    for result in results:
        seen = [
            float(row.observation["reading"][0])
            for row in setup.sink.rows[result.key]
            if isinstance(row, Step)
        ]
        padded = [seen[0], seen[0], *seen]
        wanted += [padded[i : i + 3] for i in range(0, 7, replan_every)]
    assert asked == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"replan_every": 2}, [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]),
        ({}, [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]),
        (
            {"replan_every": 2, "chunks": {"delay_steps": 1}},
            [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)],
        ),
    ],
)
def test_steps_say_which_plan_they_are_of(changes, wanted):
    setup = build({"max_episode_steps": 6, **changes}, rows=3)
    setup.run()
    assert [(step.plan, step.plan_row) for step in setup.steps()] == wanted


def test_plans_are_counted_on_after_a_person_has_driven():
    setup = build({"max_episode_steps": 6, "arbiter": {"hold_s": 0.0}}, rows=3)
    setup.person.script = lambda step: drives(0.25) if step == 2 else NOBODY
    setup.run()
    numbers = [step.plan for step in setup.steps()]
    assert numbers == [1, 1, 1, 2, 2, 2]  # the rest of the first is not carried out any more
