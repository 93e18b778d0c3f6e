"""The base class of all nodes.

A node author writes two methods that may raise, and registers what must be undone::

    class HalNode(LifecycleNode):
        Config = HalConfig                       # becomes the node's ROS parameters

        def configure(self, stack: ExitStack) -> None:
            self._robot = build_robot(self.config)
            stack.callback(self._robot.close)    # undone on cleanup, shutdown and error
            self._observations = self.advertise(topics.OBSERVATION)
            self.listen(topics.ACTION, self._on_action)

        def activate(self, stack: ExitStack) -> None:
            stack.callback(self._robot.stop)     # undone on deactivate, shutdown and error
            self.every(self.config.period_s, self._tick)

    def main() -> None:
        run(HalNode, "hal")                      # user_comm.run

What rclpy leaves open is settled here. An exception of a transition is logged with its
traceback (a wrong value, or the same again, without) and becomes a diagnostic. An error of our
tree fails the transition (the node stays where it was, ready for another attempt, but not for
ever where it fails in the same way each time: then the process ends, see
:class:`~user_core.reasons.EqualFailures`); any other
exception, and every error while things are undone, is a bug: the node goes through error
processing to *unconfigured*. Whatever happened, everything that was registered is undone, in
reverse order. Callbacks of :meth:`LifecycleNode.listen` and :meth:`LifecycleNode.every` run
only while the node is active (rclpy gates publishers only), and what they raise ends up in the
log and on ``/diagnostics``, not in the executor.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import State, Transition
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode as RclpyLifecycleNode
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from user_comm import topics
from user_comm.diagnostics import Diagnostics, Item, Level
from user_comm.endpoints import CallbackGuard, Endpoints
from user_comm.lost_messages import LenientStateMachine
from user_comm.parameters import ConfigParameters
from user_comm.topics import profile
from user_core.config import Config
from user_core.errors import ConfigError, SuiteError, is_of_a_person
from user_core.reasons import Reason
from user_core.runtime.processes import came_up, last_words

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
#: Time between two heartbeats on ``/diagnostics``, seconds.
PERIOD_S = 1.0
#: Longest value that is published; the log has the whole.
_VALUE_LENGTH = 1000
#: Autostart: how often the state is looked at, and the time between two attempts, seconds.
_CHECK_PERIOD_S = 0.5
_FIRST_RETRY_S = 0.25
_LAST_RETRY_S = 10.0
#: After being active for this long, a failure counts as the first one.
_STABLE_S = 30.0
#: How long an end in good order may take before the process is ended anyway.
_END_TIMEOUT_S = 8.0
#: Transitions by which somebody else takes a node over that started by itself.
_GIVES_UP = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
_GIVES_UP_LABELS = ("deactivate", "cleanup", "shutdown")


class LifecycleNode(Endpoints, RclpyLifecycleNode):
    """A managed node of ours; see the module's documentation.

    Subclasses set :attr:`Config` and override :meth:`configure`, :meth:`activate` and, where a
    running node's parameters may change, :meth:`reconfigure`.

    Args:
        name: Name of the node; launch may remap it.
        options: Passed on to ``rclpy.node.Node``, for instance ``parameter_overrides``.

    Attributes:
        diagnostics: What the node has to say about its health.
        autostart: Brings the node up without a manager, if its parameter ``autostart`` is true.
        ended_by: Why :meth:`end` ends this process; None while nothing does.
        owns_process: Whether its end is that of the process; set by ``run``.
        when_finalized: Called when the node has reached its last state; set by ``run``.
    """

    Config: ClassVar[type[Config]] = Config

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.diagnostics = Diagnostics(on_change=self._diagnostics_changed)
        self._transition_lock = threading.RLock()
        self._configured, self._activated = ExitStack(), ExitStack()
        self._collecting: ExitStack | None = None
        self._is_active = self._may_publish = False
        self._pending_error: BaseException | None = None
        self._publish_wanted = False
        self._since_s = time.monotonic()
        self._config: Any = None
        self._guard = CallbackGuard(self.get_logger(), self.diagnostics)
        self._parameters_of_config = ConfigParameters(
            self, self.Config, self._config_changed, ("autostart",), self._accept_change
        )
        self.ended_by: last_words.LastWords | None = None
        self.owns_process = False
        self.autostart = Autostart(self)
        self.diagnostics.watch("lifecycle", self._lifecycle_item)
        self._heartbeat = DiagnosticsPublisher(self, self.diagnostics, also=self._say_again)
        self.lost.say = lambda text: self.get_logger().warning(text, throttle_duration_sec=5.0)
        machine: Any = self._state_machine
        self._state_machine: Any = LenientStateMachine(machine, self.lost)
        self.when_finalized: Callable[[], None] = lambda: None
        guard_change_state(self)

    # --- for subclasses ---------------------------------------------------------------

    def configure(self, stack: ExitStack) -> None:
        """Get ready: allocate, connect, subscribe. What is put on ``stack`` is undone on cleanup."""

    def activate(self, stack: ExitStack) -> None:
        """Start to act. What is put on ``stack`` is undone when the node is deactivated."""

    def accept(self, old: Any, new: Any) -> None:
        """Raise SuiteError where a node that is configured cannot take changed parameters; whoever
        sets them is told its text, and they stay as they are."""

    def reconfigure(self, old: Any, new: Any) -> None:
        """React to changed parameters of a configured node; :attr:`config` is the new one."""

    @property
    def config(self) -> Any:
        """The checked configuration; there from :meth:`configure` on."""
        if self._config is None:
            raise ConfigError(f"configuration of {self.get_name()}", got="none yet",
                              expected="the node to be configured")  # fmt: skip
        return self._config

    @property
    def is_active(self) -> bool:
        """Whether the node is active now. May be asked from any thread."""
        return self._is_active

    @property
    def state(self) -> str:
        """Label of the state: unconfigured, inactive, active, finalized, or a transition's."""
        label: str = self._state_machine.current_state[1]
        return label

    def fail(self, error: BaseException) -> None:
        """Give up because of ``error``: everything is undone, the node becomes unconfigured (and
        tries again by itself if it was started by itself). From any thread.
        """
        self._pending_error = error
        self.run_soon(self._process_failure)

    def report_error(self, what: str, error: BaseException) -> None:
        """Say in log and diagnostics what went wrong, and go on. From any thread."""
        self._guard.report(what, error)

    def is_hardware(self, what: str) -> None:
        """Say in diagnostics which hardware this node stands for, for instance ``ur5e (robot0)``."""
        self._heartbeat.hardware_id = what

    def end(self, reason: Reason, *, final: bool = True) -> None:
        """End this process because of ``reason``, in good order where that is possible.

        The supervisor of the process is told (:mod:`user_core.runtime.processes.last_words`). From any
        thread; also where the executor's thread hangs.

        Args:
            reason: Why.
            final: It would fail again in the same way, and need not be started again.
        """
        if self.ended_by is not None:
            return
        self.ended_by = last_words.LastWords(reason.code, reason.text, final)
        self.get_logger().fatal(f"ending: {reason.text} [{reason.code}]")
        last_words.say(reason, final=final)
        self.autostart.give_up()
        if self.owns_process:
            timer = threading.Timer(_END_TIMEOUT_S, os._exit, (self.exit_code,))
            timer.daemon = True
            timer.start()
        self.run_soon(self._end)

    @property
    def exit_code(self) -> int:
        """Exit code of the process: 0 unless :meth:`end` was called."""
        if self.ended_by is None:
            return 0
        return last_words.FINAL_EXIT_CODE if self.ended_by.final else 1

    def run_soon(self, function: Callable[[], None]) -> None:
        """Run a function in the executor's thread. From any thread."""
        executor = self.executor
        if executor is not None:
            executor.create_task(self._guard.wrap(function, "task"))

    def request(self, transition: str) -> bool:
        """Make a transition: configure, activate, deactivate, cleanup or shutdown.

        In the executor's thread. Returns whether it went well; one that is not possible in the
        present state is logged.
        """
        trigger = getattr(self, f"trigger_{transition}")
        with self._transition_lock:
            before = self.state
            try:
                good = trigger() == SUCCESS
            except Exception as error:  # RCLError, which rclpy does not export everywhere
                self.get_logger().error(f"cannot {transition} from {before}: {error}")
                good = False
            self.transition_ended()
        return bool(good)

    def transition_ended(self) -> None:
        """Tell the world, after a transition has ended one way or the other."""
        self._heartbeat.publish()
        self.get_logger().info(f"state: {self.state}")
        if self._is_active and self.owns_process:
            came_up.say()
        if self.state == "finalized":
            self.when_finalized()

    # --- transitions ------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, then :meth:`configure`."""
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let publishers publish, then :meth:`activate`, then let callbacks in."""
        return self._attempt("activate", lambda: self._activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Keep callbacks out, undo :meth:`activate`, silence the publishers."""
        return self._failure() or (ERROR if self._undo("deactivate", active_only=True) else SUCCESS)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo :meth:`configure`."""
        return self._failure() or (ERROR if self._undo("clean up") else SUCCESS)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo everything, from whatever state. Ends in *finalized* in any case."""
        return FAILURE if self._undo("shut down") else SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo everything that is left; the node can be configured again."""
        self._undo("process an error")
        return SUCCESS

    # --- inside -----------------------------------------------------------------------

    def _configure(self) -> None:
        self._config = self._parameters_of_config.read()
        for name, meant in self._parameters_of_config.unknown.items():
            hint = f"; did you mean {meant!r}?" if meant else ""
            self.get_logger().warning(f"parameter {name!r} is not known to this node{hint}")
        with ExitStack() as stack:
            self._collect(stack, self.configure)
            self._configured = stack.pop_all()

    def _activate(self, state: LifecycleState) -> None:
        with ExitStack() as stack:
            self._may_publish = True
            stack.callback(self._silence)
            super().on_activate(state)  # publishers made by create_lifecycle_publisher
            stack.callback(super().on_deactivate, state)
            self._collect(stack, self.activate)
            self._activated = stack.pop_all()
        self._is_active = True

    def _silence(self) -> None:
        self._may_publish = False

    def _collect(self, stack: ExitStack, hook: Callable[[ExitStack], None]) -> None:
        """Run a hook, during which endpoints register themselves with its stack."""
        self._collecting = stack
        try:
            hook(stack)
        finally:
            self._collecting = None

    def _attempt(self, what: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except BaseException as error:  # whatever a subclass or a plugin raises
            if is_of_a_person(error):
                raise
            self._log_failure(what, error)
            return FAILURE if isinstance(error, SuiteError) else ERROR
        self._guard.resolve_transition()
        self._since_s = time.monotonic()
        return SUCCESS

    def _undo(self, what: str, active_only: bool = False) -> bool:
        """Undo in reverse order, whatever is raised; return whether anything was."""
        self._is_active = False
        failed = False
        stacks = [self._activated] if active_only else [self._activated, self._configured]
        for stack in stacks:
            try:
                stack.close()  # runs every callback, also after one has raised
            except BaseException as error:
                if is_of_a_person(error):
                    raise
                self._log_failure(what, error)
                failed = True
        self._activated = ExitStack()
        if not active_only:
            self._configured = ExitStack()
        self._since_s = time.monotonic()
        return failed

    def _log_failure(self, what: str, error: BaseException) -> None:
        self._guard.transition_failed(what, error)
        if given_up := self._guard.equal.given_up:
            self.end(given_up)

    def _end(self) -> None:
        if self.state != "finalized":
            self.request("shutdown")
        else:
            self.when_finalized()

    def _failure(self) -> TransitionCallbackReturn | None:
        """ERROR, if this transition was only begun because the node has failed."""
        if self._pending_error is None:
            return None
        error, self._pending_error = self._pending_error, None
        self._log_failure("go on", error)
        return ERROR

    def _process_failure(self) -> None:
        """The way into error processing leads through a transition."""
        with self._transition_lock:
            way = {"active": "deactivate", "inactive": "cleanup"}.get(self.state)
            if way is not None and self._pending_error is not None:
                self.request(way)
            else:
                self._failure()

    def _accept_change(self, old: Any, new: Any) -> None:
        if self.state not in ("unconfigured", "finalized"):
            self.accept(old, new)

    def _config_changed(self, old: Any, new: Any) -> None:
        self._config = new
        self._guard.wrap(self.reconfigure, "reconfigure")(old, new)

    def _diagnostics_changed(self) -> None:
        if self._publish_wanted:  # one publication says it all
            return
        self._publish_wanted = True
        self.run_soon(self._publish_diagnostics)

    def _publish_diagnostics(self) -> None:
        self._publish_wanted = False
        self._heartbeat.publish()

    def _say_again(self) -> None:
        if self.lost.total:
            self.diagnostics.watch("lost messages", self.lost.item)
        self.lost.say_again()

    def _lifecycle_item(self) -> Item:
        state_id, label = self._state_machine.current_state
        error = self._guard.transition_error
        level = Level.OK if error is None else Level.ERROR
        if error is None and state_id == State.PRIMARY_STATE_FINALIZED:
            level = Level.STALE
        return Item(
            "lifecycle",
            level,
            label if error is None else f"{label}; {error}",
            {
                "state": label,
                "since_s": f"{time.monotonic() - self._since_s:.1f}",
                "code": self._guard.failure.code,
                "cause": self._guard.failure.text,
            },
        )


class Autostart:
    """Configures and activates its node, and tries again after a failure, ever more rarely.

    A person or program that deactivates, cleans up or shuts down the node by its service takes over: from then
    on it stays as it is told.

    Args:
        node: Gets the read-only parameter ``autostart``.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self.wanted: bool = node.declare_parameter(
            "autostart",
            False,
            ParameterDescriptor(
                description="Configure and activate without a manager, and again after a failure.",
                read_only=True,
            ),
        ).value
        self._retry_s = _FIRST_RETRY_S
        self._next_s = self._up_since_s = 0.0
        self._was_up = False
        if self.wanted:
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            node.create_timer(_CHECK_PERIOD_S, self.strive, clock=clock)

    def give_up(self) -> None:
        """Somebody else decides from now on."""
        self.wanted = False

    def strive(self) -> None:
        """Take the node one or two states further if it is not active and it is time to."""
        now_s = time.monotonic()
        if not self.wanted or self._is_up(now_s) or now_s < self._next_s:
            return
        node = self._node
        good = node.state != "unconfigured" or node.request("configure")
        if good and node.state == "inactive":
            good = node.request("activate")
        if not good:
            self._wait()

    def _is_up(self, now_s: float) -> bool:
        if self._node.state == "active":
            if not self._was_up:
                self._was_up, self._up_since_s = True, now_s
            elif now_s - self._up_since_s > _STABLE_S:
                self._retry_s = _FIRST_RETRY_S
            return True
        if self._was_up:  # and has come down by itself
            self._was_up = False
            self._wait()
        return False

    def _wait(self) -> None:
        self._next_s = time.monotonic() + self._retry_s
        self._node.get_logger().info(f"trying again in {self._retry_s:g} s")
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)


def guard_change_state(node: LifecycleNode) -> None:
    """Put a handler of ours in front of rclpy's change_state service.

    On Jazzy, rclpy lets a transition that is not possible in the present state (``ros2 lifecycle
    set /hal activate`` while unconfigured) raise out of the service's callback, which ends the
    process; and two transitions at a time are possible there and on Kilted when a node also
    changes its state by itself.
    """
    service = node._service_change_state
    inner = service.callback

    def change_state(request: Any, response: Any) -> Any:
        asked = request.transition
        with node._transition_lock:
            if asked.label in _GIVES_UP_LABELS or (not asked.label and asked.id in _GIVES_UP):
                node.autostart.give_up()
            before = node.state
            try:
                response = inner(request, response)
            except Exception as error:  # RCLError, which rclpy does not export everywhere
                node.get_logger().error(
                    f"transition {asked.label or asked.id} is not possible from {before}: {error}"
                )
                response.success = False
            node.transition_ended()
        return response

    service.callback = change_state


class DiagnosticsPublisher:
    """The heartbeat of a node on ``/diagnostics``: once a second, and on every change.

    It comes from the node's executor, so that it stops when that hangs.

    Args:
        node: Publishes.
        diagnostics: What is published.
        also: Done with each heartbeat.

    Attributes:
        hardware_id: Which piece of hardware, for ``DiagnosticStatus.hardware_id``: the node's
            namespace, which is the robot's name, or the host.
    """

    def __init__(
        self, node: Node, diagnostics: Diagnostics, also: Callable[[], None] = lambda: None
    ) -> None:
        self._node, self._diagnostics, self._also = node, diagnostics, also
        self.hardware_id = node.get_namespace().strip("/") or socket.gethostname()
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._publisher = node.create_publisher(
            DiagnosticArray,
            topics.DIAGNOSTICS.name,
            profile(topics.DIAGNOSTICS.quality),
            # Who begins to listen hears at once: a manager need not wait for the next beat.
            event_callbacks=PublisherEventCallbacks(matched=self._greet),
        )
        # Steady: a heart beats on while simulated time stands still.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._beat, clock=clock)

    def _beat(self) -> None:
        self.publish()
        self._also()

    def _greet(self, info: Any) -> None:
        if info.current_count_change > 0:
            self.publish()

    def publish(self) -> None:
        """Publish all items now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = statuses(self._name, self.hardware_id, self._diagnostics.items())
        self._publisher.publish(message)


def statuses(node_name: str, hardware_id: str, items: Sequence[Item]) -> list[Any]:
    """Items as ``DiagnosticStatus`` messages, named ``<node>: <item>``."""
    return [
        DiagnosticStatus(
            level=bytes([item.level]),
            name=f"{node_name}: {item.name}",
            message=item.message[:_VALUE_LENGTH],
            hardware_id=hardware_id,
            values=[
                KeyValue(key=str(key), value=str(value)[:_VALUE_LENGTH])
                for key, value in item.values.items()
            ],
        )
        for item in items
    ]
