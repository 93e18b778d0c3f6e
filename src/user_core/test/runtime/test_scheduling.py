"""What threads with deadlines ask the operating system for, seen by what it says of them."""

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these calls")

_SEEN = """
import json, os, re, subprocess, sys, threading
from pathlib import Path

def seen(thread):
    found = re.search(r"se.slice *: *([0-9]+)", Path(f"/proc/self/task/{thread}/sched").read_text())
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    return {"slice_ns": int(found[1]) if found else None, "nice": nice}

def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]

from user_core.runtime.scheduling import hurry_middleware, make_process_prompt, urgent_thread
me = threading.get_native_id
"""


def _run(code: str) -> dict:  # type: ignore[type-arg]
    """Run in a process of its own, which prints what it has found."""
    done = subprocess.run(
        [sys.executable, "-c", _SEEN + code], capture_output=True, text=True, timeout=90, check=True
    )
    found: dict = json.loads(done.stdout)  # type: ignore[type-arg]
    return found


def _has_slices() -> bool:
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    with open("/proc/self/sched", encoding="utf-8") as file:
        return release >= (6, 12) and "se.slice" in file.read()


needs_slices = pytest.mark.skipif(
    not (sys.platform == "linux" and os.path.exists("/proc/self/sched") and _has_slices()),
    reason="slices can be asked for since Linux 6.12",
)


@needs_slices
def test_all_threads_of_a_prompt_process_have_short_slices() -> None:
    found = _run("""
ending = threading.Event()
early = threading.Thread(target=ending.wait)
early.start()
make_process_prompt()
ours = {"early": seen(early.native_id), "main": seen(me()), "later": in_thread(lambda: seen(me()))}
ending.set()
print(json.dumps({**ours, "switch_s": sys.getswitchinterval()}))
""")
    assert {found[name]["slice_ns"] for name in ("early", "main", "later")} == {100_000}
    assert found["switch_s"] == pytest.approx(1e-4)


@needs_slices
@pytest.mark.skipif(os.geteuid() != 0, reason="precedence needs a privilege")
def test_an_urgent_thread_takes_precedence_and_nobody_inherits_it() -> None:
    found = _run("""
def work():
    with urgent_thread():
        child = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
        run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
        thread = in_thread(lambda: seen(me()))
        found = {"inside": seen(me()), "its thread": thread, "child": int(run.stdout)}
    return {**found, "after": seen(me()), "thread after": in_thread(lambda: seen(me()))}
make_process_prompt()
ours = in_thread(work)
print(json.dumps({**ours, "main": seen(me())}))
""")
    before = found["main"]
    assert before["nice"] > -10, "the tests run with precedence themselves"
    assert found["inside"] == {"slice_ns": 100_000, "nice": -10}
    assert found["its thread"]["nice"] == found["child"] == 0, "what was raised is not inherited"
    assert found["after"] == found["thread after"] == before


@needs_slices
@pytest.mark.skipif(os.geteuid() != 0, reason="precedence needs a privilege")
def test_threads_of_the_middleware_take_precedence_and_no_others() -> None:
    found = _run("""
import ctypes
ending, named = threading.Event(), threading.Event()
def carry():
    ctypes.CDLL(None).prctl(15, b"dds.shm.7", 0, 0, 0)
    named.set()
    ending.wait()
carries, other = threading.Thread(target=carry), threading.Thread(target=ending.wait)
carries.start(), other.start(), named.wait()
make_process_prompt()
raised = [hurry_middleware(), hurry_middleware()]
ours = {"carries": seen(carries.native_id), "other": seen(other.native_id), "main": seen(me())}
ending.set()
print(json.dumps({**ours, "raised": raised}))
""")
    assert found["raised"] == [1, 0]
    assert found["carries"] == {"slice_ns": 100_000, "nice": -10}
    assert found["other"] == found["main"]
    assert found["main"]["nice"] > -10


@needs_slices
def test_without_the_privilege_a_thread_still_has_short_slices() -> None:
    found = _run("""
import resource
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
make_process_prompt()
before = seen(me())
with urgent_thread():
    inside = seen(me())
print(json.dumps({"before": before, "inside": inside, "raised": hurry_middleware()}))
""")
    assert found["raised"] == 0
    assert found["before"]["slice_ns"] == 100_000
    assert found["inside"] == found["before"]


@needs_slices
@pytest.mark.skipif(os.geteuid() != 0, reason="to raise the limit needs a privilege")
def test_a_limit_of_niceness_is_enough_for_precedence() -> None:
    found = _run("""
import resource
make_process_prompt()
try:
    resource.setrlimit(resource.RLIMIT_NICE, (30, 30))
except ValueError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
os.setgid(65534)
os.setuid(65534)
before = seen(me())
with urgent_thread():
    inside = seen(me())
print(json.dumps({"before": before, "inside": inside, "after": seen(me())}))
""")
    if "refused" in found:
        pytest.skip(f"the limit cannot be raised here: {found['refused']}")
    assert found["inside"]["nice"] == -10
    assert found["after"] == found["before"]


def test_a_class_that_somebody_chose_is_left_alone() -> None:
    if os.geteuid() != 0:
        pytest.skip("a real-time class needs a privilege")
    found = _run("""
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
except OSError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
make_process_prompt()
with urgent_thread():
    found = {"class": os.sched_getscheduler(0), "priority": os.sched_getparam(0).sched_priority}
print(json.dumps(found))
""")
    if "refused" in found:
        pytest.skip(f"no real-time class here: {found['refused']}")
    assert found == {"class": os.SCHED_FIFO, "priority": 5}


def test_threads_of_torch_wait_asleep_unless_somebody_chose_otherwise() -> None:
    program = """
import os, subprocess, sys
from user_core.runtime.scheduling import let_threads_of_torch_sleep
let_threads_of_torch_sleep()
print(subprocess.check_output([sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"], text=True))
"""
    for chosen, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        others = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**others, **chosen}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected
