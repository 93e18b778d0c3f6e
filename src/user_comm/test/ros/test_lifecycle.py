"""The lifecycle base node: what is undone, in which order, and what one gets to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from user_comm import topics
from user_comm.diagnostics import Level
from user_comm.endpoints import TopicPublisher
from user_comm.lifecycle import LifecycleNode
from user_comm.subscriptions import CheckedSubscription
from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceError, SuiteError
from user_core.types import TrajectoryAck


class ScenarioConfig(Config):
    speed: float = setting(1.0, doc="Speed.", unit="m/s", ge=0, le=2, read_only=False)


class Scenario(LifecycleNode):
    """Registers two things in each state, and raises where it is told to."""

    Config = ScenarioConfig

    def __init__(self, name: str, **options: Any) -> None:
        self.events: list[str] = []
        self.raise_in: dict[str, BaseException] = {}
        super().__init__(name, **options)

    def configure(self, stack: ExitStack) -> None:
        self.step(stack, "connect")
        self.step(stack, "subscribe")

    def activate(self, stack: ExitStack) -> None:
        self.step(stack, "start")
        self.step(stack, "move")

    def reconfigure(self, old: Any, new: Any) -> None:
        self.note(f"speed {old.speed} -> {new.speed}")

    def step(self, stack: ExitStack, name: str) -> None:
        self.note(name)
        stack.callback(self.note, f"undo {name}")

    def note(self, event: str) -> None:
        self.events.append(event)
        if event in self.raise_in:
            raise self.raise_in[event]


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def node() -> Iterator[Scenario]:
    scenario = Scenario("scenario")
    yield scenario
    scenario.destroy_node()


@pytest.fixture
def log(node: Scenario, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the node logs as errors."""
    lines: list[str] = []

    class Logger:
        def error(self, text: str) -> None:
            lines.append(text)

    monkeypatch.setattr(node._guard, "_logger", Logger())
    return lines


UP = ["connect", "subscribe", "start", "move"]
DOWN = ["undo move", "undo start", "undo subscribe", "undo connect"]


def up(node: Scenario) -> None:
    assert node.request("configure") and node.request("activate")
    assert node.events == UP and node.is_active and node.state == "active"


def level_of(node: LifecycleNode, name: str) -> Level:
    return {item.name: item.level for item in node.diagnostics.items()}[name]


def test_up_and_down_again_and_again(node: Scenario) -> None:
    for _ in range(2):
        up(node)
        assert node.request("deactivate") and node.state == "inactive" and not node.is_active
        assert node.events == UP + DOWN[:2]
        assert node.request("cleanup") and node.state == "unconfigured"
        assert node.events == UP + DOWN
        node.events.clear()


def test_deactivated_and_activated_without_configuring_again(node: Scenario) -> None:
    up(node)
    assert node.request("deactivate") and node.request("activate")
    assert node.events == [*UP, *DOWN[:2], "start", "move"]


@pytest.mark.parametrize("states", [[], ["configure"], ["configure", "activate"]])
def test_shut_down_from_anywhere_everything_is_undone(node: Scenario, states: list[str]) -> None:
    for transition in states:
        node.request(transition)
    done = len(node.events)
    assert node.request("shutdown") and node.state == "finalized"
    assert node.events[done:] == DOWN[len(DOWN) - done :]


@pytest.mark.parametrize(
    ("error", "state"),
    [(DeviceError("robot", got="no answer"), "unconfigured"), (ZeroDivisionError(), "unconfigured")],
)  # fmt: skip
def test_a_failed_configuration_is_undone_logged_and_can_be_repeated(
    node: Scenario, log: list[str], error: Exception, state: str
) -> None:
    node.raise_in = {"subscribe": error}
    assert not node.request("configure") and node.state == state
    assert node.events == ["connect", "subscribe", "undo connect"]
    assert "Traceback" in log[0] and 'in configure\n    self.step(stack, "subscribe")' in log[0]
    assert level_of(node, "lifecycle") is Level.ERROR
    node.raise_in, node.events = {}, []
    up(node)
    assert level_of(node, "lifecycle") is Level.OK, "what is over is not shown as present"


def test_a_wrong_value_is_said_without_a_traceback_and_another_error_has_one_once(
    node: Scenario, log: list[str]
) -> None:
    for error, traces in (
        (ConfigError("rate", got=-1), (False, False)),
        (DeviceError("arm"), (True, False)),
    ):
        for has_trace in traces:
            log.clear()
            node.raise_in = {"subscribe": error}
            assert not node.request("configure")
            assert str(error) in log[0] and ("Traceback" in log[0]) is has_trace


def test_an_error_of_ours_leaves_an_activation_at_inactive(node: Scenario, log: list[str]) -> None:
    node.request("configure")
    node.raise_in = {"move": DeviceError("arm", got="a fault", hint="Release the brake")}
    assert not node.request("activate") and node.state == "inactive"
    assert node.events == [*UP, "undo start"]
    assert "Release the brake" in log[0] and "Traceback" in log[0]
    assert level_of(node, "device") is Level.ERROR
    node.raise_in, node.events = {}, UP[:2]
    assert node.request("activate") and node.is_active
    assert level_of(node, "device") is Level.OK


def test_a_bug_in_an_activation_takes_everything_down(node: Scenario, log: list[str]) -> None:
    node.request("configure")
    node.raise_in = {"move": KeyError("bug")}
    assert not node.request("activate") and node.state == "unconfigured"
    assert node.events == [*UP, "undo start", "undo subscribe", "undo connect"]
    assert "KeyError" in log[0] and level_of(node, "exception") is Level.ERROR


@pytest.mark.parametrize("bad", ["undo move", "undo start"])
def test_what_raises_while_undoing_keeps_nothing_else_from_being_undone(
    node: Scenario, log: list[str], bad: str
) -> None:
    up(node)
    node.raise_in = {bad: DeviceError("brake", got="stuck")}
    assert not node.request("deactivate"), "it did not go well, and that is said"
    assert node.state == "unconfigured", "a node that could not stop cleanly is not left inactive"
    assert node.events == UP + DOWN
    assert "stuck" in log[0]


@pytest.mark.parametrize("bad", DOWN)
def test_shutdown_ends_in_finalized_whatever_raises(node: Scenario, bad: str) -> None:
    up(node)
    node.raise_in = {bad: RuntimeError("no")}
    node.request("shutdown")
    assert node.state == "finalized" and node.events == UP + DOWN


def test_both_errors_are_logged_when_undoing_a_failure_fails(
    node: Scenario, log: list[str]
) -> None:
    node.raise_in = {"subscribe": DeviceError("the first"), "undo connect": OSError("the second")}
    assert not node.request("configure")
    assert "the first" in log[0] and "the second" in log[0]


@pytest.mark.parametrize(
    ("before", "transition"),
    [([], "activate"), ([], "deactivate"), (["configure"], "configure"), (["shutdown"], "configure")],
)  # fmt: skip
def test_a_transition_that_is_not_possible_changes_nothing(
    node: Scenario, before: list[str], transition: str
) -> None:
    for name in before:
        node.request(name)
    state, events = node.state, list(node.events)
    assert not node.request(transition)
    assert node.state == state and node.events == events


def test_failing_takes_an_active_node_down_and_says_why(node: Scenario, log: list[str]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    up(node)
    node.fail(DeviceError("arm", got="a fault"))
    spin_until(executor, lambda: node.state == "unconfigured")
    assert node.events == UP + DOWN
    assert "a fault" in log[0] and level_of(node, "device") is Level.ERROR
    executor.shutdown()


def test_failing_while_inactive_takes_the_node_down_too(node: Scenario, log: list[str]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.fail(DeviceError("arm", got="early"))
    spin_until(executor, lambda: log)
    assert "early" in log[0] and node.state == "unconfigured", (
        "said, though there is nothing to undo"
    )
    node.request("configure")
    node.fail(DeviceError("arm", got="a fault"))
    spin_until(executor, lambda: node.state == "unconfigured")
    assert node.events == ["connect", "subscribe", "undo subscribe", "undo connect"]
    assert "a fault" in log[1]
    executor.shutdown()


def test_attempts_to_start_become_rarer_until_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("user_comm.lifecycle.time.monotonic", lambda: now_s[0])
    node = Scenario("auto", parameter_overrides=[Parameter("autostart", value=True)])
    attempts: list[float] = []

    def run_until(end_s: float, each: Callable[[], None] = lambda: None) -> None:
        while now_s[0] < end_s:
            before = node.events.count("connect")
            node.autostart.strive()
            attempts.extend([now_s[0]] * (node.events.count("connect") - before))
            each()
            now_s[0] += 0.5

    try:
        node.raise_in = {"subscribe": DeviceError("arm")}
        run_until(1040.0)
        assert attempts == [1000, 1000.5, 1001, 1002, 1004, 1008, 1016, 1026, 1036]
        node.raise_in, attempts[:] = {}, []
        run_until(1080.0)
        assert attempts == [1046.0] and node.state == "active"
        node.request("deactivate")  # by itself: nobody has told it to
        attempts.clear()
        run_until(1082.0)
        assert node.state == "active" and not attempts, "the first retry comes soon again"
        node.autostart.give_up()
        node.request("deactivate")
        run_until(1100.0)
        assert node.state == "inactive"
    finally:
        node.destroy_node()


def test_publishers_and_subscriptions_are_silent_unless_active(node: Scenario) -> None:
    heard: list[TrajectoryAck] = []
    heard_always: list[TrajectoryAck] = []
    publishers: list[TopicPublisher] = []
    listening: list[CheckedSubscription] = []

    def configure(stack: ExitStack) -> None:
        publishers.append(node.advertise(topics.TRAJECTORY_ACK))
        publishers.append(node.advertise(topics.TRAJECTORY_ACK, always=True))
        for take, always in ((heard_always.append, True), (heard.append, False)):
            listening.append(node.listen(topics.TRAJECTORY_ACK, take, always=always))

    def taken(count: int) -> bool:
        return all(subscription.counts.accepted == count for subscription in listening)

    node.configure = configure  # type: ignore[method-assign]
    acks = [TrajectoryAck("actor", 1, sequence, "store") for sequence in range(3)]
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.request("configure")
    usual, always = publishers
    spin_until(executor, lambda: usual.publisher.get_subscription_count() == 2)
    assert not usual.publish(acks[0]) and always.publish(acks[0])
    spin_until(executor, lambda: taken(1))
    node.request("activate")
    assert usual.publish(acks[1])
    spin_until(executor, lambda: taken(2))
    assert heard_always == acks[:2] and heard == acks[1:2]
    node.request("deactivate")
    assert not usual.publish(acks[2]) and always.publish(acks[2])
    spin_until(executor, lambda: taken(3))
    assert heard_always == acks and heard == acks[1:2]
    executor.shutdown()


def test_endpoints_go_away_with_their_state(node: Scenario) -> None:
    def counts() -> tuple[int, ...]:
        kinds = (node.publishers, node.subscriptions, node.timers, node.services, node.clients)
        return tuple(len(list(kind)) for kind in kinds)

    def configure(stack: ExitStack) -> None:
        node.advertise(topics.ACTION)
        node.serve(topics.EMERGENCY_STOP, lambda request, response: None, always=True)
        node.serve(topics.RESET, lambda request, response: None, in_thread=True)
        node.client(topics.RESET, "hal")

    def activate(stack: ExitStack) -> None:
        node.listen(topics.ACTION, lambda chunk: None)
        node.every(1.0, lambda: None)

    node.configure, node.activate = configure, activate  # type: ignore[method-assign]
    at_first = counts()
    node.request("configure")
    configured = counts()
    node.request("activate")
    assert counts() == tuple(c + d for c, d in zip(configured, (0, 1, 1, 0, 0), strict=True))
    node.request("deactivate")
    assert counts() == configured
    node.request("cleanup")
    assert counts() == at_first
    assert {item.name for item in node.diagnostics.items()} == {"lifecycle"}


def test_an_endpoint_that_would_belong_to_no_state_is_refused(node: Scenario) -> None:
    with pytest.raises(SuiteError, match="configure"):
        node.every(1.0, lambda: None)


def test_what_a_callback_raises_is_reported_and_the_next_one_comes(
    node: Scenario, log: list[str]
) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        raise DeviceError("sensor", got="noise")

    node.activate = lambda stack: node.every(0.01, tick)  # type: ignore[method-assign]
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.request("configure")
    node.request("activate")
    spin_until(executor, lambda: len(ticks) >= 5)
    assert len(log) == 1 and "noise" in log[0], "logged once, not with every tick"
    assert level_of(node, "device") is Level.ERROR
    executor.shutdown()


def test_the_configuration_is_not_there_before_it_is_checked(node: Scenario) -> None:
    with pytest.raises(SuiteError, match="configured"):
        _ = node.config
    node.request("configure")
    assert node.config == ScenarioConfig()


def spin_until(
    executor: SingleThreadedExecutor, condition: Callable[[], Any], timeout_s: float = 10.0
) -> None:
    clock = executor._clock
    end = clock.now().nanoseconds + timeout_s * 1e9
    while not condition():
        executor.spin_once(timeout_sec=0.05)
        assert clock.now().nanoseconds < end, "it did not happen in time"
