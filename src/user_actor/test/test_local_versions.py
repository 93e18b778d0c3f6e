"""Versions of a learner on this host: into the policy that does not act, whatever happens meanwhile."""

import logging
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from user_actor.inference.local_versions import LocalVersions
from user_actor.loop.acting.policy import PolicyHolder
from user_core.codecs.weights import content_hash
from user_core.errors import TransportError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy
from user_core.runtime.gpu_turns import LONGEST_S, FairWait, GpuTurns
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import PolicyVersion, Task
from user_core.weight_plane import wire
from user_core.weight_plane.offers import Offers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not wire.is_there(), reason="needs abstract sockets and memfd")

SPEC = RobotSpec("r", {"reading": ArraySpec((1,), "float64")}, ArraySpec((2,)), period_s=0.1)
SEEN = {"reading": np.zeros(1)}
NAMES = [f"w{i}" for i in range(6)]


class Scale(Policy):
    """Acts with its weights, which are all one number, or it says so."""

    def __init__(self):
        self.weights = {name: torch.zeros(50) for name in NAMES}
        self.loads = 0

    def act(self, observation, *, deterministic=False):
        found = {float(n) for tensor in self.weights.values() for n in tensor.unique()}
        assert len(found) == 1, f"half a version acts: {found}"
        return np.full((1, 2), found.pop() / 100, np.float32)

    def arrays(self):
        return {name: tensor.numpy().copy() for name, tensor in self.weights.items()}

    def load(self, arrays):
        self.loads += 1
        for name, tensor in self.weights.items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))


class InPlace(Scale):
    def in_place(self):
        from contextlib import nullcontext

        return nullcontext(self.weights)


def version(number):
    arrays = {name: np.full(50, number, np.float32) for name in NAMES}
    return PolicyVersion(number, arrays, "right", created_ns=os.getpid())  # others test here, too


def announced(made):
    return SimpleNamespace(number=made.number, content_hash=content_hash(made))


def always_wanted():
    return False


@pytest.fixture(params=[InPlace, Scale])
def holder(request):
    found = PolicyHolder(request.param, SPEC, PolicyMailbox(), "right")
    found.begin(Task())
    return found


@pytest.fixture
def offers():
    with Offers() as found:
        yield found


def publish(offers, number):
    made = version(number)
    offers.offer(made, content_hash(made))
    return announced(made)


def acts_with(holder):
    ready = holder.current()
    assert ready.policy.act(SEEN)[0, 0] == pytest.approx(ready.number / 100)
    return ready.number


def test_versions_take_turns_in_the_two_policies(holder, offers):
    local = LocalVersions(holder)
    policies = [holder.acting, holder.spare]
    for number in range(1, 5):
        assert local(publish(offers, number), always_wanted)
        assert holder.number == number - 1  # nothing changes before the loop asks
        assert acts_with(holder) == number
        assert holder.acting is policies[number % 2]
    in_place = isinstance(holder.acting, InPlace)
    assert [policy.loads for policy in policies] == ([0, 0] if in_place else [2, 2])
    assert local.last == "memory"


def test_where_no_learner_of_this_host_offers_it_the_network_is_next(holder, caplog):
    local = LocalVersions(holder)
    with caplog.at_level(logging.INFO):
        assert not local(announced(version(1)), always_wanted)
        assert not local(announced(version(2)), always_wanted)
    assert [r.message for r in caplog.records] == [
        "policy versions come by way of network: no learner of this host offers it"
    ]


def test_a_learner_that_ends_in_the_middle_leaves_the_policy_that_acts_alone(offers):
    holder = PolicyHolder(InPlace, SPEC, PolicyMailbox(), "right")
    pieces = []

    def pace():
        acts_with(holder)  # between any two pieces
        pieces.append(1)
        if len(pieces) == len(NAMES) + 3:
            offers.close()

    local = LocalVersions(holder)
    local.pace = pace
    assert local(publish(offers, 1), always_wanted)
    assert acts_with(holder) == 1
    spoilt = holder.spare
    assert not local(publish(offers, 2), always_wanted)
    assert {float(t[0]) for t in spoilt.weights.values()} == {0.0, 2.0}  # half of it is there
    assert acts_with(holder) == 1
    assert (holder.spare, local.last) == (spoilt, "network")
    # It then comes by the network, into the same policy.
    holder._source.publish(version(2))
    assert holder.load_newest()
    assert acts_with(holder) == 2


def test_robots_that_ask_without_a_pause_do_not_keep_versions_out(offers):
    turns = GpuTurns()
    holder = PolicyHolder(InPlace, SPEC, PolicyMailbox(), "right")
    local, over = LocalVersions(holder), threading.Event()
    local.pace = FairWait(turns)

    def asks():
        while not over.wait(0.1):
            turns.take(LONGEST_S)

    turns.take(LONGEST_S)
    robot = threading.Thread(target=asks)
    robot.start()
    try:
        for number in (1, 2):
            assert local(publish(offers, number), always_wanted)
            assert acts_with(holder) == number
        assert turns.taken
    finally:
        over.set()
        robot.join()


def test_a_version_waits_until_the_one_before_has_been_taken(holder, offers):
    local = LocalVersions(holder)
    first = publish(offers, 1)
    assert local(first, always_wanted)
    asked = []

    def cancelled():
        asked.append(1)
        if len(asked) == 3:
            acts_with(holder)  # takes version 1
        return False

    assert local(publish(offers, 2), cancelled)
    assert len(asked) == 3
    assert acts_with(holder) == 2
    assert local(publish(offers, 3), always_wanted)
    assert not local(publish(offers, 4), lambda: True)  # a newer one is announced meanwhile
    assert acts_with(holder) == 3


@pytest.mark.parametrize("way", ["gpu", "memory"])
def test_a_way_that_was_asked_for_by_name_is_the_only_one(holder, offers, way):
    local = LocalVersions(holder, way)
    with pytest.raises(TransportError, match="no learner of this host offers it") as found:
        local(announced(version(1)), always_wanted)
    assert found.value.expected == f"by way of {way}"
    made = publish(offers, 2)
    if way == "memory":
        assert local(made, always_wanted)
    else:
        with pytest.raises(TransportError, match="on no GPU"):
            local(made, always_wanted)
        assert acts_with(holder) == 0


def test_whatever_a_policy_raises_the_network_is_next(offers):
    class Faulty(InPlace):
        def in_place(self):
            raise KeyError("weights")

    holder = PolicyHolder(Faulty, SPEC, PolicyMailbox(), "right")
    local = LocalVersions(holder)
    assert not local(publish(offers, 1), always_wanted)
    assert (local.last, local.why) == ("network", "KeyError: 'weights'")


@pytest.mark.parametrize(("dtype", "loads"), [(torch.float64, 1), (torch.bfloat16, 0)])
def test_a_policy_that_keeps_its_weights_in_another_type_loads_them_or_has_them_rounded(
    offers, dtype, loads
):
    class InAnotherType(InPlace):
        def __init__(self):
            super().__init__()
            self.weights = {name: tensor.to(dtype) for name, tensor in self.weights.items()}

    holder = PolicyHolder(InAnotherType, SPEC, PolicyMailbox(), "right")
    local = LocalVersions(holder)
    assert local(publish(offers, 1), always_wanted)
    assert acts_with(holder) == 1
    assert (holder.acting.loads, local.last) == (loads, "memory")


def test_a_version_for_another_configuration_is_refused(holder, offers):
    made = PolicyVersion(1, version(1).arrays, "wrong", created_ns=os.getpid())
    offers.offer(made, content_hash(made))
    assert LocalVersions(holder)(announced(made), always_wanted)  # it came, and is of no use
    assert holder.refused == 1
    assert acts_with(holder) == 0
