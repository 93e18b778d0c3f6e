"""Ends of processes that hang, for real: in a call in C that keeps the interpreter's lock."""

import os
import subprocess
import sys
import time

import pytest

from user_core.runtime.processes.endings import PATIENCE_VARIABLE, end_last, last_acts, limited

HANG = """
import ctypes, sys, threading
from user_core.runtime.processes.endings import last_acts, end_last, limited

def hang_in_c():
    if sys.argv[1] == "keeps the lock":
        ctypes.PyDLL(None).sleep(60)
    else:
        ctypes.CDLL(None).sleep(60)

def other_thread():
    threading.Event().wait()

threading.Thread(target=other_thread, daemon=True).start()
"""
KINDS = ("keeps the lock", "waits")


def ended(program, kind):
    begun_s = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", HANG + program, kind], capture_output=True, text=True, timeout=30
    )
    assert time.monotonic() - begun_s < 25  # it would have slept for 60 s
    return process


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_hangs_ends_the_process_with_its_status(kind):
    process = ended("print('the result', end='')\nwith limited(7, 0.3):\n    hang_in_c()\n", kind)
    assert (process.returncode, process.stdout) == (7, "the result")
    assert "in hang_in_c" in process.stderr
    assert "in other_thread" in process.stderr


COMMAND = """
def command():
    end_last(hang_in_c)
    end_last(lambda: print("never"))
    print("what comes after it is done", end="")
    {leave}

with last_acts(0.3) as end:
    end.status = command()
"""


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        ("return 0", 0),
        ("return 3", 3),
        ("raise ValueError('of the command')", 1),
        ("sys.exit(5)", 5),
        ("sys.exit('a text')", 1),
        ("sys.exit()", 0),
    ],
)
def test_a_command_whose_end_hangs_has_done_all_else_and_keeps_its_status(leave, status):
    process = ended(COMMAND.format(leave=leave), "keeps the lock")
    assert (process.returncode, process.stdout) == (status, "what comes after it is done")
    assert "in hang_in_c" in process.stderr


def test_without_last_acts_it_ends_at_once_and_within_its_limit():
    done = []
    end_last(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        end_last(lambda: 1 / 0)


def test_last_acts_come_in_their_order_once_whatever_fails(caplog):
    done = []
    with last_acts() as end:
        with last_acts() as inner:  # a command within a command
            end_last(lambda: done.append("first"))
            end_last(lambda: 1 / 0)
        end_last(lambda: (done.append("second"), end_last(lambda: done.append("of the second"))))
        assert inner is end
        assert done == []
        end.status = 0
    assert done == ["first", "second", "of the second"]
    assert "ZeroDivisionError" in caplog.text
    end_last(lambda: done.append("later"))
    assert done[-1] == "later"


def test_who_ends_in_time_is_let_alone():
    program = "with limited(7, 0.3):\n    pass\nthreading.Event().wait(1.5)\nprint('there')\n"
    process = ended(program, "waits")
    assert (process.returncode, process.stdout, process.stderr) == (0, "there\n", "")


def test_a_forked_child_is_not_ended_by_the_limit_of_its_parent():
    program = """
import os
with limited(7, 0.3):
    child = os.fork()
    if child == 0:
        import time
        time.sleep(1.5)
        os._exit(4)
    seen = None
_, seen = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(seen))
"""
    process = ended(program, "waits")
    assert process.stdout == "4\n"


def test_a_limit_may_be_set_again_and_again():
    for _ in range(200):
        with limited():
            pass


LEAVE = """
import atexit, sys, threading, time
from user_core.runtime.processes.endings import leave

def store():
    time.sleep(float(sys.argv[2]))
    print("stored", end=" ", flush=True)

threading.Thread(target=store).start()
atexit.register(print, "handled", end=" ")
print("said", end=" ")
leave(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("status", "thread_s", "patience", "ends_with", "said"),
    [
        (0, 0.2, "60", 0, {"said", "stored", "handled"}),
        (3, 0.2, "60", 3, {"said", "stored", "handled"}),
        (0, 60, "2", 1, {"said"}),
        (3, 60, "2", 3, {"said"}),
    ],
)
def test_a_node_that_leaves_waits_for_threads_and_handlers(
    status, thread_s, patience, ends_with, said
):
    process = subprocess.run(
        [sys.executable, "-c", LEAVE, str(status), str(thread_s)],
        capture_output=True, text=True, timeout=60, env={**os.environ, PATIENCE_VARIABLE: patience},
    )  # fmt: skip
    assert process.returncode == ends_with
    assert set(process.stdout.split()) == said
    assert ("in store" in process.stderr) == (thread_s == 60)
