"""The ports of the actor node, with a publisher and services that a test plays."""

import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from rclpy.executors import MultiThreadedExecutor
from user_msgs.msg import ActorStatus, SafetyStatus
from user_msgs.srv import AcquireLease, ReleaseLease, RenewLease, ResetRobot

from user_actor.loop.ports import NOBODY
from user_actor.loop.stats import LoopState, LoopStats, LoopStatus
from user_actor.nodes.actor import ActorConfig, actor_status_to_message
from user_actor.nodes.lease import LeaseConfig, LeaseKeeper
from user_actor.nodes.policy_feed import policy_seeds
from user_actor.nodes.ports import RosRobot, RosTeleop
from user_actor.outbox import OutboxStatus
from user_comm.converters import Intervention, observation_to_message, set_stamp
from user_comm.parameter_values import parameter_fields
from user_comm.services import ServiceClient
from user_comm.start import end_spinning
from user_core.config import from_mapping
from user_core.errors import CodecError, DeviceError, TransportError
from user_core.interfaces import TeleopCommand
from user_core.reasons import (
    COMMANDS_UNHEARD,
    NODE_WAITS,
    OUTBOX_FULL,
    SAFETY_STOP,
    STEPS_IRREGULAR,
    Reason,
)
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ActionChunk, Label, Observation
from user_testing.waiting import wait_until

SPEC = RobotSpec("r", {"x": ArraySpec((2,), "float64")}, ArraySpec((2,)))


def observation(sequence=1, episode=1, stamp_ns=None, size=2):
    stamp_ns = time.time_ns() if stamp_ns is None else stamp_ns
    return Observation({"x": np.zeros(size)}, stamp_ns, sequence, episode)


class Server:
    """Answers calls as a test wants, in the caller's thread."""

    def __init__(self, service, answer):
        self.request_type, self.response = service.Request, service.Response
        self.answer, self.requests = answer, []

    def call(self, request, timeout_s, given_up=None):
        self.requests.append(request)
        response = self.response()
        self.answer(request, response)
        return response

    def begin(self, request, timeout_s):
        try:
            response, error = self.call(request, timeout_s), None
        except Exception as failure:
            response, error = None, failure

        def look():
            if error is not None:
                raise error
            return response

        return SimpleNamespace(look=look, give_up=lambda: None)

    def tell(self, request):
        self.call(request, 0)


def raises(error):
    def answer(request, response):
        raise error

    return answer


class Publisher:
    active = True

    def __init__(self):
        self.sent, self.renewed = [], 0

    def renew(self):
        self.renewed += 1

    def publish(self, value):
        self.sent.append(value)
        return self.active


def status(state, stamp_ns=None, detail="why"):
    message = SafetyStatus(state=state, detail=detail)
    set_stamp(message.header.stamp, time.time_ns() if stamp_ns is None else stamp_ns)
    return message


@pytest.fixture
def robot():
    def first(request, response):
        response.success = True
        response.observation = observation_to_message(observation(7, 3))

    lease = SimpleNamespace(token=5, problem="")
    robot = RosRobot(SPEC, ObservationBox(), Publisher(), Server(ResetRobot, first), lease, 5.0)
    robot.lease, robot.server = lease, robot._client
    return robot


def test_commands_carry_the_token_of_the_lease(robot):
    chunk = ActionChunk(np.zeros((1, 2), np.float32), 1000, sequence=9)
    robot.send(chunk)
    assert (robot._actions.sent[0].lease_token, robot._actions.sent[0].sequence) == (5, 9)
    robot._actions.active = False
    with pytest.raises(TransportError, match="not active"):
        robot.send(chunk)


def test_a_reset_gives_the_first_observation_and_older_ones_do_not_count(robot):
    late = observation(6, 2)
    first = robot.reset(42).result(60)
    assert (first.episode, first.sequence) == (3, 7)
    assert (robot.server.requests[0].seed, robot.server.requests[0].lease_token) == (42, 5)
    assert robot.observations.newest.episode == 3
    robot.on_observation(late)
    assert robot.observations.newest.episode == 3
    robot.on_observation(observation(8, 3))
    assert robot.observations.newest.sequence == 8
    robot.reset(None).result(60)
    assert robot.server.requests[1].seed == -1


def test_a_reset_that_is_refused_or_nonsense_is_an_error(robot):
    def refuse(request, response):
        response.error_code, response.message = "safety", "emergency stop"

    robot.server.answer = refuse
    with pytest.raises(DeviceError, match="safety.*emergency stop"):
        robot.reset(None).result(60)
    robot.server.answer = raises(TransportError("service", got="no answer"))
    with pytest.raises(TransportError):
        robot.reset(None).result(60)

    def misfit(request, response):
        response.success = True
        response.observation = observation_to_message(observation(size=3))

    robot.server.answer = misfit
    with pytest.raises((CodecError, ValueError), match="x"):
        robot.reset(None).result(60)


def test_a_hal_that_died_while_it_was_asked_is_not_waited_for(robot):
    unanswered = SimpleNamespace(look=lambda: None, give_up=lambda: None)
    robot.server.begin = lambda request, timeout_s: unanswered
    future = robot.reset(None)
    assert not future.done()
    robot.on_lease_lost()
    with pytest.raises(DeviceError, match="lease that was lost"):
        future.result(1)


def test_a_robot_that_is_not_there_is_not_ready(robot):
    assert "no observations" in robot.unready().text
    robot.on_observation(observation())
    assert not robot.unready()
    assert not robot.trouble()
    robot.lease.token, robot.lease.problem = 0, Reason("no_lease", "somebody else has it")
    assert "somebody else" in robot.unready().text
    assert "somebody else" in robot.trouble().text


def test_observations_that_do_not_fit_are_named_and_not_used(robot):
    robot.on_observation(observation(size=3))
    assert robot.observations.newest is None
    assert "observation.x" in robot.trouble().text
    robot.on_observation(observation())
    assert not robot.trouble()


def test_a_safety_stop_ends_an_episode_but_one_from_before_the_reset_does_not(robot):
    robot.on_observation(observation())
    robot.on_safety(status(SafetyStatus.STOPPED))
    assert "safety stop: why" in robot.trouble().text
    assert not robot.unready()  # a reset may be what ends it
    before_ns = time.time_ns()
    robot.reset(None).result(60)
    robot.on_safety(status(SafetyStatus.STOPPED, before_ns))
    assert not robot.trouble()
    robot.on_safety(status(SafetyStatus.STOPPED))
    assert robot.trouble().code == SAFETY_STOP
    robot.on_safety(status(SafetyStatus.ACTIVE))
    assert not robot.trouble()


def test_a_robot_that_hears_no_command_ends_the_episode(robot, monkeypatch):
    """Seen after a restart of the hal: observations came, and 143 steps were recorded of a robot that stood still."""
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic_ns", lambda: int(now_s[0] * 1e9))
    chunk = ActionChunk(np.zeros((1, 2), np.float32), 1000, sequence=1)

    def after(seconds, state, refused=0):
        now_s[0] += seconds
        message = status(state)
        message.refused = refused
        robot.on_safety(message)
        return robot.trouble()

    robot.reset(None).result(60)
    assert not after(10.0, SafetyStatus.IDLE), "nobody sends anything"
    robot.send(chunk)
    assert not after(1.0, SafetyStatus.IDLE)
    robot.send(chunk)
    assert after(1.5, SafetyStatus.IDLE).code == COMMANDS_UNHEARD
    assert not after(0.1, SafetyStatus.ACTIVE), "it has heard them"
    assert robot._actions.renewed == 0
    robot.reset(None).result(60)
    assert robot._actions.renewed == 1, "it is announced anew before the next attempt"
    robot.reset(None).result(60)
    assert robot._actions.renewed == 1
    assert not after(5.0, SafetyStatus.IDLE), "a new episode"
    robot.send(chunk)
    assert not after(5.0, SafetyStatus.IDLE, refused=1), "it hears them, and does not want them"


def test_a_slow_robot_gets_some_of_its_periods_to_hear_a_command(robot, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic_ns", lambda: int(now_s[0] * 1e9))
    robot._spec = replace(SPEC, period_s=1.5)
    robot.send(ActionChunk(np.zeros((1, 2), np.float32), 1000, sequence=1))
    for seconds, unheard in ((5.9, False), (0.2, True)):
        now_s[0] += seconds
        robot.on_safety(status(SafetyStatus.IDLE))
        assert bool(robot.trouble()) is unheard


def test_an_emergency_stop_counts_always(robot):
    robot.on_observation(observation())
    robot.on_safety(status(SafetyStatus.EMERGENCY, 1))
    assert "emergency stop: why" in robot.trouble().text
    assert "emergency stop: why" in robot.unready().text


# --- the person


def wish(engaged=True, sequence=0, age_s=0.0, scripted=False, **labels):
    action = np.array([1.0, 2.0], np.float32)
    stamp_ns = time.time_ns() - int(age_s * 1e9)
    command = TeleopCommand(engaged, action if engaged else action[:0], stamp_ns, **labels)
    return Intervention(command, "joy", scripted, sequence)


def test_nobody_is_nobody():
    assert RosTeleop(False).read(observation()) is NOBODY


def test_the_newest_wish_counts_with_its_age():
    teleop = RosTeleop(False)
    teleop.on_intervention(wish(scripted=True))
    seen = teleop.read(observation())
    assert seen.engaged
    assert seen.scripted
    assert seen.action.tolist() == [1.0, 2.0]
    assert seen.age_s < 0.2
    teleop.on_intervention(wish(age_s=3.0))  # it was long under way
    assert 2.9 < teleop.read(observation()).age_s < 4
    teleop.on_intervention(wish(engaged=False))
    assert teleop.read(observation()).action is None


def test_a_label_counts_once_though_the_button_is_held_and_more_messages_come():
    teleop = RosTeleop(False)
    teleop.on_intervention(wish(success=True))
    teleop.on_intervention(wish(success=True))
    teleop.on_intervention(wish())
    assert teleop.read(observation()).label is Label.SUCCESS
    assert teleop.read(observation()).label is Label.NONE
    teleop.on_intervention(wish(failure=True))
    assert teleop.read(observation()).label is Label.FAILURE
    teleop.on_intervention(wish(failure=True))
    assert teleop.read(observation()).label is Label.NONE
    teleop.on_intervention(wish(abort=True))
    assert teleop.read(observation()).label is Label.ABORT


class Waits(threading.Condition):
    """Notes how long somebody would wait, and lets happen meanwhile what a test wants."""

    def __init__(self):
        super().__init__()
        self.timeouts_s = []
        self.meanwhile = lambda: None

    def wait_for(self, predicate, timeout=None):
        if not predicate():
            self.timeouts_s.append(timeout)
            self.meanwhile()
        return predicate()


def test_a_lockstep_step_waits_for_the_answer_to_its_observation_but_not_for_ever():
    teleop = RosTeleop(True)
    waits = teleop._news = Waits()
    teleop.on_intervention(wish(sequence=1))
    waits.meanwhile = lambda: teleop.on_intervention(wish(False, sequence=2))
    assert teleop.read(observation(2)).engaged is False
    assert waits.timeouts_s == [0.1]
    waits.meanwhile = lambda: None  # no answer comes
    assert teleop.read(observation(3)).engaged is False
    assert waits.timeouts_s == [0.1, 0.1]
    teleop.on_intervention(wish(sequence=3, age_s=5.0))
    assert teleop.read(observation(3)).age_s == 0.0  # it is about this very observation
    assert waits.timeouts_s == [0.1, 0.1]
    nobody = RosTeleop(True)
    nobody._news = Waits()
    assert nobody.read(observation(3)) is NOBODY
    assert nobody._news.timeouts_s == []  # without a device nobody waits


# --- the lease


def keeper(acquire, renew=None, release=None, duration_s=0.3, grant=0):
    servers = (
        Server(AcquireLease, acquire),
        Server(RenewLease, renew or raises(TransportError("renew"))),
        Server(ReleaseLease, release or (lambda request, response: None)),
    )
    keeper = LeaseKeeper(
        LeaseConfig(duration_s=duration_s, retry_s=0.02), "me", *servers, grant=grant
    )
    keeper.acquirer, keeper.renewer, keeper.releaser = servers
    return keeper


def grant(token, duration_s=0.3):
    def answer(request, response):
        response.success = True
        response.lease.token, response.lease.duration_s = token, duration_s

    return answer


def prolong(request, response):
    response.success = True


def refuse(request, response):
    response.message = "leased to another"


def test_a_lease_is_acquired_renewed_and_given_back():
    lease = keeper(grant(8), prolong)
    assert lease.token == 0
    lease.start()
    wait_until(lambda: len(lease.renewer.requests) >= 2, "renewed twice")
    assert lease.token == 8
    assert lease.acquirer.requests[0].holder == "me"
    lease.stop()
    assert lease.token == 0
    assert [request.token for request in lease.releaser.requests] == [8]
    assert len(lease.acquirer.requests) == 1


def test_a_lease_that_others_have_is_asked_for_again():
    lease = keeper(refuse, prolong)
    lease.start()
    wait_until(lambda: "leased to another" in lease.problem.text, "it says why")
    lease.acquirer.answer = grant(9)
    wait_until(lambda: lease.token == 9, "it gets it")
    assert not lease.problem
    lease.stop()


def test_an_actor_whose_grant_is_over_says_so():
    def over(request, response):
        response.error_code, response.message = "old_grant", f"grant {request.grant} is over"

    lease = keeper(over, prolong, grant=7)
    lease.start()
    wait_until(lambda: lease.problem.code == "old_grant", "it knows")
    assert "grant 7 is over" in lease.problem.text
    lease.stop()


def test_a_lease_that_was_taken_is_lost_at_once_and_asked_for_again():
    lease = keeper(grant(1), prolong)
    lease.start()
    wait_until(lambda: lease.token == 1, "it has one")
    told = []
    lease.on_lost = lambda: told.append(lease.token)
    lease.acquirer.answer, lease.renewer.answer = refuse, refuse
    wait_until(lambda: lease.token == 0 and told == [0], "it has lost it, and says so once")
    lease.acquirer.answer, lease.renewer.answer = grant(2), prolong
    wait_until(lambda: lease.token == 2, "it has a new one")
    lease.stop()


def test_a_hal_that_does_not_answer_for_a_while_costs_the_lease_only_when_it_ends():
    lease = keeper(grant(1), raises(TransportError("renew", got="no answer")))
    begin_s = time.monotonic()
    lease.start()
    wait_until(lambda: lease.token == 1, "it has one")
    wait_until(lambda: lease.renewer.requests, "it was renewed in vain")
    assert lease.token == 1 or time.monotonic() - begin_s >= 0.3
    lease.acquirer.answer = raises(TransportError("acquire", got="nobody"))
    wait_until(lambda: lease.token == 0, "it has ended")
    assert time.monotonic() - begin_s >= 0.3
    lease.stop()


@pytest.mark.parametrize("answered", [0, 1])
def test_giving_back_waits_for_no_answer_of_a_hal_that_is_gone(ros_domain, answered):
    """Real services: the first ``answered`` calls are answered, the next one never is."""
    context = rclpy.Context()
    context.init(domain_id=ros_domain)
    node = rclpy.create_node("halted", context=context)
    asked = []

    def serve(name, kind, fill):
        def answer(request, response):
            asked.append(name)
            if len(asked) > answered:
                hung.wait(60)
            fill(request, response)
            return response

        node.create_service(kind, name, answer)
        return ServiceClient(node, name, kind)

    hung = threading.Event()
    executor = MultiThreadedExecutor(2, context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    ending = None
    try:
        lease = LeaseKeeper(
            LeaseConfig(duration_s=3.0), "me", serve("acquire", AcquireLease, grant(4, 3.0)),
            serve("renew", RenewLease, prolong), serve("release", ReleaseLease, prolong),
        )  # fmt: skip
        lease._acquire.call = partial(_patiently, lease._acquire.call)
        lease._renew.call = partial(_patiently, lease._renew.call)
        lease.start()
        wait_until(lambda: len(asked) == answered + 1, "it asks in vain")
        ending = threading.Thread(target=lease.stop)
        ending.start()
        ending.join(20)
        assert not ending.is_alive()
        assert lease.token == 0
    finally:
        hung.set()
        if ending is not None:
            ending.join()
        end_spinning(spinning, executor, node)
        context.try_shutdown()


def _patiently(call, request, timeout_s, given_up=None):
    """Call with a limit that is far beyond what a test waits."""
    return call(request, 60.0, given_up)


# --- what it says, and what it is configured by


FULL, LATE = Reason(OUTBOX_FULL, "full"), Reason(STEPS_IRREGULAR, "late")
OUTBOX = OutboxStatus(3, 4000, 1.5, 0.25, 0, 9, 65536, 0.1, 1, 0, 0, (FULL,))


def test_the_status_says_all():
    stats = LoopStats()
    stats.steps = 12
    loop = LoopStatus(LoopState.PAUSED, FULL, 12, 2, 0.5, 3.0, 20.0, 1.0, 0.5, 0.2, 0, (LATE,))
    message = actor_status_to_message(loop, OUTBOX)
    assert (message.state, message.detail, message.steps) == (ActorStatus.PAUSED, "full", 12)
    assert (message.code, list(message.warning_codes)) == (
        OUTBOX_FULL,
        [OUTBOX_FULL, STEPS_IRREGULAR],
    )
    assert (message.outbox_chunks, message.outbox_fill) == (3, 0.25)
    assert list(message.warnings) == ["full", "late"]
    idle = actor_status_to_message(None, OUTBOX, Reason(NODE_WAITS, "the robot's spec"))
    assert (idle.state, idle.code, idle.detail) == (
        ActorStatus.WAITING,
        NODE_WAITS,
        "the robot's spec",
    )
    assert np.isnan(idle.success_rate)


def test_every_parameter_is_described():
    fields = list(parameter_fields(ActorConfig))
    assert all(field.setting.doc for field in fields)
    names = {field.name for field in fields}
    assert {
        "loop.evaluation.every",
        "outbox.quota_bytes",
        "policy.plugin",
        "lease.duration_s",
    } <= names
    assert from_mapping(ActorConfig, {}).reward.plugin == "task"


def test_robots_that_share_weights_do_not_share_noise():
    config = from_mapping(ActorConfig, {"policy": {"plugin": "linear_gaussian"}})

    def first_two(name="a", seed=7, steps=0):
        seeds = policy_seeds(config.policy, name, seed, steps)
        return next(seeds)["seed"], next(seeds)["seed"]

    one, other = first_two()
    assert one != other
    assert first_two() == (one, other), "a run that is repeated explores as before"
    assert first_two("b") != (one, other), "another robot otherwise"
    assert first_two(steps=100) != (one, other), "and so does one that goes on after a restart"
    assert first_two(seed=-1) != first_two(seed=-1)
    chosen = from_mapping(
        ActorConfig, {"policy": {"plugin": "linear_gaussian", "params": {"seed": 3}}}
    )
    assert next(policy_seeds(chosen.policy, "a", 7, 0)) == {}
