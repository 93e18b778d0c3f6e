import contextlib
import threading

import numpy as np
import pytest

from user_actor.loop.acting.policy import PolicyHolder
from user_core.errors import TransportError
from user_core.fakes import PolicyMailbox
from user_core.reasons import INTERNAL
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import PolicyVersion
from user_testing.worlds.actor_loop import Ramp, World

SPEC = RobotSpec("r", {"reading": ArraySpec((1,), "float64")}, ArraySpec((2,)), period_s=0.1)
OBSERVATION = {"reading": np.zeros(1)}


def version(number, weight=0.5, config_hash="right", created_ns=5):
    return PolicyVersion(number, {"weight": np.array([weight])}, config_hash, created_ns=created_ns)


@pytest.fixture
def holder():
    made = []

    def make():
        made.append(Ramp(World()))
        return made[-1]

    mailbox = PolicyMailbox()
    holder = PolicyHolder(make, SPEC, mailbox, "right", clock_ns=lambda: 10**9 + 5)
    holder.mailbox, holder.made = mailbox, made
    return holder


def test_the_first_weights_are_version_0(holder):
    ready = holder.current()
    assert (ready.number, ready.policy) == (0, holder.made[0])
    assert holder.age_s() == 0.0
    assert holder.load_newest() is False


def test_a_version_is_made_ready_beside_the_one_that_acts(holder):
    holder.mailbox.publish(version(3))
    assert holder.load_newest()
    assert holder.number == 0  # nothing changes before the loop asks
    ready = holder.current()
    assert ready.number == 3
    assert ready.policy is holder.made[1]
    assert ready.policy.act(OBSERVATION)[0, 0] == 0.5
    assert holder.made[0].weight == 0
    assert holder.age_s() == pytest.approx(1.0)


def test_the_two_policies_take_turns(holder):
    seen = []
    for number in range(1, 6):
        holder.mailbox.publish(version(number, weight=number / 10))
        assert holder.load_newest()
        ready = holder.current()
        seen.append(ready.policy)
        assert ready.policy.weight == number / 10
    assert seen == [holder.made[1], holder.made[0]] * 2 + [holder.made[1]]
    assert len(holder.made) == 2
    assert holder.swaps == 5


def test_a_version_that_is_held_goes_on_acting_until_it_is_let_go(holder):
    holder.mailbox.publish(version(1, 0.1))
    assert holder.load_newest() and holder.current().number == 1
    holder.held = True
    holder.mailbox.publish(version(2, 0.2))
    assert holder.load_newest()
    assert holder.current().number == 1 and not holder.load_newest()
    holder.held = False
    assert holder.current().number == 2


def test_while_an_offer_waits_nothing_is_touched(holder):
    holder.mailbox.publish(version(1, 0.1))
    assert holder.load_newest()
    holder.mailbox.publish(version(2, 0.2))
    assert not holder.load_newest()
    assert holder.current().policy.weight == 0.1
    assert holder.load_newest()
    assert holder.current().policy.weight == 0.2


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (version(2, config_hash="foreign"), "foreign"),
        (version(2, weight=np.nan), "NaN"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_next_one_taken(holder, bad, word):
    holder.mailbox.publish(version(1, 0.1))
    holder.load_newest()
    holder.current()
    holder.mailbox.publish(bad)
    assert not holder.load_newest()
    assert holder.current().number == 1
    assert word in holder.refusal.text
    assert not holder.load_newest()  # it is not tried again
    assert holder.refused == 1
    holder.mailbox.publish(version(3, 0.3))
    assert holder.load_newest()
    assert holder.current().number == 3
    assert not holder.refusal


def test_weights_that_give_no_usable_action_are_refused(holder):
    for policy in holder.made:
        policy.bad = True
    holder.mailbox.publish(version(1))
    assert not holder.load_newest()
    assert "not all finite" in holder.refusal.text


def test_a_version_is_tried_out_as_it_will_act():
    """One that fails only so, for instance with autocast, would refuse each observation."""
    within = []

    @contextlib.contextmanager
    def pass_in(policy):
        policy.bad = True
        within.append(policy)
        yield

    made, mailbox = [], PolicyMailbox()
    holder = PolicyHolder(
        lambda: made.append(Ramp(World())) or made[-1], SPEC, mailbox, pass_in=pass_in
    )
    mailbox.publish(version(1))
    assert not holder.load_newest() and within == [made[1]]
    assert "not all finite" in holder.refusal.text


def test_a_source_that_fails_is_asked_again(holder):
    real, fails = holder.mailbox.newest, True

    def newest(after):
        if fails:
            raise TransportError("pull", got="no route")
        return real(after)

    holder.mailbox.newest = newest
    holder.mailbox.publish(version(1))
    assert not holder.load_newest()
    fails = False
    assert holder.load_newest()
    assert holder.current().number == 1


def test_who_loads_is_told_when_a_version_that_had_to_wait_can_be_loaded():
    mailbox, told = PolicyMailbox(), []
    holder = PolicyHolder(lambda: Ramp(World()), SPEC, mailbox, on_free=lambda: told.append(1))
    mailbox.publish(version(1))
    assert holder.load_newest()
    mailbox.publish(version(2))
    assert not holder.load_newest() and not told
    assert holder.current().number == 1 and told == [1]
    assert holder.load_newest()
    assert holder.current().number == 2 and told == [1, 1]
    holder.current()
    assert told == [1, 1]


def test_an_error_of_the_policys_own_code_refuses_the_version(holder):
    holder.made[1].load = lambda arrays: 1 / 0
    holder.mailbox.publish(version(1))
    assert not holder.load_newest()
    assert holder.refusal.code == INTERNAL and "ZeroDivisionError" in holder.refusal.text
    assert holder.current().number == 0


def test_current_never_waits_for_a_version_that_is_being_loaded(holder):
    loading, go_on = threading.Event(), threading.Event()
    spare = holder.made[1]
    real = spare.load

    def load(arrays):
        loading.set()
        assert go_on.wait(60)
        real(arrays)

    spare.load = load
    holder.mailbox.publish(version(1))
    thread = threading.Thread(target=holder.load_newest)
    thread.start()
    assert loading.wait(60)
    assert holder.current().number == 0
    go_on.set()
    thread.join()
    assert holder.current().number == 1
