"""Files as a killed process leaves them, under a name that DDS does not use."""

import ctypes
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from user_core.runtime.dds import half_made_ports
from user_core.runtime.dds.half_made_ports import mend_half_made_ports

FOLDER = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs POSIX shared memory")
WHOLE = struct.pack("=I", 2) + bytes(96)


@pytest.fixture
def name(monkeypatch):
    """A port that no other process of this host takes for one, and mends meanwhile."""
    name = f"user_test_port{os.getpid():08d}"
    monkeypatch.setattr(half_made_ports, "PORT", re.compile(name))
    yield name
    for file in FOLDER.glob(f"*{name}*"):
        file.unlink()


def make(name, content):
    (FOLDER / name).write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", bytes(100), struct.pack("=I", 1) + bytes(96), struct.pack("=I", 3) + bytes(96)],
    ids=["empty", "failed", "nothing written", "being filled", "corrupted"],
)
def test_what_is_half_made_is_removed_and_those_who_have_it_open_are_told(name, content):
    make(name, content)
    (FOLDER / f"{name}_el").touch()
    with (FOLDER / name).open("rb") as waiting:
        assert mend_half_made_ports() == [name]
        assert not (FOLDER / name).exists() and not (FOLDER / f"{name}_el").exists()
        seen = waiting.read()
    assert len(seen) == 1 or seen[:4] == struct.pack("=I", 3)
    make(name, WHOLE)
    assert mend_half_made_ports() == []
    assert (FOLDER / name).read_bytes() == WHOLE


@pytest.mark.parametrize("kind", ["el", "sl"])
def test_one_whose_lock_somebody_holds_is_left(name, kind):
    make(name, bytes(100))
    with (FOLDER / f"{name}_{kind}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert mend_half_made_ports() == []
    assert mend_half_made_ports() == [name]


def held_mutex(name):
    """As by a process that will never give it back."""
    library = ctypes.CDLL(None, use_errno=True)
    library.sem_open.restype = ctypes.c_void_p
    text = f"/{name}_mutex".encode()
    held = ctypes.c_void_p(
        library.sem_open(text, os.O_CREAT, ctypes.c_uint(0o644), ctypes.c_uint(0))
    )
    return library, held


def test_one_that_is_just_being_made_is_waited_for_and_left(name):
    library, mutex = held_mutex(name)
    make(name, b"")
    code = f"""
import ctypes, sys, time
time.sleep(0.5)
with open("/dev/shm/{name}", "wb") as file:
    file.write({WHOLE!r})
library = ctypes.CDLL(None)
library.sem_open.restype = ctypes.c_void_p
library.sem_post(ctypes.c_void_p(library.sem_open(b"/{name}_mutex", 0)))
"""
    maker = subprocess.Popen([sys.executable, "-S", "-c", code])
    try:
        assert mend_half_made_ports() == []
    finally:
        maker.wait(60)
    assert (FOLDER / name).read_bytes() == WHOLE
    library.sem_close(mutex)


def test_a_signal_while_the_mutex_is_waited_for_says_nothing_of_its_holder(name):
    library, mutex = held_mutex(name)
    make(name, bytes(100))
    usual = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    began = time.monotonic()
    try:
        assert mend_half_made_ports() == [name]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    assert time.monotonic() - began >= 1.9
    library.sem_close(mutex)


def test_a_mutex_that_died_with_its_holder_is_replaced_after_the_time_that_fastdds_gives_it(name):
    library, mutex = held_mutex(name)
    make(name, bytes(100))
    began = time.monotonic()
    assert mend_half_made_ports() == [name]
    assert time.monotonic() - began >= 1.9
    # Whoever comes next has the mutex at once.
    fresh = ctypes.c_void_p(library.sem_open(f"/{name}_mutex".encode(), 0))
    assert fresh and library.sem_trywait(fresh) == 0
    library.sem_close(fresh)
    library.sem_close(mutex)


def test_what_a_suspended_process_has_open_is_left_until_it_goes_on_or_dies(name):
    make(name, bytes(100))
    code = f"import os, signal; f = open('/dev/shm/{name}'); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as maker:
        try:
            os.waitid(os.P_PID, maker.pid, os.WSTOPPED)
            assert mend_half_made_ports() == []
        finally:
            maker.kill()
    assert mend_half_made_ports() == [name]


@pytest.mark.root
def test_what_root_mends_stays_open_to_the_user_whose_port_it_was(name):
    make(name, bytes(100))
    os.chown(FOLDER / name, 12345, 12345)
    assert mend_half_made_ports() == [name]
    assert (FOLDER / f"sem.{name}_mutex").stat().st_uid == 12345


@pytest.mark.root
def test_what_belongs_to_another_user_is_left_by_those_who_are_not_root(name):
    make(name, bytes(100))
    os.seteuid(12345)
    try:
        assert mend_half_made_ports() == []
    finally:
        os.seteuid(0)
    assert not (FOLDER / f"sem.{name}_mutex").exists()
    assert (FOLDER / name).exists()


def test_other_files_are_left(name):
    others = [f"{name}_x", f"x{name}", f"{name}_el"]
    for other in others:
        make(other, b"")
    assert mend_half_made_ports() == []
    assert all((FOLDER / other).exists() for other in others)
