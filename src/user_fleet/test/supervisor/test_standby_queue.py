"""Whose standby is made ready, and when: no process, and a clock of our own."""

import random

import pytest

from user_fleet.supervisor.standby_queue import StandbyQueue


def queue(**after_s):
    made = StandbyQueue(patience_s=60.0)
    for name, seconds in after_s.items():
        made.add(name, seconds)
    return made


def test_nobody_gets_one_while_anything_is_being_brought_up():
    standbys = queue(hal=5.0, actor=5.0)
    standbys.began("hal", 0.0)
    standbys.began("actor", 1.0)
    standbys.came_up("hal")
    assert standbys.coming_up(10.0) == ["actor"]
    assert standbys.next(10.0) == ""
    standbys.came_up("actor")
    assert standbys.next(10.0) == "hal"


def test_they_are_made_ready_one_by_one():
    standbys = queue(hal=5.0, actor=5.0, learner=5.0)
    for name in ("hal", "actor", "learner"):
        standbys.began(name, 0.0)
        standbys.came_up(name)
    assert standbys.next(4.9) == ""  # too young
    order = []
    for now_s in (5.0, 6.0, 7.0):
        order.append(standbys.next(now_s))
        assert standbys.next(now_s) == ""  # while one is being made ready
        standbys.ready(order[-1])
    assert order == ["hal", "actor", "learner"]
    assert standbys.next(8.0) == ""


def test_those_of_robots_come_first():
    standbys = StandbyQueue()
    standbys.add("learner", 5.0, rank=1)
    standbys.add("hal", 5.0, rank=0)
    for name in ("learner", "hal"):
        standbys.began(name, 0.0)
        standbys.came_up(name)
    assert standbys.next(9.0) == "hal"


def test_one_that_has_begun_waits_while_another_process_is_restarted():
    standbys = queue(hal=5.0, learner=5.0)
    for name in ("hal", "learner"):
        standbys.began(name, 0.0)
        standbys.came_up(name)
    assert standbys.next(6.0) == "hal"
    standbys.began("learner", 7.0)  # it has died
    assert standbys.coming_up(7.0) == ["learner"]  # so the standby of hal is told to wait
    standbys.came_up("learner")
    assert not standbys.coming_up(8.0)
    standbys.ready("hal")
    assert standbys.next(11.9) == ""
    assert standbys.next(12.0) == "learner"  # from its new start


def test_what_does_not_come_up_keeps_the_others_waiting_for_a_minute_only():
    standbys = queue(hal=5.0, actor=5.0)
    standbys.began("hal", 0.0)  # its robot is switched off
    standbys.began("actor", 0.0)
    standbys.came_up("actor")
    assert standbys.next(59.9) == ""
    assert standbys.next(60.0) == "hal"


def test_one_that_took_over_is_replaced_once_its_process_is_up():
    standbys = queue(hal=5.0)
    standbys.began("hal", 0.0)
    standbys.came_up("hal")
    assert standbys.next(5.0) == "hal"
    standbys.ready("hal")
    standbys.began("hal", 20.0)
    standbys.taken("hal")
    assert standbys.next(26.0) == ""
    standbys.came_up("hal")
    assert standbys.next(26.0) == "hal"


def test_one_that_dies_is_not_made_again_until_the_next_start():
    standbys = queue(hal=5.0)
    standbys.began("hal", 0.0)
    standbys.came_up("hal")
    assert standbys.next(5.0) == "hal"
    standbys.died("hal")
    assert standbys.next(100.0) == ""
    standbys.began("hal", 100.0)
    standbys.came_up("hal")
    assert standbys.next(105.0) == "hal"


def test_who_wants_none_or_is_over_gets_none():
    standbys = queue(hal=0.0, actor=5.0)
    for name in ("hal", "actor"):
        standbys.began(name, 0.0)
        standbys.came_up(name)
    standbys.over("actor")
    assert standbys.next(100.0) == ""


def test_one_that_cannot_have_one_yet_does_not_keep_others_from_theirs():
    standbys = queue(hal=5.0, actor=5.0)
    for name in ("hal", "actor"):
        standbys.began(name, 0.0)
        standbys.came_up(name)
    assert standbys.next(9.0, lambda name: name == "actor") == "actor"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_dies_when_the_rules_hold_and_in_the_end_all_have_one(seed):
    dice = random.Random(seed)
    names = [f"p{i}" for i in range(17)]
    standbys = StandbyQueue()
    for name in names:
        standbys.add(name, 5.0)
        standbys.began(name, 0.0)
    up_at_s = {name: dice.uniform(0.5, 8.0) for name in names}
    ready_at_s, have, now_s = {}, set(), 0.0
    while len(have) < len(names):
        now_s += 0.1
        assert now_s < 2000.0
        if dice.random() < 0.01 and now_s < 300.0:
            victim = dice.choice(names)
            standbys.began(victim, now_s)
            standbys.taken(victim)
            have.discard(victim)
            ready_at_s.pop(victim, None)
            up_at_s[victim] = now_s + dice.uniform(0.5, 8.0)
        for name in names:
            if up_at_s[name] <= now_s:
                standbys.came_up(name)
        waits = any(at_s > now_s for at_s in up_at_s.values())
        assert bool(standbys.coming_up(now_s)) == waits
        if waits:
            ready_at_s = {name: at_s + 0.1 for name, at_s in ready_at_s.items()}  # held back
        if name := standbys.next(now_s):
            assert not waits
            assert not ready_at_s
            ready_at_s[name] = now_s + 3.0
        for name in [n for n, at_s in ready_at_s.items() if at_s <= now_s]:
            del ready_at_s[name]
            standbys.ready(name)
            have.add(name)
