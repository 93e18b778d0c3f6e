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
from user_core.specs import ArraySpec, RobotSpec
from user_testing.waiting import wait_until

SPEC = RobotSpec("arm", {"x": ArraySpec((3,))}, ArraySpec((3,), low=-1.0, high=1.0))
#: What looks it up says so in a file, and takes its time.
PROGRAM = """
import sys, time
from user_core.policies.lerobot import history
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.specs import RobotSpec
import json

def asked(config, spec, until_s):
    with open(sys.argv[2], "a") as file:
        file.write("asked\\n")
    time.sleep(float(sys.argv[3]))
    return 3

history._apart = asked
print(history.history_of(LeRobotConfig(type="act"), RobotSpec.from_dict(json.loads(sys.argv[1]))))
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

    def begin(takes_s, robot="arm"):
        spec = json.dumps(RobotSpec(robot, SPEC.observation, SPEC.action).to_dict())
        words = [sys.executable, "-c", PROGRAM, spec, str(tmp_path / "asked"), str(takes_s)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_of_processes_that_begin_at_once_one_looks_it_up(package, start, tmp_path):
    processes = [start(0.5, robot=f"robot{number}") for number in range(4)]
    assert [p.communicate(timeout=60)[0] for p in processes] == ["3\n"] * 4
    assert (tmp_path / "asked").read_text() == "asked\n"
    (kept,) = (tmp_path / "cache/user/histories").glob("[0-9a-f]*[0-9a-f]")
    kept.write_text("{")  # a disk without power
    assert start(0.0).communicate(timeout=60)[0] == "3\n"
    assert json.loads(kept.read_text()) == {"history": 3}


def test_one_that_is_killed_meanwhile_is_followed_by_the_next(package, start, tmp_path):
    first = start(600.0)
    wait_until(lambda: (tmp_path / "asked").exists(), 60)
    others = [start(0.1), start(0.1)]
    time.sleep(0.5)
    assert [other.poll() for other in others] == [None, None], "they wait for it"
    first.kill()
    assert [other.communicate(timeout=60)[0] for other in others] == ["3\n", "3\n"]
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


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
    assert not list((tmp_path / "cache/user/histories").glob("[0-9a-f]*[0-9a-f]")), "it is not kept"
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
