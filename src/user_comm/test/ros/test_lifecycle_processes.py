"""A lifecycle node in a process of its own: services, signals, diagnostics, bad messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.node import Node
from rclpy.serialization import serialize_message
from std_srvs.srv import Trigger
from user_msgs.msg import ActionChunk as ActionChunkMessage
from user_msgs.srv import ResetRobot

from user_comm.converters import action_chunk_to_message
from user_comm.services import ServiceClient
from user_core.errors import TransportError
from user_core.runtime.dds.files import LOCK_OF_PORT
from user_core.runtime.processes import last_words
from user_core.types import ActionChunk
from user_testing.failing_middleware import failing_middleware
from user_testing.spinning import spinning
from user_testing.waiting import wait_until

TIMEOUT_S = 60.0
#: DDS drops an answer that is ready before both ends know each other; whoever asks again gets one.
ASK_AGAIN_S = 5.0
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


class World:
    """The process under test, and a node beside it that talks to it."""

    def __init__(
        self, start: Callable[..., subprocess.Popen[str]], node: Node, name: str,
        env: dict[str, str] | None = None, **parameters: Any,
    ) -> None:  # fmt: skip
        self.node, self.name = node, name
        words = [
            sys.executable,
            "-m",
            "user_testing.programs.lifecycle_node",
            "--ros-args",
            "-r",
            f"__node:={name}",
        ]
        # Topics of their own, for the nodes of several tests overlap.
        words += ["-r", f"__ns:=/{name}"]
        for key, value in parameters.items():
            words += ["-p", f"{key.replace('__', '.')}:={value}"]
        self.process = start(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
        )
        self.events: list[Any] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, take), daemon=True)
            for stream, take in (
                (self.process.stdout, lambda line: self.events.append(json.loads(line))),
                (self.process.stderr, self.log.append),
            )
        ]
        for reader in self._readers:
            reader.start()
        self._clients: dict[str, ServiceClient] = {}

    def _read(self, stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            take(line)

    @property
    def said(self) -> list[str]:
        return [event[0] for event in self.events]

    def call(
        self, service_type: type[Any], name: str, timeout_s: float = TIMEOUT_S, **fields: Any
    ) -> Any:
        if name not in self._clients:
            full = f"/{self.name}/{self.name}/{name}"
            self._clients[name] = ServiceClient(self.node, full, service_type)
        request = service_type.Request()
        for field, value in fields.items():
            setattr(request, field, value)
        return self._clients[name].call(request, timeout_s)

    def transition(self, name: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[name]
        before = self.state
        try:
            asked = self.call(
                ChangeState, "change_state", ASK_AGAIN_S, transition=request.transition
            )
        except TransportError:
            return self.state != before
        return bool(asked.success)

    @property
    def state(self) -> str:
        end_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                answer = self.call(GetState, "get_state", ASK_AGAIN_S)
            except TransportError:
                if time.monotonic() > end_s:
                    raise
            else:
                return str(answer.current_state.label)

    def forget(self) -> None:
        """Give up the clients of its services."""
        for client in self._clients.values():
            client.destroy()

    def end(self, number: int = signal.SIGINT) -> int:
        os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        for reader in self._readers:
            reader.join()
        return code


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of this process, spun in a thread."""
    with spinning(partial(Node, "tester")) as (node,):
        yield node


@pytest.fixture(scope="module")
def statuses(node: Node) -> list[DiagnosticStatus]:
    """All that was said on /diagnostics, by whomever."""
    heard: list[DiagnosticStatus] = []
    node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda message: heard.extend(message.status), 50
    )
    return heard


@pytest.fixture
def world(
    start_process: Callable[..., subprocess.Popen[str]], node: Node, request: pytest.FixtureRequest
) -> Iterator[Callable[..., World]]:
    started: list[World] = []

    def make(**parameters: Any) -> World:
        name = f"w{abs(hash((request.node.nodeid, len(started)))) % 10**8}"
        started.append(World(start_process, node, name, **parameters))
        return started[-1]

    yield make
    for each in started:
        each.forget()


@pytest.fixture(scope="module")
def active(node: Node) -> Iterator[World]:
    """An active node that several tests share; none of them changes its state."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(words, text=True, **options))
        return started[-1]

    it = World(start, node, "active", autostart=True, speed=2, params__arm="panda")
    try:
        wait_until(lambda: "activate" in it.said)
        yield it
        assert it.end() == 0, "in good order, after all that"
    finally:
        it.forget()
        for process in started:
            process.kill()
            process.wait()


def level(status: DiagnosticStatus) -> int:
    return int(status.level[0])


def of(statuses: list[DiagnosticStatus], world: World, item: str) -> list[DiagnosticStatus]:
    return [s for s in list(statuses) if s.name == f"{world.name}/{world.name}: {item}"]


def test_life_by_services(world: Callable[..., World], statuses: list[DiagnosticStatus]) -> None:
    it = world()
    assert it.state == "unconfigured"
    wait_until(lambda: len(of(statuses, it, "lifecycle")) >= 3)  # its heart beats
    assert of(statuses, it, "lifecycle")[-1].message == "unconfigured"
    assert it.transition("configure") and it.state == "inactive"
    wait_until(lambda: of(statuses, it, "lifecycle")[-1].message == "inactive")
    answer = it.call(ResetRobot, "reset")
    assert not answer.success and answer.error_code == "not_active"
    assert it.call(Trigger, "emergency_stop").success, "always"
    assert it.transition("activate") and it.state == "active"
    assert it.transition("deactivate") and it.transition("cleanup")
    assert it.state == "unconfigured"
    assert not it.transition("activate"), "not possible from here"
    assert it.transition("configure"), "and the node has survived being asked"
    request = ChangeState.Request()
    request.transition.label = "shutdown"
    assert it.call(ChangeState, "change_state", transition=request.transition).success
    assert it.wait() == 0, "what is finalized ends"
    assert it.said == [
        "configure", "activate", "undo activate", "undo configure", "configure", "undo configure",
    ]  # fmt: skip


def test_a_signal_ends_an_active_node_in_good_order(world: Callable[..., World]) -> None:
    it = world(autostart=True)
    wait_until(lambda: "activate" in it.said)
    os.kill(it.process.pid, signal.SIGTERM)
    assert it.end(signal.SIGINT) == 0, "a second signal spoils nothing"
    assert it.said == ["configure", "activate", "undo activate", "undo configure"]


def test_a_bad_message_is_counted_and_the_next_good_one_taken(
    active: World, node: Node, statuses: list[DiagnosticStatus]
) -> None:
    it = active
    publisher = node.create_publisher(ActionChunkMessage, f"/{it.name}/action", 100)
    wait_until(publisher.get_subscription_count)
    good = action_chunk_to_message(ActionChunk(np.zeros((1, 2)), 10**8))
    bad = action_chunk_to_message(ActionChunk(np.zeros((1, 2)), 10**8))
    bad.acted_by = 77
    data = serialize_message(good)
    broken = [
        bytes([0, 1, 0, 3]),  # ends a node that lets the middleware read it
        data[: len(data) // 2],
        b"\xff" * 64,
        serialize_message(bad),
    ]

    def refused() -> int:
        found = of(statuses, it, f"topic /{it.name}/action")
        values = {value.key: value.value for value in found[-1].values} if found else {}
        return int(values.get("refused_codec", 0))

    def send_until_refused() -> bool:
        for message in broken:
            publisher.publish(message)  # the reader keeps one: some overtake the others
            time.sleep(0.005)
        return refused() >= 20

    wait_until(send_until_refused)
    warned = of(statuses, it, f"topic /{it.name}/action")[-1]
    assert level(warned) == 1 and "0 messages taken" in warned.message
    publisher.publish(good)
    wait_until(lambda: "action" in it.said)
    assert ["action", [[0.0, 0.0]]] in it.events and it.said.count("action") == 1
    refusals = [line for line in it.log if f"/{it.name}/action: refused a message" in line]
    assert 1 <= len(refusals) <= 8, "said, but not twenty times"


def test_a_node_that_cannot_start_says_why_and_tries_again(
    world: Callable[..., World], statuses: list[DiagnosticStatus], tmp_path: Path
) -> None:
    it = world(autostart=True, failures=2, failures_file=str(tmp_path / "failures"))
    found = wait_until(lambda: [s for s in of(statuses, it, "device") if level(s) == 2])
    assert "no power" in found[0].message and "Switch it on" in found[0].message
    wait_until(lambda: "activate" in it.said)
    assert it.said == ["attempt", "attempt", "attempt", "configure", "activate"]
    wait_until(lambda: level(of(statuses, it, "device")[-1]) == 0)
    wait_until(lambda: of(statuses, it, "lifecycle")[-1].message == "active")
    assert it.end() == 0
    assert any("Traceback" in line for line in it.log)


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        ("config", "config", "cannot configure: key 'speeed'"),
        ("exit", "exception", "cannot configure"),
    ],
)
def test_a_node_that_fails_in_the_same_way_for_ever_ends_with_its_reason(
    world: Callable[..., World],
    statuses: list[DiagnosticStatus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    code: str,
    text: str,
) -> None:
    monkeypatch.setenv(last_words.VARIABLE, str(tmp_path / "ending"))
    it = world(
        autostart=True, failures=1000, failures_file=str(tmp_path / "failures"), failure=failure
    )

    def told() -> dict[str, str]:
        said = of(statuses, it, "lifecycle")
        return {entry.key: entry.value for entry in said[-1].values} if said else {}

    wait_until(lambda: told().get("code") == code and text in told()["cause"])
    wait_until(lambda: it.process.poll() is not None, timeout_s=90.0)
    assert it.process.poll() == last_words.FINAL_EXIT_CODE
    assert it.said.count("attempt") == 5
    words = last_words.take(tmp_path / "ending")
    assert words is not None and words.final and (words.code, text in words.text) == (code, True)


def test_a_node_that_failed_while_active_comes_back(
    world: Callable[..., World], node: Node, statuses: list[DiagnosticStatus]
) -> None:
    it = world(autostart=True)
    publisher = node.create_publisher(ActionChunkMessage, f"/{it.name}/action", 10)
    wait_until(lambda: publisher.get_subscription_count() and "activate" in it.said)
    publisher.publish(action_chunk_to_message(ActionChunk(np.ones((1, 1)), 1, sequence=13)))
    wait_until(lambda: it.said.count("activate") == 2)
    assert it.said == [
        "configure", "activate", "action", "undo activate", "undo configure", "configure",
        "activate",
    ]  # fmt: skip
    assert any(level(s) == 2 and "a fault" in s.message for s in of(statuses, it, "device"))


def test_a_node_lives_with_a_middleware_that_takes_no_message_at_all(
    world: Callable[..., World], tmp_path: Path
) -> None:
    """No heartbeat, no event of a parameter, and no announcement of a transition, of which rcl makes an error in its
    middle."""
    it = world(env=failing_middleware(tmp_path, messages=1.0))
    for transition, state in (
        ("configure", "inactive"), ("activate", "active"), ("deactivate", "inactive"),
        ("cleanup", "unconfigured"), ("configure", "inactive"), ("activate", "active"),
    ):  # fmt: skip
        assert it.transition(transition), f"{transition}: {it.log[-5:]}"
        assert it.state == state
    wait_until(
        lambda: it.said.count("activate") == 2 and it.said.count("undo configure") == 1,
        seen=lambda: (it.events, it.log[-20:]),
    )
    assert it.end() == 0, "in good order"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory here")
def test_a_process_that_others_took_for_dead_ends_and_says_so(
    world: Callable[..., World], tmp_path: Path
) -> None:
    """As after SIGSTOP, in the rare case in which FastDDS does not tell it that its port was made anew, or removed."""
    words = tmp_path / "words"
    # Found by nobody: who sends to it would take the copies for broken, and remove them.
    alone = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    it = world(autostart=True, env={last_words.VARIABLE: str(words), **alone})
    wait_until(lambda: "activate" in it.said)
    links = [os.readlink(link) for link in Path(f"/proc/{it.process.pid}/fd").iterdir()]
    ports = [link.removesuffix("_el") for link in links if LOCK_OF_PORT.search(link)]
    if not ports:
        pytest.skip("this middleware has no shared memory")
    removed, *replaced = ports
    os.kill(it.process.pid, signal.SIGSTOP)  # or it may look between the two, and end for the first
    os.unlink(removed)
    for port in replaced:
        os.replace(shutil.copy(port, f"{port}.anew"), port)
    os.kill(it.process.pid, signal.SIGCONT)
    assert it.wait() == 1, "to be started again"
    said = last_words.take(words)
    assert said is not None and not said.final and said.code == "transport"
    assert "undo configure" in it.said, "in good order"
    assert all(Path(port).name in "".join(it.log) for port in ports)


def test_who_deactivates_a_node_keeps_it_so(
    world: Callable[..., World], statuses: list[DiagnosticStatus]
) -> None:
    it = world(autostart=True)
    wait_until(lambda: it.state == "active")
    assert it.transition("deactivate")
    # Autostart looks twice as often as the heart beats, in the same thread: it has looked since.
    beats = len(of(statuses, it, "lifecycle"))
    wait_until(lambda: len(of(statuses, it, "lifecycle")) > beats + 3)
    assert it.state == "inactive" and it.said.count("activate") == 1


def test_services_answer_with_what_is_wrong(active: World) -> None:
    answer = active.call(Trigger, "reset_emergency_stop")
    assert not answer.success and "Take it away" in answer.message


def test_a_slow_service_in_a_thread_holds_nothing_up(active: World) -> None:
    answers: list[Any] = []
    slow = threading.Thread(target=lambda: answers.append(active.call(ResetRobot, "reset", seed=5)))
    slow.start()
    wait_until(lambda: ["reset begins", 5] in active.events)
    assert active.call(Trigger, "emergency_stop").success
    assert not answers, "the emergency stop was answered while the reset was at work"
    slow.join()
    assert answers[0].success


def test_calls_have_a_time_limit(active: World, node: Node) -> None:
    client = ServiceClient(node, "/nobody/offers/this", Trigger)
    with pytest.raises(TransportError, match="nobody offers it"):
        client.call(Trigger.Request(), 0.1)
    client.destroy()
    active.call(ResetRobot, "reset", seed=0)  # the service has been found
    with pytest.raises(TransportError, match="no answer"):
        active.call(ResetRobot, "reset", timeout_s=0.2, seed=1)


def test_what_nobody_catches_ends_the_process_after_everything_is_undone(
    world: Callable[..., World],
) -> None:
    it = world(autostart=True, end="raise")
    assert it.wait() == 1
    assert it.said == ["configure", "activate", "undo activate", "undo configure"]
    assert any("ZeroDivisionError" in line for line in it.log)


def test_parameters_describe_themselves_refuse_and_apply(active: World) -> None:
    it = active
    assert ["configure", {"speed": 2.0, "params": {"arm": "panda"}}] in it.events
    speed, mode, count, age = it.call(
        DescribeParameters,
        "describe_parameters",
        names=["speed", "mode", "count", "gate.max_age_s"],
    ).descriptors
    assert speed.description == "Speed of the arm. [m/s]" and not speed.read_only
    bounds = speed.floating_point_range[0]
    assert (bounds.from_value, bounds.to_value) == (0.0, 2.0)
    assert mode.additional_constraints == "one of: fast, safe"
    assert count.read_only and count.integer_range[0].from_value == 1
    assert age.additional_constraints == "> 0" and not age.floating_point_range

    def set_parameter(name: str, **value: Any) -> Any:
        parameter = Parameter(name=name, value=ParameterValue(**value))
        return it.call(SetParameters, "set_parameters", parameters=[parameter]).results[0]

    double, text = ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_STRING
    too_fast = set_parameter("speed", type=double, double_value=3.0)
    assert not too_fast.successful and "2" in too_fast.reason
    wrong_mode = set_parameter("mode", type=text, string_value="wild")
    assert not wrong_mode.successful and "'fast', 'safe'" in wrong_mode.reason
    fixed = set_parameter("count", type=ParameterType.PARAMETER_INTEGER, integer_value=5)
    assert not fixed.successful and "read-only" in fixed.reason
    assert set_parameter("speed", type=double, double_value=0.5).successful
    wait_until(lambda: it.events[-1] == ["reconfigure", [2.0, 0.5]])
    values = it.call(GetParameters, "get_parameters", names=["speed", "params.arm"]).values
    assert values[0].double_value == 0.5 and values[1].string_value == "panda"


def test_an_end_that_hangs_is_ended(start_process: Callable[..., subprocess.Popen[str]]) -> None:
    """With the time limit shortened."""
    code = (
        "import runpy, sys; import user_core.runtime.processes.stop_signals as s;"
        "s.StopSignals.__init__.__defaults__ = (0.5,);"
        "runpy.run_module('user_testing.programs.lifecycle_node', run_name='__main__', alter_sys=True)"
    )
    process = start_process(
        [sys.executable, "-c", code, "--ros-args", "-p", "autostart:=true", "-p", "end:=hang"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")  # type: ignore[union-attr]
    assert next(line for line in lines if "activate" in line)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "no orderly end" in log and "Thread" in log, "all stacks are shown"
