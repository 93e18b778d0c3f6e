"""Waiting for conditions instead of sleeping: a test goes on as soon as it can."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

#: Long enough for a machine with other work; who waits in vain loses only his own test.
TIMEOUT_S = 60.0
#: Threads of this test that an exception has ended, with its traceback.
_dead: list[str] = []


def watch_threads() -> None:
    """From now on, what waits here does not wait for a thread that an exception has ended."""
    before = threading.excepthook

    def ended(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread is not None else "?"
            lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
            _dead.append(f"thread {name!r} has ended:\n{''.join(lines)}")
        before(args)

    threading.excepthook = ended


def forget_dead_threads() -> None:
    """A new test begins."""
    _dead.clear()


def wait_until(
    condition: Callable[[], Any],
    what: str = "",
    timeout_s: float = TIMEOUT_S,
    *,
    seen: Callable[[], object] | None = None,
    period_s: float = 0.005,
) -> Any:
    """Wait until something is true, and return it.

    Args:
        condition: Asked again and again; what it raises is raised.
        what: What is waited for, for the error; by default the condition's source.
        timeout_s: How long, seconds.
        seen: Says what there is to see meanwhile (states, logs), for the error.
        period_s: Pause between two looks, seconds.

    Raises:
        AssertionError: It did not become true in time, or a thread died meanwhile. Says what was seen last.
    """
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if _dead or time.monotonic() > end_s:
            raise AssertionError(_failure(condition, what, timeout_s, value, seen))
        time.sleep(period_s)
    return value


async def wait_until_async(
    condition: Callable[[], Any],
    what: str = "",
    timeout_s: float = TIMEOUT_S,
    *,
    seen: Callable[[], object] | None = None,
    period_s: float = 0.005,
) -> Any:
    """:func:`wait_until` for a test that runs in an event loop."""
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if _dead or time.monotonic() > end_s:
            raise AssertionError(_failure(condition, what, timeout_s, value, seen))
        await asyncio.sleep(period_s)
    return value


def _failure(
    condition: Callable[[], Any],
    what: str,
    timeout_s: float,
    value: object,
    seen: Callable[[], object] | None,
) -> str:
    text = f"not within {timeout_s:g} s: {what or _source(condition)}; last seen: {value!r}"
    if _dead:
        text = f"waits in vain: {what or _source(condition)}; {_dead[0]}"
    return text if seen is None else f"{text}\n{seen()}"


def _source(condition: Callable[[], Any]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
