"""Real processes, real signals."""

import asyncio
import contextlib
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
from user_fleet.supervisor import ChildState, Restarts, Supervisor
from user_fleet.supervisor.log_file import LogFile
from user_fleet.supervisor.niceness import STANDBY_NICENESS
from user_fleet.supervisor.standby import standby_words
from user_testing.waiting import wait_until_async

FAST = RestartPolicy(initial_backoff_s=0.02, max_backoff_s=0.1)


def spec(name, **changes):
    values = {"package": "p", "executable": "e", "restart": FAST, "stop_timeout_s": 5.0}
    return ProcessSpec(name=name, **{**values, **changes})


def python(code):
    return CommandLine((sys.executable, "-S", "-c", textwrap.dedent(code)))


SLEEP = python("import time; time.sleep(60)")


def session_niceness(pid):
    """How far the session of a process gives way; None where the kernel has no such groups."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


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
            await asyncio.wait_for(task, 60)

    return asyncio.run(main())


def test_backoff_grows_to_its_cap_is_forgotten_and_gives_up():
    policy = RestartPolicy(initial_backoff_s=1, factor=2, max_backoff_s=5, healthy_after_s=10)
    backoff = Restarts(policy)
    assert [backoff.ended(t, 0.1, 1) for t in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.ended(100, 60, 1) == 1
    limited = Restarts(RestartPolicy(max_failures=3, window_s=10))
    assert limited.ended(0, 0, 1) is not None
    assert limited.ended(1, 0, 1) is not None
    assert limited.ended(20, 0, 1) is not None  # the first two are out of the window
    assert limited.ended(21, 0, 1) is not None
    assert limited.ended(22, 0, 1) is None
    assert Restarts(RestartPolicy(when="on_failure")).ended(0, 0, 0) is None
    assert Restarts(RestartPolicy(when="on_failure")).ended(0, 0, -9) is not None
    assert Restarts(RestartPolicy(when="never")).ended(0, 0, 1) is None


def test_a_killed_process_comes_back_and_the_others_go_on(tmp_path):
    supervisor = Supervisor([spec("a"), spec("b")], {"a": SLEEP, "b": SLEEP}, tmp_path)
    a, b = supervisor.children.values()

    async def story(task):
        await wait_until_async(lambda: a.state is b.state is ChildState.RUNNING, "both run")
        first, other = a.pid, b.pid
        os.kill(first, signal.SIGKILL)
        await wait_until_async(lambda: a.pid not in (0, first), "a restarted")
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
        await wait_until_async(
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
    deadline_s = time.monotonic() + 60
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
        await wait_until_async(lambda: bad.state is ChildState.GIVEN_UP, "given up")
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
        deadline_s = time.monotonic() + 60
        while len(pids()) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        started = pids()
        assert len(started) == 4 and all(alive(pid) for pid in started)
        process.kill()
        process.wait()
        deadline_s = time.monotonic() + 60
        while any(alive(pid) for pid in started) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not [pid for pid in started if alive(pid)]
    finally:
        process.kill()
        process.wait()


def test_the_orphan_reaper_may_die_as_well(tmp_path):
    supervisor = Supervisor([spec("a"), spec("b")], {"a": SLEEP, "b": SLEEP}, tmp_path)
    a, b = supervisor.children.values()

    async def story(task):
        await wait_until_async(lambda: a.state is b.state is ChildState.RUNNING, "both run")
        reaper = supervisor._reaper._process
        reaper.kill()
        reaper.wait()
        first = a.pid
        os.kill(first, signal.SIGKILL)
        await wait_until_async(lambda: a.pid not in (0, first), "a restarted")
        assert supervisor._reaper._process.pid != reaper.pid
        assert supervisor._reaper._process.poll() is None
        return a.pid, b.pid, supervisor._reaper._process.pid

    assert not any(alive(pid) for pid in run(supervisor, story))


def test_a_suspended_process_is_ended_within_its_time(tmp_path):
    supervisor = Supervisor([spec("a", stop_timeout_s=0.3)], {"a": SLEEP}, tmp_path)
    (a,) = supervisor.children.values()

    async def story(task):
        await wait_until_async(lambda: a.state is ChildState.RUNNING, "it runs")
        os.kill(a.pid, signal.SIGSTOP)
        return a.pid

    assert not alive(run(supervisor, story))


def test_who_gives_way_does_so_to_processes_of_other_sessions_too(tmp_path):
    """Linux shares the processor between sessions first, where it groups them."""
    nice = spec("nice", niceness=7)
    supervisor = Supervisor((nice, spec("plain")), {"nice": SLEEP, "plain": SLEEP}, tmp_path)

    async def story(task):
        children = supervisor.children
        await wait_until_async(lambda: all(child.pid for child in children.values()), "both run")
        own = os.getpriority(os.PRIO_PROCESS, 0)
        for name, more in (("nice", 7), ("plain", 0)):
            pid = children[name].pid
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + more)
            if session_niceness(pid) is not None:
                await wait_until_async(lambda p=pid, m=more: session_niceness(p) == m, "by session")

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

    async def told(count):
        log = tmp_path / "a.log"
        await wait_until_async(
            lambda: log.is_file() and log.read_text().count("\nheavy ") == count, f"{count} words"
        )

    async def story(task):
        seen = []
        for count in range(3):
            await wait_until_async(standby, "a standby waits")
            await told(count + 1)
            waiting, working = standby(), child.pid
            assert find_processes([str(tmp_path / "mine")]) == {str(tmp_path / "mine"): working}
            os.kill(working, signal.SIGKILL)
            await wait_until_async(lambda w=waiting: child.pid == w, "it has taken over")
            await wait_until_async(
                lambda w=waiting: find_processes([str(tmp_path / "mine")]), "as itself"
            )
            seen.append(waiting)
        await wait_until_async(standby, "a standby waits")
        await told(4)
        os.kill(standby(), signal.SIGKILL)  # it may die like everybody else
        os.kill(child.pid, signal.SIGKILL)
        await wait_until_async(lambda: child.restarts == 4 and child.pid, "restarted without one")
        await wait_until_async(standby, "a standby waits again")
        await told(5)
        return [*seen, standby(), child.pid]

    pids = run(supervisor, story)
    assert not any(alive(pid) for pid in pids)
    said = (tmp_path / "a.log").read_text()
    ours = f"argv {['one', str(tmp_path / 'mine')]} stdin ''"
    assert said.count(ours) == 5
    assert said.count("heavy False True") == 2
    assert said.count("heavy True True") == 3


@contextlib.contextmanager
def busy_processes(count):
    """Processes that want a core each, in sessions of their own."""
    busy = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def slow_to_import(tmp_path):
    """A supervisor of a program whose standby has half a second of imports before it."""
    (tmp_path / "heavy.py").write_text(
        "import os, time\n"
        "open(f'importing.{os.getpid()}', 'w').close()\n"
        "end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
    )
    script = tmp_path / "program"
    script.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import os, sys, time
            os.chdir({str(tmp_path)!r})
            from pathlib import Path
            Path(os.environ["USER_MODULES_FILE"]).write_text("os heavy")
            if __name__ == "__main__":
                open(f"working.{{os.getpid()}}", "w").close()
                time.sleep(60)
            """
        )
    )
    script.chmod(0o755)
    restart = RestartPolicy(initial_backoff_s=0.02, standby_after_s=0.01)
    command = CommandLine((str(script),), {"PYTHONPATH": str(tmp_path)})
    return Supervisor([spec("a", restart=restart, niceness=3)], {"a": command}, tmp_path)


def test_a_standby_that_takes_over_while_it_imports_gives_way_no_longer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supervisor = slow_to_import(tmp_path)
    (child,) = supervisor.children.values()

    def importing():
        waiting = child._standby
        return waiting and (tmp_path / f"importing.{waiting.process.pid}").exists()

    async def story(task):
        await wait_until_async(importing, "a standby imports", 30.0)
        waiting = child._standby.process.pid
        own = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
        if session_niceness(waiting) is not None:
            await wait_until_async(
                lambda: session_niceness(waiting) == STANDBY_NICENESS, "it gives way"
            )
        os.kill(child.pid, signal.SIGKILL)
        await wait_until_async(lambda: child.pid == waiting, "it takes over")
        assert session_niceness(waiting) in (3, None)  # at once, not when it has imported
        assert os.getpriority(os.PRIO_PROCESS, waiting) == own
        working = tmp_path / f"working.{waiting}"
        await wait_until_async(working.exists, "it works, beside those who are busy", 20.0)
        assert session_niceness(waiting) in (3, None)

    with busy_processes(3):
        run(supervisor, story)


def test_a_standby_that_must_give_way_for_ever_is_replaced_by_a_fresh_process(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    supervisor = slow_to_import(tmp_path)
    (child,) = supervisor.children.values()
    module = sys.modules["user_fleet.supervisor.supervisor"]
    really = module.set_session_niceness

    async def story(task):
        await wait_until_async(lambda: child._standby is not None, "a standby is there")
        waiting, before = child._standby.process.pid, child.pid

        async def refused(pid, niceness):  # as by a kernel or a container that does not let us
            return False if pid == waiting else await really(pid, niceness)

        monkeypatch.setattr(module, "set_session_niceness", refused)
        os.kill(child.pid, signal.SIGKILL)
        await wait_until_async(lambda: child.pid not in (0, before), "it is started again")
        assert child.pid != waiting
        assert not alive(waiting)
        assert session_niceness(child.pid) != STANDBY_NICENESS

    run(supervisor, story)
    assert "a fresh one" in (tmp_path / "a.log").read_text()


def test_a_standby_is_taken_for_nobody_else_from_its_first_moment(tmp_path):
    """Not even while its interpreter starts; it would look as if the other had been restarted."""
    word = str(tmp_path / "mine")
    program = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    open('/proc/self/comm', 'w').write(line.strip())\n"
        "    print('named', flush=True)\n"
    )
    words = [sys.executable, "-S", "-c", program, STANDBY_NAME, "modules", "/a/node", word]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(name):
        process.stdin.write(name + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "named\n"

    def is_seen():
        return word in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")

    with process:
        asyncio.run(wait_until_async(is_seen, "its command line is there"))
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
        await wait_until_async(lambda: again._standby is not None, "one has a standby")
        log = tmp_path / "never.log"
        await wait_until_async(
            lambda: "not asked what it imports" in log.read_text(), "the other needs none"
        )
        assert never._standby is None
        os.kill(never.pid, signal.SIGKILL)
        await wait_until_async(lambda: never.state is ChildState.ENDED, "it is not started again")

    run(supervisor, story)


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env python3", "\x7fELF"])
def test_what_is_no_python_script_of_its_own_interpreter_has_no_standby(tmp_path, first):
    program = tmp_path / "program"
    program.write_text(first + "\n")
    assert standby_words((str(program),), tmp_path / "modules") is None
    assert standby_words(("/nowhere",), tmp_path / "modules") is None


def test_the_end_of_a_required_process_ends_everything(tmp_path):
    fails = python("import sys; sys.exit(3)")
    limited = FAST.replace(max_failures=2)
    supervisor = Supervisor(
        [spec("a"), spec("b", required=True, restart=limited)], {"a": SLEEP, "b": fails}, tmp_path
    )
    assert asyncio.run(asyncio.wait_for(supervisor.run(), 60)) is False
    assert supervisor.children["b"].state is ChildState.GIVEN_UP
    assert supervisor.children["a"].state is ChildState.ENDED


OURS = {"package": "user_test"}


def said(code, text, final):
    """A program that leaves last words and ends."""
    return python(
        f"""
        import json, os
        words = {{"code": {code!r}, "text": {text!r}, "final": {final}}}
        open(os.environ["USER_LAST_WORDS"], "w").write(json.dumps(words))
        raise SystemExit(3)
        """
    )


def test_a_process_that_would_fail_again_is_not_started_again_and_ends_the_run(tmp_path):
    supervisor = Supervisor(
        [spec("a"), spec("b", executable="f")],
        {"a": SLEEP, "b": said("config", "no key 'utd'", True)},
        tmp_path,
    )
    assert asyncio.run(asyncio.wait_for(supervisor.run(), 60)) is False
    b = supervisor.children["b"]
    assert b.state is ChildState.GIVEN_UP and b.restarts == 0 and supervisor.ended_by is b
    assert b.cause.code == "config" and "no key 'utd' [config]" in b.detail
    assert supervisor.children["a"].state is ChildState.ENDED


@pytest.mark.parametrize(
    ("code", "exit_word", "cause"),
    [
        ("raise ValueError('wrong shape')", "exit code 1", "ValueError: wrong shape"),
        ("import os; os._exit(7)", "exit code 7", "exit code 7"),
        ("import os; os._exit(0)", "exit code 0", "by itself and without a word"),
        ("import os; os.abort()", "SIGABRT", "SIGABRT"),
    ],
)
def test_equal_failures_are_given_up_with_their_cause(tmp_path, code, exit_word, cause):
    supervisor = Supervisor([spec("a", **OURS)], {"a": python(code)}, tmp_path)
    assert asyncio.run(asyncio.wait_for(supervisor.run(), 60)) is False
    a = supervisor.children["a"]
    assert a.state is ChildState.GIVEN_UP and a.restarts == 4 and a.cause.code == "process_ended"
    assert exit_word in a.detail and cause in a.detail and "5 times the same" in a.detail


def test_a_crash_in_c_is_told_with_the_line_of_python(tmp_path):
    code = """
        import ctypes, faulthandler, threading, time
        faulthandler.enable()
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        def step():
            ctypes.string_at(0)
        step()
    """
    one = spec("a", restart=RestartPolicy(initial_backoff_s=0.01, equal_failures=2))
    supervisor = Supervisor([one], {"a": python(code)}, tmp_path)
    assert asyncio.run(supervisor.run()) is False
    detail = supervisor.children["a"].detail
    assert "killed by SIGSEGV: in string_at, ctypes/__init__.py line" in detail, detail
    assert "(2 times the same)" in detail


def test_what_may_pass_and_what_comes_from_outside_is_tried_for_ever(tmp_path):
    waits = said("transport", "port 7457 is in use", False)
    killed = python("import os; os.kill(os.getpid(), 9)")
    supervisor = Supervisor(
        [spec("a", **OURS), spec("b", **OURS)], {"a": waits, "b": killed}, tmp_path
    )
    a, b = supervisor.children.values()

    async def story(task):
        await wait_until_async(lambda: a.restarts > 6 and b.restarts > 6, "both restarted often")
        assert not task.done() and "7457" in a.cause.text

    run(supervisor, story)
    assert supervisor.ended_by is None


def test_of_two_of_a_kind_the_other_goes_on(tmp_path):
    supervisor = Supervisor(
        [spec("a", **OURS), spec("b", **OURS)],
        {"a": SLEEP, "b": said("config", "wrong", True)},
        tmp_path,
    )
    a, b = supervisor.children.values()

    async def story(task):
        await wait_until_async(lambda: b.state is ChildState.GIVEN_UP, "b given up")
        assert not task.done() and a.state is ChildState.RUNNING

    run(supervisor, story)


def several_that_say_when_they_are_up(folder, names):
    """A supervisor of nodes that are up once a file allows it, and whose standbys import for long."""
    for number in range(8):
        (folder / f"heavy{number}.py").write_text(
            "import os, time\n"
            "journal = open('journal', 'a', buffering=1)\n"
            "journal.write(f'begin {os.getpid()}\\n')\n"
            "time.sleep(0.15)\n"
            "journal.write(f'end {os.getpid()}\\n')\n"
        )
    script = folder / "program"
    script.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import os, sys, time
            os.chdir({str(folder)!r})
            from pathlib import Path
            modules = " ".join(["os", *(f"heavy{{i}}" for i in range(8))])
            Path(os.environ["USER_MODULES_FILE"]).write_text(modules)
            if __name__ == "__main__":
                while not Path("may_" + sys.argv[1]).exists():
                    time.sleep(0.02)
                Path(os.environ["USER_CAME_UP_FILE"]).touch()
                time.sleep(60)
            """
        )
    )
    script.chmod(0o755)
    restart = RestartPolicy(initial_backoff_s=0.02, standby_after_s=0.01)
    specs = [spec(name, package="user_x", restart=restart) for name in names]
    commands = {
        name: CommandLine((str(script), name), {"PYTHONPATH": str(folder)}) for name in names
    }
    return Supervisor(specs, commands, folder / "logs")


def test_standbys_come_one_by_one_and_wait_while_anything_is_brought_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supervisor = several_that_say_when_they_are_up(tmp_path, "abc")
    a, b, c = supervisor.children.values()
    journal = tmp_path / "journal"

    def imported():
        lines = journal.read_text().split("\n") if journal.exists() else []
        return [
            (word, int(pid)) for word, _, pid in (line.partition(" ") for line in lines if line)
        ]

    async def story(task):
        for name in "ab":
            (tmp_path / f"may_{name}").touch()
        await wait_until_async(lambda: a.has_come_up and b.has_come_up and c.pid, "two are up")
        await asyncio.sleep(0.5)
        assert not (a.standby_pid or b.standby_pid or c.standby_pid)
        (tmp_path / "may_c").touch()
        await wait_until_async(lambda: ("end", a.standby_pid) in imported(), "the first imports")
        assert not (b.standby_pid or c.standby_pid)
        (tmp_path / "may_c").unlink()
        os.kill(c.pid, signal.SIGKILL)
        await wait_until_async(lambda: c.restarts == 1 and c.pid, "another is restarted")
        await asyncio.sleep(0.4)  # the import that had begun ends
        done = len(imported())
        assert done < 16
        await asyncio.sleep(0.4)
        assert len(imported()) == done
        assert imported()[-1][0] == "end"
        (tmp_path / "may_c").touch()
        everything = 3 * 2 * 8
        await wait_until_async(lambda: len(imported()) == everything, "all have one")
        waiting = [a.standby_pid, b.standby_pid, c.standby_pid]
        os.kill(a.pid, signal.SIGKILL)
        await wait_until_async(lambda: a.pid == waiting[0], "it takes over")
        return waiting

    waiting = run(supervisor, story)
    order = [pid for _, pid in imported()]
    assert order[:48] == [pid for pid in waiting for _ in range(16)]  # never two at once
    assert not any(alive(pid) for pid in waiting)


@pytest.mark.parametrize("how", ["cancel", "request_stop", "cancel twice"])
@pytest.mark.parametrize("at", ["before", "after"])
def test_what_is_being_created_when_all_is_to_end_ends_too(tmp_path, monkeypatch, how, at):
    """Creating a process takes a while, and whoever ends the supervisor may come in between."""
    create, pids = asyncio.create_subprocess_exec, []

    async def main():
        creating, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*words, **options):
            if at == "before":
                creating.set()
                await go_on.wait()
            process = await create(*words, **options)
            pids.append(process.pid)
            creating.set()
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                process.kill()  # as asyncio does with one that it has not handed over
                await process.wait()
                raise
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
        supervisor = Supervisor([spec("a"), spec("b")], {"a": SLEEP, "b": SLEEP}, tmp_path)
        task = asyncio.create_task(supervisor.run())
        await asyncio.wait_for(creating.wait(), 60)
        if how == "request_stop":
            supervisor.request_stop()
        else:
            task.cancel()
        await asyncio.sleep(0.05)
        if how == "cancel twice":
            task.cancel()
        else:
            go_on.set()
        done, _ = await asyncio.wait({task}, timeout=60)
        assert done and task.cancelled() == (how != "request_stop")

    asyncio.run(main())
    assert not [pid for pid in pids if alive(pid)]


def test_a_process_that_is_started_anew_on_request_ends_in_order_and_that_is_no_failure(tmp_path):
    """Twice, with a policy that would give it up at the first failure; one that hangs is killed."""
    code = """
        import pathlib, signal, sys, time
        log = pathlib.Path(sys.argv[1]).open('a')
        def end(*_):
            print('asked', file=log, flush=True)
            if sys.argv[2] == 'good':
                sys.exit(0)
        signal.signal(signal.SIGINT, end)
        print('up', file=log, flush=True)
        while True:
            time.sleep(0.05)
    """
    strict = RestartPolicy(max_failures=1, window_s=60)
    specs = [spec(name, stop_timeout_s=0.5, restart=strict) for name in ("good", "hangs")]
    commands = {
        s.name: CommandLine((*python(code).words, str(tmp_path / s.name), s.name)) for s in specs
    }
    supervisor = Supervisor(specs, commands, tmp_path)

    def ups(name):
        file = tmp_path / name
        return file.read_text().split().count("up") if file.exists() else 0

    async def story(task):
        for number in (1, 2, 3):
            await wait_until_async(lambda n=number: all(ups(s.name) == n for s in specs))
            if number < 3:
                await asyncio.gather(*(c.restart() for c in supervisor.children.values()))
        return {
            n: (c.restarts, bool(c.cause), c.state is ChildState.RUNNING)
            for n, c in supervisor.children.items()
        }

    assert run(supervisor, story) == dict.fromkeys(("good", "hangs"), (2, False, True))
    assert (tmp_path / "good").read_text().split() == ["up", "asked"] * 3


def test_one_that_waits_for_its_next_start_is_started_at_once_on_request_and_one_that_is_over_is_not(
    tmp_path,
):
    slow = RestartPolicy(initial_backoff_s=60, max_backoff_s=60)
    specs = [spec("waits", restart=slow), spec("over", restart=RestartPolicy(when="never"))]
    count = tmp_path / "count"
    code = f"import sys; open({str(count)!r}, 'a').write('x'); sys.exit(1)"
    supervisor = Supervisor(specs, {"waits": python(code), "over": python("pass")}, tmp_path)
    waits, over = supervisor.children.values()

    async def story(task):
        await wait_until_async(
            lambda: waits.state is ChildState.WAITING and over.state is ChildState.ENDED
            and count.exists()
        )  # fmt: skip
        await asyncio.gather(waits.restart(), over.restart())
        await wait_until_async(lambda: count.read_text() == "xx")
        return over.state, over.restarts

    assert run(supervisor, story) == (ChildState.ENDED, 0)


def test_a_request_before_the_first_start_excuses_no_failure(tmp_path):
    once = RestartPolicy(max_failures=1, window_s=60)
    count = tmp_path / "count"
    code = f"import sys; open({str(count)!r}, 'a').write('x'); sys.exit(1)"
    supervisor = Supervisor([spec("fails", restart=once)], {"fails": python(code)}, tmp_path)
    (child,) = supervisor.children.values()

    async def story(task):
        await child.restart()
        await wait_until_async(lambda: child.state is ChildState.GIVEN_UP)

    run(supervisor, story)
    assert count.read_text() == "x"


def test_while_one_is_started_anew_those_that_it_depends_on_wait_for_its_end(tmp_path):
    """All is to end while a process that hangs was asked to."""
    ends = tmp_path / "ends"
    code = f"""
        import signal, sys, time
        name, takes_s = sys.argv[1], float(sys.argv[2])
        def end(*_):
            time.sleep(takes_s)
            print(name, file=open({str(ends)!r}, 'a'), flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        print('up', file=open({str(tmp_path)!r} + '/' + name, 'w'), flush=True)
        while True:
            time.sleep(0.05)
    """
    specs = [spec("store"), spec("learner", depends_on=("store",))]
    takes_s = {"store": "0", "learner": "1"}
    commands = {n: CommandLine((*python(code).words, n, s)) for n, s in takes_s.items()}
    supervisor = Supervisor(specs, commands, tmp_path)

    async def story(task):
        await wait_until_async(lambda: all((tmp_path / name).exists() for name in takes_s))
        again = asyncio.create_task(supervisor.children["learner"].restart())
        await asyncio.sleep(0.2)
        supervisor.request_stop()
        await asyncio.wait_for(task, 60)
        await again

    run(supervisor, story)
    assert ends.read_text().split() == ["learner", "store"]
