"""Chunks that are averaged, that come late, and that go on from the one before."""

import threading

import numpy as np
import pytest

from user_actor.loop.acting.chunks import DelayedPlans, Delays, Ensemble, GoingOn, Plan
from user_actor.loop.acting.policy import FixedPolicy, planned
from user_actor.loop.acting.remote import Answer, RemotePlans
from user_actor.loop.acting.threaded import ThreadedPolicy
from user_actor.loop.ports import NOBODY
from user_core.codecs.images import decode_plan, encode_plan
from user_core.config import Config
from user_core.errors import CodecError, ConfigError, PolicyError
from user_core.interfaces import Policy
from user_core.runtime.clock import Clock
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ActedBy, Observation, Task
from user_testing.waiting import wait_until
from user_testing.worlds.actor_loop import MS, Elsewhere, Ramp, build, drives

ACTION = ArraySpec((1,), low=-100.0, high=100.0)
SPEC = RobotSpec("r", {"x": ArraySpec((1,))}, ACTION)


def rows(*values):
    return np.array(values, np.float32)[:, None]


# --- means over plans


def test_an_ensemble_is_the_weighted_mean_of_what_plans_say_of_a_step():
    ensemble = Ensemble(ACTION, np.log(2.0))
    ensemble.add(Plan(rows(0, 4, 8), 0, 1))
    ensemble.add(Plan(rows(10, 14), 1, 1))
    assert float(ensemble.row(0)[0]) == 0
    assert float(ensemble.row(1)[0]) == pytest.approx((4 + 10 / 2) / 1.5)
    assert float(ensemble.row(2)[0]) == pytest.approx((8 + 14 / 2) / 1.5)
    np.testing.assert_allclose(ensemble.rows(2, 5), rows((8 + 14 / 2) / 1.5))
    assert ensemble.row(3) is None
    assert ensemble.row(3) is None


def test_choices_of_an_ensemble_are_voted_on():
    action = ArraySpec((2,), low=(-1.0, 0.0), high=(1.0, 3.0), categorical=(1,))
    ensemble = Ensemble(action, 0.1)
    for i, (value, choice) in enumerate([(0.0, 3), (0.5, 1), (1.0, 3)]):
        ensemble.add(Plan(np.tile(np.float32([[value, choice]]), (4, 1)), i, 1))
    mean = ensemble.row(2)
    assert mean[1] == 3 and 0.4 < mean[0] < 0.5


# --- plans that come late


class Maker:
    """Plans of T rows; row i of the plan asked for in step s is 100 s + i, or goes on."""

    def __init__(self, rows=8):
        self.rows, self.step, self.asked = rows, 0, []

    def __call__(self, going_on):
        self.asked.append((self.step, going_on))
        made = rows(*(100 * self.step + i for i in range(self.rows)))
        if going_on is not None:
            made[: going_on.frozen] = going_on.plan_ta[: going_on.frozen]
        return made, 7

    def play(self, plans, steps):
        taken = []
        for _ in range(steps):
            taken.append(float(plans.next(self)[0][0]))
            self.step += 1
        return taken


def test_without_a_delay_it_is_usual_chunking():
    maker = Maker(4)
    assert maker.play(DelayedPlans(0, 0, False), 6) == [0, 1, 2, 3, 400, 401]
    maker = Maker(4)
    assert maker.play(DelayedPlans(0, 2, False), 5) == [0, 1, 200, 201, 400]


def test_a_late_plan_takes_over_where_it_is_then_and_the_one_before_plays_on():
    maker = Maker(6)
    taken = maker.play(DelayedPlans(2, 0, False), 10)
    assert taken == [0, 1, 2, 3, 4, 5, 402, 403, 404, 405]
    assert [(step, going_on) for step, going_on in maker.asked] == [(0, None), (4, None), (8, None)]


def test_a_plan_that_goes_on_is_told_what_is_carried_out_meanwhile():
    maker = Maker(8)
    taken = maker.play(DelayedPlans(2, 3, True), 12)
    (_, none), (step, going_on), *_ = maker.asked
    assert none is None and (step, going_on.frozen) == (3, 2)
    assert going_on.plan_ta.ravel().tolist() == [3, 4, 5, 6, 7]
    assert taken[:6] == [0, 1, 2, 3, 4, 302]
    assert [step for step, _ in maker.asked] == [0, 3, 6, 9]
    assert maker.asked[2][1].plan_ta.ravel().tolist()[:2] == [303, 304]


def test_a_late_ensemble_means_what_has_come_and_a_new_episode_forgets_all():
    plans = DelayedPlans(1, 1, False, Ensemble(ACTION, 0.0))
    maker = Maker(4)
    taken = maker.play(plans, 4)
    assert taken[:2] == [0, 1]  # the plan of step 1 comes in step 2
    assert taken[2] == pytest.approx((2 + 101) / 2)
    assert taken[3] == pytest.approx((3 + 102 + 201) / 3)
    plans.clear()
    maker.step = 0
    assert maker.play(plans, 1) == [0]


def test_delays_are_expected_to_be_like_the_longest_of_late():
    delays = Delays(4)
    assert delays.expected == 4
    for steps in [2] * 9 + [3]:
        delays.add(steps)
    assert delays.expected == 3


# --- in the loop


class Counting(Ramp):
    """Counts on from a plan that it goes on from."""

    def continue_plan(self, observation, plan, frozen, *, deterministic=False):
        self.calls.append((frozen, deterministic, self.world.now_ns))
        self.frozen = [*getattr(self, "frozen", []), (frozen, len(plan))]
        made = np.repeat(plan[:1], self.rows, 0)
        made[:, 1] += self.scale * np.arange(self.rows, dtype=np.float32)
        return made


def bridged(
    round_trip_ms, steps, person=None, lost=frozenset(), rows=12, elsewhere=Elsewhere, replan_every=0, **chunks
):  # fmt: skip
    made = []

    def make(world, spec, holder):
        policies = FixedPolicy(Counting(world, rows), 1)
        made.append(elsewhere(world, spec, policies, round_trip_ms * MS))
        made[0].lost = lost
        return made[0]

    config = {
        "max_episode_steps": steps, "chunks": chunks, "arbiter": {"hold_s": 0.0},
        "exploration": {"deterministic": True}, "replan_every": replan_every,
    }  # fmt: skip
    setup = build(config, 12, inference=make)
    setup.person.script = person or setup.person.script
    setup.run()
    return setup, made[0]


def test_over_a_link_each_plan_goes_on_from_what_is_carried_out_meanwhile():
    setup, port = bridged(50, 40, execution="real_time", delay_steps=3)
    executed = np.array([step.action[1] for step in setup.steps()])
    np.testing.assert_allclose(np.diff(executed), 0.001, atol=1e-6)  # no seam
    going_on = port.frozen
    assert len(going_on) >= 5 and set(going_on) <= {3, 4}
    assert setup.loop.episodes.recorder.feedback["exact"] == 40


@pytest.mark.parametrize("lasts", [1, 2, 6])
def test_after_a_person_has_driven_each_plan_is_asked_for_once_the_one_before_has_come(lasts):
    setup, port = bridged(
        50, 40, lambda step: drives(0.25) if 9 < step < 10 + lasts else NOBODY,
        execution="real_time", delay_steps=3,
    )  # fmt: skip
    steps = setup.steps()
    driven = [i for i, step in enumerate(steps) if step.acted_by is ActedBy.HUMAN]
    assert len(driven) == lasts and setup.loop.episodes.recorder.feedback["exact"] == 40
    after = np.array([step.action[1] for step in steps[driven[-1] + 1 :]])
    np.testing.assert_allclose(np.diff(after), 0.001, atol=1e-6)  # no seam
    asked = [step for _, step, _ in port.asked]
    assert (
        np.diff(asked[-6:]).tolist() == [3] * 5
    )  # a round trip; more at once would not know of each other
    assert all(deterministic for _, _, deterministic in port.asked)


def test_a_plan_that_was_kept_while_a_person_drove_is_followed_by_one_that_goes_on_from_it():
    letting_go = 55
    setup, port = bridged(
        83, 110, lambda step: drives(0.25) if 10 <= step < letting_go else NOBODY, rows=40,
        replan_every=20, execution="real_time",
    )  # fmt: skip
    steps = setup.steps()
    driven = [i for i, step in enumerate(steps) if step.acted_by is ActedBy.HUMAN]
    after = steps[driven[-1] + 1 :]
    kept = after[0].plan_row
    assert kept > 5, "it is older than a round trip"
    np.testing.assert_allclose(np.diff([one.action[1] for one in after]), 0.001, atol=1e-6)
    followed = next(i for i, one in enumerate(after) if one.plan > after[0].plan)
    assert followed <= 1 + 6, "a round trip after it, not replan_every"
    # How old it was is not how late answers are.
    assert port.frozen and set(port.frozen) <= {5, 6}


def test_an_answer_from_before_a_takeover_has_no_other_plan_asked_for_while_one_is_under_way():
    setup, port = bridged(
        170, 60, lambda step: drives(0.25) if step == 29 else NOBODY, execution="real_time",
    )  # fmt: skip
    [driven] = [i for i, step in enumerate(setup.steps()) if step.acted_by is ActedBy.HUMAN]
    assert driven > 9 and setup.loop.episodes.actions.stale_answers == 1
    asked = np.array([step for _, step, _ in port.asked])
    [taken] = np.flatnonzero(np.diff(asked) == 1)[-1:]  # he drives, and lets go in the next step
    assert (np.diff(asked[taken + 1 :]) >= 8).all()


@pytest.mark.parametrize("lost", [{5}, {5, 9}])
def test_a_plan_whose_answer_is_lost_is_asked_for_again_once_it_is_later_than_any_of_late(lost):
    """A plan takes over 5 steps after it was asked for and has 16 rows: those that are left suffice to ask twice."""
    setup, port = bridged(70, 60, lost=lost, rows=16, execution="real_time")
    waited = np.diff([step for _, step, _ in port.asked])
    assert waited.tolist() == [6 if number in lost else 4 for number in range(len(waited))]
    steps = setup.steps()
    assert len(steps) == 60  # nobody is away
    np.testing.assert_allclose(np.diff([step.action[1] for step in steps]), 0.001, atol=1e-6)
    assert (np.diff([step.stamp_ns for step in steps]) == 20 * MS).all()


def test_an_answer_that_is_late_and_not_lost_is_taken_and_the_one_that_was_asked_for_instead_is_not():
    class Hesitant(Elsewhere):
        def ask(self, *args, **more):
            self.round_trip_ns = (150 if len(self.asked) == 5 else 70) * MS
            super().ask(*args, **more)

    setup, port = bridged(70, 60, rows=16, elsewhere=Hesitant, execution="real_time")
    steps, asked = setup.steps(), [step for _, step, _ in port.asked]
    # Again 6 steps later; the late one comes 8 steps after it was asked for, and is gone on from.
    assert np.diff(asked)[4:7].tolist() == [4, 6, 2]
    assert len(steps) == 60 and len({step.plan for step in steps}) == len(asked) - 2
    np.testing.assert_allclose(np.diff([step.action[1] for step in steps]), 0.001, atol=1e-6)


def test_what_can_lose_nothing_is_asked_once():
    class Thread(Elsewhere):
        may_lose = ThreadedPolicy.may_lose

        def ask(self, *args, **more):
            self.round_trip_ns = (170 if len(self.asked) == 5 else 70) * MS
            super().ask(*args, **more)

    _, port = bridged(70, 60, rows=16, elsewhere=Thread, execution="real_time")
    assert np.diff([step for _, step, _ in port.asked])[4:7].tolist() == [4, 9, 4]


@pytest.mark.parametrize("execution", ["sequential", "ensemble", "real_time"])
@pytest.mark.parametrize(("may_lose", "again"), [(True, [8, 8]), (False, [])])
def test_who_is_seldom_asked_is_asked_again_at_once_where_an_answer_may_be_lost(
    execution, may_lose, again
):
    """A thread that thinks for longer than usual loses nothing: asked again it would think twice."""

    class Port(Elsewhere):
        def ask(self, *args, **more):
            self.round_trip_ns = (300 if len(self.asked) == 6 and not may_lose else 83) * MS
            super().ask(*args, **more)

    Port.may_lose = may_lose
    lost = {6, 7} if may_lose else set()
    setup, port = bridged(
        83, 160, lost=lost, rows=40, elsewhere=Port, replan_every=20, execution=execution
    )
    waited = np.diff([step for _, step, _ in port.asked])[4:]
    assert [int(steps) for steps in waited if steps != 20] == again
    steps = setup.steps()
    assert len(steps) == 160 and (np.diff([step.stamp_ns for step in steps]) == 20 * MS).all()


def test_over_a_link_plans_are_averaged():
    setup, _ = bridged(50, 30, execution="ensemble")
    assert setup.loop.episodes.recorder.feedback["exact"] == 30
    gaps = np.diff([step.stamp_ns for step in setup.steps()])
    assert (gaps == 20 * MS).all()


@pytest.mark.parametrize("execution", ["ensemble", "real_time"])
def test_late_plans_in_the_loop_are_recorded_with_what_was_done(execution):
    config = {"max_episode_steps": 30, "chunks": {"execution": execution, "delay_steps": 3}}
    setup = build(config, 8)
    setup.policies[0].continue_plan = lambda observation, plan, frozen, *, deterministic=False: (
        setup.policies[0].act(observation)
    )
    setup.run()
    assert len(setup.steps()) == 30
    assert setup.loop.episodes.recorder.feedback["exact"] == 30


def test_a_policy_that_cannot_go_on_is_refused_in_words():
    going_on = GoingOn(np.zeros((3, 2), np.float32), 1)
    with pytest.raises(PolicyError, match=r"continue_plan.*sequential or ensemble"):
        planned(Ramp(None), {}, going_on, False)


# --- a policy beside the loop


class Slow(Policy):
    """Waits where a test wants it to."""

    Config = Config

    def __init__(self):
        self.go, self.tasks, self.calls = threading.Event(), [], 0
        self.go.set()
        self.fails = False

    def act(self, observation, *, deterministic=False):
        assert self.go.wait(60)
        self.calls += 1
        if self.fails:
            raise ValueError("it fell over")
        return np.full((3, 1), observation["x"][0], np.float32)

    def continue_plan(self, observation, plan, frozen, *, deterministic=False):
        return plan[:frozen]

    def arrays(self):
        return {}

    def load(self, arrays):
        pass

    def reset(self, task):
        self.tasks.append(task)


@pytest.fixture
def threaded():
    policy = Slow()
    port = ThreadedPolicy(FixedPolicy(policy, 5), SPEC, Clock())
    yield policy, port
    policy.go.set()
    port.close()


def seen(number):
    return Observation({"x": np.array([number], np.float32)}, number, number)


def test_a_policy_beside_the_loop_answers_the_newest_and_is_never_waited_for(threaded):
    policy, port = threaded
    policy.go.clear()
    for number in range(4):
        port.ask(seen(number), number)
        assert port.take() is None
    policy.go.set()
    wait_until(lambda: port._running is None, "it is idle")
    assert policy.calls <= 2  # one that it may have begun with, and the newest
    last = port.take()
    assert (last.step, last.version, float(last.rows_ta[0, 0])) == (3, 5, 3.0)
    port.ask(seen(9), 9, going_on=GoingOn(rows(1, 2, 3), 2))
    answer = port.wait(Clock().monotonic_ns() + int(5e9))
    assert answer.rows_ta.ravel().tolist() == [1, 2]


def test_what_it_raises_is_raised_in_the_loop_and_an_old_answer_is_not_given(threaded):
    policy, port = threaded
    policy.fails = True
    port.ask(seen(1), 1)
    with pytest.raises(PolicyError, match="it fell over"):
        port.wait(Clock().monotonic_ns() + int(5e9))
    policy.fails = False
    policy.go.clear()
    port.ask(seen(2), 2)
    port.begin()
    policy.go.set()
    port.begin_episode(Task("t"))
    assert policy.tasks == [Task("t")] and port.take() is None


def test_a_robot_whose_time_passes_by_commands_wants_no_thread():
    with pytest.raises(ConfigError, match="inline"):
        build({"chunks": {"inference": "thread"}}, 3, lockstep=True)


# --- a plan on the wire, and what is left of one


def test_a_plan_travels_and_what_is_none_is_refused():
    coded = encode_plan(rows(1, 2, 3), 2)
    plan, frozen = decode_plan(coded, ACTION)
    assert (plan.ravel().tolist(), frozen) == ([1, 2, 3], 2)
    assert decode_plan({}, ACTION) is None
    for wrong in (
        encode_plan(rows(1, 2), 3),
        encode_plan(rows(1, np.nan), 1),
        encode_plan(np.zeros((2, 2), np.float32), 1),
        {"@frozen": np.array(1)},
        {"@plan": rows(1)},
    ):
        with pytest.raises(CodecError, match="@plan|@frozen"):
            decode_plan(wrong, ACTION)


def test_the_rest_of_what_is_played_counts_what_takes_over_soon():
    plans = RemotePlans()
    assert plans.rest(0) is None
    plans.sent(plans.handover(Answer(rows(*range(6)), 0, 1), 0), 1, 0)
    assert plans.rest(2).ravel().tolist() == [2, 3, 4, 5]
    plans.sent(plans.handover(Answer(rows(10, 11, 12, 13, 14, 15), 1, 1), 2), 2, 2)
    assert plans.rest(2).ravel().tolist() == [2, 12, 13, 14, 15]
    assert plans.rest(3).ravel().tolist() == [12, 13, 14, 15]
