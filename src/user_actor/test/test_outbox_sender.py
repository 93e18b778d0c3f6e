"""The sender on simulated links: an event loop in virtual time, no threads, no sleeping."""

import heapq
import itertools
import random

import pytest

from user_actor.outbox.delivery import SendQueue
from user_actor.outbox.storage import Entry
from user_core.runtime.link_model import LinkWindow

KB = 1000
OTHER_CLOCK_S = -5000.0


class Link:
    """A link with rate, delay and loss, and a store with cumulative acks at its end."""

    def __init__(
        self, sizes, bytes_per_s, delay_s, loss=0.0, seed=0, schemas=None, repeat=0.0,
        commit_s=0.0, tells=True,
    ):  # fmt: skip
        self.entries = [
            Entry(i + 1, size, schemas[i] if schemas else "s") for i, size in enumerate(sizes)
        ]
        self.window = LinkWindow(64 * KB, 8000 * KB, 0.5, 10.0)
        self.sender = SendQueue(self.upcoming, self.window)
        self.bytes_per_s, self.delay_s, self.loss, self.repeat = bytes_per_s, delay_s, loss, repeat
        self.random = random.Random(seed)
        self.now_s, self.free_s = 0.0, 0.0
        self.commit_s, self.committing = commit_s, False
        self.tells = tells  # when chunks arrived, and how long it held its answers
        self.arrived = {}  # by number, on the store's clock
        self.events, self.order = [], itertools.count()
        self.stored, self.up_to, self.cut_until_s = set(), 0, 0.0
        self.sent, self.waits_s, self.sent_schemas = 0, [], []
        self.acknowledged = 0

    def upcoming(self, after, limit):
        return self.entries[after : after + limit]

    def at(self, when_s, action, *arguments):
        heapq.heappush(self.events, (when_s, next(self.order), action, arguments))

    def arrives(self, entry):
        self.stored.add(entry.sequence)
        self.arrived[entry.sequence] = self.now_s
        while self.up_to + 1 in self.stored:
            self.up_to += 1
        if self.commit_s and not self.committing:
            self.committing = True
            self.at(self.now_s + self.commit_s, self.commit)
        if self.commit_s:
            return
        for _ in range(1 + (self.random.random() < self.repeat)):
            self.back(self.up_to)

    def commit(self):
        self.committing = False
        self.back(self.up_to)

    def back(self, number):
        if self.now_s >= self.cut_until_s and self.random.random() >= self.loss:
            late_s = self.random.random() * self.repeat
            self.at(self.now_s + self.delay_s + late_s, self.answer, number, self.now_s)

    def answer(self, number, answered_s):
        self.acknowledged = max(self.acknowledged, number)
        if not self.tells or number not in self.arrived:
            self.sender.acknowledge(number, self.now_s)
            return
        arrived_s = self.arrived[number]
        self.sender.acknowledge(
            number, self.now_s, arrived_s + OTHER_CLOCK_S, answered_s - arrived_s
        )

    def pump(self):
        while True:
            window = max(self.window.nbytes, 64 * KB)
            entry = self.sender.take(self.now_s)
            if entry is None:
                return
            under_way = self.sender.bytes_under_way
            assert under_way <= window or under_way == entry.nbytes
            self.sent += 1
            self.sent_schemas.append((entry.schema_hash, self.acknowledged, entry.sequence))
            self.free_s = max(self.free_s, self.now_s) + entry.nbytes / self.bytes_per_s
            self.waits_s.append(self.free_s - self.now_s - entry.nbytes / self.bytes_per_s)
            if self.now_s >= self.cut_until_s and self.random.random() >= self.loss:
                self.at(self.free_s + self.delay_s, self.arrives, entry)

    def run(self, limit_s=10_000.0):
        """Until all is acknowledged; return the virtual time that took."""
        while self.acknowledged < len(self.entries):
            self.pump()
            wait_s = self.sender.wait_s(self.now_s)
            wake_s = float("inf") if wait_s is None else self.now_s + max(wait_s, 1e-6)
            if self.events and self.events[0][0] <= wake_s:
                self.now_s, _, action, arguments = heapq.heappop(self.events)
                action(*arguments)
            else:
                self.now_s = wake_s
            assert self.now_s < limit_s, f"stuck at {self.acknowledged}"
        return self.now_s


@pytest.mark.parametrize("seed", range(20))
def test_everything_arrives_over_a_bad_link(seed):
    rng = random.Random(seed)
    sizes = [rng.randint(1 * KB, 256 * KB) for _ in range(200)]
    link = Link(sizes, 2500 * KB, 0.04, loss=0.2, repeat=0.3, seed=seed)
    link.run()
    assert link.stored == set(range(1, 201))


def test_a_good_link_is_used_and_its_queue_stays_short():
    link = Link([32 * KB] * 1500, 2500 * KB, 0.04)  # 20 Mbit/s, 80 ms there and back
    took_s = link.run()
    ideal_s = 1500 * 32 / 2500 + 0.08
    assert took_s < ideal_s / 0.9
    assert link.sent == 1500
    late = sorted(link.waits_s[100:])
    assert late[int(0.99 * len(late))] < 0.04  # what a control message would wait behind it


@pytest.mark.parametrize("tells", [True, False])
def test_a_store_that_answers_in_bursts_does_not_make_bursts(tells):
    link = Link([32 * KB] * 1500, 2500 * KB, 0.04, commit_s=0.05, tells=tells)
    took_s = link.run()
    assert took_s < (1500 * 32 / 2500 + 0.13) / (0.9 if tells else 0.8)
    late = sorted(link.waits_s[100:])
    assert late[int(0.99 * len(late))] < (0.03 if tells else 0.05)


def test_a_link_that_becomes_faster_or_slower_is_followed():
    link = Link([32 * KB] * 3000, 500 * KB, 0.04)
    link.at(20.0, setattr, link, "bytes_per_s", 5000 * KB)
    link.at(30.0, setattr, link, "bytes_per_s", 500 * KB)
    took_s = link.run()
    left = 3000 * 32 * KB - 20 * 500 * KB - 5 * 5000 * KB  # five seconds to find out
    assert took_s < 30 + left / (500 * KB) / 0.8


@pytest.mark.parametrize(("bytes_per_s", "delay_s"), [(125 * KB, 0.3), (10**9, 0.0005)])
def test_slow_and_fast_links_are_used_too(bytes_per_s, delay_s):
    link = Link([32 * KB] * 300, bytes_per_s, delay_s)
    took_s = link.run()
    assert took_s < 1.6 * (300 * 32 * KB / bytes_per_s + 2 * delay_s) + 0.2
    assert link.sent < 310


def test_a_chunk_larger_than_the_window_passes_alone():
    link = Link([500 * KB, 10 * KB, 500 * KB], 2500 * KB, 0.01)
    link.run()
    assert link.stored == {1, 2, 3}


def test_a_cut_costs_resending_and_nothing_else():
    link = Link([64 * KB] * 100, 2500 * KB, 0.04)
    link.cut_until_s = 30.0
    took_s = link.run()
    assert 30 < took_s < 30 + 10 + 100 * 64 / 2500 + 5
    assert link.sent < 100 + 40  # it asked rarely while nothing answered


def test_what_was_sent_by_an_earlier_process_may_be_acknowledged_now():
    link = Link([10 * KB] * 20, 2500 * KB, 0.01)
    link.acknowledged = 15
    link.sender.acknowledge(15, 0.0)
    link.up_to, link.stored = 15, set(range(1, 16))
    link.run()
    assert link.sent == 5


def test_old_answers_change_nothing():
    link = Link([10 * KB] * 3, 2500 * KB, 0.01)
    sender = link.sender
    assert sender.take(0.0).sequence == 1
    assert sender.acknowledge(1, 0.1)
    assert not sender.acknowledge(1, 0.2)
    assert not sender.acknowledge(0, 0.3)
    assert sender.take(0.3).sequence == 2


def test_of_the_next_schema_nothing_is_sent_before_all_of_the_last_is_acknowledged():
    schemas = ["a"] * 30 + ["b"] * 30 + ["a"] * 30
    link = Link([5 * KB] * 90, 2500 * KB, 0.04, loss=0.1, schemas=schemas)
    link.run()
    for schema, acknowledged, sequence in link.sent_schemas:
        if schema == "b":
            assert acknowledged >= 30
        elif sequence > 60:
            assert acknowledged >= 60


def test_hold_waits_and_then_starts_with_the_oldest():
    link = Link([10 * KB] * 5, 2500 * KB, 0.01)
    sender = link.sender
    assert [sender.take(0.0).sequence for _ in range(3)] == [1, 2, 3]
    sender.hold(1.0)
    wait_s = sender.wait_s(1.0)
    assert 0 < wait_s <= 10
    assert sender.take(1.0) is None
    assert sender.take(1.0 + wait_s).sequence == 1
