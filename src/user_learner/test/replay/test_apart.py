"""The process of low priority in which upkeep works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from user_core.errors import StoreError, StoreFull
from user_learner.replay import RetentionConfig, StoreWriter
from user_learner.upkeep.apart import Apart, Stopped
from user_learner.upkeep.retention import retain
from user_testing.waiting import wait_until
from user_testing.worlds.replay import QUICK, Actor, Plan, assert_same, contents, fill

SMALL = QUICK.replace(segment_bytes=1)


def fail() -> None:
    raise StoreFull("a disk", got="nothing", expected="some room")


def test_it_leaves_cores_to_others_and_goes_on_after_errors():
    with Apart() as apart:
        assert apart.call(os.getpriority, os.PRIO_PROCESS, 0) == 19
        child = apart.call(os.getpid)
        assert child != os.getpid()
        with pytest.raises(ValueError, match="invalid literal"):
            apart.call(int, "x")
        with pytest.raises(StoreFull, match="a disk: got nothing, expected some room"):
            apart.call(fail)
        assert apart.call(os.getpid) == child
        assert apart.call(os.kill, child, signal.SIGINT) is None  # Ctrl-C reaches it, too
        with pytest.raises(StoreError, match="ended with -9"):
            apart.call(os.kill, child, signal.SIGKILL)
        assert apart.call(print, "not an answer") is None


def test_what_is_wanted_no_more_is_left():
    over = []
    with Apart(lambda: bool(over)) as apart:
        child = apart.call(os.getpid)
        over.append(True)
        with pytest.raises(Stopped):
            apart.call(time.sleep, 300)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_it_dies_with_its_parent():
    program = (
        "import os, signal, time\n"
        "from user_learner.upkeep.apart import Apart\n"
        "with Apart() as apart:\n"
        "    print(apart.call(os.getpid), flush=True)\n"
        "    apart.call(time.sleep, 300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended (as a zombie that nobody waits for)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_retention_apart_keeps_what_it_would_here(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    with StoreWriter(here, config=SMALL) as writer:
        fill(writer, Actor(1), [Plan(200)] * 40)
    shutil.copytree(here, there)
    policy = RetentionConfig(max_rows=2000, thin=3)
    with StoreWriter(here, config=SMALL) as writer:
        gone = retain(writer, policy)
    with StoreWriter(there, config=SMALL) as writer, Apart() as apart:
        assert retain(writer, policy, apart=apart) == gone
    assert gone
    assert_same(contents(here), contents(there))
