"""The console gives way to what learns, and not while a person drives through it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from user_bringup.console import precedence

_SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from user_bringup.console.precedence import Precedence, give_way

def niceness():
    return int(Path("/proc/self/autogroup").read_text().split()[-1])

async def until(wanted):
    end_s = time.monotonic() + 60
    while niceness() != wanted and time.monotonic() < end_s:
        await asyncio.sleep(0.02)
    return niceness()

async def drive():
    precedence, found = Precedence(), [niceness()]
    async with precedence.driving():
        async with precedence.driving():
            found.append(await until(0))
        await asyncio.sleep(0.3)
        found.append(niceness())
    found.append(await until(6))
    precedence.look()
    found.append(await until(0))
    found.append(await until(6))  # some seconds after he looked last
    return found

give_way()
print(os.getpriority(os.PRIO_PROCESS, 0), *asyncio.run(drive()))
"""


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel knows no groups of sessions"
)
def test_its_session_gives_way_while_nobody_drives_or_looks_and_a_stop_waits_for_no_learner():
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, start_new_session=True, timeout=60
    )  # fmt: skip
    own, *group = found.stdout.split()
    assert int(own) == os.getpriority(os.PRIO_PROCESS, 0)  # it is its session that gives way
    assert group == ["6", "0", "0", "6", "0", "6"], found.stderr


def test_what_is_still_being_tried_does_not_overtake_what_counts_now(monkeypatch):
    async def drive():
        is_free, given = asyncio.Event(), []

        async def set_niceness(pid, niceness):
            if niceness:
                await is_free.wait()  # the kernel asks to come again
            given.append(niceness)
            return True

        monkeypatch.setattr(precedence, "set_session_niceness", set_niceness)
        monkeypatch.setattr(precedence, "_leads", lambda: True)
        console = precedence.Precedence()
        async with console.driving():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with console.driving():  # the next one takes the controls at once
            is_free.set()
            for _ in range(10):
                await asyncio.sleep(0)
            assert given == [0, 0]
        for _ in range(10):
            await asyncio.sleep(0)
        assert given == [0, 0, precedence.NICENESS]

    asyncio.run(drive())


def test_a_machine_is_full_where_a_thread_waits_for_a_core_and_until_it_hardly_does(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(precedence, "_WAIT_LOOK_S", 0.0)
    core, file = precedence.CoreWait(), tmp_path / "schedstat"
    core._file, worked, waited, found = file, 0, 0, []
    for more in (10, 60, 30, 10, 30):  # ms of waiting, beside 100 ms of work
        worked, waited = worked + 100_000_000, waited + more * 1_000_000
        file.write_text(f"{worked} {waited} 5\n")
        found.append(core.look())
    assert found == [False, True, True, False, False]
    core._file = tmp_path / "none"
    assert not core.look()
    assert precedence.CoreWait().look() in (True, False)  # of this thread
