"""Signals that end a process, also those that come when it is already ending."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
from user_comm.stop_signals import StopSignals

ending = threading.Event()
with StopSignals(lambda name: print(name, flush=True) or ending.set(), final=sys.argv[1] == "final"):
    print("ready", flush=True)
    ending.wait()
print("left", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("kind", "code"), [("final", 0), ("passing", -signal.SIGTERM)])
def test_a_second_signal_does_not_kill_who_ends_in_order(kind, code):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        said = [process.stdout.readline().strip()]
        process.send_signal(signal.SIGINT)
        said += [process.stdout.readline().strip() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        if code == 0:
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(10) == code
    assert said == ["ready", "SIGINT", "left"]
