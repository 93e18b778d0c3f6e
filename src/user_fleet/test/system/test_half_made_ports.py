"""Real FastDDS before a port of shared memory whose maker was killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from user_testing.interfaces import has_fast_dds_2
from user_testing.processes import Process
from user_testing.waiting import wait_until

pytest.importorskip("rclpy", reason="needs ROS 2")

NODE = """
import os, rclpy, sys, time
print("waits".upper(), flush=True)
while len(sys.argv) > 1 and not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print("begins".upper(), flush=True)
rclpy.init()
node = rclpy.create_node("holder")
print("ready".upper(), flush=True)
time.sleep(600)
"""
#: Preloaded, it kills the process where it has made the file of a port: before it has a size, or after.
KILLED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int is_port(int file) {
    char link[64], path[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return readlink(link, path, sizeof path - 1) > 0 && strstr(path, "PORT");
}
int ftruncate64(int file, off_t size) {
    int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate64");
    if (!is_port(file)) return real(file, size);
    if (strcmp(getenv("KILLED"), "before")) real(file, size);
    return kill(getpid(), SIGKILL);
}
int ftruncate(int file, off_t size) { return ftruncate64(file, size); }
int posix_fallocate64(int file, off_t from, off_t size) {
    int (*real)(int, off_t, off_t) = dlsym(RTLD_NEXT, "posix_fallocate64");
    return is_port(file) ? ftruncate64(file, from + size) : real(file, from, size);
}
int posix_fallocate(int file, off_t from, off_t size) { return posix_fallocate64(file, from, size); }
"""


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from user_fleet.deployment import CommandLine, ProcessSpec
from user_fleet.supervisor import Supervisor
folder, *words = sys.argv[1:]
spec = ProcessSpec(name="hangs", package="p", executable="e")
asyncio.run(Supervisor([spec], {"hangs": CommandLine(tuple(words))}, Path(folder)).run())
"""
ALONE = """
from user_comm.run import run
from user_comm.lifecycle import LifecycleNode
run(LifecycleNode, "alone")
"""
MEND = """
from user_core.runtime.dds.half_made_ports import mend_half_made_ports
print(*mend_half_made_ports())
"""
WHOLE = b"\2\0\0\0"
START = "fastrtps" if has_fast_dds_2() else "fastdds"


class Apart:
    """A /dev/shm of our own: in that of the host, others may be mending beside us."""

    def __init__(self, domain: int, holder: int) -> None:
        self.prefix = ["nsenter", "-m", "-t", str(holder)]
        self.folder = Path(f"/proc/{holder}/root/dev/shm")
        self.domain = domain

    @property
    def port(self) -> Path:
        """Where the first participant of the domain on this host listens."""
        return self.folder / f"{START}_port{7400 + 250 * self.domain + 11}"

    def python(self, code: str, *words: object) -> list[str]:
        return [*self.prefix, sys.executable, "-c", code, *map(str, words)]

    def mend(self) -> list[str]:
        words = self.python(MEND)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def apart(ros_domain: int, tmp_path: Path) -> Iterator[Apart]:
    code = "mount -t tmpfs shm /dev/shm && echo mounted && sleep 600"
    with Process(["unshare", "-m", "sh", "-c", code], tmp_path / "apart.log") as holder:
        wait_until(lambda: "mounted" in holder.log, "a /dev/shm of our own")
        yield Apart(int(ros_domain), holder.pid)


@pytest.mark.root
@pytest.mark.parametrize("when", ["before", "after"])
def test_who_comes_after_a_killed_maker_hangs_and_is_freed(apart, tmp_path, when):
    source, library = tmp_path / "killed.c", tmp_path / "killed.so"
    source.write_text(KILLED.replace("PORT", f"{START}_port"))
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    except FileNotFoundError:
        pytest.skip("needs a C compiler")
    environment = {**os.environ, "LD_PRELOAD": str(library), "KILLED": when}
    words = apart.python(NODE)
    ended = subprocess.run(words, env=environment, timeout=60, stdout=subprocess.DEVNULL)
    if ended.returncode != -signal.SIGKILL:
        pytest.skip("FastDDS uses no shared memory here")
    assert apart.port.stat().st_size == (0 if when == "before" else 52400)

    with Process(words, tmp_path / "next.log") as following:
        wait_until(lambda: "BEGINS" in following.log, "it begins")
        time.sleep(4.0)  # the mutex died with its holder, too: FastDDS waits 2 s for that
        assert (
            "READY" not in following.log
        )  # the fault of FastDDS: if it is gone, so can the mending
        assert apart.mend() == [apart.port.name]
        wait_until(lambda: "READY" in following.log, "it is freed")
        # What it uses now is left while another port is mended.
        listening = apart.port.stat().st_ino
        other = apart.folder / f"{START}_port65001"
        other.write_bytes(bytes(52400))
        assert apart.mend() == [other.name]
        assert apart.port.stat().st_ino == listening


@pytest.mark.root
def test_a_supervisor_frees_a_process_that_hangs_beside_it(apart, tmp_path):
    go, log = tmp_path / "go", tmp_path / "hangs.log"
    words = apart.python(SUPERVISOR, tmp_path, sys.executable, "-c", NODE, go)
    with Process(words, tmp_path / "supervisor.log"):
        wait_until(
            lambda: log.exists() and "WAITS" in log.read_text(), "its process is there", 60.0
        )
        apart.port.touch()
        go.touch()
        wait_until(lambda: "READY" in log.read_text(), "it is freed")


@pytest.mark.root
def test_a_node_that_nobody_supervises_looks_before_it_begins(apart, tmp_path):
    apart.port.touch()
    with Process(apart.python(ALONE), tmp_path / "alone.log"):
        wait_until(
            lambda: apart.port.exists() and apart.port.read_bytes()[:4] == WHOLE, "it begins"
        )
