"""Signals that end a process, also those that come when it is already ending."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
from user_core.runtime.processes.stop_signals import StopSignals

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
        assert process.wait(60) == code
    assert said == ["ready", "SIGINT", "left"]


HANGS = """
import ctypes, sys, threading, time
from user_core.runtime.processes.stop_signals import StopSignals

ending = threading.Event()
with StopSignals(lambda name: ending.set(), 0.5, final=True):
    print("ready", flush=True)
    ending.wait()
print("left", flush=True)
libc = ctypes.CDLL(None)
if sys.argv[1] == "thread":
    threading.Thread(target=time.sleep, args=(60,)).start()
elif sys.argv[1] == "library":
    libc.on_exit(libc.pause, None)  # after the interpreter has gone
elif sys.argv[1] == "call":
    libc.sleep(60)
"""


@pytest.mark.parametrize("what", ["thread", "library", "call"])
def test_a_process_that_hangs_after_its_orderly_end_is_ended(what):
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout.readline().strip() == "ready"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline().strip() == "left"
            assert process.wait(60) == -signal.SIGALRM
            if what != "library":
                assert "Current thread" in process.stderr.read() or what == "thread"
        finally:
            process.kill()


def test_a_process_that_ends_in_time_is_let_alone():
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, "nothing"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


SDK = """
import ctypes, signal, sys, threading
from user_core.runtime.processes.stop_signals import StopSignals

class Sdk:
    def handle(self, number, frame):
        sys.exit(5)

def asked(name):
    print(name, flush=True)
    ending.set()

ending = threading.Event()
with StopSignals(asked, final=True) as signals:
    if sys.argv[1] == "python":
        signal.signal(signal.SIGTERM, Sdk().handle)
    elif sys.argv[1] == "ignores":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif sys.argv[1] == "descriptor":
        signal.set_wakeup_fd(-1)
    elif sys.argv[1] == "library":
        ctypes.CDLL(None).signal(15, ctypes.c_void_p(1))  # SIG_IGN, in C: Python does not know
    print(signals.reassert() or "nothing", flush=True)
    print(signals.reassert() or "nothing", flush=True)
    while not ending.wait(0.05):
        pass
print("left", flush=True)
"""


@pytest.mark.parametrize(
    ("who", "word"),
    [("nobody", "nothing"), ("python", "Sdk.handle"), ("ignores", "SIG_IGN"),
     ("descriptor", "a library"), ("library", "nothing")],
)  # fmt: skip
def test_handlers_of_a_library_are_replaced_by_ours(who, word):
    process = subprocess.Popen([sys.executable, "-c", SDK, who], stdout=subprocess.PIPE, text=True)
    with process:
        assert word in process.stdout.readline()
        assert process.stdout.readline() == "nothing\n"
        process.send_signal(signal.SIGTERM)
        assert [process.stdout.readline().strip() for _ in range(2)] == ["SIGTERM", "left"]
        assert process.wait(60) == 0
