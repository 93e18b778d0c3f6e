"""Real processes, real signals."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from user_fleet.deployment import CommandLine, ProcessSpec, RestartPolicy
from user_fleet.processes import STANDBY_NAME, find_processes
from user_fleet.supervisor import Backoff, ChildState, Supervisor
from user_fleet.supervisor.log_file import LogFile
from user_fleet.supervisor.standby import standby_words

FAST = RestartPolicy(initial_backoff_s=0.02, max_backoff_s=0.1)


def spec(name, **changes):
    values = {"package": "p", "executable": "e", "restart": FAST, "stop_timeout_s": 5.0}
    return ProcessSpec(name=name, **{**values, **changes})


def python(code):
    return CommandLine((sys.executable, "-S", "-c", textwrap.dedent(code)))


SLEEP = python("import time; time.sleep(60)")


async def until(condition, what, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run(supervisor, story):
    async def main():
        task = asyncio.create_task(supervisor.run())
        try:
            return await story(task)
        finally:
            supervisor.request_stop()
            await asyncio.wait_for(task, 20)

    return asyncio.run(main())


def test_backoff_grows_to_its_cap_is_forgotten_and_gives_up():
    policy = RestartPolicy(initial_backoff_s=1, factor=2, max_backoff_s=5, healthy_after_s=10)
    backoff = Backoff(policy)
    assert [backoff.ended(t, 0.1, 1) for t in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.ended(100, 60, 1) == 1
    limited = Backoff(RestartPolicy(max_failures=3, window_s=10))
    assert limited.ended(0, 0, 1) is not None
    assert limited.ended(1, 0, 1) is not None
    assert limited.ended(20, 0, 1) is not None  # the first two are out of the window
    assert limited.ended(21, 0, 1) is not None
    assert limited.ended(22, 0, 1) is None
    assert Backoff(RestartPolicy(when="on_failure")).ended(0, 0, 0) is None
    assert Backoff(RestartPolicy(when="on_failure")).ended(0, 0, -9) is not None
    assert Backoff(RestartPolicy(when="never")).ended(0, 0, 1) is None


def test_a_killed_process_comes_back_and_the_others_go_on(tmp_path):
    supervisor = Supervisor([spec("a"), spec("b")], {"a": SLEEP, "b": SLEEP}, tmp_path)
    a, b = supervisor.children.values()

    async def story(task):
        await until(lambda: a.state is b.state is ChildState.RUNNING, "both run")
        first, other = a.pid, b.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: a.pid not in (0, first), "a restarted")
        assert a.restarts == 1
        assert b.pid == other
        return a.pid, b.pid

    pids = run(supervisor, story)
    assert not any(alive(pid) for pid in pids)
    assert "killed by SIGKILL" in (tmp_path / "a.log").read_text()


def test_the_end_is_in_reverse_order_and_a_stubborn_process_is_killed(tmp_path):
    told = python(
        """
        import signal, sys, time
        signal.signal(signal.SIGINT, lambda *_: (print(f"ended {time.monotonic_ns()}", flush=True), sys.exit()))
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    deaf = python(
        """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        print(f"ready {child.pid}", flush=True)  # in one piece, for who reads along
        time.sleep(60)
        """
    )
    supervisor = Supervisor(
        [spec("first"), spec("second", depends_on=("first",)), spec("deaf", stop_timeout_s=0.3)],
        {"first": told, "second": told, "deaf": deaf},
        tmp_path,
    )

    def output(name):
        file = tmp_path / f"{name}.log"
        return file.read_text().split() if file.exists() else []

    async def story(task):
        await until(
            lambda: all("ready" in output(c.spec.name) for c in supervisor.children.values()),
            "all ready",
        )
        words = output("deaf")
        return int(words[words.index("ready") + 1])

    grandchild = run(supervisor, story)

    def ended_ns(name):
        words = output(name)
        return int(words[words.index("ended") + 1])

    assert ended_ns("second") < ended_ns("first")
    assert (
        "killed" in supervisor.children["deaf"].detail
        or "SIGKILL" in supervisor.children["deaf"].detail
    )
    deadline_s = time.monotonic() + 5
    while alive(grandchild) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not alive(grandchild)


def test_one_that_fails_too_often_is_given_up_and_the_others_go_on(tmp_path):
    policy = RestartPolicy(initial_backoff_s=0.01, max_failures=3)
    supervisor = Supervisor(
        [spec("bad", restart=policy), spec("good")],
        {"bad": python("raise SystemExit(3)"), "good": SLEEP},
        tmp_path,
    )
    bad, good = supervisor.children.values()

    async def story(task):
        await until(lambda: bad.state is ChildState.GIVEN_UP, "given up")
        assert bad.detail == "ended with exit code 3"
        assert bad.restarts == 2
        assert good.state is ChildState.RUNNING
        assert not task.done()

    run(supervisor, story)


def test_a_missing_program_is_named(tmp_path):
    missing = CommandLine((str(tmp_path / "no_such_program"),))
    supervisor = Supervisor([spec("a")], {"a": missing}, tmp_path)
    assert asyncio.run(supervisor.run()) is False
    assert "no_such_program: No such file" in supervisor.children["a"].detail


def test_when_everything_has_ended_the_supervisor_ends(tmp_path):
    once = spec("once", restart=RestartPolicy(when="on_failure"))
    supervisor = Supervisor([once], {"once": python("print('done')")}, tmp_path)
    assert asyncio.run(supervisor.run()) is True
    assert "done" in (tmp_path / "once.log").read_text()


SUPERVISE = """
    import asyncio, sys
    from pathlib import Path
    from user_fleet.deployment import CommandLine, ProcessSpec
    from user_fleet.supervisor import Supervisor

    specs = [ProcessSpec(name=f"p{i}", package="p", executable="e", stop_timeout_s=0.5)
             for i in range(len(sys.argv) - 2)]
    commands = {s.name: CommandLine((sys.executable, "-S", "-c", code))
                for s, code in zip(specs, sys.argv[2:])}
    asyncio.run(Supervisor(specs, commands, Path(sys.argv[1])).run())
    """
#: Says the ids of its own process and of a child, and that it was asked to end.
PARENT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), {ending}))
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
print("pids", os.getpid(), child.pid, flush=True)
while True: time.sleep(1)
"""


def test_no_orphans_and_no_grandchildren_when_the_supervisor_is_killed(tmp_path):
    programs = [PARENT.format(ending="sys.exit()"), PARENT.format(ending="0")]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUPERVISE), str(tmp_path), *programs]
    )

    def pids():
        found = [re.search(r"^pids (\d+) (\d+)$", file.read_text(), re.MULTILINE)
                 for file in tmp_path.glob("p*.log")]  # fmt: skip
        return [int(pid) for match in found if match for pid in match.groups()]

    try:
        deadline_s = time.monotonic() + 20
        while len(pids()) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        started = pids()
        assert len(started) == 4 and all(alive(pid) for pid in started)
        process.kill()
        process.wait()
        deadline_s = time.monotonic() + 10
        while any(alive(pid) for pid in started) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not [pid for pid in started if alive(pid)]
    finally:
        process.kill()
        process.wait()


def test_the_watchman_may_die_as_well(tmp_path):
    supervisor = Supervisor([spec("a"), spec("b")], {"a": SLEEP, "b": SLEEP}, tmp_path)
    a, b = supervisor.children.values()

    async def story(task):
        await until(lambda: a.state is b.state is ChildState.RUNNING, "both run")
        watchman = supervisor._watchman._process
        watchman.kill()
        watchman.wait()
        first = a.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: a.pid not in (0, first), "a restarted")
        assert supervisor._watchman._process.pid != watchman.pid
        assert supervisor._watchman._process.poll() is None
        return a.pid, b.pid, supervisor._watchman._process.pid

    assert not any(alive(pid) for pid in run(supervisor, story))


def test_a_suspended_process_is_ended_within_its_time(tmp_path):
    supervisor = Supervisor([spec("a", stop_timeout_s=0.3)], {"a": SLEEP}, tmp_path)
    (a,) = supervisor.children.values()

    async def story(task):
        await until(lambda: a.state is ChildState.RUNNING, "it runs")
        os.kill(a.pid, signal.SIGSTOP)
        return a.pid

    assert not alive(run(supervisor, story))


def test_who_gives_way_does_so_to_processes_of_other_sessions_too(tmp_path):
    """Linux shares the processor between sessions first, where it groups them."""
    nice = spec("nice", niceness=7)
    supervisor = Supervisor((nice, spec("plain")), {"nice": SLEEP, "plain": SLEEP}, tmp_path)

    async def story(task):
        children = supervisor.children
        await until(lambda: all(child.pid for child in children.values()), "both run")
        own = os.getpriority(os.PRIO_PROCESS, 0)
        for name, more in (("nice", 7), ("plain", 0)):
            pid = children[name].pid
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + more)
            group = Path(f"/proc/{pid}/autogroup")
            if group.exists():
                assert int(group.read_text().split()[-1]) == more

    run(supervisor, story)


def test_logs_are_rotated_and_a_full_disk_does_no_harm(tmp_path):
    log = LogFile(tmp_path / "a.log", max_bytes=100, keep=2)
    for number in range(10):
        log.write(b"%02d" % number * 20)
    log.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert (tmp_path / "a.log").read_bytes().endswith(b"09" * 20)
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    log = LogFile(full)
    log.write(b"x")
    assert log.lost_bytes == 1
    log.close()


def test_a_standby_has_imported_everything_and_takes_over(tmp_path):
    (tmp_path / "heavy.py").write_text("import os\nimported_by = os.getpid()\n")
    script = tmp_path / "program"
    script.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import os, sys, time
            before = "heavy" in sys.modules
            import heavy
            from pathlib import Path
            Path(os.environ["USER_MODULES_FILE"]).write_text("not_there heavy")
            if __name__ == "__main__":
                print("argv", sys.argv[1:], "stdin", repr(sys.stdin.read()), flush=True)
                print("heavy", before, heavy.imported_by == os.getpid(), flush=True)
                time.sleep(60)
            """
        )
    )
    script.chmod(0o755)
    restart = RestartPolicy(initial_backoff_s=0.02, standby_after_s=0.01)
    command = CommandLine((str(script), "one", str(tmp_path / "mine")))
    supervisor = Supervisor([spec("a", restart=restart)], {"a": command}, tmp_path)
    (child,) = supervisor.children.values()

    def standby():
        """The process that waits, once it has imported."""
        waiting = child._standby
        if waiting is None:
            return 0
        comm = Path(f"/proc/{waiting.process.pid}/comm").read_text().strip()
        wchan = Path(f"/proc/{waiting.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return waiting.process.pid if comm == STANDBY_NAME and wchan == "S" else 0

    async def story(task):
        seen = []
        for _ in range(3):
            await until(standby, "a standby waits")
            waiting, working = standby(), child.pid
            assert find_processes([str(tmp_path / "mine")]) == {str(tmp_path / "mine"): working}
            os.kill(working, signal.SIGKILL)
            await until(lambda w=waiting: child.pid == w, "it has taken over")
            await until(lambda w=waiting: find_processes([str(tmp_path / "mine")]), "as itself")
            seen.append(waiting)
        await until(standby, "a standby waits")
        os.kill(standby(), signal.SIGKILL)  # it may die like everybody else
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.restarts == 4 and child.pid, "restarted without one")
        await until(standby, "a standby waits again")
        return [*seen, standby(), child.pid]

    pids = run(supervisor, story)
    assert not any(alive(pid) for pid in pids)
    said = (tmp_path / "a.log").read_text()
    ours = f"argv {['one', str(tmp_path / 'mine')]} stdin ''"
    assert said.count(ours) == 5
    assert said.count("heavy False True") == 2
    assert said.count("heavy True True") == 3


def test_a_standby_is_taken_for_nobody_else_from_its_first_moment(tmp_path):
    """Not even while its interpreter starts; it would look as if the other had been restarted."""
    word = str(tmp_path / "mine")
    program = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    open('/proc/self/comm', 'w').write(line.strip())\n"
        "    print('named', flush=True)\n"
    )
    words = [sys.executable, "-S", "-c", program, STANDBY_NAME, "modules", "0", "/a/node", word]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(name):
        process.stdin.write(name + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "named\n"

    def is_seen():
        return word in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")

    with process:
        asyncio.run(until(is_seen, "its command line is there"))
        assert find_processes([word]) == {}
        call(STANDBY_NAME)
        assert find_processes([word]) == {}
        call("node")
        assert find_processes([word]) == {word: process.pid}
        process.kill()


def test_there_is_a_standby_only_for_what_is_started_again(tmp_path):
    script = tmp_path / "program"
    script.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import os, time
            from pathlib import Path
            file = os.environ.get("USER_MODULES_FILE")
            if file:
                Path(file).write_text("json")
            if __name__ == "__main__":
                print("asked" if file else "not asked", "what it imports", flush=True)
                time.sleep(60)
            """
        )
    )
    script.chmod(0o755)
    specs = [
        spec(when, restart=RestartPolicy(when=when, initial_backoff_s=0.02, standby_after_s=0.01))
        for when in ("never", "on_failure")
    ]
    commands = {s.name: CommandLine((str(script), s.name)) for s in specs}
    supervisor = Supervisor(specs, commands, tmp_path)
    never, again = supervisor.children.values()

    async def story(task):
        await until(lambda: again._standby is not None, "one has a standby")
        log = tmp_path / "never.log"
        await until(lambda: "not asked what it imports" in log.read_text(), "the other needs none")
        assert never._standby is None
        os.kill(never.pid, signal.SIGKILL)
        await until(lambda: never.state is ChildState.ENDED, "it is not started again")

    run(supervisor, story)


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env python3", "\x7fELF"])
def test_what_is_no_python_script_of_its_own_interpreter_has_no_standby(tmp_path, first):
    program = tmp_path / "program"
    program.write_text(first + "\n")
    assert standby_words((str(program),), tmp_path / "modules") is None
    assert standby_words(("/nowhere",), tmp_path / "modules") is None
