"""A run whose robots are asked back ends with their episodes, and does not wait for ever."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from user_bringup.running import finishing
from user_bringup.running.finishing import finish_actors


class Actors:
    """Actors in one domain: each with what it answers, the last again and again; None: nothing."""

    def __init__(self, **answers: list[tuple[bool, int] | None]) -> None:
        self.answers, self.limits = answers, {}

    def finish(self, actor: str, limit_s: float) -> object:
        self.limits.setdefault(actor, limit_s)
        said = self.answers.get(actor, [None])
        now = said.pop(0) if len(said) > 1 else said[0]
        return None if now is None else SimpleNamespace(finished=now[0], outbox_chunks=now[1])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LOOK_S", 0.005), ("_STUCK_S", 0.1), ("_GRACE_S", 0.05), ("_DRAIN_S", 5)):
        monkeypatch.setattr(finishing, name, value)


def test_it_waits_for_all_episodes_and_for_what_they_brought() -> None:
    near = Actors(a=[(False, 0), (True, 3), (True, 1), (True, 0)])
    far = Actors(b=[None, (False, 2), (True, 0)])  # in another domain, restarted meanwhile
    said = finish_actors([near, far], ["a", "b"], 30.0, threading.Event())
    assert said == "the episodes have ended, and all is delivered"
    assert near.limits["a"] == pytest.approx(30.0, abs=1.0)


def test_what_no_store_takes_stays_on_the_disk() -> None:
    said = finish_actors([Actors(a=[(True, 7)])], ["a"], 30.0, threading.Event())
    assert "7 chunks stay in the outbox" in said


def test_who_does_not_finish_is_named_and_not_waited_for() -> None:
    said = finish_actors(
        [Actors(a=[(False, 0)], b=[(True, 0)])], ["a", "b"], 0.1, threading.Event()
    )
    assert said == "a did not finish within 0.1 s"
    said = finish_actors([Actors()], ["a"], 0.1, threading.Event())
    assert said == "a did not finish within 0.1 s"


def test_an_actor_that_was_given_up_is_not_waited_for() -> None:
    said = finish_actors([Actors()], ["a"], 60.0, threading.Event(), lambda actor: False)
    assert said.startswith("the episodes have ended")


def test_a_person_may_stop_waiting() -> None:
    ending = threading.Event()
    ending.set()
    assert finish_actors([Actors(a=[(False, 0)])], ["a"], 600.0, ending)
