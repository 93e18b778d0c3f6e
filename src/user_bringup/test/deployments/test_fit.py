"""What does not fit each other is found before anything starts, whatever a plugin does meanwhile."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from user_bringup.running import find_deployment, fit, prepare_run
from user_bringup.running.apart import Reply
from user_bringup.running.fit import _robot, find_out
from user_core.plugins import PluginChoice
from user_core.rewards.classifier import ClassifierModel, make_network, write_model
from user_core.specs import ArraySpec
from user_core.types import EpisodeKey, Outcome, TrajectorySchema
from user_learner.replay import StoreWriter
from user_learner.replay.meaning import write_meaning
from user_learner.training.checkpoint import Checkpoint, CheckpointInfo, CheckpointStore
from user_testing.worlds.replay import blank_episode, whole_episode

POLICY = {"plugin": "tanh_gaussian", "params": {"hidden": [8]}}
IMAGES = {"plugin": "tanh_gaussian", "params": {"hidden": [8], "observations": ["image_front"]}}
SAC = {"plugin": "sac", "params": {"critic_hidden": [8]}}


def request(
    env: str, policy: dict[str, Any] = POLICY, asks: bool = False, **robot: Any
) -> dict[str, Any]:
    given = robot or {"plugin": "gymnasium", "params": {"env_id": env}}
    parameters = {
        "hal_node": {"robot": given},
        "actor_node": {"policy": policy, "reward": {"plugin": "task"}},
        "learner_node": {
            "directory": "learner", "store": "replay", "policy": policy, "algorithm": SAC,
        },
    }  # fmt: skip
    processes = [
        {"name": kind.removesuffix("_node"), "kind": kind, "namespace": "", "parameters": values}
        for kind, values in parameters.items()
    ]
    return {"processes": processes, "asks_success": asks}


def test_what_fits_has_no_faults() -> None:
    found = find_out(request("Pendulum-v1"))
    assert (found.faults, found.notes) == ([], [])


def test_the_policy_of_learner_and_robots_that_are_alike_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, made = request("Pendulum-v1"), []
    build = PluginChoice.build

    def counted(choice: PluginChoice, kind: str, *args: Any, **keywords: Any) -> Any:
        made.append(kind)
        return build(choice, kind, *args, **keywords)

    monkeypatch.setattr(PluginChoice, "build", counted)
    first = [p for p in asked["processes"] if p["name"] in ("hal", "actor")]
    for i, policy in enumerate((POLICY, POLICY, IMAGES)):
        for entry in first:
            name, parameters = f"robot{i}.{entry['name']}", dict(entry["parameters"])
            if entry["name"] == "actor":
                parameters |= {"policy": policy, "robot": f"robot{i}"}
            asked["processes"].append(
                {**entry, "name": name, "namespace": f"robot{i}", "parameters": parameters}
            )
    found = find_out(asked)
    assert [name for name, _ in found.faults] == ["robot2.actor"]
    assert made.count("policies") == 2  # that of all, and the one that does not fit


def test_a_policy_that_looks_at_images_does_not_fit_a_robot_without() -> None:
    found = find_out(request("Pendulum-v1", IMAGES))
    assert [name for name, _ in found.faults] == ["learner", "actor"]
    for _, text in found.faults:
        assert "Pendulum-v1" in text and "image_front" in text and "state" in text


def test_a_reward_that_looks_at_what_the_robot_does_not_show_does_not_fit(tmp_path: Path) -> None:
    model = ClassifierModel({"image_wrist": (32, 32, 3)}, 32)
    write_model(tmp_path / "model.safetensors", model, make_network(model))
    for reward, word in (
        ({"plugin": "classifier", "params": {"model": str(tmp_path / "model.safetensors")}}, "image_wrist"),
        ({"plugin": "pose_threshold", "params": {"goal": [0.5, 0.0, 0.2]}}, "tcp_pose"),
    ):  # fmt: skip
        asked = request("Pendulum-v1")
        (actor,) = (p for p in asked["processes"] if p["kind"] == "actor_node")
        actor["parameters"]["reward"] = reward
        ((name, text),) = find_out(asked).faults
        assert name == "actor" and word in text


def test_choices_fit_the_shipped_policy_and_algorithm_natively_and_as_floats() -> None:
    for discrete in ("choices", "argmax"):
        params = {"env_id": "CartPole-v1", "discrete": discrete}
        assert find_out(request("", plugin="gymnasium", params=params)).faults == []


def test_hindsight_needs_a_robot_that_shows_a_goal() -> None:
    asked = request("Pendulum-v1")
    learner = asked["processes"][2]["parameters"]
    learner["sampler"] = {"hindsight": {"strategy": "future"}}
    [(name, text)] = find_out(asked).faults
    assert name == "learner"
    assert "'achieved_goal', which is no observation" in text and "['state']" in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"gpus": 64}, r"gpus: got 64, expected (at most \d+|0, which)"),
        ({"ranks": 3}, "batch_size: got 256, expected a multiple of the 3 processes"),
    ],
)
def test_several_processes_need_their_gpus_and_batches_that_they_can_share(
    more: dict[str, int], says: str
) -> None:
    asked = request("Pendulum-v1")
    asked["processes"][2]["parameters"] |= more
    [(name, text)] = find_out(asked).faults
    assert name == "learner"
    assert re.search(says, text), text


def test_what_cannot_be_spread_over_processes_is_refused_with_why() -> None:
    def why(algorithm: str) -> str:
        asked = request("Pendulum-v1")
        spread = {"plugin": algorithm, "params": {"shard": "blocks"}}
        asked["processes"][2]["parameters"] |= {"algorithm": spread}
        [(name, text)] = find_out(asked).faults
        assert name == "learner"
        return text

    assert "several losses" in why("sac") and "hg_dagger" in why("rlpd")
    assert "TanhGaussianNetwork" in why("bc")


class Counting(gymnasium.Env[Any, Any]):
    """Takes a number of many: no choice that a categorical policy could make."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(0, 100_000, (1,), np.int32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, False, False, {}


gymnasium.register("UserCounting-v0", Counting, disable_env_checker=True)


def test_what_has_no_algorithm_is_refused_before_anything_starts() -> None:
    found = find_out(request("UserCounting-v0"))
    said = [text for name, text in found.faults if name == "learner"]
    assert said and "integers that are no choices (int32" in said[0] and "argmax" in said[0]


class Wrong(gymnasium.Env[Any, Any]):
    """Shows an image of floats where its space says bytes."""

    observation_space = gymnasium.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros((20, 20, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.full((20, 20, 3), 0.5), 0.0, False, False, {}


gymnasium.register("UserWrong-v0", Wrong, disable_env_checker=True)


def test_an_environment_that_cannot_make_a_step_is_refused() -> None:
    ((name, text),) = find_out(request("UserWrong-v0", IMAGES | {"params": {"hidden": [8]}})).faults
    assert name == "hal" and "UserWrong-v0" in text and "'image'" in text and "0.5" in text


def test_what_a_driver_warns_of_is_told() -> None:
    many = {"env_id": "CartPole-v1", "discrete": "argmax", "ignore": [], "render_image": False}
    stacked = {"target": "FrameStackObservation", "kwargs": {"stack_size": 300}}
    params = {**many, "wrappers": [stacked]}
    (note,) = find_out(request("", plugin="gymnasium", params=params)).notes
    assert "CartPole-v1" in note and "1200 numbers" in note


def test_a_misspelt_environment_is_one_fault_with_its_name() -> None:
    ((name, text),) = find_out(request("Pendulm-v1")).faults
    assert name == "hal" and "Pendulm-v1" in text and "Did you mean" in text


def test_a_simulation_that_never_says_success_is_told_to_who_asks() -> None:
    (note,) = find_out(request("Pendulum-v1", asks=True)).notes
    assert "Pendulum-v1" in note and "--until-success can never be reached" in note


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "os._exit(0) was called"),
        ("import os; os.abort()", "ended the process that makes it (exit code -6)"),
        ("import ctypes; ctypes.string_at(0)", "(exit code -11)"),
        ("raise TypeError('no such arm')", "TypeError: no such arm"),
    ],
)
def test_whatever_a_driver_does_while_it_is_made_is_told(
    code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked_with_a_robot_that(code, monkeypatch)
    ((name, text),) = found.faults
    assert name == "hal" and words in text


def asked_with_a_robot_that(
    code: str, monkeypatch: pytest.MonkeyPatch, env: str = "", timeout_s: float = 60.0
) -> fit.Fit:
    """What is found where a robot does this while it is made, or an environment in its first step."""
    target = "environment.step" if env else "mock.MockRobot.__init__"
    program = (
        "from user_bringup.running import fit\n"
        "from user_hal.robots import mock\n"
        "import sys, gymnasium.envs.classic_control.pendulum as pendulum\n"
        "environment = pendulum.PendulumEnv\n"
        f"was = {target}\n"
        f"def broken(self, *given):\n    exec({code!r})\n    return was(self, *given)\n"
        f"{target} = broken\n"
        "sys.exit(fit.main())\n"
    )
    monkeypatch.setattr(fit, "_COMMAND", [sys.executable, "-c", program])
    monkeypatch.setattr(fit, "_TIMEOUT_S", timeout_s)
    given = request(env) if env else request("", plugin="mock", params={})
    return fit._ask(json.loads(json.dumps(given)))


def test_a_robot_that_is_never_made_is_refused_with_the_line_at_which_it_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply = Reply(None, "hal its robot", None, 'File "sdk.py", line 7 in connect')
    monkeypatch.setattr(fit, "ask", lambda *given: reply)
    ((name, text),) = fit._ask(request("", plugin="mock", params={})).faults
    assert name == "hal" and "has not ended within 120 s" in text and "in connect" in text
    learner = Reply(None, "learner policy and algorithm for 'r' (hal)", None, "")
    monkeypatch.setattr(fit, "ask", lambda *given: learner)
    found = fit._ask(request("", plugin="mock", params={}))
    assert not found.faults and "not waited for" in found.notes[0]


def test_a_run_is_not_continued_with_another_network(tmp_path: Path) -> None:
    def asked(critic_hidden: list[int], **more: Any) -> list[tuple[str, str]]:
        given = request("Pendulum-v1")
        learner = given["processes"][2]["parameters"]
        algorithm = {"plugin": "sac", "params": {"critic_hidden": critic_hidden}}
        learner |= {"directory": str(tmp_path), "algorithm": algorithm, **more}
        assert not more or fit._sign(given["processes"], False) == ""
        return find_out(given).faults

    assert asked([8]) == []
    identity = {
        "algorithm": "sac", "algorithm_config": {"critic_hidden": [16]}, "policy": "tanh_gaussian",
        "policy_config": {}, "spec": {},
    }  # fmt: skip
    (tmp_path / "checkpoints").mkdir()
    CheckpointStore(tmp_path / "checkpoints", identity).write(
        Checkpoint(CheckpointInfo(7, 7, 1, 0), {"a": np.zeros(1, np.float32)})
    )
    ((name, text),) = asked([8], start_over=False)
    assert name == "learner" and "critic_hidden" in text and "start_over" in text
    assert asked([8], start_over=True) == []


def test_what_fits_is_not_made_again_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(fit, "_ask", lambda request: asked.append(request) or fit.Fit())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def times_asked(name: str, run: str, **words: Any) -> int:
        before = len(asked)
        prepare_run(find_deployment(name), words, tmp_path, run)
        return len(asked) - before

    assert [times_asked("sim_single", run) for run in ("one", "two")] == [1, 0]
    assert times_asked("sim_single", "three", algorithm="sac") == 1
    # Nobody knows here which module registers an environment, and whether it is as it was.
    assert [times_asked("gymnasium", run) for run in ("four", "five")] == [1, 1]


def test_another_file_of_weights_is_another_question(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    policy = {"plugin": "tanh_gaussian", "params": {"of": [{"weights": str(weights)}]}}
    asked = request("", policy, plugin="mock", params={})["processes"]
    signs = [fit._sign(asked, False)]
    for content in (b"", b"1", b"12"):
        weights.write_bytes(content)
        signs.append(fit._sign(asked, False))
    assert "" not in signs and len(set(signs)) == 4
    weights.unlink()
    assert fit._sign(asked, False) == signs[0] != fit._sign(asked, True)


def test_a_file_in_a_folder_that_parameters_name_is_seen_to_change(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"first")
    before = fit._files({"checkpoint": str(tmp_path)})
    assert fit._files({"checkpoint": str(tmp_path)}) == before
    weights.write_bytes(b"second")  # in place: the folder itself stays as it is
    assert fit._files({"checkpoint": str(tmp_path)}) != before
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert fit._files({"checkpoint": str(tmp_path)})


def _demonstrations(place: Path, **changes: Any) -> Path:
    """A store of one episode of the pendulum, or of a robot that is like it but for these changes."""
    _, pendulum = _robot({"robot": {"plugin": "gymnasium", "params": {"env_id": "Pendulum-v1"}}})
    spec = replace(pendulum, **changes)
    schema = TrajectorySchema.of(spec)
    with StoreWriter(place) as writer:
        columns = blank_episode(schema, 5)
        writer.append(whole_episode(EpisodeKey("a", 1, 0), schema, columns, Outcome.SUCCESS))
        assert writer.commit()
    write_meaning(place, spec)
    return place


STATE = ArraySpec((3,), "float32", (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation": {"state": STATE, "image_front": ArraySpec((8, 8, 3), "uint8")}}, "image_front uint8 8x8x3, expected image_front left out. `user replay convert"),
        ({"observation": {"image_front": ArraySpec((8, 8, 3), "uint8")}}, "state is not there"),
        ({"action": ArraySpec((2,), "float32", -2.0, 2.0)}, "action float32 2, expected action float32 1. Record"),
        ({"action": ArraySpec((1,), "float32", -90.0, 90.0)}, "data.accept_differences: [bounds]"),
        ({"period_s": 0.1}, "10 Hz"),
    ],
    ids=["one camera too many", "no state", "another action", "other units", "another rate"],
)  # fmt: skip
def test_demonstrations_of_another_robot_are_told_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    asked = request("Pendulum-v1")
    given = asked["processes"][2]["parameters"]
    given["demonstrations"] = str(_demonstrations(tmp_path / "own"))
    assert find_out(asked).of_data == []
    given["demonstrations"] = str(_demonstrations(tmp_path / "other", **changes))
    [(name, text)] = find_out(asked).of_data
    assert name == "learner" and said in text
    given["history"] = [{"path": given.pop("demonstrations")}]
    [(_, text)] = find_out(asked).of_data
    assert said in text and str(tmp_path / "other") in text


def test_what_is_no_store_and_no_training_is_told_with_what_makes_one(tmp_path: Path) -> None:
    asked = request("Pendulum-v1")
    given = asked["processes"][2]["parameters"]
    info = tmp_path / "meta" / "info.json"
    info.parent.mkdir()
    info.write_text('{"codebase_version": "v3.0", "fps": 10, "features": {}}')
    given["demonstrations"] = str(tmp_path)
    [(_, text)] = find_out(asked).of_data
    assert "format lerobot" in text and f"`user data import {tmp_path} --into STORE`" in text
    given |= {"demonstrations": "", "start_from": str(tmp_path)}
    [(_, text)] = find_out(asked).of_data
    assert "start_from" in text and "policy" in text
    given["start_from"] = "a" * 300
    [note] = find_out(asked).notes
    assert "its data could not be looked at" in note and "name too long" in note
    assert fit._sign(asked["processes"], False) == "", (
        "data may change: they are looked at each time"
    )


@pytest.mark.parametrize("index", [b"", b"no database"])
def test_a_run_whose_index_a_power_cut_damaged_goes_on(tmp_path: Path, index: bytes) -> None:
    """Its learner rebuilds it from the segments."""
    asked = request("Pendulum-v1")
    given = asked["processes"][2]["parameters"]
    store = _demonstrations(tmp_path / "store")
    (store / "index.sqlite").write_bytes(index)
    given["demonstrations"] = str(store)
    [(_, text)] = find_out(asked).of_data
    assert "damaged" in text, "what is only read stays as it is"
    given |= {"demonstrations": "", "store": str(store)}
    found = find_out(asked)
    assert found.of_data == [] and found.notes == []
    with StoreWriter(store) as writer:
        assert "index rebuilt" in " ".join(writer.warnings)


def test_robots_with_another_policy_than_the_learner_are_told_which_side_has_what() -> None:
    """Each by itself is right: they would refuse every version."""
    asked = request("Pendulum-v1")
    asked["processes"][1]["parameters"]["policy"] = {"plugin": "tanh_gaussian", "params": {"hidden": [16], "seed": 7}}  # fmt: skip
    [(name, text)] = find_out(asked).faults
    assert (
        name == "actor"
        and "policy: got hidden [16], expected hidden [8], as the learner has it" in text
    )
    asked["processes"][1]["parameters"]["remote"] = {"enabled": True}  # whose policy acts elsewhere
    assert find_out(asked).faults == []
    asked = request("Pendulum-v1")
    asked["processes"][1]["parameters"]["policy"] = {**POLICY, "params": {"hidden": [8], "seed": 7}}
    assert find_out(asked).faults == [], "robots explore differently"
