"""The hal node as a process: what it shows, whom it obeys, and what bad input gets."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as RosParameter
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from user_msgs.msg import SafetyStatus

from user_comm import topics
from user_comm.converters import robot_description_from_message
from user_core.runtime.processes import last_words
from user_core.types import ActedBy
from user_testing.processes import waited_for_core_s
from user_testing.worlds.robots.hal_node import NAMESPACE, PERIOD_NS, WATCHDOG_S, Client, HalProcess

STILL = np.zeros((1, 7), np.float32)
#: What is promised beside the watchdog's time: a look of the sentinel, and a period.
SLACK_S = 0.25


def moves(x: float = 0.0001) -> Any:
    row = STILL.copy()
    row[0, 0] = x
    return row


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def lone_client(ros_domain: int) -> Iterator[Client]:
    """In a domain of its own, for tests with a hal of their own: that of the others is still there, with the same
    names."""
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HalProcess]:
    with HalProcess(tmp_path_factory.mktemp("hal")) as hal:
        client.wait_for(lambda: client.observations, 60.0)
        yield hal


@pytest.fixture
def hal(running: HalProcess, client: Client) -> Iterator[HalProcess]:
    """The hal, well, reset, and with nobody driving."""
    client.stop_driving()
    running.fail()
    client.call("reset_emergency_stop", Trigger)
    client.wait_for(lambda: client.reset().success)
    yield running
    client.stop_driving()


def _waited_since(before_s: float, *pids: int) -> float:
    """Seconds that threads of these processes have waited for a core since then. What a thread waited that has ended
    meanwhile is not counted any more."""
    return max(0.0, waited_for_core_s(*pids) - before_s)


def stops_after(hal: HalProcess, moment_ns: int) -> list[int]:
    return [e["monotonic_ns"] for e in hal.reached("stop") if e["monotonic_ns"] >= moment_ns]


def refused(client: Client, code: str) -> int:
    status = client.status
    return dict(zip(status.reasons, status.counts)).get(code, 0)


def set_limit(client: Client, name: str, value: float) -> Any:
    """As ``ros2 param set`` does; returns the result."""
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    parameter = RosParameter(name=name, value=number)
    answer = client.call("set_parameters", SetParameters, parameters=[parameter])
    return answer.results[0]


def test_it_says_what_the_robot_is_to_whoever_comes_late(hal, client) -> None:
    heard: list[Any] = []
    subscription = client.hear(topics.ROBOT_SPEC, heard.append)
    client.wait_for(lambda: heard)
    client.node.destroy_subscription(subscription)
    spec = robot_description_from_message(heard[0]).spec
    assert spec.robot == "mock" and spec.action.size == 7 and not spec.lockstep


def test_a_command_reaches_the_robot_and_comes_back_as_applied(hal, client) -> None:
    client.drive(moves(0.001), acted_by=ActedBy.SCRIPT)
    client.wait_active()
    client.wait_for(lambda: client.observations[-1].applied is not None)
    applied = client.observations[-1].applied
    assert float(applied.action[0]) == pytest.approx(0.001) and applied.sequence > 0
    sent = hal.reached("command")[-1]
    assert sent["action"][0] == pytest.approx(0.001)
    rows = [o.stamp_ns for o in client.observations[-20:]]
    assert np.median(np.diff(rows)) == pytest.approx(PERIOD_NS, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        (np.zeros((1, 6), np.float32), {}, "shape"),
        (np.zeros((1, 7), np.float64), {}, "dtype"),
        (np.full((1, 7), math.nan, np.float32), {}, "not_finite"),
        (np.full((1, 7), math.inf, np.float32), {}, "not_finite"),
        (moves(0.5), {}, "out_of_bounds"),
        (STILL, {"start_ns": 1}, "stale_chunk"),
        (STILL, {"lease_token": 12345}, "lease"),
        (np.zeros((500, 7), np.float32), {}, "chunk_too_long"),
    ],
)
def test_bad_commands_never_reach_the_robot(hal, client, rows, options, code) -> None:
    before, sent = refused(client, code), len(hal.reached("command"))
    client.drive(rows, **options)
    began_s, waited_s = time.monotonic(), waited_for_core_s(hal.pid, os.getpid())
    client.wait_for(lambda: refused(client, code) > before + 2)
    if code != "out_of_bounds":  # the first of these is shown on change, the others once a second
        took_s = time.monotonic() - began_s
        assert took_s < 3.0 + _waited_since(waited_s, hal.pid, os.getpid())
    assert len(hal.reached("command")) == sent
    client.wait_for(lambda: f"reason_{code}" in values(client.diagnostic("safety")))
    client.drive(moves())  # and the next good one goes
    client.wait_active()


def values(status: Any) -> dict[str, str]:
    return {} if status is None else {item.key: item.value for item in status.values}


def test_bytes_that_are_no_message_are_counted_and_survived(hal, client) -> None:
    from user_msgs.msg import ActionChunk as Message

    message = Message(period_ns=PERIOD_NS, sequence=2**62)
    message.actions.name, message.actions.shape = "actions", [2**31, 2**31]

    def counted() -> bool:
        client.actions.publish(message)
        found = values(client.diagnostic(f"topic {NAMESPACE}/action"))
        return int(found.get("refused_codec", 0)) >= 3

    client.wait_for(counted)
    client.drive(moves())
    client.wait_active()


def test_kill_9_of_the_commander_stops_the_robot_within_two_watchdog_periods(hal, client) -> None:
    program = [sys.executable, "-m", "user_testing.programs.commander", NAMESPACE]
    process = subprocess.Popen(program)
    try:
        sent = len(hal.reached("command"))
        client.wait_for(lambda: len(hal.reached("command")) > sent + 20, 60.0)
        waited_s, killed_ns = waited_for_core_s(hal.pid), time.monotonic_ns()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    client.wait_for(lambda: stops_after(hal, killed_ns))
    took_s = (stops_after(hal, killed_ns)[0] - killed_ns) * 1e-9
    late_s = _waited_since(waited_s, hal.pid)
    assert took_s < 2 * WATCHDOG_S + late_s, f"stopped {took_s:.3f} s after the kill"
    client.wait_stopped("watchdog")
    last = hal.reached()[-1]
    assert last["what"] == "stop", "and nothing was sent after it"
    client.drive(moves())
    client.wait_active()


@pytest.mark.parametrize("call", ["read", "command"])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [("raise", "device_fault"), ("nan", "device_fault"), ("block", "device_timeout")],
)
def test_a_driver_that_fails_ends_in_a_safe_stop_and_comes_back(
    hal, client, call, fault, cause
) -> None:
    client.drive(moves())
    client.wait_active()
    waited_s, failed_ns = waited_for_core_s(hal.pid), time.monotonic_ns()
    hal.fail(**{call: fault, "block_s": 2.0})
    client.wait_for(lambda: stops_after(hal, failed_ns))
    stopped_s = (stops_after(hal, failed_ns)[0] - failed_ns) * 1e-9
    late_s = _waited_since(waited_s, hal.pid)
    assert stopped_s < WATCHDOG_S + SLACK_S + late_s, f"stopped after {stopped_s:.3f} s"
    client.wait_stopped(cause)
    client.wait_for(
        lambda: (
            client.diagnostic("safety").level > b"\x00"
            and client.diagnostic("safety").message.startswith(cause)
        )
    )
    hal.fail()
    client.wait_active()  # the actor never stopped, the process was never restarted


def test_an_emergency_stop_is_latched(hal, client) -> None:
    client.drive(moves())
    client.wait_active()
    pressed_ns = time.monotonic_ns()
    assert client.call("emergency_stop", Trigger).success
    client.wait_for(lambda: client.status.state == SafetyStatus.EMERGENCY)
    client.wait_for(lambda: stops_after(hal, pressed_ns))
    sent, refusals = len(hal.reached("command")), refused(client, "emergency_stop")
    answer = client.reset()
    assert not answer.success and answer.error_code == "safety"
    client.wait_for(lambda: refused(client, "emergency_stop") > refusals + 20)
    assert len(hal.reached("command")) == sent
    assert client.call("reset_emergency_stop", Trigger).success
    client.wait_active()


def test_a_reset_gives_the_first_observation_of_a_new_episode(hal, client) -> None:
    from user_comm.converters import observation_from_message

    before = client.observations[-1].episode
    first, second = client.reset(seed=7), client.reset(seed=7)
    one, two = (observation_from_message(answer.observation) for answer in (first, second))
    assert (one.episode, two.episode) == (before + 1, before + 2)
    np.testing.assert_array_equal(one.arrays["tcp_pose"], two.arrays["tcp_pose"])


def test_the_node_answers_while_the_robot_resets(hal, client) -> None:
    hal.fail(reset="block", block_s=4.0)
    from user_msgs.srv import ResetRobot

    asked_ns = time.monotonic_ns()
    reset = client._clients["reset"].call_async(ResetRobot.Request(seed=-1))
    client.wait_for(lambda: stops_after(hal, asked_ns))  # it stops the robot, then resets it
    assert client.call("emergency_stop", Trigger).success
    assert not reset.done()
    client.wait_for(reset.done)
    client.wait_for(lambda: client.status.state == SafetyStatus.EMERGENCY)
    hal.fail()


def test_standard_topics_are_there_for_those_who_listen(hal, client) -> None:
    poses: list[PoseStamped] = []
    joints: list[JointState] = []
    drawn: list[Any] = []
    subscriptions = [
        client.hear(topics.TCP_POSE, poses.append),
        client.hear(topics.JOINT_STATES, joints.append),
        client.hear(topics.MARKERS, drawn.append),
    ]
    client.drive(moves(), acted_by=ActedBy.POLICY, policy_version=12)
    client.wait_for(lambda: poses and joints and drawn)
    client.wait_active()
    client.wait_for(lambda: any(m.text == "policy v12" for m in drawn[-1].markers))
    assert poses[-1].header.frame_id == "base"
    assert poses[-1].pose.position.z == pytest.approx(0.3, abs=0.05)
    assert joints[-1].name[0] == "joint_1" and len(joints[-1].position) == 6
    for subscription in subscriptions:
        client.node.destroy_subscription(subscription)


def test_deactivation_stops_the_robot_and_activation_takes_it_up_again(hal, client) -> None:
    client.drive(moves())
    client.wait_active()

    def change(to: int) -> None:
        answer = client.call("change_state", ChangeState, transition=Transition(id=to))
        assert answer.success

    change(Transition.TRANSITION_DEACTIVATE)
    assert [entry["what"] for entry in hal.reached()[-2:]] == ["stop", "close"]
    sent, seen = len(hal.reached("command")), len(client.observations)
    answer = client.acquire("somebody")
    assert not answer.success and answer.error_code == "not_active"
    time.sleep(0.2)
    assert len(hal.reached("command")) == sent and len(client.observations) <= seen + 1
    change(Transition.TRANSITION_ACTIVATE)
    client.wait_active()


def test_diagnostics_say_of_which_robot_they_are(hal, client) -> None:
    client.wait_for(lambda: client.diagnostics)
    said = {status.hardware_id for status in client.diagnostics.values()}
    assert said == {f"mock ({NAMESPACE.strip('/')})"}


def test_a_driver_that_calls_sys_exit_stops_the_robot_and_is_given_up_by_name(
    lone_client, tmp_path, monkeypatch
) -> None:
    client = lone_client
    words = tmp_path / "hal.ending"
    monkeypatch.setenv(last_words.VARIABLE, str(words))
    with HalProcess(tmp_path) as hal:
        client.wait_for(lambda: hal.reached("read") or client.observations)
        client.drive(moves())
        client.wait_for(lambda: hal.reached("command"))
        failed_ns = time.monotonic_ns()
        hal.fail(command="exit")
        client.wait_for(lambda: stops_after(hal, failed_ns))
        # Said before it ends, whatever it says then.
        client.wait_for(
            lambda: any(
                said.state == SafetyStatus.STOPPED
                and said.cause == "plugin_fault"
                and "SystemExit" in said.detail
                for said in list(client.statuses)
            )
        )
        client.wait_for(lambda: hal.process.poll() is not None, 60.0)
        client.stop_driving()
        assert hal.process.poll() == last_words.FINAL_EXIT_CODE
    said = last_words.take(words)
    assert said is not None and said.final and said.code == "plugin_fault"
    assert "command() of the driver raised SystemExit" in said.text


def test_limits_are_tightened_by_a_parameter_and_never_loosened(
    lone_client: Client, tmp_path: Path
) -> None:
    client = lone_client
    client.observations.clear()
    with HalProcess(tmp_path):
        client.wait_for(lambda: client.observations, 60.0)
        result = set_limit(client, "safety.watchdog_s", WATCHDOG_S * 2)
        assert not result.successful and "watchdog_s from" in result.reason
        assert set_limit(client, "safety.watchdog_s", WATCHDOG_S * 0.9).successful
        result = set_limit(client, "safety.watchdog_s", WATCHDOG_S)
        assert not result.successful, "what was tightened stays so"
        result = set_limit(client, "safety.step.linear", 0.001)
        assert result.successful, result.reason
        client.drive(moves(0.004))
        client.wait_for(lambda: client.status.limited)
        client.stop_driving()
