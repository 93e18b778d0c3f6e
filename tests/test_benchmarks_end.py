"""A benchmark that is ended leaves nothing running, however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from user_testing import systems
from user_testing.waiting import wait_until

DEPLOYMENT = """
name: ends
processes:
  - {name: hal, package: user_hal, executable: hal_node, parameters: {robot: {plugin: fake}}}
  - {name: lifecycle_manager, package: user_fleet, executable: lifecycle_manager, lifecycle: false,
     parameters: {autostart: true, deployment: "${run_dir}/deployment.yaml"}}
"""
#: As benchmarks start a system, a helper, and processes of a pool.
BENCHMARK = """
import multiprocessing, os, sys, tempfile, time
from user_testing import systems

def work(mark):
    time.sleep(600)

if __name__ == "__main__":
    mark = sys.argv[1]
    words = systems.words_of_run(mark + ".yaml", runs=os.path.dirname(mark), run=os.path.basename(mark))
    pool = multiprocessing.get_context("fork").Pool(1, systems.end_with_pool)
    pool.apply_async(work, [mark])
    helper = systems.start([sys.executable, "-c", "import time; time.sleep(600)", mark])
    with tempfile.TemporaryDirectory(prefix="benchmark_", dir=os.path.dirname(mark)):
        with systems.started(words):
            time.sleep(600)
"""


def processes_of(mark: str) -> dict[int, str]:
    """Processes whose command line has a word in it, also those that have it from a folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (words := (entry / "cmdline").read_text()):
                found[int(entry.name)] = words.replace("\0", " ")
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.parametrize("numbers", [("SIGTERM", "SIGINT"), ("SIGKILL",)])
def test_what_a_benchmark_has_started_ends_with_it(
    numbers: tuple[str, ...],
    tmp_path: Path,
    start_process: Callable[..., subprocess.Popen[str]],
    ros_domain: int,
) -> None:
    program, mark = tmp_path / "benchmark.py", str(tmp_path / "ended_with_it")
    program.write_text(BENCHMARK, encoding="utf-8")
    Path(f"{mark}.yaml").write_text(DEPLOYMENT, encoding="utf-8")
    benchmark = start_process([sys.executable, str(program), mark], stdout=subprocess.DEVNULL)

    def nodes() -> int:
        return sum("--ros-args" in words for words in processes_of(mark).values())

    wait_until(lambda: nodes() >= 2, "the system runs", seen=lambda: processes_of(mark))
    for number in numbers:
        os.kill(benchmark.pid, signal.Signals[number])
        time.sleep(0.2)  # a person who waits for the end of it presses Ctrl-C
    wait_until(lambda: not processes_of(mark), "all end", seen=lambda: processes_of(mark))
    assert benchmark.wait(30) != 0
    if numbers != ("SIGKILL",):
        assert not [*tmp_path.glob("benchmark_*")], "it has not tidied up"


def test_what_a_benchmark_in_the_background_has_started_still_ends_by_ctrl_c() -> None:
    """A shell starts it with SIGINT ignored; its systems were waited for for a minute each, and killed."""
    program = (
        "import signal, subprocess, sys; from user_testing import systems\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sleeper = [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)']\n"
        "with systems.started(sleeper, stdout=subprocess.PIPE) as process:\n"
        "    process.stdout.readline()\n"
        "print(process.returncode)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert int(ended.stdout) == -signal.SIGINT, ended.stderr


def test_jobs_have_processes_of_their_own_and_one_that_is_killed_is_told() -> None:
    processes = list(systems.each_in_its_own_process(os.getpid, [(), ()], 1))
    assert len({*processes, os.getpid()}) == 3
    with pytest.raises(BrokenProcessPool):
        list(systems.each_in_its_own_process(os._exit, [(9,)], 1))
