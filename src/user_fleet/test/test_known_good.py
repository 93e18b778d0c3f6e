import json
import os
import subprocess
import sys

from user_core.config import Config, setting, yaml_value
from user_core.plugins import PluginChoice
from user_fleet.deployment import Faults
from user_fleet.deployment.check import check_plugins
from user_fleet.deployment.known_good import KnownGood, key_of_choice
from user_fleet.deployment.tree import Origin, tree_of


class Chooser(Config):
    reward: PluginChoice = setting(doc="What judges.")


def faults_of(plugin="pose_threshold", **params):
    faults = Faults()
    if plugin == "pose_threshold":
        params["goal_observation"] = "goal_position"
    choice = {"plugin": plugin, "params": params}
    tree = tree_of({"actor": {"reward": choice}}, Origin("here:1"))
    check_plugins(Chooser(reward=choice), ("actor",), faults, tree)
    return faults.found


def test_only_what_is_right_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "user" / "known_good.json"
    inner = {"base": {"plugin": "pose_threshold", "params": {"position_m": "far"}}}
    assert faults_of(position_m="far")
    assert faults_of("operator", **inner)  # of a plugin that a plugin chooses
    assert not file.exists()
    for _ in range(2):
        assert not faults_of(position_m=0.1)
        assert len(json.loads(file.read_text())) == 1
    assert faults_of(position_m="far")
    file.write_text("{broken")
    assert not faults_of(position_m=0.1)


def test_a_key_is_of_parameters_and_source_but_not_of_a_seed(tmp_path):
    key = key_of_choice("rewards", "pose_threshold", {"position_m": 0.1})
    assert key == key_of_choice("rewards", "pose_threshold", {"position_m": 0.1, "seed": 3})
    read = yaml_value("{position_m: 0.10, seed: 3}")
    assert key == key_of_choice("rewards", "pose_threshold", read)
    assert key != key_of_choice("rewards", "pose_threshold", {"position_m": 0.2})
    assert key != key_of_choice("rewards", "pose_threshold", {"position_m": 0.1, "seed": "x"})
    assert not key_of_choice("rewards", "there_is_none", {})
    assert not key_of_choice("rewards", "json:JSONDecoder", {})
    assert not KnownGood(tmp_path / "none.json").has("")


def test_what_is_known_to_be_right_is_not_imported(tmp_path):
    code = (
        "import sys\n"
        "from user_core.config import Config, setting\n"
        "from user_core.plugins import PluginChoice\n"
        "from user_fleet.deployment import Faults\n"
        "from user_fleet.deployment.check import check_plugins\n"
        "from user_fleet.deployment.tree import Origin, tree_of\n"
        "class Chooser(Config):\n"
        "    robot: PluginChoice = setting(doc='The driver.')\n"
        "made = Chooser(robot={'plugin': 'mock', 'params': {}})\n"
        "check_plugins(made, (), Faults(), tree_of({}, Origin('x')))\n"
        "print('user_hal.robots.mock' in sys.modules)\n"
    )

    def imported():
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert [imported(), imported()] == ["True", "False"]
