"""A question to another process is answered or given up, whatever other people's code does there."""

from __future__ import annotations

import builtins
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from user_bringup.running import apart
from user_bringup.running.apart import Reply, ask

_CHILD = """
import importlib.util, os, sys, threading, time, signal, subprocess
spec = importlib.util.spec_from_file_location("apart", FILE)  # alone: its package imports much
apart = sys.modules["apart"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(apart)
answer, doing = apart.answer, apart.doing
def find_out(question):
    doing("hal its robot")
    exec(question["code"])
    return {"seen": question["code"][:5]}
sys.exit(answer(find_out))
"""


def asked(code: str, timeout_s: float = 20.0, **more: Any) -> Reply:
    program = f"FILE = {apart.__file__!r}\n{_CHILD}"
    return ask([sys.executable, "-c", program], {"code": code}, timeout_s, **more)


_NUISANCE = (
    "print('x' * 300_000, end='')",
    "threading.Thread(target=time.sleep, args=(600,)).start()",
    "import atexit; atexit.register(time.sleep, 600)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "os.dup2(os.open('/dev/null', os.O_WRONLY), 1); os.close(2)",
)


def test_what_a_plugin_does_beside_its_work_keeps_nobody_from_the_answer() -> None:
    reply = asked("\n".join(_NUISANCE))
    assert reply.value == {"seen": "print"} and reply.at == "hal its robot"


def test_a_server_that_a_plugin_leaves_behind_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    assert asked(code).value is not None
    end_s = time.monotonic() + 60
    while Path(f"/proc/{file.read_text()}/cmdline").exists() and time.monotonic() < end_s:
        if not Path(f"/proc/{file.read_text()}/cmdline").read_bytes():
            return  # a zombie
        time.sleep(0.01)
    assert time.monotonic() < end_s


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("print('the licence has expired', flush=True); os._exit(3)", 3, "the licence has expired"),
        ("os.kill(os.getpid(), 9)", -9, "no word"),
    ],
)
def test_a_process_that_ends_without_an_answer_is_told(code: str, status: int, words: str) -> None:
    reply = asked(code)
    assert (reply.value, reply.status, reply.at) == (None, status, "hal its robot")
    assert reply.last_words == words


def test_what_hangs_is_told_while_it_does_and_ended_with_its_line() -> None:
    slow: list[tuple[str, float]] = []
    code = "def connect():\n    while True: time.sleep(1)\nconnect()"
    reply = asked(code, 4.0, on_slow=lambda at, for_s: slow.append((at, for_s)), slow_s=0.5)
    assert (reply.value, reply.status, reply.at) == (None, None, "hal its robot")
    assert "in connect" in reply.last_words
    assert slow and slow[-1][0] == "hal its robot" and slow[0][1] >= 0.5


def test_nothing_of_it_is_left_where_a_person_stops_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*given: Any, **more: Any) -> Any:
        made.append(start(*given, **more))
        return made[-1]

    def interrupt(at: str, for_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(KeyboardInterrupt):
        asked("time.sleep(600)", on_slow=interrupt, slow_s=0.1)
    with pytest.raises(ProcessLookupError):
        os.killpg(made[0].pid, 0)


def test_what_takes_long_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(builtins, "said_by_the_watch", said, raising=False)
    (tmp_path / "slow_sdk.py").write_text(
        "import time\nend = time.monotonic() + 20\n"
        "while not any('slow_sdk' in s for s in said_by_the_watch) and time.monotonic() < end:\n"
        "    time.sleep(0.01)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with apart.report_while_slow("reading", said.append, 0.05):
        importlib.import_module("slow_sdk")
    assert any(s.startswith("reading: not ended yet") and "slow_sdk.py line" in s for s in said)
    told = len(said)
    with apart.report_while_slow("quick", said.append, 60.0):
        pass
    assert len(said) == told
