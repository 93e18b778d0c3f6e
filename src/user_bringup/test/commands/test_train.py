"""`user train`: from stored data to a policy, without robots; interrupted, taken up, tried in simulation."""

import json
import threading
from contextlib import closing

import numpy as np
import pytest
import yaml
from rich.console import Console

from user_bringup.cli.policy import main as save
from user_bringup.cli.train import _shown, main
from user_bringup.demos import record_demonstrations
from user_bringup.local_robot import open_robot
from user_bringup.offline import (
    OfflineTraining,
    config_of,
    policy_of_training,
    spec_of_store,
)
from user_bringup.run_parts import RunParts
from user_core.codecs.weights import read_version
from user_core.config import Config, file_meant, from_mapping
from user_core.errors import ConfigError, SuiteError
from user_core.fakes import FakeTeleop, FakeTeleopConfig
from user_core.interfaces import TeleopCommand
from user_core.reasons import TASKS_UNTOLD, Reason
from user_core.rewards import TaskReward
from user_hal.robot_file import RobotFile
from user_learner.data.exporting import export_lerobot
from user_learner.data.importing import stores_of
from user_learner.replay.reader import StoreReader
from user_learner.training.progress import LearnerState, Progress

ROBOT = {"robot": {"plugin": "fake", "params": {"episode_steps": 30}}}
ALGORITHM = {
    "algorithm": {"plugin": "bc", "params": {"learning_rate": 0.01}},
    "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [16]}},
    "training": {
        "batch_size": 64,
        "max_updates": 300,
        "utd": {"target": 7.0},
        "metrics_period_s": 0.05,
    },
    "tensorboard": False,
}


class Expert(FakeTeleop):
    """Goes straight to the goal."""

    scripted = True

    def read(self, observation):
        way = (observation.arrays["goal"] - observation.arrays["position"]) * 5.0
        return TeleopCommand(True, np.clip(way, -1, 1).astype(np.float32), observation.stamp_ns)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    (folder / "robot.yaml").write_text(yaml.safe_dump(ROBOT))
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(ALGORITHM))
    with open_robot(
        from_mapping(RobotFile, ROBOT), Expert(FakeTeleopConfig(engage_every=1)), state_dir=None
    ) as robot:
        record_demonstrations(
            robot, TaskReward(Config()), folder / "store", 10, robot_name="fake", task="reach"
        )
    return folder


def test_from_a_store_to_a_policy_that_solves_the_task_with_curve_and_next_command(
    demos, tmp_path, capsys
):
    out = tmp_path / "out"
    words = [str(demos / "store"), "--algorithm", str(demos / "algorithm.yaml"), "--out", str(out)]
    words += ["--robot", str(demos / "robot.yaml"), "--evaluate", "5", "--every", "150"]
    assert main([*words, "learner.training.threads:=1"]) == 0
    said = capsys.readouterr().out
    assert "300 updates" in said and "best after" in said
    assert f" start_from:={out.resolve()}\n" in said, "in one line, to be copied"
    policy, number = policy_of_training(out)
    assert number == read_version(out / "learner" / "policy.safetensors").number
    assert (
        policy_of_training(out, out / "best.safetensors")[0].arrays().keys()
        == policy.arrays().keys()
    )
    with pytest.raises(ConfigError, match="TanhGaussianPolicy, which only we read"):
        save(["save", str(out), str(tmp_path / "saved")])
    with pytest.raises(SuiteError, match=r"no policy .*nowhere: expected a file of weights$"):
        policy_of_training(out, tmp_path / "nowhere")
    with pytest.raises(SuiteError, match=r"got a training, expected a folder runs.*--evaluate"):
        RunParts.load(out)
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    trials = [line for line in lines if line["kind"] == "trial"]
    assert len(trials) >= 2 and trials[-1]["update"] == 300 and trials[-1]["successes"] == 5
    assert any(line["metrics"] for line in lines if line["kind"] == "state")
    report = (out / "report.md").read_text()
    assert "| success after 300 updates | 100% of 5" in report
    assert "| gradient updates | 300 |" in report and "Staleness" not in report
    assert (out / "plots/training.png").exists() and (out / "best.safetensors").exists()
    assert yaml.safe_load((out / "train.yaml").read_text())["training"]["utd"]["target"] is None
    assert main([*words, "--updates", "320"]) == 0, "the same command goes on"
    assert "update 320: success" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["lerobot", "npz"])
def test_a_policy_cloned_from_imported_data_does_as_well(demos, tmp_path, how):
    """By way of LeRobot's format, as it was; and as data of a stranger, by a mapping."""
    more = []
    if how == "lerobot":
        pytest.importorskip("pyarrow")
        export_lerobot(demos / "store", tmp_path / "data")
    else:
        (tmp_path / "data").mkdir()
        with closing(StoreReader(demos / "store")) as reader:
            for number, episode in enumerate(reader.episodes()):
                columns = reader.read_episode(episode)
                steps = ~columns["final"]
                arrays = {
                    name.removeprefix("observation."): rows[steps]
                    for name, rows in columns.items() if name.startswith(("observation", "action"))
                }  # fmt: skip
                np.savez(tmp_path / f"data/{number}.npz", **arrays)
        spec = spec_of_store(demos / "store")
        arrays = {
            name: {
                "fields": [name],
                "low": _plain(one.low),
                "high": _plain(one.high),
                "unit": one.unit,
            }
            for name, one in {**spec.observation, "action": spec.action}.items()
        }
        action = {**arrays.pop("action"), "kind": spec.action_kind.value}
        mapping = {
            "robot": spec.robot, "period_s": spec.period_s, "success": "always",
            "observation": arrays, "action": action,
        }  # fmt: skip
        (tmp_path / "map.yaml").write_text(yaml.safe_dump(mapping))
        more = ["--map", str(tmp_path / "map.yaml")]
    out = tmp_path / "out"
    words = [str(tmp_path / "data"), *more, "--algorithm", str(demos / "algorithm.yaml")]
    words += ["--out", str(out), "--robot", str(demos / "robot.yaml"), "--evaluate", "5"]
    assert main([*words, "learner.training.threads:=1"]) == 0
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    trials = [line for line in lines if line["kind"] == "trial"]
    assert trials[-1]["successes"] == 5  # as that of the original, above


def _plain(bound):
    return bound if bound is None or np.ndim(bound) == 0 else [float(value) for value in bound]


def test_what_a_person_should_look_at_is_told_once(capsys):
    reasons = (Reason(TASKS_UNTOLD, "tasks that the policy is told: ..."),)
    with _shown(Console(), 10) as shown:
        for update in (1, 2):
            shown.progress(Progress(LearnerState.TRAINING, update, warnings=reasons))
    assert capsys.readouterr().out.count("look at: tasks that the policy is told") == 1


def test_what_was_interrupted_goes_on_where_it_was(demos, tmp_path):
    stores, _ = stores_of([demos / "store"], tmp_path / "data")
    changes = {"training": {**ALGORITHM["training"], "max_updates": None}}
    config = config_of(demos / "algorithm.yaml", stores, tmp_path / "out", changes)
    begun = threading.Event()
    training = OfflineTraining(
        tmp_path / "out", config, spec_of_store(stores[0]),
        on_progress=lambda progress: (progress.update > 20 and begun.set()) or None,
    )  # fmt: skip
    first = training.run(limit_s=0.5)
    assert begun.is_set() and first.update > 20
    last = config.replace(training=config.training.replace(max_updates=first.update + 5))
    second = OfflineTraining(tmp_path / "out", last, spec_of_store(stores[0])).run()
    assert second.update == first.update + 5


def test_a_data_set_of_another_format_is_imported_once_and_what_is_unknown_is_said(demos, tmp_path):
    from user_learner.data.exporting import export_hdf5

    export_hdf5(demos / "store", tmp_path / "data.hdf5")
    for _ in range(2):
        stores, notes = stores_of([tmp_path / "data.hdf5"], tmp_path / "out/data")
        assert stores == [tmp_path / "out/data"]
    assert spec_of_store(stores[0]) == spec_of_store(demos / "store"), notes


def test_what_cannot_be_done_is_said(demos, tmp_path):
    with pytest.raises(ConfigError, match="one of"):
        main([str(demos / "store"), "--algorithm", "magic", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="no data"):
        main(["learner.training.threads:=1", "--out", str(tmp_path)])
    with pytest.raises(SuiteError):
        main(
            [
                str(tmp_path / "nothing"),
                "--algorithm",
                str(demos / "algorithm.yaml"),
                "--out",
                str(tmp_path),
            ]
        )
    for words in (["--evaluate", "3"], ["--robot", "panda_sim", "--every", "100"]):
        with pytest.raises(ConfigError, match=r"robot|--evaluate"):
            main([str(demos / "store"), "--out", str(tmp_path), *words])
    real = tmp_path / "real.yaml"
    real.write_text(yaml.safe_dump({"robot": {"plugin": "ros2", "params": {}}}))
    with pytest.raises(SuiteError):
        main(
            [str(demos / "store"), "--out", str(tmp_path), "--robot", str(real), "--evaluate", "3"]
        )


@pytest.mark.parametrize("name", ["no_such", "~nobody_here/sac.yaml", "package://none/sac.yaml"])
def test_an_algorithm_that_is_not_there_is_said(name):
    with pytest.raises(ConfigError):
        file_meant("algorithms", name)
