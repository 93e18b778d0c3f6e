"""Code that is not ours can end a process of ours neither in silence nor with a status of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from user_core import plugins
from user_core.errors import PluginError
from user_core.runtime.processes.foreign_code import ExitCalled, exits_are_errors, report_if_ended

_EXIT = os._exit


def test_an_exit_is_an_error_within_the_block_only() -> None:
    with exits_are_errors():
        from os import _exit  # as a module may, for later

        with exits_are_errors(), pytest.raises(ExitCalled):
            _exit(0)
        with pytest.raises(ExitCalled, match=r"os._exit\(3\) was called"):
            os._exit(3)
    assert os._exit is _EXIT
    code = (
        "from user_core.runtime.processes.foreign_code import exits_are_errors\n"
        "with exits_are_errors():\n    from os import _exit\n"
        "_exit(5)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 5


def test_forked_processes_and_other_threads_end_as_they_mean_to() -> None:
    with exits_are_errors():
        process = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
        process.start()
        process.join(60)
        assert process.exitcode == 7
    code = (
        "import os, threading, time\n"
        "from user_core.runtime.processes.foreign_code import exits_are_errors\n"
        "with exits_are_errors():\n"
        "    threading.Thread(target=os._exit, args=(6,)).start()\n    time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=40).returncode == 6


@pytest.mark.parametrize(
    "ending",
    [
        "os._exit(0)",
        "os.kill(os.getpid(), 9)",
        "os.abort()",
        "os.killpg(os.getpid(), 9)",  # as a supervisor does with what a process left behind
    ],
)
def test_an_end_is_told_whatever_ends_the_process(ending: str) -> None:
    code = (
        "import os\nfrom user_core.runtime.processes.foreign_code import report_if_ended\n"
        f"with report_if_ended('while \"x\" $HOME was made'): {ending}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=40,
        start_new_session=True,
    )  # fmt: skip
    assert 'while "x" $HOME was made' in done.stderr


def test_who_leaves_in_good_order_or_by_an_error_is_not_told_of(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with report_if_ended("ended"):
        pass
    with pytest.raises(KeyError), report_if_ended("ended"):
        raise KeyError
    assert "ended" not in capfd.readouterr().err


def test_a_witness_that_gets_no_processor_disturbs_nobody(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    witnesses: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: witnesses.append(start(*a, **k)) or witnesses[-1]
    )
    with report_if_ended("ended"):
        (witness,) = witnesses
        witness.send_signal(signal.SIGSTOP)
    witness.send_signal(signal.SIGCONT)
    assert witness.wait(40) == 0
    assert "ended" not in capfd.readouterr().err


_PLUGIN = """
import os
from user_core.config import Config
from user_core.interfaces import Reward
{imported}
class Rude(Reward):
    class Config(Config): pass
    def __init__(self, config):
        {made}
    def __call__(self, *given): ...
"""


@pytest.mark.parametrize(
    ("name", "ending", "words"),
    [("exits", "os._exit(0)", "os._exit(0) was called"), ("raises", "exit(0)", "SystemExit: 0")],
)
def test_a_plugin_that_ends_the_process_while_it_is_imported_or_made_is_an_error(
    name: str, ending: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(_PLUGIN.format(imported=ending, made="pass"))
    (tmp_path / f"{name}_late.py").write_text(_PLUGIN.format(imported="", made=ending))
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, when in ((name, "imported"), (f"{name}_late", "made")):
        with pytest.raises(PluginError) as caught:
            plugins.build("rewards", f"{module}:Rude")
        said = f"plugin '{module}:Rude' ({module}:Rude) cannot be {when}: got "
        assert str(caught.value).startswith(said) and words in str(caught.value)
    assert os._exit is _EXIT


@pytest.mark.parametrize("where", ["imported", "made"])
def test_a_plugin_that_crashes_is_named(where: str, tmp_path: Path) -> None:
    crash = {"imported": "", "made": "pass", where: "import ctypes; ctypes.string_at(0)"}
    (tmp_path / "crashing.py").write_text(_PLUGIN.format(**crash))
    code = "from user_core import plugins; plugins.build('rewards', 'crashing:Rude')"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode < 0
    said = f"this process ended while plugin 'crashing:Rude' (crashing:Rude) was being {where}"
    assert said in done.stderr
