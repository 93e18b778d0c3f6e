"""The loop in real time: deadlines, fresh observations, what is recorded, how episodes end."""

import math
from itertools import pairwise

import numpy as np
import pytest

from user_actor.loop.actor_loop import EpisodeSchedule
from user_actor.loop.config import ActorLoopConfig, EvaluationConfig
from user_actor.loop.ports import NOBODY, HumanInput
from user_actor.loop.recording import Feedback
from user_actor.loop.stats import LoopState
from user_actor.loop.timing import Phase
from user_core.errors import DeviceError, DeviceFault, PluginError, PolicyError, SpecError
from user_core.interfaces import RewardOutcome
from user_core.reasons import ASKED_BACK, EVALUATION_GIVEN_UP, OUTBOX_FULL, Reason
from user_core.types import (
    ActedBy,
    AppliedAction,
    EpisodeSource,
    Label,
    Outcome,
    RewardSource,
    Task,
    TaskFeedback,
)
from user_testing.worlds.actor_loop import MS, build, drives, ends_at


def test_steps_are_recorded_with_what_came_of_them():
    setup = build()
    setup.reward.ends = ends_at(4)
    (result,) = setup.run()
    steps, final = setup.steps(), setup.final()
    assert (result.outcome, result.length, result.episode_return) == (Outcome.SUCCESS, 4, 8.0)
    assert [step.reward for step in steps] == [1, 1, 1, 5]
    assert [step.terminated for step in steps] == [False, False, False, True]
    assert not any(step.truncated for step in steps)
    readings = [float(row.observation["reading"][0]) for row in [*steps, final]]
    assert readings == sorted(set(readings))
    assert [call[0] for call in setup.policies[0].calls] == readings[:-1]
    assert result.start_ns == steps[0].stamp_ns < final.stamp_ns <= result.end_ns
    assert all(step.action_stamp_ns >= step.stamp_ns for step in steps)


def test_the_policy_is_told_the_task_when_an_episode_begins():
    setup = build({"max_episode_steps": 3})
    setup.loop.episodes.task = Task("reach", "touch the red ball")
    setup.run()
    assert setup.policies[0].task == Task("reach", "touch the red ball")


def test_deadlines_do_not_drift():
    setup = build({"max_episode_steps": 1000}, takes_ns=7 * MS)
    setup.run()
    starts_ns = np.array([call[2] for call in setup.policies[0].calls])
    assert (np.diff(starts_ns) == 20 * MS).all()
    assert setup.loop.status().skipped == 0
    assert setup.loop.status().lateness_p99_ms < 0.01


def test_a_loop_that_was_held_up_skips_whole_periods_and_keeps_its_grid():
    setup = build({"max_episode_steps": 40})

    def slow():
        setup.world.spend(50 * MS)

    setup.at_step(10, slow)
    setup.run()
    starts_ns = np.array([call[2] for call in setup.policies[0].calls])
    since_ns = starts_ns - starts_ns[0]
    assert since_ns[9] == 180 * MS  # judged at 200 ms, busy until 250 ms
    assert since_ns[10] == 250 * MS
    assert since_ns[11] == 260 * MS  # the grid again, what was missed is not made up for
    assert (np.diff(since_ns[11:]) == 20 * MS).all()
    assert setup.loop.status().skipped == 2
    assert setup.loop.status().lateness_p99_ms >= 30


def test_each_step_begins_with_the_newest_observation():
    setup = build({"max_episode_steps": 50}, observe_ns=3 * MS)
    setup.run()
    for step in setup.steps()[1:]:
        age_ns = step.action_stamp_ns - step.stamp_ns
        assert 0 <= age_ns < 3 * MS


def test_a_step_waits_for_an_observation_that_it_has_not_seen():
    setup = build({"max_episode_steps": 20}, observe_ns=30 * MS)  # slower than the loop
    setup.run()
    readings = [float(step.observation["reading"][0]) for step in setup.steps()]
    assert readings == sorted(set(readings))
    assert setup.loop.episodes.timing.starved > 0
    assert "without a newer observation" in str(setup.loop.status().warnings)


def test_the_grid_moves_behind_observations_that_come_just_when_steps_are_due():
    setup = build({"max_episode_steps": 400}, observe_ns=20 * MS)
    begin_ns, arm = setup.world.now_ns, setup.arm

    def observe(number=1):
        arm.observations.put(arm.reading())
        late_ns = MS if number % 2 else -MS  # about the deadline
        setup.world.at(begin_ns + number * 20 * MS + late_ns, lambda: observe(number + 1))

    arm._observe = observe
    setup.run()
    timing = setup.loop.episodes.timing
    assert 0 < timing.starved <= 4  # half of 400 before
    starts_ns = np.array([call[2] for call in setup.policies[0].calls])
    later_ns = starts_ns - starts_ns[0] - 20 * MS * np.arange(len(starts_ns))
    assert (np.diff(later_ns[20:]) == 0).all(), "the grid keeps its new place"
    assert 0 < later_ns[-1] == timing.phase.shift_ns <= 2 * MS
    status = setup.loop.status()
    assert status.skipped == 0 and status.lateness_p99_ms <= 1.1


def test_the_phase_moves_little_at_a_time_only_where_steps_wait_again_and_goes_back():
    phase = Phase(100)
    for _ in range(5):  # accidents, far apart
        assert phase.waits() == 0
        for _ in range(10):
            phase.was_early(50)
    assert phase.shift_ns == 0
    moved = [phase.waits() for _ in range(20)]
    assert sum(moved) == phase.shift_ns == 50 and max(moved) == 5  # never more than half a period
    assert phase.begin() == 50  # steps have waited
    phase.was_early(8)
    assert phase.begin() == 50  # none waited, and it came just before
    phase.was_early(30)
    phase.was_early(20)
    assert phase.begin() == 45


@pytest.mark.parametrize(
    ("task", "config", "outcome", "reason"),
    [
        (TaskFeedback(1.0, truncated=True), {}, Outcome.UNKNOWN, "the robot's own limit"),
        (
            TaskFeedback(1.0, terminated=True, success=True),
            {},
            Outcome.UNKNOWN,
            "the robot's task is over, the reward saw no end",
        ),
        (TaskFeedback(1.0), {"max_episode_steps": 1}, Outcome.UNKNOWN, "1 steps"),
        (TaskFeedback(1.0), {"max_episode_s": 0.02}, Outcome.UNKNOWN, "0.0 s"),
    ],
)
def test_limits_truncate_and_keep_the_final_observation(task, config, outcome, reason):
    setup = build(config)
    setup.arm.task = lambda: task
    (result,) = setup.run()
    assert (result.outcome, result.reason, result.length) == (outcome, reason, 1)
    (step,) = setup.steps()
    assert (step.terminated, step.truncated) == (False, True)
    assert setup.final().stamp_ns > step.stamp_ns


def test_a_task_that_failed_terminates():
    setup = build()
    setup.reward.ends = ends_at(3, success=False)
    (result,) = setup.run()
    assert (result.outcome, setup.steps()[-1].terminated) == (Outcome.FAILURE, True)


def test_terminated_goes_before_truncated_and_never_both():
    setup = build({"max_episode_steps": 3})
    setup.arm.task = lambda: TaskFeedback(1.0, truncated=setup.arm.sequence > 10)
    setup.reward.ends = ends_at(3)
    (result,) = setup.run()
    last = setup.steps()[-1]
    assert (result.outcome, last.terminated, last.truncated) == (Outcome.SUCCESS, True, False)


def test_success_that_is_seen_only_at_the_limit_counts():
    setup = build({"max_episode_steps": 2})
    setup.reward.ends = lambda step: RewardOutcome(1.0, False, True)
    (result,) = setup.run()
    assert (result.outcome, setup.steps()[-1].truncated) == (Outcome.SUCCESS, True)


@pytest.mark.parametrize(
    ("label", "config", "outcome", "terminated"),
    [
        (Label.SUCCESS, {}, Outcome.SUCCESS, True),
        (Label.FAILURE, {}, Outcome.FAILURE, True),
        (Label.FAILURE, {"failure_terminates": False}, Outcome.FAILURE, False),
        (Label.ABORT, {}, Outcome.ABORTED, False),
    ],
)
def test_a_person_ends_the_episode(label, config, outcome, terminated):
    setup = build(config)
    seen = []

    def reward(observation, action, after, task):
        seen.append(task.label)
        return RewardOutcome(1.0)

    reward.reset = lambda: None
    setup.loop.episodes._reward = reward
    setup.person.script = lambda step: HumanInput(label=label) if step == 3 else NOBODY
    (result,) = setup.run()
    assert (result.outcome, result.length) == (outcome, 3)
    last = setup.steps()[-1]
    assert (last.terminated, last.truncated) == (terminated, not terminated)
    assert seen == [Label.NONE, Label.NONE, label]  # the reward hears of it, on that step
    assert result.reason_code == ("person_ended" if label is Label.ABORT else "")


def test_what_a_person_said_before_the_episode_is_not_about_it():
    setup = build({"max_episode_steps": 5})
    setup.person.script = lambda step: HumanInput(label=Label.SUCCESS) if step == 0 else NOBODY
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.UNKNOWN, 5)


def test_a_robot_that_was_lost_leaves_whole_steps_and_a_final_observation():
    setup = build()
    setup.at_step(5, lambda: setattr(setup.arm, "silent", True))
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.ABORTED, 5)
    assert "no new observation" in result.reason
    last = setup.steps()[-1]
    assert (last.terminated, last.truncated) == (False, True)
    assert not any(step.truncated for step in setup.steps()[:-1])
    assert setup.final().observation["reading"] > last.observation["reading"]
    assert setup.loop.episodes.recorder.unanswered == 1


def test_a_safety_stop_ends_the_episode_and_the_loop_waits_until_it_is_over():
    setup = build({"max_episodes": 2, "max_episode_steps": 8})

    def stop():
        setup.arm.problem = "emergency stop"
        setup.world.after(500 * MS, lambda: setattr(setup.arm, "problem", ""))

    setup.at_step(5, stop)
    first, second = setup.run()
    assert (first.outcome, first.length, first.reason) == (Outcome.ABORTED, 5, "emergency stop")
    assert setup.steps()[-1].truncated
    assert (second.outcome, second.length) == (Outcome.UNKNOWN, 8)
    assert second.start_ns - first.end_ns >= 400 * MS


def test_a_robot_that_was_restarted_within_ends_the_episode():
    setup = build()
    setup.at_step(3, lambda: setattr(setup.arm, "episode", 77))
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.ABORTED, 3)
    assert "was reset, or restarted" in result.reason


def test_stop_closes_the_episode_and_ends():
    setup = build({"max_episodes": 0})
    setup.at_step(7, lambda: setup.loop.stop("deactivated"))
    (result,) = setup.run()
    assert (result.outcome, result.length, result.reason) == (Outcome.ABORTED, 7, "deactivated")
    assert setup.final()


def test_a_full_outbox_pauses_and_lets_go_on():
    setup = build({"max_episodes": 2, "max_episode_steps": 6})
    full = []
    setup.sink.why_paused = lambda: Reason(OUTBOX_FULL if full else "", "outbox full")
    states = []

    def fill():
        full.append(True)
        setup.world.after(300 * MS, lambda: states.append(setup.loop.status()))
        setup.world.after(400 * MS, full.clear)

    setup.at_step(4, fill)
    first, second = setup.run()
    assert (first.outcome, first.length, first.reason) == (Outcome.ABORTED, 4, "outbox full")
    assert (states[0].state, states[0].reason.text) == (LoopState.PAUSED, "outbox full")
    assert second.length == 6


def test_pause_and_resume():
    setup = build({"max_episodes": 2, "max_episode_steps": 6})

    def pause():
        setup.loop.pause("a person asked")
        setup.world.after(300 * MS, setup.loop.resume)

    setup.at_step(2, pause)
    first, second = setup.run()
    assert (first.reason, first.length) == ("a person asked", 2)
    assert second.length == 6


def test_the_executed_action_is_what_the_robot_reports():
    setup = build({"max_episode_steps": 5})
    setup.policies[0].weight = setup.policies[1].weight = np.array([0.9])  # the arm allows 0.5
    setup.run()
    for step in setup.steps():
        assert step.proposed_action[0] == pytest.approx(0.9)
        assert step.action[0] == 0.5
        assert step.acted_by is ActedBy.POLICY
    assert np.allclose(setup.reward.actions, [step.action for step in setup.steps()])
    assert setup.loop.episodes.recorder.feedback == {Feedback.EXACT: 5}


def test_late_feedback_records_the_action_that_was_in_effect():
    setup = build({"max_episode_steps": 10}, delay_ns=22 * MS)  # more than a period late
    setup.run()
    steps = setup.steps()
    feedback = setup.loop.episodes.recorder.feedback
    assert feedback[Feedback.MISSING] == 1  # nothing was applied yet
    assert feedback[Feedback.LATE] == 9
    for before, step in pairwise(steps):
        assert step.action[1] == before.proposed_action[1]
    assert "late feedback" in str(setup.loop.status().warnings)


def test_late_feedback_keeps_who_decided():
    setup = build({"max_episode_steps": 4}, delay_ns=22 * MS)

    from user_actor.loop.ports import NOBODY

    setup.person.script = lambda step: drives(0.3) if step == 1 else NOBODY
    arbiter = setup.loop.episodes.actions.arbiter
    arbiter._config = arbiter._config.replace(hold_s=0.0)
    (result,) = setup.run()
    acted = [step.acted_by for step in setup.steps()]
    assert acted[2] is ActedBy.HUMAN  # decided for step 1, in effect during step 2
    assert acted[3] is ActedBy.POLICY
    assert result.interventions == 1


def test_an_action_that_was_never_sent_from_here_is_counted():
    setup = build({"max_episode_steps": 3})
    foreign = AppliedAction(np.array([0.25, 0.25], np.float32), 5)
    real = setup.arm._apply
    setup.arm._apply = lambda *a: (real(*a), setattr(setup.arm, "applied", foreign))
    setup.run()
    assert setup.steps()[0].action[0] == 0.25
    assert setup.loop.episodes.recorder.feedback == {Feedback.FOREIGN: 3}


def test_no_feedback_records_what_was_sent():
    setup = build({"max_episode_steps": 3})
    setup.arm._apply = lambda *a: None
    setup.run()
    assert all((step.action == step.proposed_action).all() for step in setup.steps())
    assert setup.loop.episodes.recorder.feedback == {Feedback.MISSING: 3}


def test_resets_get_seeds_in_order():
    setup = build({"max_episodes": 3, "max_episode_steps": 1, "seed": 40})
    setup.run()
    assert setup.arm.seeds == [40, 41, 42]


def test_a_reset_that_fails_is_tried_again():
    setup = build({"max_episode_steps": 2, "retry_s": 1.0})
    setup.arm.resets_fail = [DeviceError("reset", got="a person in the way")]
    seen = []
    setup.world.after(500 * MS, lambda: seen.append(setup.loop.status()))
    (result,) = setup.run()
    assert result.length == 2
    assert len(setup.arm.seeds) == 2
    assert "a person in the way" in seen[0].reason.text
    assert seen[0].state is LoopState.WAITING


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PolicyError("x", got="y"), PolicyError),
        (ValueError("shapes"), PolicyError),
    ],
)
def test_a_policy_that_fails_ends_the_episode_and_is_named(error, expected):
    setup = build({"max_episodes": 2, "max_episode_steps": 4})

    def fail():
        setup.policies[0].fails = error
        setup.world.after(300 * MS, lambda: setattr(setup.policies[0], "fails", None))

    setup.at_step(2, fail)
    first, second = setup.run()[:2]
    assert (first.outcome, first.length) == (Outcome.ABORTED, 2)
    assert str(error).split(":")[0] in first.reason
    assert second.length == 4


def test_a_policy_that_gives_nan_sends_nothing():
    setup = build({"max_episodes": 1, "max_episode_steps": 4})
    setup.at_step(2, lambda: setattr(setup.policies[0], "bad", True))
    setup.world.after(10_000 * MS, lambda: setup.loop.stop())
    (result,) = setup.run()
    assert "not all finite" in result.reason
    assert all(np.isfinite(chunk.actions_ta).all() for chunk in setup.arm.chunks)


@pytest.mark.parametrize(
    ("break_it", "word"),
    [
        (lambda s: setattr(s.reward, "fails", DeviceFault("reward", got="none")), "reward"),
        (lambda s: setattr(s.reward, "ends", lambda step: RewardOutcome(float("nan"))), "finite"),
        (lambda s: setattr(s.reward, "ends", lambda step: RewardOutcome(1e39)), "finite"),
    ],
)
def test_a_reward_that_fails_keeps_what_was_complete(break_it, word):
    setup = build({"max_episodes": 1})
    setup.at_step(3, lambda: break_it(setup))
    setup.world.after(5_000 * MS, lambda: setup.loop.stop())
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.ABORTED, 3)
    assert word in result.reason
    assert setup.steps()[-1].truncated
    assert setup.final()


def test_an_episode_without_a_step_is_not_recorded():
    setup = build({"max_episode_steps": 2})
    setup.arm.silent = False
    setup.policies[0].fails = PolicyError("not yet")
    setup.world.after(2_000 * MS, lambda: setattr(setup.policies[0], "fails", None))
    (result,) = setup.run()
    assert result.length == 2
    assert len(setup.sink.rows) == 1


def test_rewards_say_where_they_come_from():
    setup = build({"max_episode_steps": 2})
    setup.reward.ends = lambda step: RewardOutcome(1.0, source=RewardSource.ROBOT)
    setup.run()
    assert [step.reward_source for step in setup.steps()] == [RewardSource.ROBOT] * 2


def test_evaluation_episodes_come_between_and_are_deterministic():
    setup = build(
        {
            "max_episodes": 8,
            "max_episode_steps": 2,
            "seed": 100,
            "evaluation": {"every": 3, "episodes": 1, "seed": 7},
        }
    )
    setup.publish(1)
    results = setup.run()
    kinds = "".join("E" if r.source is EpisodeSource.EVALUATION else "o" for r in results)
    assert kinds == "oooEoooE"
    assert setup.arm.seeds == [100, 101, 102, 7, 103, 104, 105, 7]
    acting = max(setup.policies, key=lambda policy: len(policy.calls))
    deterministic = [call[1] for call in acting.calls[-16:]]
    assert deterministic == [False] * 6 + [True] * 2 + [False] * 6 + [True] * 2


def test_nothing_is_evaluated_before_there_is_a_version():
    setup = build({"max_episodes": 3, "max_episode_steps": 1, "evaluation": {"every": 1}})
    assert {result.source for result in setup.run()} == {EpisodeSource.ONLINE}


def test_an_aborted_evaluation_is_done_again():
    setup = build(
        {"max_episodes": 4, "max_episode_steps": 3, "evaluation": {"every": 1, "seed": 5}}
    )
    setup.publish(1)
    setup.at_step(4, lambda: setup.loop.pause("x") or setup.world.after(MS, setup.loop.resume))
    kinds = [result.source.name for result in setup.run()]
    assert kinds == ["ONLINE", "EVALUATION", "EVALUATION", "ONLINE"]


def test_evaluations_that_a_person_takes_over_again_and_again_are_given_up_and_it_collects():
    setup = build(
        {
            "max_episodes": 12,
            "max_episode_steps": 3,
            "evaluation": {"every": 2, "episodes": 2, "attempts": 3},
        }
    )
    setup.publish(1)
    actions, spared = setup.loop.episodes.actions, len("ooEEEooEE")

    def corrects(step):
        evaluates = actions._source is EpisodeSource.EVALUATION
        again = len(setup.sink.results) < spared
        return drives(0.1) if evaluates and again else NOBODY

    said = []
    setup.person.script = corrects
    setup.at_step(11, lambda: said.append(setup.loop.status()))
    results = setup.run()
    kinds = "".join("E" if r.source is EpisodeSource.EVALUATION else "o" for r in results)
    assert kinds == "ooEEEooEEEEo"
    assert [r.reason_code for r in results[2:5]] == ["person_took_over"] * 3
    assert [r.outcome is Outcome.ABORTED for r in results[7:]] == [True, True, False, False, False]
    (status,) = said  # while it collects in between
    assert status.rounds_given_up == 1
    (why,) = [w for w in status.warnings if w.code == EVALUATION_GIVEN_UP]
    assert (
        "3 aborted in a row (the last: a person took over" in why.text and "2 not done" in why.text
    )
    assert EVALUATION_GIVEN_UP not in {w.code for w in setup.loop.status().warnings}


def test_status_tells_how_it_goes():
    setup = build({"max_episodes": 2, "max_episode_steps": 50})
    setup.run()
    status = setup.loop.status()
    assert (status.steps, status.episodes, status.last_return) == (100, 2, 50.0)
    assert math.isnan(status.success_rate)  # nobody judged them
    assert status.rate_hz == pytest.approx(50, rel=0.1)
    assert status.state is LoopState.WAITING


def test_the_steps_are_those_of_the_sink_from_the_first_version_on():
    setup = build({"max_episode_steps": 9})
    setup.at_step(3, lambda: setup.publish(1))
    setup.at_step(6, lambda: setup.publish(2))
    (result,) = setup.run()
    assert [step.policy_version for step in setup.steps()] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (result.first_version, result.last_version) == (0, 2)


@pytest.mark.parametrize("success", [True, False, None])
@pytest.mark.parametrize("terminated", [True, False])
def test_no_verdict_is_unknown_and_not_a_failure(success, terminated):
    setup = build({"max_episode_steps": 3})
    setup.reward.ends = lambda *given: RewardOutcome(1.0, terminated, success)
    (result,) = setup.run()
    bad = Outcome.FAILURE if terminated else Outcome.TIMEOUT
    assert result.outcome is {True: Outcome.SUCCESS, False: bad, None: Outcome.UNKNOWN}[success]
    assert result.outcome.success is success
    rate = setup.loop.status().success_rate
    assert math.isnan(rate) if success is None else rate == float(success)


def test_a_failure_that_repeats_ends_the_loop_with_its_reason_and_one_that_may_pass_does_not():
    setup = build({"max_episodes": 1, "retry_s": 0.0, "equal_failures": 4})
    failures = []

    def broken(*given):
        failures.append(1)
        if len(failures) > 20:
            return RewardOutcome(1.0, True, True)
        raise OSError("disk") if len(failures) <= 10 else SystemExit(3)

    setup.reward.ends = broken
    with pytest.raises(PluginError, match="SystemExit: 3"):
        setup.run()
    assert len(failures) == 14
    assert "SystemExit: 3" in setup.loop.given_up.text and "4 times" in setup.loop.given_up.text


def test_what_an_episode_failed_by_is_said_until_one_has_gone_well():
    setup = build({"max_episodes": 1, "retry_s": 0.0})
    said = []

    def broken(*given):
        said.append(setup.loop.status().warnings)
        if len(said) < 3:
            raise DeviceFault("reward", got="none", hint="Choose another")
        return RewardOutcome(1.0, True, True)

    setup.reward.ends = broken
    setup.run()
    assert [bool(warnings) for warnings in said] == [False, True, True]
    first = said[1][0]
    assert (first.code, "got none" in first.text) == ("device_fault", True)
    assert "Choose another" in first.text
    assert "got none" not in str(setup.loop.status().warnings)


def test_a_reward_that_nothing_can_learn_from_names_episode_and_step():
    setup = build({"max_episodes": 1, "retry_s": 0.0, "equal_failures": 2})
    setup.reward.ends = lambda *given: RewardOutcome(1e25)
    with pytest.raises(SpecError, match="at step 1 of episode 1: got 1e.25"):
        setup.run()


def test_a_person_may_judge_an_attempt_after_it_has_ended_by_itself():
    setup = build({"max_episodes": 1, "max_episode_steps": 3, "verdict_s": 5.0})
    said = []

    def script(step):
        said.append(step)
        return HumanInput(label=Label.SUCCESS) if len(said) == 20 else NOBODY

    setup.person.script = script
    judged = []
    setup.reward.ends = lambda step: judged.append(step)
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.SUCCESS, 3)
    assert setup.steps()[-1].terminated
    assert len(judged) == 4, "the last step is judged anew, with what the person said"


def test_who_does_not_judge_in_time_leaves_it_unknown():
    setup = build({"max_episodes": 1, "max_episode_steps": 3, "verdict_s": 1.0})
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.UNKNOWN, 3)


def test_a_round_of_evaluations_is_about_one_version():
    schedule = EpisodeSchedule(ActorLoopConfig(evaluation=EvaluationConfig(every=2, episodes=3)))
    kept = []
    for _ in range(10):
        plan = schedule.next(True)
        kept.append((plan.source.name, plan.keep_version))
        schedule.finished(plan)
    online, first, later = ("ONLINE", False), ("EVALUATION", False), ("EVALUATION", True)
    assert kept == [online, online, first, later, later] * 2
    schedule = EpisodeSchedule(
        ActorLoopConfig(mode="evaluation", evaluation=EvaluationConfig(episodes=2))
    )
    kept = []
    for _ in range(4):
        plan = schedule.next(True)
        kept.append(plan.keep_version)
        schedule.finished(plan)
    assert kept == [False, True, False, True]


# --- The robot is asked back ---


def test_a_robot_that_is_asked_back_ends_its_episode_and_begins_no_other():
    setup = build({"max_episodes": 0, "max_episode_steps": 9})
    setup.at_step(4, lambda: setup.loop.finish(60.0))
    (result,) = setup.run()
    assert (result.length, result.reason) == (9, "9 steps")  # as if nothing had been
    assert setup.loop.is_finished and setup.loop.status().reason.code == ASKED_BACK


def test_an_episode_that_takes_too_long_then_is_cut_and_its_last_value_counts():
    setup = build({"max_episodes": 0, "max_episode_steps": 0})
    setup.at_step(4, lambda: setup.loop.finish(1.0))
    (result,) = setup.run()
    assert (result.outcome, result.reason_code) == (Outcome.UNKNOWN, ASKED_BACK)
    last = setup.steps()[-1]
    assert (last.truncated, last.terminated) == (True, False)
    period_s = setup.arm.spec.period_s
    assert result.length == pytest.approx(4 + 1.0 / period_s, abs=2)
    assert setup.final()


def test_an_evaluation_that_is_cut_does_not_count():
    setup = build({"mode": "evaluation", "max_episodes": 0, "max_episode_steps": 0})
    setup.publish(1)
    setup.at_step(4, lambda: setup.loop.finish(0.0))
    (result,) = setup.run()
    assert (result.outcome, result.reason_code) == (Outcome.ABORTED, ASKED_BACK)


def test_what_is_asked_back_before_an_episode_began_begins_none():
    setup = build({"max_episodes": 0})
    setup.world.after(1 * MS, lambda: setup.loop.finish(60.0))
    setup.arm.reset_ns = 50 * MS
    assert setup.run() == []
    setup = build({"max_episodes": 0})
    setup.sink.why_paused = lambda: Reason(OUTBOX_FULL, "outbox full")
    setup.world.after(300 * MS, lambda: setup.loop.finish(60.0))
    assert setup.run() == []
    assert setup.loop.is_finished
