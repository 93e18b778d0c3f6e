"""Several robots and one policy: batches, places, and robots that send rubbish."""

import contextlib
import errno
import itertools
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from user_actor.inference import Admission, Client, InferenceServer
from user_actor.inference.compiling import Compiler
from user_actor.inference.config import BatchingConfig
from user_actor.inference.preparing import Preparing
from user_actor.loop.acting.policy import PolicyHolder
from user_core.codecs.images import encode_observation, encode_plan
from user_core.errors import ConfigError, PolicyError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import answers_in_batches
from user_core.plugins import build
from user_core.policies.improving.best_of import BestOfPolicy
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.runtime.clock import Clock
from user_core.runtime.gpu_turns import GpuTurns
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Observation, PolicyVersion, Task
from user_testing.waiting import wait_until

SPEC = RobotSpec(
    "r", {"x": ArraySpec((2,), low=-1.0, high=1.0)}, ArraySpec((2,), low=-1.0, high=1.0),
    period_s=0.05,
)  # fmt: skip


def seen(number, x=None, plan=None, frozen=0):
    value = np.full(2, number / 100, np.float32) if x is None else x
    arrays = encode_observation({"x": value}, "", deterministic=True)
    if plan is not None:
        arrays |= encode_plan(plan, frozen)
    return Observation(arrays, number * 1000, number, 1)


class Policy(TanhGaussianPolicy):
    """Notes how many it was asked for at once; may be slow, and be wrong about one observation."""

    Config = TanhGaussianConfig

    def __init__(self):
        super().__init__(TanhGaussianConfig(seed=0), SPEC)
        self.sizes, self.tasks_told = [], []
        self.go = threading.Event()
        self.go.set()
        self.fails_at = None

    def act_batch(self, queries):
        self.go.wait(60)
        self.sizes.append(len(queries))
        self.tasks_told += [query.task.name for query in queries]
        if self.fails_at is not None and any(
            q.observation["x"][0] == self.fails_at for q in queries
        ):
            raise ValueError("cannot see this")
        return super().act_batch(queries)


class Hosts:
    """A server with robots a, b, c, ..."""

    def __init__(self, count=3, policies=None, **batching):
        self.policy = Policy() if policies is None else policies
        holder = PolicyHolder(lambda: self.policy, SPEC, PolicyMailbox())
        self.server = InferenceServer(BatchingConfig(**{"wait_s": 0.0, **batching}))
        self.answers, self.told = {}, {}
        for name in "abcdefgh"[:count]:
            self.answers[name], self.told[name] = [], []
            self.server.add(
                Client(
                    name, SPEC, holder, self.answers[name].append, self.told[name].append,
                    Task(f"task {name}"),
                )
            )  # fmt: skip
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.policy.go.set()
        self.server.stop()
        self.thread.join(60)

    def counts(self, name):
        return self.server.clients[name].counts


def test_what_waits_while_the_policy_thinks_is_answered_by_one_pass():
    with Hosts() as hosts:
        hosts.policy.go.clear()
        hosts.server.offer("a", seen(1))
        wait_until(lambda: not hosts.server._anybody_waits(), "the policy thinks")
        for name, number in (("a", 2), ("b", 3), ("c", 4), ("b", 5)):
            hosts.server.offer(name, seen(number))
        hosts.policy.go.set()
        wait_until(lambda: len(hosts.answers["c"]) == 1, "all are answered")
        assert hosts.policy.sizes == [1, 3]
        assert [c.sequence for c in hosts.answers["b"]] == [5]  # the newest
        assert hosts.counts("b").superseded == 1
        assert hosts.policy.tasks_told[1:] == ["task a", "task b", "task c"]
        for name, number in (("a", 2), ("b", 5), ("c", 4)):
            alone = hosts.policy.act(
                {"x": np.full(2, number / 100, np.float32)}, deterministic=True
            )
            answer = hosts.answers[name][-1]
            assert answer.start_ns == number * 1000
            np.testing.assert_allclose(answer.actions_ta, alone, atol=1e-6)


class SetClock(Clock):
    """Shows what a test says."""

    now_ns = 10**12

    def monotonic_ns(self):
        return self.now_ns


def test_an_observation_waits_for_others_but_not_for_long():
    hosts, clock = Hosts(2, wait_s=0.02), SetClock()
    hosts.server._clock = clock
    a, b = hosts.server.clients["a"], hosts.server.clients["b"]

    def waits_ms(*batch):
        return round(1e3 * hosts.server._may_wait_s(batch, clock.now_ns))

    hosts.server.offer("a", seen(1))
    assert waits_ms(a) == 0  # nobody else is there
    hosts.server.offer("b", seen(2))
    assert waits_ms(a, b) == 0  # both are there
    clock.now_ns += 5_000_000
    assert waits_ms(a) == 15  # the other one may come
    clock.now_ns += 20_000_000
    assert waits_ms(a) <= 0  # it does not
    clock.now_ns += 10**9
    a._waiting = None
    hosts.server.offer("a", seen(3))
    assert waits_ms(a) == 0  # it is gone


def test_no_more_than_the_most_are_answered_at_once():
    with Hosts(3, most=2) as hosts:
        hosts.policy.go.clear()
        hosts.server.offer("a", seen(1))
        wait_until(lambda: not hosts.server._anybody_waits(), "the policy thinks")
        for number, name in enumerate("cab"):
            hosts.server.offer(name, seen(2 + number))
        hosts.policy.go.set()
        wait_until(lambda: hosts.answers["b"], "all are answered")
        assert hosts.policy.sizes == [1, 2, 1]  # the one that came first is not left out
        assert hosts.answers["c"]


@pytest.mark.parametrize("rubbish", ["shape", "names", "policy", "plan"])
def test_a_robot_that_sends_rubbish_disturbs_nobody(rubbish):
    bad = {
        "shape": seen(9, x=np.zeros(3, np.float32)),
        "names": replace(seen(9), arrays={}),
        "policy": seen(9, x=np.full(2, 0.5, np.float32)),
        "plan": seen(9, plan=np.zeros((4, 2), np.float32), frozen=1),
    }[rubbish]
    with Hosts() as hosts:
        hosts.policy.fails_at = 0.5
        hosts.policy.go.clear()
        hosts.server.offer("a", seen(1))
        wait_until(lambda: not hosts.server._anybody_waits(), "the policy thinks")
        hosts.server.offer("b", bad)
        hosts.server.offer("a", seen(2))
        hosts.server.offer("c", seen(3))
        hosts.policy.go.set()
        wait_until(lambda: len(hosts.answers["a"]) == 2 and hosts.answers["c"], "others go on")
        wait_until(lambda: hosts.told["b"], "it is told")
        assert hosts.counts("b").refused == 1 and not hosts.answers["b"]
        assert hosts.counts("a").refused == hosts.counts("c").refused == 0
        assert hosts.told["b"] == [hosts.counts("b").last_error]
        hosts.server.offer("b", seen(4))
        wait_until(lambda: hosts.answers["b"], "it is answered again")
        assert hosts.counts("b").last_error == ""


def test_a_row_that_is_not_finite_concerns_its_robot_only():
    class Wrong(Policy):
        def act_batch(self, queries):
            answers = super().act_batch(queries)
            return [
                a * (np.nan if q.task.name == "task b" else 1) for q, a in zip(queries, answers)
            ]

    hosts = Hosts(3, Wrong())
    clients = hosts.server.clients
    hosts.server.answer([(clients[name], seen(i)) for i, name in enumerate("abc")])
    assert hosts.answers["a"] and hosts.answers["c"] and not hosts.answers["b"]
    assert "finite" in hosts.counts("b").last_error


def test_a_robot_that_goes_while_it_is_answered_takes_nothing_from_the_others():
    hosts = Hosts(2)
    clients = dict(hosts.server.clients)
    hosts.server.remove("b")
    hosts.server.answer([(clients["a"], seen(1)), (clients["b"], seen(2))])
    assert len(hosts.answers["a"]) == len(hosts.answers["b"]) == 1
    hosts.server.offer("b", seen(3))  # nobody is there any more
    assert not hosts.server._anybody_waits() and hosts.server.admission.robots == ()


def test_robots_that_share_a_policy_that_cannot_answer_several_are_refused():
    class Changed(TanhGaussianPolicy):
        def act(self, observation, *, deterministic=False):
            return super().act(observation, deterministic=deterministic) / 2

    policy = Changed(TanhGaussianConfig(), SPEC)
    assert not answers_in_batches(policy)  # what it has from its parents is not what it does
    assert answers_in_batches(Policy())
    assert not any("act_batch" in vars(cls) for cls in (BestOfPolicy,))
    holder = PolicyHolder(lambda: policy, SPEC, PolicyMailbox())
    server = InferenceServer()
    server.add(Client("a", SPEC, holder, lambda chunk: None))
    with pytest.raises(PolicyError, match="several robots"):
        server.add(Client("b", SPEC, holder, lambda chunk: None))
    server.add(Client("a", SPEC, holder, lambda chunk: None))  # it came again


def test_robots_with_other_versions_are_answered_by_their_own():
    hosts, other = Hosts(2), Policy()
    other.load({n: a * 0 for n, a in other.arrays().items()})
    holder = PolicyHolder(lambda: other, SPEC, PolicyMailbox())
    got = []
    hosts.server.add(Client("x", SPEC, holder, got.append))
    with hosts:
        hosts.policy.go.clear()
        hosts.server.offer("a", seen(1))
        wait_until(lambda: not hosts.server._anybody_waits(), "the policy thinks")
        for name in "axb":
            hosts.server.offer(name, seen(2))
        hosts.policy.go.set()
        wait_until(lambda: got and len(hosts.answers["a"]) == 2 and hosts.answers["b"], "answers")
    assert np.abs(got[0].actions_ta).max() == 0
    assert np.abs(hosts.answers["b"][0].actions_ta).max() > 0
    assert hosts.policy.sizes == [1, 2]


def test_how_old_an_answer_is_counts_from_the_observation_that_it_is_about():
    hosts, clock = Hosts(1), SetClock()
    hosts.server._clock = clock
    hosts.server.offer("a", seen(1))
    batch = hosts.server._next()
    clock.now_ns += 40_000_000
    hosts.server.offer("a", seen(2))  # comes while the first is answered
    hosts.server.answer(batch)
    assert hosts.server.clients["a"].ages.percentile_ns(50) == pytest.approx(40e6, rel=0.1)


def test_measuring_ends_when_the_server_is_to_stop():
    hosts = Hosts(2)
    hosts.server.stop()
    hosts.server.measure()
    assert hosts.policy.sizes == [] and hosts.server.admission.takes_s(1) == 0


@pytest.mark.parametrize(("most", "robots", "sizes"), [(16, 4, [2, 4]), (16, 3, [2, 3]), (16, 20, [2, 4, 8, 16]), (2, 4, [2]), (16, 1, [])])  # fmt: skip
def test_what_is_measured_and_prepared_are_batches_that_so_many_robots_can_have(
    most, robots, sizes
):
    batching = BatchingConfig(most=most, wait_s=0.0).for_robots(robots)
    hosts = Hosts(2, **batching.model_dump())
    hosts.server.measure()
    assert sorted(set(hosts.policy.sizes)) == sizes
    prepared = Compiler(batching.most, SPEC, Task("t"), nullcontext)
    assert prepared._sizes == [1, *sizes]


def test_a_policy_that_fails_while_it_is_measured_answers_all_the_same(caplog):
    hosts, usual = Hosts(2), Policy.reset
    hosts.policy.reset = lambda task: (_ for _ in ()).throw(PolicyError("task", got="no words"))
    hosts.server.measure()
    assert "no words" in caplog.text
    hosts.policy.reset = lambda task: usual(hosts.policy, task)
    hosts.server.answer([(hosts.server.clients["a"], seen(1))])
    assert len(hosts.answers["a"]) == 1


def version(policy, number):
    return PolicyVersion(number, policy.arrays(), "", 1, 1, 0)


def test_a_robot_that_comes_takes_no_version_from_under_the_policy_that_acts():
    made = []
    box = PolicyMailbox()
    holder = PolicyHolder(lambda: made.append(Policy()) or made[-1], SPEC, box)
    box.publish(version(made[0], 1))
    assert holder.load_newest()
    server = InferenceServer()
    server.add(Client("a", SPEC, holder, lambda chunk: None))
    server.add(Client("b", SPEC, holder, lambda chunk: None))
    assert holder.swaps == 0 and holder.acting is made[0]
    server.answer([(server.clients["a"], seen(1))])
    assert holder.swaps == 1 and holder.acting is made[1]


def test_a_version_that_comes_within_an_episode_acts_for_the_task_of_its_robot():
    class Reads(Policy):
        told = None

        def reset(self, task):
            self.told = task.name

    made, box = [], PolicyMailbox()
    holder = PolicyHolder(lambda: made.append(Reads()) or made[-1], SPEC, box)
    holder.begin(Task("of the first robot"))
    server = InferenceServer()
    server.add(Client("b", SPEC, holder, lambda chunk: None, task=Task("its own")))
    server.answer([(server.clients["b"], seen(1))])
    box.publish(version(made[0], 1))
    assert holder.load_newest() and made[1].told == "of the first robot"
    server.answer([(server.clients["b"], seen(2))])
    assert [policy.told for policy in made] == ["its own", "its own"]


def test_training_does_not_wait_for_a_robot_that_is_turned_away(tmp_path):
    turns = GpuTurns(tmp_path / "turns")
    holder = PolicyHolder(Policy, SPEC, PolicyMailbox())
    server = InferenceServer(BatchingConfig(budget_s=0.05), turns=turns)
    server.admission.measured(1, 0.04)
    for name in "ab":
        server.add(Client(name, SPEC, holder, lambda chunk: None))
    server.admission.admit("a", server._clock.monotonic_ns() * 1e-9)
    server.offer("b", seen(1))
    assert server.clients["b"].counts.turned_away == 1 and not turns.taken
    server.offer("a", seen(1))
    assert turns.taken
    turns.close()


def test_each_pass_is_made_in_what_the_policys_holder_says():
    within, policy = [], Policy()

    @contextlib.contextmanager
    def pass_in(one):
        assert one is policy
        before = len(policy.sizes)
        yield
        within.append(len(policy.sizes) - before)

    holder = PolicyHolder(lambda: policy, SPEC, PolicyMailbox(), pass_in=pass_in)
    server, got = InferenceServer(), []
    server.add(Client("a", SPEC, holder, got.append))
    server.answer([(server.clients["a"], seen(1))])
    server.add(Client("b", SPEC, holder, got.append))
    server.answer([(server.clients[name], seen(2)) for name in "ab"])
    assert len(got) == 3 and within == [0, 1]  # alone it is asked without a batch


def test_what_rubbish_costs_takes_no_place_from_others():
    hosts = Hosts(3)
    hosts.policy.fails_at = 0.5
    clients, admission = hosts.server.clients, hosts.server.admission
    bad = seen(9, x=np.full(2, 0.5, np.float32))
    for _ in range(3):
        hosts.server.answer([(clients["a"], seen(1)), (clients["b"], bad)])
    assert admission.takes_s(2) == 0.0 and hosts.answers["a"]
    hosts.server.answer([(clients["a"], seen(1)), (clients["c"], seen(2))])
    assert admission.takes_s(2) > 0.0


def test_the_first_pass_of_a_size_prepares_and_does_not_count():
    hosts = Hosts(2)
    both = [(hosts.server.clients[name], seen(1)) for name in "ab"]
    hosts.server.answer(both)
    assert hosts.server.admission.takes_s(2) == 0.0
    hosts.server.answer(both)
    assert hosts.server.admission.takes_s(2) > 0.0


# --- places


def admission(times, **config):
    made = Admission(BatchingConfig(**{"wait_s": 0.0, "budget_s": 0.1, "most": 8, **config}))
    for size, took_s in times.items():
        made.measured(size, took_s)
    return made


@pytest.mark.parametrize(
    ("times", "most", "robots"),
    [
        ({1: 0.01, 8: 0.03}, 8, 16),  # one batch that has begun, and two of 8: 3 x 30 ms
        ({1: 0.01, 8: 0.03}, 1, 9),  # one after the other: 9 + 1 passes of 10 ms
        ({1: 0.01, 8: 0.06}, 8, 6),  # 2 x 50 ms fit for 6, and not 57 for 7
        ({1: 0.2}, 8, 1),  # too slow for anybody: one is served all the same
    ],
)
def test_as_many_have_room_as_are_answered_in_time(times, most, robots):
    made = admission(times, most=most)
    assert made.capacity == robots
    assert made.worst_s(robots) <= 0.1 or robots == 1
    assert made.worst_s(robots + 1) > 0.1


def test_who_has_room_is_known_without_counting_robots(monkeypatch):
    """It is asked after each pass, also where thousands would fit."""
    made, asked = admission({1: 1e-6, 16: 2e-6}, budget_s=60.0), []
    usual = made.worst_s
    monkeypatch.setattr(made, "worst_s", lambda n: asked.append(n) or usual(n))
    assert not made.admit("a", 0.0) and not made.admit("b", 0.0) and not made.shed(1.0)
    assert len(asked) <= 2
    assert made.capacity >= 1000 and len(asked) < 20


def test_a_robot_beyond_capacity_is_told_the_figures_until_another_is_gone():
    made = admission({1: 0.04, 2: 0.05, 4: 0.07}, forget_s=10.0)
    assert [made.admit(name, 0.0) for name in "ab"] == ["", ""]
    why = made.admit("c", 1.0)
    assert "room for 2 robots" in why and "120 ms" in why and "100 ms" in why
    assert not made.admit("a", 9.0)  # who is there stays
    assert not made.admit("c", 11.0)  # b was silent
    assert made.robots == ("a", "c")
    assert made.admit("b", 11.0)


def test_where_batches_come_to_take_longer_the_last_one_goes_after_a_while():
    made = admission({1: 0.01, 2: 0.02, 4: 0.03})
    assert not any(made.admit(name, 0.0) for name in "abc")
    for _ in range(64):
        made.measured(3, 0.08)
    assert made.capacity == 2 or made.capacity == 1
    assert made.shed(1.0) == "" and made.shed(3.0) == ""
    assert made.shed(4.5) == "c"


def test_places_come_back_when_a_slow_host_is_as_quick_as_before():
    made = admission({1: 0.01, 2: 0.02, 4: 0.03})
    for _ in range(64):
        made.measured(4, 0.3)
    assert made.capacity < 4
    for _ in range(64):  # it stays slow: sizes that do not come are not thought quicker than that
        made.measured(2, 0.2)
    for _ in range(300):
        made.measured(1, 0.1)
    assert made.capacity == 1
    for _ in range(300):
        made.measured(1, 0.01)
    assert made.capacity >= 4
    made.measured(4, 0.03)  # what it took when the host was slow is forgotten
    assert made.capacity >= 4


def slow_then_quick(made, names, begin_s, slow_s, quick_s, until_s):
    """One robot is answered twice a second, as slowly as a large policy; when others asked and got a place."""
    now_s, came = begin_s, {}
    while now_s < until_s:
        now_s += 0.5
        made.measured(1, slow_s if now_s < begin_s + 40.0 else quick_s, now_s)
        for name in names:
            had = name in made.robots
            if not made.admit(name, now_s) and not had:
                came.setdefault(name, []).append(now_s - begin_s)
        made.shed(now_s)
    return came


def test_a_robot_that_lost_its_place_comes_back_within_a_minute_of_quick_batches():
    """With so few batches that they are not what is counted."""
    made = admission({1: 0.05, 2: 0.06, 4: 0.08}, budget_s=1.0)
    assert not any(made.admit(name, 0.0) for name in "abcd")
    now_s = 0.0
    for _ in range(20):
        now_s += 0.8
        made.measured(len(made.robots), 0.8, now_s)
        for name in made.robots:
            made.admit(name, now_s)
        made.shed(now_s)
    assert made.robots == ("a",)
    came = slow_then_quick(made, "abcd", now_s, 0.8, 0.05, now_s + 100.0)
    assert sorted(came) == ["b", "c", "d"] and len(made.robots) == 4
    assert all(len(times) == 1 and 40.0 < times[0] < 80.0 for times in came.values()), came


def test_a_host_that_is_slow_for_two_and_quick_for_one_does_not_let_one_come_and_go():
    made, now_s, lost = admission({1: 0.05, 2: 0.06}, budget_s=0.3), 0.0, []
    while now_s < 900.0:
        now_s += 0.2
        for name in "ab":
            made.admit(name, now_s)
        made.measured(len(made.robots), 0.4 if len(made.robots) == 2 else 0.05, now_s)
        if made.shed(now_s):
            lost.append(now_s)
    assert 2 <= len(lost) <= 8
    gaps = [later - sooner for sooner, later in itertools.pairwise(lost)]
    assert gaps == sorted(gaps) and gaps[-1] > 150.0
    made.shed(now_s)
    if "b" not in made.robots:
        assert "lost its place" in made.admit("b", now_s)


def test_one_slow_batch_of_a_size_that_seldom_comes_takes_no_place():
    made = admission({1: 0.01, 2: 0.012, 4: 0.016, 8: 0.024})
    assert not any(made.admit(f"r{i}", 0.0) for i in range(8))
    for size in (5, 4):  # one that never came before, and one that was measured
        made.measured(size, 0.4)
        assert made.capacity >= 8
        for _ in range(20):
            made.measured(8, 0.024)
        assert made.capacity >= 8
    for _ in range(3):  # where it is always slow, it is soon believed
        made.measured(5, 0.4)
    assert made.capacity < 8


def versions_come(made, names, *, period_s, prepared_s, slow_s, quick_s, until_s):
    """Robots that always ask, and versions: who lost a place, and when."""
    now_s, lost = 1000.0, {}
    while now_s < 1000.0 + until_s:
        number, since_s = divmod(now_s - 1000.0, period_s)
        slow = since_s < prepared_s
        took_s = slow_s if slow else quick_s
        now_s += took_s
        made.measured(len(made.robots), took_s, now_s, int(number) + 1 if slow else 0)
        for name in made.robots:
            made.admit(name, now_s)
        if robot := made.shed(now_s):
            lost[robot] = now_s - 1000.0
    assert made.robots == tuple(name for name in names if name not in lost)
    return lost


@pytest.mark.parametrize(
    ("period_s", "prepared_s", "slow_s", "quick_s", "stay"),
    [
        (100.0, 60.0, 0.6, 0.05, 4),  # the first of all, which takes a minute
        (5.0, 2.0, 0.6, 0.05, 4),  # less than half of the time
        (5.0, 4.0, 0.6, 0.05, 1),  # that is how the host is: it takes more than there is for two
        (5.0, 1.0, 0.6, 0.6, 1),  # and here it is slow by itself
        (0.5, 0.05, 0.05, 0.05, 4),  # hardly any batch without one, and none is slow
        (4000.0, 4000.0, 0.6, 0.05, 1),  # it never ends
    ],
)
def test_what_takes_long_while_a_policy_is_prepared_takes_no_place_unless_one_mostly_is(
    period_s, prepared_s, slow_s, quick_s, stay
):
    made = admission({1: 0.05, 2: 0.05, 4: 0.05}, budget_s=1.0)
    assert not any(made.admit(name, 1000.0) for name in "abcd")
    lost = versions_come(
        made, "abcd", period_s=period_s, prepared_s=prepared_s, slow_s=slow_s, quick_s=quick_s,
        until_s=60.0 if period_s < 4000.0 else 2000.0,
    )  # fmt: skip
    assert all(at_s > 1800.0 for at_s in lost.values()) or period_s < 4000.0
    assert len(made.robots) == stay, lost


def test_before_anything_else_is_known_what_takes_long_while_a_policy_is_prepared_counts():
    made = admission({}, budget_s=1.0)
    made.measured(1, 0.6, 1.0, 1)
    assert not made.admit("a", 1.0) and "room for 1 robots" in made.admit("b", 1.0)
    made.measured(1, 0.05, 2.0)
    assert made.takes_s(1) == 0.05 and not made.admit("b", 2.0)
    made.measured(1, 0.6, 2.6)  # with what is forgotten it would be the second slow one
    assert made.takes_s(1) == 0.05


def test_without_locks_each_knows_of_what_it_prepares_itself(tmp_path, monkeypatch, caplog):
    def none_here(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("user_actor.inference.preparing.fcntl.fcntl", none_here)
    preparing = Preparing()
    preparing.share(tmp_path / "gpu")
    assert "is not known: [Errno 22]" in caplog.text
    with preparing():
        assert preparing.since(preparing.over()) == 1
    assert preparing.since(preparing.over()) == 0


def test_what_another_process_prepares_on_the_same_gpu_is_known_until_it_dies(tmp_path):
    here, over = Preparing(), []
    here.share(tmp_path / "gpu")
    words = (
        "import sys, time; from pathlib import Path; from user_actor.inference.preparing import Preparing\n"
        "there = Preparing(); there.share(Path(sys.argv[1]))\n"
        "for line in sys.stdin:\n"
        "    with there(): print('begun', flush=True); sys.stdin.readline()\n"
        "    print('over', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", words, str(tmp_path / "gpu")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def tell(wanted):
        process.stdin.write("next\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == wanted

    try:
        assert here.since(here.over()) == 0 and here.for_s == here.took_s == 0.0
        tell("begun")
        over.append(here.over())
        assert here.since(over[0]) == 1 and here.for_s > 0
        with here():  # both at once: one period
            assert here.since(over[0]) == 1
        assert here.since(over[0]) == 1
        tell("over")
        assert here.since(over[0]) == 1  # it was there in part
        assert here.since(here.over()) == 0 and here.took_s > 0
        tell("begun")
        assert here.since(here.over()) == 2
        process.kill()
        process.wait(30)
        assert here.since(here.over()) == 0
    finally:
        process.kill()
        process.communicate()
        here.close()


def test_answers_that_are_late_while_a_policy_is_prepared_are_counted_and_said():
    preparing, clock = Preparing(), SetClock()
    hosts = Hosts(2, budget_s=0.1)
    server = hosts.server = InferenceServer(
        BatchingConfig(wait_s=0.0, budget_s=0.1), clock=clock, preparing=preparing
    )
    holder = PolicyHolder(lambda: hosts.policy, SPEC, PolicyMailbox(), preparing=preparing)
    clients = [Client(name, SPEC, holder, hosts.answers[name].append, print) for name in "ab"]
    for client in clients:
        server.add(client)
    act_batch = hosts.policy.act_batch

    def takes(seconds):
        def slowly(queries):
            clock.now_ns += int(seconds * 1e9)
            return act_batch(queries)

        hosts.policy.act_batch = slowly
        clients[0]._taken_ns = clients[1]._taken_ns = clock.now_ns
        server.answer([(client, seen(1)) for client in clients])

    takes(0.01)  # the first of its size
    takes(0.01)
    with preparing():
        for _ in range(20):
            takes(0.5)
        assert re.search(r"while a policy version is prepared, for \d+ s now", server.why_late)
    assert server.admission.takes_s(2) == pytest.approx(0.01)
    assert [client.counts.late for client in clients] == [20, 20]
    assert [client.counts.late_preparing for client in clients] == [20, 20]
    clock.now_ns += 3 * 10**9
    assert "until 3 s ago" in server.why_late
    for _ in range(2):  # the slowest one would not count
        takes(0.5)  # by itself: that is something else
    assert server.why_late == "" and server.admission.takes_s(2) > 0.4
    assert (clients[0].counts.late, clients[0].counts.late_preparing) == (22, 20)


def test_robots_with_other_versions_need_passes_of_their_own():
    times = {1: 0.019, 8: 0.03}
    made = admission(times)
    assert not any(made.admit(f"r{i}", 0.0, "one") for i in range(8))
    made = admission(times)
    answers = [made.admit(f"r{i}", 0.0, f"version {i}") for i in range(5)]
    assert answers[:4] == [""] * 4  # 4 passes of 19 ms, and one that has begun
    assert "room for 4 robots: with 5 of 5 versions" in answers[4] and "114 ms" in answers[4]


def test_a_robot_that_is_gone_takes_no_place_from_one_that_is_there():
    made = admission({1: 0.01, 2: 0.02, 4: 0.03}, forget_s=10.0)
    assert not any(made.admit(name, 0.0) for name in "abc")
    for _ in range(64):
        made.measured(3, 0.06)
    assert made.shed(8.0) == ""
    assert not any(made.admit(name, 9.0) for name in "bc")
    assert made.shed(11.5) == "" and made.robots == ("b", "c")


def test_waiting_for_others_must_fit_into_the_budget():
    with pytest.raises(ConfigError, match="wait_s"):
        BatchingConfig(wait_s=0.1, budget_s=0.05)


def test_a_robot_without_room_is_told_and_others_are_not_late():
    with Hosts(3, budget_s=0.05) as hosts:
        hosts.server.admission.measured(1, 0.01)
        hosts.server.admission.measured(2, 0.02)
        hosts.server.admission.measured(4, 0.04)
        for name in "abc":
            hosts.server.offer(name, seen(1))
        wait_until(lambda: hosts.answers["a"] and hosts.answers["b"], "two are answered")
        assert not hosts.answers["c"] and "room for 2" in hosts.told["c"][0]
        assert hosts.counts("c").turned_away == 1


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
@pytest.mark.parametrize("prefix_rows", [0, 1, 3])  # with 1 one plan is told, and the other guides
def test_plans_that_go_on_are_kept_in_a_batch(backbone, prefix_rows):
    params = {"rows": 6, "backbone": backbone, "prefix_rows": prefix_rows, "embedding": 16, "heads": 2,
              "layers": 1, "hidden": [16]}  # fmt: skip
    policy = build("policies", "flow", params, SPEC)
    rng = np.random.default_rng(1)
    policy.load(
        {
            n: (a + 0.1 * rng.standard_normal(a.shape)).astype(a.dtype)
            for n, a in policy.arrays().items()
        }
    )
    hosts = Hosts.__new__(Hosts)
    hosts.policy = policy
    hosts.server = InferenceServer(BatchingConfig())
    holder = PolicyHolder(lambda: policy, SPEC, PolicyMailbox())
    answers = {name: [] for name in "abc"}
    for name in "abc":
        hosts.server.add(Client(name, SPEC, holder, answers[name].append))
    plan = np.linspace(-0.5, 0.5, 8).reshape(4, 2).astype(np.float32)
    asked = {"a": seen(1), "b": seen(2, plan=plan, frozen=2), "c": seen(3, plan=plan[:3], frozen=0)}
    hosts.server.answer([(hosts.server.clients[n], one) for n, one in asked.items()])
    arrays = {n: {"x": np.full(2, i / 100, np.float32)} for i, n in enumerate("abc", 1)}
    alone = {
        "a": policy.act(arrays["a"], deterministic=True),
        "b": policy.continue_plan(arrays["b"], plan, 2, deterministic=True),
        "c": policy.continue_plan(arrays["c"], plan[:3], 0, deterministic=True),
    }
    for name, rows in alone.items():
        np.testing.assert_allclose(answers[name][0].actions_ta, rows, atol=2e-5)
    assert (answers["b"][0].actions_ta[:2] == plan[:2]).all()
