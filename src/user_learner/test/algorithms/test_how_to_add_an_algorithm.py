"""The how-to tells the truth: its algorithm keeps the promises, and learns."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

from user_core.config import from_mapping
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.types import Batch
from user_learner.learner import LearnerConfig

PAGE = Path(__file__).parents[4] / "docs/how_to/add_an_algorithm.md"


@pytest.fixture
def module(monkeypatch):
    """The page's first block, as the module it says it is."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    package, module = types.ModuleType("my_lab"), types.ModuleType("my_lab.awac")
    monkeypatch.setitem(sys.modules, "my_lab", package)
    monkeypatch.setitem(sys.modules, "my_lab.awac", module)
    exec(compile(code, "my_lab/awac.py", "exec"), module.__dict__)  # noqa: S102 - our own page
    return module


def test_the_check_of_the_page_passes(module, capsys):
    check = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    exec(compile(check, "check.py", "exec"), {})  # noqa: S102 - our own page
    assert "FAIL" not in capsys.readouterr().out


def test_its_configuration_is_valid_and_the_algorithm_learns_from_it(module):
    text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    data = yaml.safe_load(text)
    assert data["algorithm"]["plugin"] == "awac"
    data["algorithm"] = {"plugin": "my_lab.awac:AWAC", "params": {"learning_rate": 3e-3}}
    data["policy"]["params"] = {"hidden": [32, 32]}
    config = from_mapping(LearnerConfig, {"directory": "run", "store": "run/replay", **data})
    spec = FakeRobot(FakeRobotConfig()).spec
    policy = config.policy.build("policies", spec)
    algorithm = config.algorithm.build("algorithms", spec, policy)
    rng = np.random.default_rng(0)
    for _ in range(150):  # what pays is going towards the goal
        here, goal = rng.uniform(-0.5, 0.5, (2, 64, 2)).astype(np.float32)
        action = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
        reward = (np.sign(goal - here) * action).sum(1)
        seen = {"position": here, "goal": goal}
        algorithm.update(Batch(seen, action, reward, 0 * reward, seen))
    policy.load(algorithm.policy_arrays())
    right = 0
    for _ in range(100):
        here, goal = rng.uniform(-0.5, 0.5, (2, 2)).astype(np.float32)
        action = policy.act({"position": here, "goal": goal}, deterministic=True)[0]
        right += (np.sign(action) == np.sign(goal - here)).sum()
    assert right > 150  # of 200; chance is 100
