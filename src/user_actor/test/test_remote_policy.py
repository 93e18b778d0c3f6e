"""A policy elsewhere: what is played when, over a link that takes its time. Virtual time."""

from dataclasses import replace

import numpy as np
import pytest

from user_actor.loop.acting.remote import Answer, RemotePlans
from user_actor.loop.ports import NOBODY, HumanInput
from user_core.errors import ConfigError
from user_core.types import ActedBy, Label, Outcome
from user_testing.worlds.actor_loop import MS, Elsewhere, build, drives, ends_at

PERIOD = 20 * MS


def rows(*values):
    return np.array(values, np.float32)[:, None]


# --- what is played when


def play(plans: RemotePlans, answer: Answer, step: int, sequence: int):
    handover = plans.handover(answer, step)
    if handover is not None:
        plans.sent(handover, sequence, step)
    return handover


def test_a_robot_that_has_stood_still_begins_with_the_first_row():
    plans = RemotePlans()
    assert plans.row(10) is None
    handover = play(plans, Answer(rows(1, 2, 3), 10, 7), 14, 1)
    assert (handover.rows_ta.ravel().tolist(), handover.first_step) == ([1, 2, 3], 14)
    assert [float(plans.row(step).action[0]) for step in (14, 15, 16)] == [1, 2, 3]
    assert plans.row(14 + 3) is None
    assert plans.row(20) is None


def test_rows_that_have_gone_by_in_transit_are_skipped_and_the_rest_takes_over_in_the_next_step():
    plans = RemotePlans()
    play(plans, Answer(rows(*range(8)), 0, 7), 0, 1)
    assert plans.row(1).row == 1
    handover = play(plans, Answer(rows(20, 21, 22, 23, 24, 25), 1, 8), 4, 2)
    assert (handover.rows_ta.ravel().tolist(), handover.first_step) == ([24, 25], 5)
    assert (plans.row(4).sequence, float(plans.row(4).action[0])) == (1, 4)
    assert (plans.row(5).sequence, plans.row(5).row, plans.row(5).version) == (2, 0, 8)
    assert float(plans.row(6).action[0]) == 25
    assert plans.row(7) is None


def test_after_a_motion_that_the_observation_did_not_see_rows_are_skipped_though_nothing_is_played():
    plans = RemotePlans()
    play(plans, Answer(rows(1, 2), 0, 0), 0, 1)  # moves in steps 0 and 1
    assert plans.row(2) is None
    assert play(plans, Answer(rows(5), 1, 0), 2, 2) is None
    assert plans.stale == 1
    handover = play(plans, Answer(rows(5, 6, 7), 1, 0), 3, 2)
    assert (handover.rows_ta.ravel().tolist(), handover.first_step) == ([7], 3)


def test_motion_in_steps_that_nobody_looked_at_counts():
    plans = RemotePlans()
    play(plans, Answer(rows(*range(6)), 0, 0), 0, 1)
    assert plans.row(9) is None  # the loop was held up, the robot went on to step 5
    assert play(plans, Answer(rows(5), 5, 0), 9, 2) is None
    assert play(plans, Answer(rows(5), 6, 0), 9, 2) is not None


def test_who_takes_over_ends_what_was_planned():
    plans = RemotePlans()
    play(plans, Answer(rows(*range(6)), 0, 0), 0, 1)
    plans.interrupt(2)
    assert plans.row(3) is None
    assert play(plans, Answer(rows(5), 2, 0), 3, 2) is None  # he has moved it meanwhile


def test_what_was_asked_before_somebody_took_over_is_not_played_after_it():
    plans = RemotePlans()
    play(plans, Answer(rows(*range(9)), 0, 0), 0, 1)
    for step in (4, 5):
        plans.interrupt(step)
    assert play(plans, Answer(rows(*range(9)), 3, 0), 6, 2) is None
    assert plans.stale == 1
    assert play(plans, Answer(rows(*range(9)), 4, 0), 6, 2).rows_ta[0] == 2  # he drove already
    plans.interrupt(9)
    assert play(plans, Answer(rows(*range(9)), 8, 0), 10, 3) is None


def test_steps_that_were_skipped_while_somebody_drove_begin_no_other_takeover():
    plans = RemotePlans()
    play(plans, Answer(rows(*range(9)), 0, 0), 0, 1)
    for step in (4, 6, 9):
        plans.interrupt(step)
    assert play(plans, Answer(rows(*range(9)), 3, 0), 10, 2) is None
    assert play(plans, Answer(rows(*range(9)), 4, 0), 10, 2).rows_ta[0] == 6


# --- in the control loop


def remote(round_trip_ms, config=None, rows=1, **arm):
    made = []

    def make(world, spec, holder):
        made.append(Elsewhere(world, spec, holder, round_trip_ms * MS))
        return made[0]

    setup = build({"max_episode_steps": 12, **(config or {})}, rows, inference=make, **arm)
    return setup, made[0]


def test_an_answer_within_the_step_is_played_as_if_the_policy_were_here():
    setup, _ = remote(7)
    setup.run()
    assert (np.diff(setup.arm.sent_ns) == PERIOD).all()
    assert setup.loop.episodes.recorder.feedback["exact"] == 12
    steps = setup.steps()
    assert (np.diff([step.stamp_ns for step in steps]) == PERIOD).all()
    assert [step.acted_by for step in steps] == [ActedBy.POLICY] * 12
    assert setup.loop.pacer.skipped == 0


def test_chunks_bridge_a_round_trip_of_several_steps_and_what_was_played_is_recorded():
    setup, _ = remote(83, rows=10, config={"max_episode_steps": 40})
    setup.run()
    steps = setup.steps()
    gaps = np.diff([step.stamp_ns for step in steps])
    assert (gaps == PERIOD).all()  # no step without a row
    recorder = setup.loop.episodes.recorder
    assert recorder.feedback["exact"] == 40
    assert all((step.action == step.proposed_action).all() for step in steps)
    ahead = [chunk for chunk in setup.arm.chunks[1:] if len(chunk.actions_ta) > 1]
    assert ahead and all(len(chunk.actions_ta) <= 6 for chunk in ahead)  # 4 of 10 had gone by


def test_no_more_is_asked_than_the_plan_needs():
    setup, elsewhere = remote(83, rows=16, config={"max_episode_steps": 60, "replan_every": 6})
    setup.run()
    assert setup.loop.episodes.recorder.feedback["exact"] == 60  # no step without a row
    asked = [step for _, step, _ in elsewhere.asked]
    late = [step for step in asked if step > asked[0] + 12]  # at first nothing is played
    assert len(late) in (7, 8) and (np.diff(late) == 6).all()


def test_a_plan_that_is_short_is_replaced_before_it_ends_however_seldom_that_is_wanted():
    setup, _ = remote(83, rows=10, config={"max_episode_steps": 40, "replan_every": 30})
    setup.run()
    assert setup.loop.episodes.recorder.feedback["exact"] == 40


def test_single_actions_over_such_a_link_are_played_each_for_a_robot_that_stands_still():
    setup, _ = remote(83)
    setup.run()
    assert setup.loop.episodes.recorder.feedback["exact"] == 12
    gaps = np.diff([step.stamp_ns for step in setup.steps()])
    assert (gaps >= 4 * PERIOD).all()  # look, wait, move
    assert setup.loop.status().warnings


def test_a_cut_ends_the_episode_and_none_begins_before_the_other_host_answers_again():
    setup, elsewhere = remote(30, rows=4, config={"max_episodes": 2, "retry_s": 0.0})

    def cut():
        elsewhere.cut = True
        setup.world.after(900 * MS, lambda: setattr(elsewhere, "cut", False))
        setup.world.after(1500 * MS, lambda: setup.loop.stop("enough"))

    setup.at_step(6, cut)
    setup.run()
    first, second = setup.sink.results
    assert first.outcome is Outcome.ABORTED
    assert "away" in first.reason
    assert setup.steps(0)[-1].truncated
    assert elsewhere.probes > 3
    assert second.start_ns - first.end_ns > 500 * MS


def test_whoever_sees_several_observations_is_sent_so_many_between_episodes_too(monkeypatch):
    shapes, usual = {True: set(), False: set()}, Elsewhere.ask

    def ask(self, observation, step, *, deterministic=False):
        shapes[step < 0].add(observation.arrays["reading"].shape)
        newest = {name: array[-1] for name, array in observation.arrays.items()}
        usual(self, replace(observation, arrays=newest), step, deterministic=deterministic)

    monkeypatch.setattr(Elsewhere, "observation_history", 2, raising=False)
    monkeypatch.setattr(Elsewhere, "ask", ask)
    setup, elsewhere = remote(30, rows=4, config={"max_episodes": 1, "retry_s": 0.0})
    elsewhere._heard_ns -= 900 * MS  # it is away at first
    setup.run()
    assert elsewhere.probes
    size = setup.arm.spec.observation["reading"].shape
    assert shapes == {True: {(2, *size)}, False: {(2, *size)}}


def test_a_person_takes_over_at_once_and_the_policy_comes_back_with_what_it_sees_then():
    setup, _ = remote(33, rows=8, config={"max_episode_steps": 30, "arbiter": {"hold_s": 0.04}})
    setup.person.script = lambda step: drives(0.25) if 9 < step < 14 else NOBODY
    setup.run()
    steps = setup.steps()
    by = [step.acted_by for step in steps]
    human = [i for i, who in enumerate(by) if who is ActedBy.HUMAN]
    assert 4 <= len(human) <= 7 and np.diff(human).tolist() == [1] * (len(human) - 1)
    assert steps[human[0]].action[0] == 0.25
    assert by[human[-1] + 1 :] and set(by[human[-1] + 1 :]) == {ActedBy.POLICY}
    recorder = setup.loop.episodes.recorder
    assert recorder.feedback["foreign"] == 0


def driven(round_trip_ms, replan_every, lost=(), until=60, **port):
    """A person drives from the tenth step on; the steps asked about meanwhile, how many he drove, and the first after."""
    setup, elsewhere = remote(
        round_trip_ms, rows=40,
        config={"max_episode_steps": 90, "replan_every": replan_every, "arbiter": {"hold_s": 0.0}},
    )  # fmt: skip
    vars(elsewhere).update(port, lost=frozenset(lost))
    begun, asked = [], []
    usual = elsewhere.ask

    def ask(*given, **more):
        usual(*given, **more)
        if begun and not begun[1:]:
            asked.append((elsewhere.asked[-1][1], len(elsewhere.asked) - 1))

    def script(step):
        if step in (10, until):
            begun.append(step)
        return drives(0.25) if 10 <= step < until else NOBODY

    elsewhere.ask, setup.person.script = ask, script
    setup.publish(3)
    setup.run()
    steps = setup.steps()
    his = [i for i, step in enumerate(steps) if step.acted_by is ActedBy.HUMAN]
    assert len(his) == until - 10
    return asked, [steps[i] for i in his], steps[his[-1] :]


@pytest.mark.parametrize(
    ("round_trip_ms", "replan_every", "apart"),
    [(7, 20, 1), (33, 20, 3), (83, 20, 9), (83, 7, 7), (83, 2, 5), (83, 0, 1)],
)
def test_while_a_person_drives_a_slow_policy_rests_for_as_long_as_its_answers_take(
    round_trip_ms, replan_every, apart
):
    asked, his, after = driven(round_trip_ms, replan_every)
    assert set(np.diff([step for step, _ in asked])) == {apart}
    # What it would do is known of all steps but those before its first answer.
    without = [step.policy_version == 0 for step in his]
    assert without == [True] * sum(without) + [False] * (len(his) - sum(without))
    assert sum(without) <= -(-round_trip_ms // 20)
    assert all((step.action != step.proposed_action).any() for step in his[sum(without) :])
    assert [step.acted_by for step in after[1:]] == [ActedBy.POLICY] * (len(after) - 1)
    assert np.diff([step.stamp_ns for step in after[1:]]).max() <= PERIOD


@pytest.mark.parametrize("until", range(52, 61))
def test_who_lets_go_is_followed_by_the_last_plan_within_the_step(until):
    _, _, after = driven(83, 20, until=until)
    assert after[1].acted_by is ActedBy.POLICY
    assert after[1].stamp_ns - after[0].stamp_ns < 2 * PERIOD
    assert 0 < after[1].plan_row <= 12, "not older than two of its round trips"


def test_an_answer_that_is_lost_while_a_person_drives_is_asked_for_again():
    for may_lose, apart in ((True, [9, 9, 7, 9, 9]), (False, [9, 9])):  # a thread loses nothing
        numbers = [number for _, number in driven(83, 20, may_lose=may_lose)[0]]
        asked, _, _ = driven(83, 20, lost=numbers[2:3], may_lose=may_lose)
        assert np.diff([step for step, _ in asked]).tolist() == apart


def test_evaluations_are_asked_for_without_noise_and_random_steps_need_no_answer():
    setup, elsewhere = remote(
        7,
        {"max_episodes": 2, "evaluation": {"every": 1}, "exploration": {"random_steps": 5}},
    )
    setup.publish(1)
    setup.run()
    steps = setup.steps(0)
    assert [step.acted_by for step in steps[:6]] == [ActedBy.RANDOM] * 5 + [ActedBy.POLICY]
    assert not any(asked[2] for asked in elsewhere.asked[:12])
    assert all(asked[2] for asked in elsewhere.asked[12:])
    assert {step.policy_version for step in setup.steps(1)} == {1}


def test_the_end_of_an_episode_is_decided_here():
    setup, _ = remote(83, rows=10)
    setup.reward.ends = ends_at(5)
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.SUCCESS, 5)
    assert setup.steps()[-1].terminated


def test_what_a_person_says_while_the_robot_waits_counts_with_the_next_step():
    setup, _ = remote(83)

    def script(_):
        waits = setup.loop.episodes.recorder.steps == len(setup.arm.chunks) == 3
        return HumanInput(label=Label.SUCCESS) if waits else NOBODY

    setup.person.script = script
    (result,) = setup.run()
    assert (result.outcome, result.length) == (Outcome.SUCCESS, 4)
    assert setup.steps()[-1].terminated


def test_a_robot_in_lockstep_is_refused():
    with pytest.raises(ConfigError, match="real time"):
        remote(7, lockstep=True)
