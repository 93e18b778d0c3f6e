"""The number of observations that a policy of LeRobot sees at once, looked up once for all processes of a host."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from types import ModuleType

import pytest

from user_core.errors import ConfigError, PluginError
from user_core.policies.lerobot import history
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.runtime.locks import FileLock
from user_core.specs import ArraySpec, RobotSpec
from user_testing.waiting import wait_until

SPEC = RobotSpec("arm", {"x": ArraySpec((3,))}, ArraySpec((3,), low=-1.0, high=1.0))
#: What looks it up says so in a file, and takes its time.
PROGRAM = """
import sys, time
from user_core.errors import PluginError, SuiteError
from user_core.policies.lerobot import history
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.specs import RobotSpec
import json

def asked(config, spec, until_s):
    with open(sys.argv[2], "a") as file:
        file.write("asked\\n")
    time.sleep(float(sys.argv[3]))
    if sys.argv[4] == "refused":
        raise PluginError("policy act", got="no torchvision", expected="it", hint="install it")
    if sys.argv[4] == "killed":
        raise history._Unanswered("ended with -9")
    return 3

history._apart = asked
spec = RobotSpec.from_dict(json.loads(sys.argv[1]))
print("begun", flush=True)
try:
    print(history._known(LeRobotConfig(type="act"), spec))
except (SuiteError, history._Unanswered) as error:
    print(type(error).__name__, str(error).splitlines())
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package lerobot in place of the real one, if that is there; and caches of this test's own."""
    folder = tmp_path / "packages" / "lerobot"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{os.environ.get('PYTHONPATH', '')}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lerobot"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(takes_s, robot="arm", how=""):
        spec = json.dumps(RobotSpec(robot, SPEC.observation, SPEC.action).to_dict())
        words = [sys.executable, "-c", PROGRAM, spec, str(tmp_path / "asked"), str(takes_s), how]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said_by(process):
    return process.communicate(timeout=60)[0].removeprefix("begun\n")


def test_of_processes_that_begin_at_once_one_looks_it_up(package, start, tmp_path):
    processes = [start(0.5, robot=f"robot{number}") for number in range(4)]
    assert [said_by(p) for p in processes] == ["3\n"] * 4
    assert (tmp_path / "asked").read_text() == "asked\n"
    (kept,) = (tmp_path / "cache/user/histories").glob("[0-9a-f]*[0-9a-f]")
    kept.write_text("{")  # a disk without power
    assert said_by(start(0.0)) == "3\n"
    assert json.loads(kept.read_text()) == {"history": 3}


def test_one_that_is_killed_meanwhile_is_followed_by_the_next(package, start, tmp_path):
    first = start(600.0)
    wait_until(lambda: (tmp_path / "asked").exists(), 60)
    others = [start(0.1), start(0.1)]
    time.sleep(0.5)
    assert [other.poll() for other in others] == [None, None], "they wait for it"
    first.kill()
    assert [said_by(other) for other in others] == ["3\n", "3\n"]
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


@pytest.mark.parametrize(("how", "said"), [("refused", "PluginError"), ("killed", "_Unanswered")])
def test_who_waits_gets_the_error_and_who_comes_later_asks_anew(
    package, start, tmp_path, how, said
):
    first = start(600.0, how=how)
    wait_until(lambda: (tmp_path / "asked").exists(), 60)
    others = [start(0.3, robot=f"robot{number}", how=how) for number in range(3)]
    assert [other.stdout.readline() for other in others] == ["begun\n"] * 3
    first.kill()  # one of the others finds it out
    found = [other.communicate(timeout=60)[0] for other in others]
    assert found[0].startswith(said) and set(found) == {found[0]}
    assert (tmp_path / "asked").read_text() == "asked\n" * 2
    assert said_by(start(0.0)) == "3\n", "it may have been mended"
    assert said_by(start(0.0, how=how)) == "3\n"
    assert (tmp_path / "asked").read_text() == "asked\n" * 3


def test_the_newest_questions_are_kept(package, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_MOST", 3)
    monkeypatch.setattr(history, "_apart", lambda config, spec, until_s: 2)
    folder = tmp_path / "cache/user/histories"

    def ask(chunk_size):
        config = LeRobotConfig(type="act", config={"chunk_size": chunk_size})
        assert history.history_of(config, SPEC) == 2
        return next(one for one in newest_first() if one.suffix == "")

    def newest_first():
        return sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns, reverse=True)

    used, old, killed = ask(1), ask(2), ask(3)
    killed.with_name(f".{killed.name}.tmp").write_text("{")  # of one that was killed
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    held = FileLock(used.with_suffix(".lock"))
    try:
        os.utime(used.with_suffix(".lock"), (1, 1))
        newest = [ask(n) for n in range(4, 7)]
    finally:
        held.release()
    kept = {file.name for file in folder.iterdir()}
    assert {one.name for one in (used, *newest)} == {n for n in kept if "." not in n}
    assert not {n for n in kept if old.name in n or killed.name in n}
    newest.append(ask(7))
    assert len(list(folder.iterdir())) == 6, "an answer and a lock each"
    assert not used.exists() and not newest[0].exists()


def test_another_question_is_asked_anew(package, tmp_path, monkeypatch):
    answers = iter(range(1, 20))
    monkeypatch.setattr(history, "_apart", lambda config, spec, until_s: next(answers))
    place, of_others = tmp_path / "policy", tmp_path / "packages" / "others_policy.py"
    place.mkdir()
    (place / "config.json").write_text('{"n_obs_steps": 1}')
    of_others.write_text("steps = 1")

    def ask(spec=SPEC, **params):
        return history.history_of(LeRobotConfig(**params), spec)

    assert ask(type="act") == ask(type="act", instruction="reach", seed=3) == 1
    assert ask(type="act", config={"chunk_size": 8}) == 2
    assert ask(spec=RobotSpec("arm", {"y": ArraySpec((2,))}, SPEC.action), type="act") == 3
    assert ask(checkpoint=str(place)) == ask(checkpoint=str(place)) == 4
    (place / "config.json").write_text('{"n_obs_steps": 2}')
    assert ask(checkpoint=str(place)) == 5
    assert ask(type="x", modules=("others_policy",)) == 6
    of_others.write_text("steps = 10")
    assert ask(type="x", modules=("others_policy",)) == 7
    assert ask(checkpoint="owner/name") == ask(checkpoint="owner/name") == 8
    monkeypatch.setattr(history, "_OF_HUB_S", 0.0)
    assert ask(checkpoint="owner/name") == 9, "on a hub it may be another meanwhile"
    (package / "__init__.py").write_text("__version__ = 'another'")
    assert ask(type="act") == 10
    monkeypatch.setitem(sys.modules, "made", ModuleType("made"))
    assert ask(type="x", modules=("made",)) == 11, "it has no code that could be looked at"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert [ask(type="act"), ask(type="act")] == [12, 13], "without a place to keep it"


def test_what_could_not_be_found_out_is_an_error(package, tmp_path, monkeypatch):
    (package / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(PluginError, match="ended with -9") as error:
        history.history_of(LeRobotConfig(type="act"), SPEC)
    assert "n_obs_steps: N" in error.value.hint
    said = LeRobotConfig(type="act", config={"n_obs_steps": 2})
    assert history.history_of(said, SPEC) == 2, "the parameters say it"
    (package / "__init__.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(history, "_LIMIT_S", 0.5)
    with pytest.raises(PluginError, match=r"no answer within 0 s"):
        history.history_of(LeRobotConfig(type="act"), SPEC)


@pytest.mark.skipif(find_spec("lerobot") is None, reason="LeRobot is not installed: USER_EXTRA=lerobot make setup")  # fmt: skip
def test_lerobot_is_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "lerobot.policies", raising=False)
    spec = RobotSpec("arm", {"image_front": ArraySpec((64, 64, 3), "uint8")}, SPEC.action)
    two = LeRobotConfig(type="diffusion", config={"n_obs_steps": 2})
    assert history.history_of(two, spec) == 2
    wrong = LeRobotConfig(type="diffusion", config={"n_obs_step": 2})
    with pytest.raises(ConfigError, match="n_obs_step"):
        history.history_of(wrong, spec)
    monkeypatch.setattr(sys, "executable", "/nowhere")  # nobody can be asked any more
    assert history.history_of(two, spec) == 2
    with pytest.raises(PluginError, match="nowhere"):
        history.history_of(LeRobotConfig(type="act"), spec)
