"""What does not fit each other is found before anything starts, whatever a plugin does meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from user_bringup.running import fit
from user_bringup.running.fit import find_out

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


def test_a_policy_that_looks_at_images_does_not_fit_a_robot_without() -> None:
    found = find_out(request("Pendulum-v1", IMAGES))
    assert [name for name, _ in found.faults] == ["learner", "actor"]
    for _, text in found.faults:
        assert "Pendulum-v1" in text and "image_front" in text and "state" in text


def test_discrete_actions_without_an_algorithm_are_refused() -> None:
    found = find_out(request("CartPole-v1"))
    said = [text for name, text in found.faults if name == "learner"]
    assert said and "discrete actions (int64" in said[0] and "discrete:=argmax" in said[0]
    as_floats = {"env_id": "CartPole-v1", "discrete": "argmax"}
    assert find_out(request("", plugin="gymnasium", params=as_floats)).faults == []


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
        ("import os; os._exit(0)", "ended the process that makes it (exit code 0)"),
        ("import os; os.abort()", "ended the process that makes it (exit code -6)"),
        ("raise TypeError('no such arm')", "TypeError: no such arm"),
    ],
)
def test_whatever_a_driver_does_while_it_is_made_is_told(
    code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "from user_hal.robots import mock\n"
        "from user_bringup.running import fit\n"
        "import sys\n"
        f"def broken(self, *given): exec({code!r})\n"
        "mock.MockRobot.__init__ = broken\n"
        "sys.exit(fit.main())\n"
    )
    run = subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        assert command[1:] == ["-m", "user_bringup.running.fit"]
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr(fit.subprocess, "run", instead)
    found = fit._ask(json.loads(json.dumps(request("", plugin="mock", params={}))))
    ((name, text),) = found.faults
    assert name == "hal" and words in text
