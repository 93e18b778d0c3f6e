"""New policy versions are watched: the last good one comes back when success falls, or the gate stops more often."""

import json
import queue

import numpy as np
import pytest

from user_core.reasons import POLICY_RETURNED, SAFETY_STOP
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, Outcome, PolicyVersion
from user_learner.replay import StoreWriter
from user_learner.training.config import GuardConfig
from user_learner.training.guard import GuardedSink, StoredResults, VersionGuard
from user_testing.worlds.replay import QUICK, Actor, Plan, fill

CONFIG = GuardConfig(episodes=10, max_drop=0.3, max_more_stops=0.2, hold_updates=100)


def episode(version, success=True, stopped=False, by_person=0, source=EpisodeSource.ONLINE, last=0):
    outcome = Outcome.SUCCESS if success else Outcome.TIMEOUT
    return EpisodeResult(
        EpisodeKey("actor", 1, 0), source, Outcome.ABORTED if stopped else outcome, 30, 0.0, by_person,
        first_version=version, last_version=last or version, reason_code=SAFETY_STOP if stopped else "",
    )  # fmt: skip


def taken(guard, *results):
    return [verdict for result in results if (verdict := guard.take(result))]


def good_guard(rate=9, config=CONFIG):
    """One that has seen ten episodes of version 5."""
    guard = VersionGuard(config)
    assert taken(guard, *(episode(5, success=i < rate) for i in range(10))) == ["good"]
    assert guard.state.good == 5
    return guard


def test_the_good_version_comes_back_as_soon_as_it_is_certain_that_success_has_fallen():
    guard = good_guard()  # 9 of 10: below 6 of 10 is too little
    assert taken(guard, *(episode(6, success=False) for _ in range(4))) == []
    assert taken(guard, episode(6, success=False)) == ["return"]
    assert "0 of 5 episodes succeeded without help, before 90%" in guard.state.returning
    assert taken(guard, *(episode(6, success=False) for _ in range(20))) == [], "said once"


def test_noise_within_what_is_allowed_changes_nothing_and_better_versions_become_good():
    guard = good_guard()
    assert taken(guard, *(episode(7, success=i < 6) for i in range(10))) == []
    assert guard.state.good == 5
    assert taken(guard, *(episode(8, success=i < 8) for i in range(10))) == ["good"]
    assert guard.state.good == 8


def test_a_slow_fall_is_one_too():
    """Each window is a little worse than the one before; what is good does not follow that down."""
    guard, successes = good_guard(10), 10
    for number in range(200):
        successes = max(0, 10 - number // 10)
        if "return" in taken(
            guard, *(episode(6 + number, success=i < successes) for i in range(10))
        ):
            break
    assert guard.state.returning
    assert successes >= 4


def test_more_stops_by_the_safety_gate_are_worse_also_where_success_does_not_fall():
    guard = good_guard(9, CONFIG.replace(max_drop=1.0))
    assert taken(guard, *(episode(6, stopped=True) for _ in range(2))) == []
    assert taken(guard, episode(6, stopped=True)) == ["return"]
    assert "the safety gate ended 3 of 3 episodes, before 0%" in guard.state.returning


def test_what_a_person_corrected_is_no_success_of_the_policy_and_what_nobody_can_judge_does_not_count():
    guard = good_guard()
    assert (
        taken(
            guard,
            *(episode(6, source=EpisodeSource.DEMONSTRATION, success=False) for _ in range(9)),
        )
        == []
    )
    assert taken(guard, *(episode(0, success=False) for _ in range(9))) == [], "no policy acted"
    ended_by_a_person = EpisodeResult(
        EpisodeKey("a", 1, 0), EpisodeSource.ONLINE, Outcome.ABORTED, 3, 0.0, first_version=6,
        last_version=6, reason_code="person_ended",
    )  # fmt: skip
    assert taken(guard, *[ended_by_a_person] * 9) == []
    assert guard.state.window.episodes == 0
    assert taken(guard, *(episode(6, by_person=3) for _ in range(5))) == ["return"]


def test_evaluations_alone_count_where_that_is_asked_for():
    guard = VersionGuard(CONFIG.replace(by="evaluation"))
    evaluations = [episode(5, source=EpisodeSource.EVALUATION) for _ in range(10)]
    assert taken(guard, *(episode(5, success=False) for _ in range(30)), *evaluations) == ["good"]


def test_nothing_is_returned_to_before_anything_was_good():
    guard = VersionGuard(CONFIG)
    assert taken(guard, *(episode(5, success=False) for _ in range(10))) == ["good"]
    assert taken(guard, *(episode(5, success=False) for _ in range(50))).count("return") == 0


class Robots:
    """What robots got."""

    def __init__(self):
        self.versions = []

    def publish(self, version):
        self.versions.append((version.number, version.update, float(version.arrays["w"][0])))


def version(number):
    return PolicyVersion(number, {"w": np.full(3, number, np.float32)}, "hash", number * 10)


def test_the_good_weights_go_out_under_a_new_number_new_ones_wait_and_then_go_on(tmp_path):
    robots, asked = Robots(), []
    sink = GuardedSink(CONFIG, robots, tmp_path, lambda: asked.append(1), lambda: 5.0)
    for number in range(1, 6):
        sink.publish(version(number))
    for _ in range(10):
        sink.take(episode(2, last=3))
    sink.publish(version(6))
    for _ in range(5):
        sink.take(episode(6, success=False))
    assert asked == [1]
    assert [reason.code for reason in sink.reasons()] == [POLICY_RETURNED]
    sink.publish(version(7))
    assert robots.versions[-2:] == [(6, 60, 6.0), (7, 30, 3.0)]
    sink.publish(version(8))
    sink.publish(version(16))
    assert robots.versions[-1] == (7, 30, 3.0), "withheld until update 170"
    (reason,) = sink.reasons()
    assert "went back to the policy of update 30, now version 7: 0 of 4 episodes" in reason.text
    assert "withheld until update 170" in reason.text
    for _ in range(30):
        sink.take(episode(6, success=False))  # of the time before: they say nothing of version 7
    assert not sink.guard.state.returning
    sink.publish(version(17))
    assert robots.versions[-1] == (17, 170, 17.0)
    assert sink.reasons() == []
    for _ in range(5):
        sink.take(episode(17, success=False))
    sink.publish(version(18))
    assert robots.versions[-1] == (18, 30, 3.0)
    assert sink.guard.state.held_until == 180 + 200, "twice as long"
    events = [
        json.loads(line)["event"] for line in (tmp_path / "guard.jsonl").read_text().splitlines()
    ]
    assert events == ["good", "returned", "released", "returned"]


def test_where_the_world_has_changed_what_is_good_follows_it(tmp_path):
    robots = Robots()
    sink = GuardedSink(CONFIG, robots, tmp_path)
    sink.publish(version(1))
    for _ in range(50):
        sink.take(episode(1))
    sink.publish(version(2))
    for _ in range(5):
        sink.take(episode(2, success=False))  # somebody has moved the table
    sink.publish(version(3))
    for _ in range(50):
        sink.take(episode(3, success=False))
    sink.publish(version(200))
    for _ in range(50):
        sink.take(episode(200, success=False))
    assert not sink.guard.state.returning, "the good one does no better"


def test_a_learner_that_is_killed_goes_on_withholding(tmp_path):
    first = GuardedSink(CONFIG, Robots(), tmp_path)
    for number in range(1, 4):
        first.publish(version(number))
    for _ in range(10):
        first.take(episode(3))
    for _ in range(5):
        first.take(episode(3, success=False))
    robots = Robots()  # killed before anything could be published
    second = GuardedSink(CONFIG, robots, tmp_path)
    second.publish(version(4))
    assert robots.versions == [(4, 30, 3.0)]
    third = GuardedSink(CONFIG, robots, tmp_path)
    third.publish(version(5))
    third.publish(version(6))
    assert robots.versions[1:] == [(5, 30, 3.0)], "robots that begin get something to act on"
    assert third.reasons()
    (tmp_path / "guard.json").write_text("{")
    fourth = GuardedSink(CONFIG, robots, tmp_path)
    fourth.publish(version(7))
    assert robots.versions[-1] == (7, 70, 7.0), "what cannot be read is forgotten, not obeyed"


def test_a_run_that_begins_anew_forgets(tmp_path):
    sink = GuardedSink(CONFIG, Robots(), tmp_path)
    sink.publish(version(1))
    for _ in range(10):
        sink.take(episode(1))
    sink.forget()
    assert sink.guard.state.good == 0 and not (tmp_path / "good.safetensors").exists()
    assert (tmp_path / "before.good.safetensors").exists()


def test_results_come_from_the_store_each_once_also_after_its_index_was_rebuilt(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        actor = Actor()
        fill(writer, actor, [Plan(), Plan(terminated=True)])
        results = StoredResults(tmp_path)
        assert results.new() == []
        late = actor.chunks(Plan(9))
        for chunk in late[:-1]:
            writer.append(chunk)
        writer.commit()
        assert results.new() == []
        fill(writer, Actor(2), [Plan(terminated=True)])
        assert [r.outcome for r in results.new()] == [Outcome.SUCCESS]
        writer.append(late[-1])
        writer.commit()
        assert [r.outcome for r in results.new()] == [Outcome.TIMEOUT]
        assert results.new() == []
    (tmp_path / "index.sqlite").unlink()
    with StoreWriter(tmp_path, config=QUICK) as writer:
        assert results.new() == []
        fill(writer, Actor(3), [Plan()])
        assert [r.outcome for r in results.new()] == [Outcome.TIMEOUT]
    results.close()


def test_it_watches_a_store_in_a_thread_of_its_own(tmp_path):
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        fill(writer, Actor(1), [Plan()])
        sink = GuardedSink(CONFIG.replace(episodes=1), Robots(), tmp_path)
        heard = queue.Queue()
        sink.take = heard.put
        with sink:
            sink.watch(tmp_path / "store")
            fill(writer, Actor(2), [Plan(terminated=True)])
            assert heard.get(timeout=60).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    "broken", ["{}", '{"window": 3}', "[]", '{"news": "", "window": {}, "reference": 1}']
)
def test_a_state_of_something_else_is_forgotten(tmp_path, broken):
    (tmp_path / "guard.json").write_text(broken)
    assert GuardedSink(CONFIG, Robots(), tmp_path).guard.state.good == 0
