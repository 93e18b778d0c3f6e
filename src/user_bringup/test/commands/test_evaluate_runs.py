"""`user evaluate` on records of runs, of today and of earlier releases."""

import json
from pathlib import Path

import pytest
import yaml

from user_bringup.cli.main import main
from user_core.codecs.weights import encode_version
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.plugins import PluginChoice
from user_core.types import PolicyVersion

POLICY = {"plugin": "user_core.fakes:LinearGaussianPolicy", "params": {}}
ROBOT = "robot: {plugin: fake, params: {episode_steps: 9}}\n"


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    spec = FakeRobot(FakeRobotConfig()).spec
    arrays = PluginChoice(**POLICY).build("policies", spec).arrays()
    file = tmp_path / "policy.safetensors"
    file.write_bytes(encode_version(PolicyVersion(12, arrays)))
    return file


def run(folder: Path, hal: dict, *, learner: Path | None = None, **actor) -> Path:
    """The folder of a run with these processes."""
    folder.mkdir()
    processes = [
        {"name": "hal", "package": "user_hal", "executable": "hal_node", "namespace": "/arm",
         "parameters": {**hal, "state_dir": str(folder / "state")}},
        {"name": "actor", "package": "user_actor", "executable": "actor_node",
         "namespace": "/arm", "parameters": {"policy": POLICY, **actor}},
    ]  # fmt: skip
    if learner is not None:
        processes.append(
            {"name": "learner", "package": "user_learner", "executable": "learner_node",
             "parameters": {"policy": POLICY, "directory": str(learner.parent)}}
        )  # fmt: skip
    record = yaml.safe_dump({"name": "test", "processes": processes})
    (folder / "deployment.yaml").write_text(record, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "hal",
    [
        {"robot": {"plugin": "fake", "params": {"episode_steps": 9}}},
        {"driver": "fake", "params": {"episode_steps": 9}},
        {"driver": "fake", "params": "{episode_steps: 9}"},
        {"robot_file": "FILE", "params": "{}"},
        {"robot_file": "FILE", "robot": {"params": {}}},
    ],
    ids=["now", "driver", "text", "edge", "robot file"],
)
def test_a_run_of_any_age_is_evaluated(tmp_path, policy_file, hal, capsys) -> None:
    (tmp_path / "arm.yaml").write_text(ROBOT, encoding="utf-8")
    if "robot_file" in hal:
        hal = {**hal, "robot_file": str(tmp_path / "arm.yaml")}
    folder = run(
        tmp_path / "run", hal, learner=policy_file, reward={"plugin": "task", "params": "{}"}
    )
    assert main(["evaluate", str(folder), "--episodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "of 2 episodes succeed with policy version 12" in text and "safety gate:" in text
    written = json.loads((folder / "evaluation.json").read_text())
    assert written["policy_version"] == 12 and written["mean_length"] <= 9


def test_a_run_whose_learner_was_elsewhere_takes_its_policy_file(
    tmp_path, policy_file, capsys
) -> None:
    hal = {"robot": {"plugin": "fake"}}
    folder = run(tmp_path / "run", hal, loop={"max_episode_steps": 3})
    assert main(["evaluate", str(folder)]) == 1
    assert "--policy" in capsys.readouterr().err
    for wrong, told in ((tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        assert main(["evaluate", str(folder), "--policy", str(wrong)]) == 1
        error = capsys.readouterr().err
        assert f"policy file {wrong}: got {told}" in error
    assert main(["evaluate", str(folder), "--policy", str(policy_file), "--episodes", "2"]) == 0
    assert "mean length 3.0 steps" in capsys.readouterr().out


def test_what_is_misspelt_is_told_with_its_path(tmp_path, policy_file, capsys) -> None:
    folder = run(tmp_path / "run", {"robot": {"plugin": "fake"}}, learner=policy_file)
    for word, told in (
        ("hal.robot.params.episode_step:=3", "did you mean 'episode_steps'?"),
        ("hal.safety.bound.low:=[0]", "unknown key 'hal.safety.bound'"),
        ("actor.loop.max_steps:=3", "unknown key 'actor.loop.max_steps'"),
        ("learner.batch:=3", "no such process"),
    ):
        assert main(["evaluate", str(folder), word]) == 1
        assert told in capsys.readouterr().err
