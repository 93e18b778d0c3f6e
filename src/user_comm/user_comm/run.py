"""The main function of every node: start, spin, and an orderly end on SIGINT and SIGTERM."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from user_comm.lifecycle import LifecycleNode
from user_comm.lost_messages import spin
from user_comm.start import start_rclpy
from user_core.errors import SuiteError, ThreadEnded, TransportError, in_words
from user_core.reasons import Reason
from user_core.runtime.dds.replaced_ports import OwnPorts
from user_core.runtime.dds.retired_ports import SentPorts
from user_core.runtime.files import write_atomically
from user_core.runtime.processes import last_words
from user_core.runtime.processes.endings import leave, limited
from user_core.runtime.processes.stop_signals import StopSignals

#: Set by the supervisor (:mod:`user_fleet.supervisor.standby`) where it wants to know.
_VARIABLE = "USER_MODULES_FILE"
#: When most has been imported, and when also what comes with the first data.
_AFTER_S = (4.0, 20.0)
#: How often it is seen to it that signals end the process in good order.
_SIGNALS_PERIOD_S = 0.5
#: How often it is seen to it that this process can hear others, seconds.
_PORTS_PERIOD_S = 2.0
#: Names of the suite's packages begin so.
_OURS = "user_"
#: The node by which a process that stands by is known; see :func:`stand_by`.
_standby: Node | None = None


def run(
    node_class: Callable[..., LifecycleNode],
    name: str,
    args: Sequence[str] | None = None,
    *,
    threads: int = 1,
    **options: Any,
) -> int:
    """Run one node until it is finalized, or SIGINT or SIGTERM ends it in good order.

    The process ends here (:func:`~user_core.runtime.processes.endings.leave`), with the exit code, except for an
    uncaught exception, which is raised. Use it as ``sys.exit(run(...))`` or as the return value of a console script's
    function.

    Args:
        node_class: The node, built as ``node_class(name, **options)``.
        name: Name of the node where launch gives no other.
        args: Command line; that of the process if not given.
        threads: More than one takes the multi-threaded executor, which costs two to three
            times the time per message (docs/measurements/messages.md): prefer one thread, ``in_thread``
            services, and a thread of your own for a control loop.
        options: For the node's constructor.

    Exit codes: 0 after an orderly end, 1 after an uncaught exception or where the node ended
    itself, 2 where it could not be built, 3 where it ended itself because it would fail again in the same way.
    """
    leave(_run(node_class, name, args, threads, options))


def _run(
    node_class: Callable[..., LifecycleNode], name: str, args: Sequence[str] | None, threads: int,
    options: Mapping[str, Any],
) -> int:  # fmt: skip
    note_imported_modules()
    faulthandler.enable()  # a crash in C says where
    if _standby is None:
        start_rclpy(args)
    code = 1  # also where it raises
    try:
        try:
            node = node_class(name, **options)
        except SuiteError as error:
            print(f"{name}: {error}", file=sys.stderr)
            last_words.say(Reason.of(error), final=not error.may_pass)
            code = 2
            return code
        except BaseException as error:
            last_words.say(Reason.of(error))
            raise
        finally:
            _stand_by_no_more()
        executor = make_executor(threads)
        try:
            code = _spin(node, executor)
            if not code:
                last_words.say()  # else it was said
            return code
        finally:
            with limited(code):
                executor.shutdown(timeout_sec=1.0)
                node.destroy_node()
    finally:
        with limited(code):
            rclpy.try_shutdown()


def stand_by(args: Sequence[str]) -> None:
    """Take part in the graph already, for a node that :func:`run` will be told to become.

    FastDDS needs seconds until others know a participant that comes where one has just died (it
    gets the port of the dead one, and its first announcements go unheard); a node of one that
    they know is found in milliseconds. So a standby process has one, with a hidden node.

    Args:
        args: Command line of the node to come.
    """
    global _standby
    start_rclpy(args)
    _standby = Node(
        f"_standby_{os.getpid()}",
        use_global_arguments=False,
        enable_rosout=False,
        start_parameter_services=False,
    )


def _stand_by_no_more() -> None:
    global _standby
    node, _standby = _standby, None
    if node is not None:
        node.destroy_node()


def make_executor(threads: int = 1) -> Executor:
    """The executor for our nodes.

    rclpy's EventsExecutor might be faster but hangs at its start with the wheels of Jazzy and
    Kilted (rclpy 7.1.6, 9.1.2; benchmarks/control/executors.py), and does not exist everywhere.
    """
    return MultiThreadedExecutor(threads) if threads > 1 else SingleThreadedExecutor()


def _spin(node: LifecycleNode, executor: Executor) -> int:
    done: Future[None] = Future(executor=executor)
    node.when_finalized = lambda: done.set_result(None)
    node.owns_process = True

    def stop() -> None:
        node.autostart.give_up()
        if node.state != "finalized":
            node.request("shutdown")
        done.set_result(None)

    def on_signal(name: str) -> None:
        node.get_logger().info(f"{name}: shutting down")
        executor.create_task(stop)

    executor.add_node(node)
    with watch_threads(node), StopSignals(on_signal, final=True) as signals:
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_SIGNALS_PERIOD_S, lambda: _reassert(signals, node), clock=clock)
        look = partial(_look_at_ports, OwnPorts(), SentPorts(), node)
        node.create_timer(_PORTS_PERIOD_S, look, clock=clock)
        executor.create_task(node.autostart.strive)
        try:
            spin(executor, done, failed=partial(node.lost.note, "answers of services"))
        except BaseException as error:  # from a callback that was registered past our helpers
            node.get_logger().fatal(f"uncaught exception, ending:\n{traceback.format_exc()}")
            last_words.say(Reason.of(error))
            stop()
            return node.exit_code or 1
    return node.exit_code


@contextmanager
def watch_threads(node: LifecycleNode) -> Iterator[None]:
    """See to it that no thread of this process ends unseen while its node looks healthy.

    Where what ended is ours (its outermost function is of a package of the suite), the node gives up what it has and
    comes up again, with new threads; where it is of a library or a plugin, it is reported, for nobody knows what it
    was for.
    """
    before = threading.excepthook

    def ended(args: threading.ExceptHookArgs) -> None:
        ours = is_ours(args.exc_traceback)
        if issubclass(args.exc_type, SystemExit) and not ours:
            return  # how a thread ends itself; none of ours does, but a plugin in it may
        thread = "an unknown one" if args.thread is None else args.thread.name
        error = args.exc_value or args.exc_type()
        died = ThreadEnded(f"thread {thread!r}", got=in_words(error), expected="it to go on")
        died.__cause__ = error
        if ours and node.state in ("inactive", "active"):
            node.fail(died)
        else:
            node.report_error(f"thread {thread!r}", died)

    threading.excepthook = ended
    try:
        yield
    finally:
        threading.excepthook = before


def is_ours(trace: TracebackType | None) -> bool:
    """Whether the outermost function of a thread's last traceback is one of the suite's."""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module != "threading":
            return module.startswith(_OURS)
        trace = trace.tb_next
    return False


def _reassert(signals: StopSignals, node: LifecycleNode) -> None:
    """A library of a plugin may have put its own handlers in place of ours."""
    if replaced := signals.reassert():
        node.get_logger().warning(
            f"{replaced} replaced the handlers of SIGINT and SIGTERM: ours were put back, so that "
            "the process ends in good order"
        )


def _look_at_ports(own: OwnPorts, sent: SentPorts, node: LifecycleNode) -> None:
    """A process that is deaf looks healthy to all others, and cannot be cured: a new one hears. One that speaks to a
    dead one is cured."""
    for port in sent.retire_removed(own.names):
        node.get_logger().warning(
            f"{port} of DDS was removed while this process sent to it: its listener was killed, or taken for dead. It is opened anew"
        )
    if lost := own.replaced():
        error = TransportError(
            f"shared memory of DDS ({', '.join(lost)})",
            got="others removed it, as if this process were dead (it was suspended, or got no processor)",
            expected="to hear them through it",
            hint="This process ends, so that one that hears takes its place.",
        )
        node.end(Reason.of(error), final=False)


def note_imported_modules() -> None:
    """Write the names of all imported modules to the file that the environment names, later.

    Names that were there before stay behind the new ones: a process that lived too short to
    import everything must not take them from the next.
    """
    if not (name := os.environ.get(_VARIABLE)):
        return
    for wait_s in _AFTER_S:
        timer = threading.Timer(wait_s, _write, (Path(name),))
        timer.daemon = True
        timer.start()


def _write(file: Path) -> None:
    names = [name for name in list(sys.modules) if name != "__main__"]
    with suppress(OSError):  # a full disk: then the standby imports less
        known = file.read_text(encoding="utf-8").split() if file.exists() else []
        if set(names) <= set(known):
            return
        names += [name for name in known if name not in sys.modules]
        write_atomically(file, "\n".join(names) + "\n", durable=False)
