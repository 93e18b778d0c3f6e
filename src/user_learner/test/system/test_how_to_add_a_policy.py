"""A policy of a user's own, as the how-to shows it, is trained by the algorithms that we ship."""

import re
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.conformance import check_algorithm
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.plugins import PluginChoice
from user_core.types import Batch
from user_learner.algorithms.imitation.bc import BC
from user_learner.algorithms.off_policy.rlpd import RLPD
from user_learner.algorithms.off_policy.sac import SAC

PAGE = Path(__file__).parents[4] / "docs/how_to/add_a_policy.md"
SPEC = FakeRobot(FakeRobotConfig()).spec
FAST = {"critic_hidden": (64, 64), "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of small operations wait for each other in busy loops."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gaussian(monkeypatch):
    """The page's first block, registered as a plugin of that name."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    package, module = types.ModuleType("my_lab"), types.ModuleType("my_lab.gaussian")
    monkeypatch.setitem(sys.modules, "my_lab", package)
    monkeypatch.setitem(sys.modules, "my_lab.gaussian", module)
    exec(compile(code, "my_lab/gaussian.py", "exec"), module.__dict__)  # noqa: S102 - our own page
    point = EntryPoint("gaussian", "my_lab.gaussian:GaussianPolicy", "user.policies")
    known = plugins.available
    monkeypatch.setattr(
        plugins,
        "available",
        lambda kind: known(kind) | ({"gaussian": point} if kind == "policies" else {}),
    )
    return code


def build(seed=0):
    choice = PluginChoice(plugin="gaussian", params={"seed": seed})
    return choice.build("policies", SPEC)


def test_it_is_short(gaussian):
    lines = [line for line in gaussian.splitlines() if line.strip()]
    assert len(lines) < 60


def test_the_check_of_the_page_passes(gaussian, capsys):
    check = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    exec(compile(check, "check.py", "exec"), {})  # noqa: S102 - our own page
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(SAC, FAST), (RLPD, {**FAST, "critics": 3, "critic_updates": 2}), (BC, {})],
)
def test_shipped_algorithms_keep_their_promises_with_it(gaussian, cls, settings):
    config = cls.Config(**settings)
    check_algorithm(
        cls(config, SPEC, build()), cls(config, SPEC, build(1)), build(2), SPEC, batch_size=8
    ).require()


def run_episodes(act, episodes, seed=0):
    """The fake robot's own task: go to the goal. Steps, and the share of successes."""
    robot = FakeRobot(FakeRobotConfig())
    robot.connect()
    rows, successes = [], 0
    for number in range(episodes):
        observation = robot.reset(seed + number)
        while True:
            action = act(observation)
            robot.command(action)
            after = robot.read()
            task = after.task
            rows.append((observation.arrays, action, task.reward, task.terminated, after.arrays))
            observation = after
            if task.terminated or task.truncated:
                break
        successes += bool(task.success)
    robot.close()
    return rows, successes / episodes


def batch_of(rows, index):
    def stacked(column):
        return {name: np.stack([rows[i][column][name] for i in index]) for name in rows[0][column]}

    reward = np.array([rows[i][2] for i in index], np.float32)
    discount = np.array([0.0 if rows[i][3] else 0.95 for i in index], np.float32)
    return Batch(stacked(0), np.stack([rows[i][1] for i in index]), reward, discount, stacked(4))


def deterministic(policy):
    return lambda observation: policy.act(observation.arrays, deterministic=True)[0]


def test_sac_learns_the_fake_robots_task_with_it(gaussian):
    policy, rng = build(), np.random.default_rng(0)
    algorithm = SAC(SAC.Config(**FAST, initial_temperature=0.1), SPEC, policy)
    _, before = run_episodes(deterministic(policy), 20, seed=1000)
    rows = []
    for round_ in range(12):
        collected, _ = run_episodes(lambda o: policy.act(o.arrays)[0], 4, seed=10 * round_)
        rows += collected
        for _ in range(len(collected)):
            algorithm.update(batch_of(rows, rng.integers(0, len(rows), 64)))
        policy.load(algorithm.policy_arrays())
    _, after = run_episodes(deterministic(policy), 20, seed=1000)
    assert before <= 0.2
    assert after >= 0.6


def test_cloning_learns_from_an_expert_with_it(gaussian):
    policy, rng = build(), np.random.default_rng(0)
    low, high = SPEC.action.low_array, SPEC.action.high_array

    def expert(observation):
        error = observation.arrays["goal"] - observation.arrays["position"]
        return np.clip(5 * error, low, high).astype(SPEC.action.dtype)

    rows, _ = run_episodes(expert, 20)
    _, before = run_episodes(deterministic(policy), 20, seed=1000)
    algorithm = BC(BC.Config(learning_rate=1e-3), SPEC, policy)
    for _ in range(400):
        algorithm.update(batch_of(rows, rng.integers(0, len(rows), 64)))
    policy.load(algorithm.policy_arrays())
    _, after = run_episodes(deterministic(policy), 20, seed=1000)
    assert before <= 0.2
    assert after >= 0.9
