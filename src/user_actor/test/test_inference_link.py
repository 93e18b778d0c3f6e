"""Both ends of a policy elsewhere, in threads of their own, with what travels between them."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from user_actor.inference import Client, InferenceServer
from user_actor.loop.acting.chunks import GoingOn
from user_actor.loop.acting.observation_history import ObservationHistory
from user_actor.loop.acting.policy import PolicyHolder, history_of
from user_actor.loop.acting.remote import InferenceLink, RemoteConfig
from user_core.codecs.images import (
    DETERMINISTIC,
    decode_observation,
    encode_observation,
    encode_plan,
)
from user_core.config import Config
from user_core.errors import CodecError, PolicyError, SpecError, TransportError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy
from user_core.plugins import PluginChoice
from user_core.reasons import INFERENCE_REFUSED, INFERENCE_SILENT, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.gpu_turns import Arrivals, GpuTurns
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ActionChunk, Observation, PolicyVersion, Task
from user_testing.waiting import wait_until

SPEC = RobotSpec(
    "r",
    {"x": ArraySpec((2,), "float64"), "image": ArraySpec((32, 40, 3), "uint8")},
    ArraySpec((2,)),
    period_s=0.05,
)


NO_TASK = Task()


def observation(number=1, episode=1):
    rng = np.random.default_rng(number)
    arrays = {"x": np.full(2, float(number)), "image": rng.integers(0, 255, (32, 40, 3), np.uint8)}
    return Observation(arrays, number * 1000, number, episode)


class Echo(Policy):
    """Three rows that say what it saw; waits where a test wants it to."""

    Config = Config

    def __init__(self):
        self.seen, self.resets = [], 0
        self.go = threading.Event()
        self.go.set()
        self.bad = False

    def act(self, observation, *, deterministic=False):
        self.go.wait(60)
        self.seen.append(
            (float(observation["x"][0]), deterministic, int(observation["image"].sum()))
        )
        return np.full((3, 2), np.nan if self.bad else observation["x"][0], np.float32)

    def continue_plan(self, observation, plan, frozen, *, deterministic=False):
        rows = self.act(observation, deterministic=deterministic)
        rows[:frozen] = plan[:frozen]
        return rows

    def arrays(self):
        return {}

    def load(self, arrays):
        pass

    def reset(self, task):
        self.resets += 1
        self.task = task


# --- what travels


@pytest.mark.parametrize("coding", ["", "zstd"])
def test_images_come_as_they_were_without_loss(coding):
    arrays = {**observation(3).arrays, "image": np.zeros((32, 40, 3), np.uint8)}
    coded = encode_observation(arrays, coding, deterministic=True)
    back, deterministic = decode_observation(coded, SPEC.observation)
    assert deterministic
    assert all((back[name] == arrays[name]).all() for name in arrays)
    assert (sum(a.nbytes for a in coded.values()) < 1000) == bool(coding)


def test_images_with_loss_are_much_the_same():
    pytest.importorskip("cv2")
    arrays = observation().arrays
    gradient = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
    arrays = {**arrays, "image": gradient}
    coded = encode_observation(arrays, "jpeg80")
    back, deterministic = decode_observation(coded, SPEC.observation)
    assert not deterministic
    assert np.abs(back["image"].astype(int) - gradient).mean() < 4
    assert coded["image@jpeg80"].nbytes < gradient.nbytes / 3


def test_what_does_not_hold_together_is_refused():
    coded = encode_observation(observation().arrays, "zstd")
    with pytest.raises(CodecError, match="deterministic"):
        decode_observation({n: a for n, a in coded.items() if n != DETERMINISTIC}, SPEC.observation)
    with pytest.raises(CodecError, match="twice"):
        decode_observation({**coded, "image": observation().arrays["image"]}, SPEC.observation)
    with pytest.raises(SpecError):
        decode_observation({n: a for n, a in coded.items() if n != "x"}, SPEC.observation)
    large = encode_observation({"image": np.zeros((900, 900, 3), np.uint8)}, "zstd")
    with pytest.raises(CodecError, match="bytes of"):  # more than the robot's images have
        decode_observation({**coded, **large}, SPEC.observation)


# --- the robot's end


def test_a_robot_knows_what_a_policy_elsewhere_sees_also_without_its_plugin():
    params = {"observation_history": 3}
    assert history_of(PluginChoice(plugin="flow", params=params), SPEC) == 3
    assert history_of(PluginChoice(plugin="flow"), SPEC) == 1
    assert history_of(PluginChoice(plugin="not_installed_here", params=params), SPEC) == 3


class Wire:
    """Keeps what is sent until a test answers it."""

    def __init__(self, **config):
        self.sent = []
        self.fails = None
        self.link = InferenceLink(RemoteConfig(enabled=True, **config), SPEC, self.send)
        self.link.start()

    def send(self, seen, deterministic, going_on):
        if self.fails is not None:
            raise self.fails
        self.sent.append(seen.sequence)
        return 100

    def answer(self, number, rows=3, **changes):
        chunk = ActionChunk(
            np.full((rows, 2), float(number), np.float32), 50_000_000, number * 1000, number,
            policy_version=4,
        )  # fmt: skip
        self.link.on_answer(replace(chunk, **changes))


@pytest.fixture
def wire():
    wires = []

    def make(**config):
        wires.append(Wire(**config))
        return wires[-1]

    yield make
    for one in wires:
        one.link.close()


def test_only_a_few_are_under_way_and_the_newest_goes_next(wire):
    wire = wire(in_flight=2)
    for number in (1, 2):
        wire.link.ask(observation(number), number)
        wait_until(lambda n=number: len(wire.sent) == n, "it is sent")
    for number in (3, 4, 5):
        wire.link.ask(observation(number), number)
    time.sleep(0.02)
    assert wire.sent == [1, 2]
    wire.answer(1)
    wait_until(lambda: wire.sent == [1, 2, 5], "the newest is sent")
    assert wire.link.superseded == 2
    assert wire.link.take().step == 1
    assert wire.link.take() is None
    assert wire.link.version == 4


def test_an_answer_stands_for_the_earlier_ones_and_an_old_one_does_not_count(wire):
    wire = wire(in_flight=2)
    for number in (1, 2):
        wire.link.ask(observation(number), number)
        wait_until(lambda n=number: len(wire.sent) == n, "it is sent")
    wire.answer(2)
    wire.answer(1)  # overtaken
    assert wire.link.take().step == 2
    assert (wire.link.answered, wire.link.unasked) == (1, 1)


def test_answers_from_before_a_new_episode_do_not_count(wire):
    wire = wire()
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.link.begin()
    wire.answer(1)
    assert wire.link.take() is None
    assert wire.link.unasked == 1


def test_what_is_lost_makes_room_and_silence_is_noticed(wire):
    wire = wire(in_flight=1, lost_after_s=0.05, silence_s=0.1)
    assert "not answered yet" in wire.link.why_silent().text
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1)
    assert not wire.link.why_silent()
    wire.link.ask(observation(2), 2)
    wait_until(lambda: len(wire.sent) == 2, "it is sent")
    wire.link.ask(observation(3), 3)
    wait_until(lambda: len(wire.sent) == 3, "there is room again")
    assert wire.link.lost == 1
    wait_until(wire.link.why_silent, "silence is noticed")
    wire.answer(3)
    assert not wire.link.why_silent()


def test_an_episode_goes_on_while_nothing_is_asked(wire):
    """A plan of seconds is carried out: that nobody answers then says nothing."""
    wire = wire(silence_s=0.1)
    assert wire.link.why_lost()
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1)
    wait_until(wire.link.why_silent, "no other episode begins like this")
    assert not wire.link.why_lost()
    asked_s = time.monotonic()
    wire.link.ask(observation(2), 2)
    assert not wire.link.why_lost() or time.monotonic() - asked_s > 0.1  # or the machine was busy
    wait_until(wire.link.why_lost, "what was asked now is not answered")


def test_what_the_other_host_says_is_the_reason_of_its_silence(wire):
    wire = wire(silence_s=0.1)
    wire.link.on_refusal("room for 2 robots")
    assert wire.link.why_silent() == Reason(INFERENCE_REFUSED, "room for 2 robots")
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1)
    assert not wire.link.why_silent()
    wire.link.on_refusal("cannot be read")
    wire.link.on_refusal("cannot be read")
    wait_until(wire.link.why_silent, "one is not answered, and then none")
    assert wire.link.why_silent().text == "cannot be read"


def test_what_was_said_once_is_no_reason_for_ever():
    class SetClock(Clock):
        now_ns = 10**12

        def monotonic_ns(self):
            return self.now_ns

    clock = SetClock()
    link = InferenceLink(RemoteConfig(enabled=True), SPEC, lambda *_: 0, clock)
    link.on_refusal("room for 2 robots")
    clock.now_ns += 3 * 10**9
    assert link.why_silent().code == INFERENCE_REFUSED
    clock.now_ns += 3 * 10**9
    assert link.why_silent().code == INFERENCE_SILENT


def test_an_answer_that_takes_longer_than_that_is_taken_all_the_same(wire):
    wire = wire(in_flight=1, lost_after_s=0.05)
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.link.lost == 1, "it counts as lost")
    wire.answer(1)
    assert wire.link.take().step == 1


def test_what_waits_behind_a_lost_one_goes_once_that_is_later_than_any_of_late(wire):
    """And not after ``lost_after_s``: with one under way the robot would have nothing to do until then."""
    wire = wire(in_flight=1, lost_after_s=600.0, silence_s=600.0)
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1)
    wire.link.ask(observation(2), 2)
    wait_until(lambda: len(wire.sent) == 2, "it is sent")
    wire.link.ask(observation(3), 3)
    wait_until(lambda: wire.sent == [1, 2, 3], "the lost one has made room")
    assert wire.link.lost == 1
    wire.answer(2)  # it was only late
    assert wire.link.take().step == 2
    wire.answer(3)
    assert wire.link.take().step == 3


def test_nothing_is_taken_for_lost_early_while_nothing_waits(wire):
    wire = wire(in_flight=1, lost_after_s=600.0)
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1)
    wire.link.ask(observation(2), 2)
    wait_until(lambda: len(wire.sent) == 2, "it is sent")
    time.sleep(0.2)  # four periods
    assert wire.link.lost == 0


def test_rows_that_the_robot_would_not_take_are_left_out(wire):
    wire = wire(max_chunk_s=0.5)
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1, rows=40)
    assert len(wire.link.take().rows_ta) == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"actions_ta": np.full((3, 2), np.nan, np.float32)},
        {"actions_ta": np.zeros((3, 5), np.float32)},
        {"actions_ta": np.zeros((3, 2), np.float64)},
        {"period_ns": 1_000_000},
    ],
)
def test_answers_that_cannot_be_played_are_refused_and_named(wire, changes):
    wire = wire()
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.sent, "it is sent")
    wire.answer(1, **changes)
    assert wire.link.take() is None
    assert wire.link.refused == 1
    assert wire.link.why_silent().text == wire.link.last_refusal != ""


def test_what_cannot_be_sent_is_said_and_tried_again(wire):
    wire = wire()
    wire.fails = TransportError("topic", got="nobody listens")
    wire.link.ask(observation(1), 1)
    wait_until(lambda: wire.link.refused, "it is refused")
    assert "nobody listens" in wire.link.why_silent().text
    wire.fails = None
    wire.link.ask(observation(2), 2)
    wait_until(lambda: wire.sent == [2], "the next is sent")


# --- both ends


def server_of(policies, send=lambda chunk: None, task=NO_TASK, tell=lambda text: None, **options):
    """A server with one robot."""
    server = InferenceServer(**options)
    server.add(Client("r", SPEC, policies, send, tell, task))
    return server


def answer(server, seen):
    server.answer([(server.clients["r"], seen)])


class Pair:
    """A link and a server, joined by a function that loses nothing."""

    def __init__(self, coding="zstd", **server):
        self.policies = []

        def make():
            self.policies.append(Echo())
            return self.policies[-1]

        self.mailbox = PolicyMailbox()
        self.holder = PolicyHolder(make, SPEC, self.mailbox)
        self.server = server_of(self.holder, self.back, **server)
        self.counts = self.server.clients["r"].counts
        self.link = InferenceLink(RemoteConfig(enabled=True, coding=coding), SPEC, self.there)
        self.chunks = []

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.link.start()
        return self

    def __exit__(self, *_):
        self.link.close()
        self.server.stop()
        self.thread.join(60)

    def there(self, seen, deterministic, going_on):
        coded = encode_observation(
            seen.arrays, self.link.config.coding, deterministic=deterministic
        )
        if going_on is not None:
            coded |= encode_plan(*going_on)
        self.server.offer("r", replace(seen, arrays=coded))
        return 1

    def back(self, chunk):
        self.chunks.append(chunk)
        self.link.on_answer(chunk)


def test_the_newest_observation_is_answered_with_a_chunk_that_names_it():
    with Pair() as pair:
        seen = observation(7)
        pair.link.ask(seen, 70, deterministic=True)
        answer = pair.link.wait(time.monotonic_ns() + 10 * 10**9)
        assert (answer.step, answer.rows_ta.tolist()) == (70, [[7, 7]] * 3)
        (chunk,) = pair.chunks
        assert (chunk.start_ns, chunk.sequence, chunk.period_ns) == (7000, 7, 50_000_000)
        assert pair.policies[0].seen == [(7.0, True, int(seen.arrays["image"].sum()))]


def test_while_the_policy_thinks_old_observations_give_way():
    with Pair() as pair:
        policy = pair.policies[0]
        policy.go.clear()
        for number in range(1, 4):  # as many as may be under way
            pair.link.ask(observation(number), number)
            wait_until(lambda n=number: pair.link.sent == n, "it is sent")
        policy.go.set()
        wait_until(lambda: len(pair.chunks) == 2, "two are answered")
        assert [chunk.sequence for chunk in pair.chunks] == [1, 3]
        assert pair.counts.superseded == 1


def test_a_policy_that_remembers_is_reset_with_the_robot_and_told_the_task():
    task = Task("reach", "touch the red ball")
    with Pair(task=task) as pair:
        for number, episode in ((1, 1), (2, 1), (3, 2)):
            pair.link.ask(observation(number, episode), number)
            assert pair.link.wait(time.monotonic_ns() + 10 * 10**9)
        assert pair.policies[0].resets == 2
        assert pair.policies[0].task == task


def test_a_policy_that_gives_nothing_usable_answers_nothing_and_may_recover():
    with Pair() as pair:
        pair.policies[0].bad = True
        pair.link.ask(observation(1), 1)
        wait_until(lambda: pair.counts.refused, "it is refused")
        assert "finite" in pair.counts.last_error
        pair.policies[0].bad = False
        pair.link.ask(observation(2), 2)
        assert pair.link.wait(time.monotonic_ns() + 10 * 10**9).step == 2
        assert pair.counts.last_error == ""


def test_nothing_is_answered_before_the_first_version_where_that_is_wanted():
    with Pair(needs_version=True) as pair:
        pair.link.ask(observation(1), 1)
        wait_until(lambda: "version" in pair.counts.last_error, "it is said")
        assert not pair.chunks
        pair.mailbox.publish(PolicyVersion(9, {}, created_ns=1))
        assert pair.holder.load_newest()
        pair.link.ask(observation(2), 2)
        answer = pair.link.wait(time.monotonic_ns() + 10 * 10**9)
        assert answer.version == 9


def test_a_plan_that_is_carried_out_goes_there_and_the_answer_goes_on_from_it():
    with Pair() as pair:
        plan = np.array([[7, 7], [8, 8]], np.float32)
        pair.link.ask(observation(1), 1, going_on=GoingOn(plan, 1))
        answer = pair.link.wait(time.monotonic_ns() + int(5e9))
        assert answer.rows_ta[:, 0].tolist() == [7, 1, 1]


class Several(Echo):
    """Sees two observations at once."""

    observation_history = 2

    def act(self, observation, *, deterministic=False):
        self.seen.append((observation["x"][:, 0].tolist(), observation["image"].shape))
        return np.full((3, 2), observation["x"][-1, 0], np.float32)


@pytest.mark.parametrize("coding", ["", "zstd", "jpeg80"])
def test_a_policy_that_sees_several_observations_is_sent_so_many(coding):
    window = ObservationHistory(2)
    policy = Several()
    holder = PolicyHolder(lambda: policy, SPEC, PolicyMailbox())
    server = server_of(holder)
    for number in (1, 2):
        seen = observation(number)
        both = window.with_past(seen)
        window.decided(seen)
        coded = encode_observation(both.arrays, coding, deterministic=True, history=2)
        answer(server, replace(both, arrays=coded))
    assert policy.seen == [([1.0, 1.0], (2, 32, 40, 3)), ([1.0, 2.0], (2, 32, 40, 3))]
    coded = encode_observation(observation().arrays, coding, deterministic=True)
    answer(server, replace(observation(), arrays=coded))
    error = server.clients["r"].counts.last_error
    assert "2, 32, 40" in error or "2, 2" in error


def test_a_policy_that_refuses_its_task_is_not_asked_without_one():
    policy, refusals = Echo(), [PolicyError("task", got="no instruction")] * 2
    usual = policy.reset

    def reset(task):
        if refusals:
            raise refusals.pop()
        usual(task)

    policy.reset = reset
    server = server_of(PolicyHolder(lambda: policy, SPEC, PolicyMailbox()))
    coded = encode_observation(observation().arrays, "", deterministic=True)
    seen = replace(observation(), arrays=coded)
    for _ in range(2):
        answer(server, seen)
        assert "no instruction" in server.clients["r"].counts.last_error
    answer(server, seen)
    assert policy.resets == 1 and len(policy.seen) == 1


@pytest.mark.parametrize("bad", [False, True])
def test_training_waits_on_a_shared_gpu_from_the_observation_to_the_answer(tmp_path, bad):
    policy, holder_of_turns = Echo(), GpuTurns(tmp_path / "turns")
    policy.bad = bad
    holder = PolicyHolder(lambda: policy, SPEC, PolicyMailbox())
    turns = GpuTurns(tmp_path / "turns")
    server = server_of(holder, turns=turns)
    thread = threading.Thread(target=server.run)
    seen = observation()
    coded = encode_observation(seen.arrays, "zstd", deterministic=True)
    server.offer("r", replace(seen, arrays=coded))
    assert holder_of_turns.taken
    thread.start()
    try:
        wait_until(
            lambda: server.clients["r"].counts.answered + server.clients["r"].counts.refused,
            "an answer",
        )
        wait_until(lambda: not holder_of_turns.taken, "the turn is given back")
        assert server.clients["r"].counts.refused == bad
    finally:
        server.stop()
        thread.join()


def test_a_turn_that_ended_while_the_observation_waited_is_taken_anew(tmp_path):
    """A large policy answers others meanwhile: training went on beside it, and answers took ever longer."""
    during, holder_of_turns = [], GpuTurns(tmp_path / "turns")

    class Looks(Echo):
        def act(self, *seen, **how):
            during.append(holder_of_turns.taken)
            return super().act(*seen, **how)

    holder = PolicyHolder(Looks, SPEC, PolicyMailbox())
    server = server_of(holder, turns=GpuTurns(tmp_path / "turns"))
    seen = observation()
    coded = encode_observation(seen.arrays, "zstd", deterministic=True)
    server.offer("r", replace(seen, arrays=coded))
    holder_of_turns.take(0.0)  # it is over
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.clients["r"].counts.answered, "an answer")
        assert during == [True]
    finally:
        server.stop()
        thread.join()


def test_training_makes_room_before_the_observation_comes(tmp_path):
    """It comes every 2 s, within 0.35 s."""
    turns, taken = GpuTurns(tmp_path / "turns"), []
    turns.take = lambda for_s: taken.append((time.monotonic(), for_s))
    holder = PolicyHolder(Echo, SPEC, PolicyMailbox())
    server = server_of(holder, turns=turns)
    last_s = time.monotonic() - 1.5
    for number in range(-6, 1):
        server._arrivals.came(last_s + 2.0 * number + 0.35 * (number == -3))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: taken, "the turn is taken")
        ((at_s, for_s),) = taken
        assert at_s >= last_s + 2.0 - 0.35 - Arrivals.early_s
        assert at_s + for_s == pytest.approx(last_s + 2.0 + 0.35, abs=0.05)
    finally:
        server.stop()
        thread.join()
