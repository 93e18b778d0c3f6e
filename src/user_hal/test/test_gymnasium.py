"""The gymnasium driver, against real environments."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from user_core.config import from_mapping
from user_core.conformance import check_robot
from user_core.errors import (
    ConfigError,
    DeviceError,
    DeviceFault,
    DeviceNotConnected,
    PluginError,
    SpecError,
)
from user_core.specs import check_arrays
from user_hal.robots.gymnasium import GymnasiumConfig, GymnasiumRobot


def make(**params: Any) -> GymnasiumRobot:
    return GymnasiumRobot(from_mapping(GymnasiumConfig, params))


class Nested(gymnasium.Env[Any, Any]):
    """Dict, Tuple and Discrete leaves; fails on demand."""

    observation_space = spaces.Dict(
        {
            "arm": spaces.Dict({"position": spaces.Box(-1.0, 1.0, (2,), np.float64)}),
            "camera": spaces.Box(0, 255, (16, 20, 3), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3, start=2), spaces.MultiBinary(2))),
            "dials": spaces.MultiDiscrete([2, 5]),
        }
    )
    action_space = spaces.Box(np.array([[-1.0, -np.inf]]), np.array([[1.0, np.inf]]), (1, 2))

    def __init__(self, bad: str = "") -> None:
        self.bad = bad
        self.actions: list[Any] = []

    def _value(self) -> dict[str, Any]:
        value = self.observation_space.sample()
        if self.bad == "nan":
            value["arm"]["position"][1] = np.nan
        if self.bad == "missing":
            del value["camera"]
        return value

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        bad, self.bad = self.bad, ""
        value = self._value()
        self.bad = bad
        return value, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        if self.bad == "raise":
            raise ZeroDivisionError("the environment broke")
        reward = np.inf if self.bad == "reward" else 0.5
        return self._value(), reward, len(self.actions) >= 3, False, {"is_success": True}


class Text(Nested):
    """A space that cannot be an array."""

    observation_space = spaces.Dict({"words": spaces.Text(5)})  # type: ignore[assignment]


gymnasium.register("UserNested-v0", entry_point=lambda **kwargs: Nested(**kwargs))
gymnasium.register("UserText-v0", entry_point=lambda **kwargs: Text(**kwargs))


def test_pendulum_is_the_environment_itself_step_by_step() -> None:
    robot, env = make(env_id="Pendulum-v1"), gymnasium.make("Pendulum-v1")
    spec = robot.spec
    assert (spec.robot, spec.lockstep, spec.task_reward) == ("Pendulum-v1", True, True)
    assert spec.observation["state"].high == (1.0, 1.0, 8.0)
    assert (spec.action.shape, spec.action.low, spec.action.high) == ((1,), -2.0, 2.0)
    robot.connect()
    first = robot.reset(seed=7)
    expected, _ = env.reset(seed=7)
    np.testing.assert_array_equal(first.arrays["state"], expected)
    rng = np.random.default_rng(0)
    for index in range(200):
        action = spec.action.sample(rng)
        np.testing.assert_array_equal(robot.command(action), action)
        value, reward, terminated, truncated, _ = env.step(action)
        observation = robot.read()
        np.testing.assert_array_equal(observation.arrays["state"], value)
        task = observation.task
        assert (task.reward, task.terminated, task.truncated) == (reward, terminated, truncated)
        assert task.truncated == (index == 199)
        assert not task.terminated
    assert robot.read().sequence == first.sequence + 200
    with pytest.raises(DeviceError, match=r"after its episode ended: got truncated. Call reset"):
        robot.command(action)
    assert robot.reset(seed=7).episode == first.episode + 1
    np.testing.assert_array_equal(robot.read().arrays["state"], first.arrays["state"])
    robot.close()


def test_cartpole_terminates_and_takes_a_discrete_action() -> None:
    robot = make(env_id="CartPole-v1")
    action = robot.spec.action
    assert (action.shape, action.dtype, action.low, action.high) == ((1,), "int64", 0.0, 1.0)
    infinite = robot.spec.observation["state"].high
    assert isinstance(infinite, tuple) and np.isfinite(infinite).all()
    robot.connect()
    robot.reset(seed=0)
    for _ in range(500):
        robot.command(np.array([1]))
        if robot.read().task.terminated:
            break
    task = robot.read().task
    assert task.terminated and not task.truncated
    robot.reset()
    with pytest.raises(SpecError, match="discrete action"):
        robot.command(np.array([2]))
    with pytest.raises(SpecError, match=r"float64\[1\], expected int64\[1\]"):
        robot.command(np.array([1.0]))


def test_box_actions_are_clipped_and_told_back() -> None:
    robot = make(env_id="Pendulum-v1")
    robot.connect()
    np.testing.assert_array_equal(robot.command(np.array([9.0], np.float32)), [2.0])
    with pytest.raises(SpecError, match="not finite"):
        robot.command(np.array([np.nan], np.float32))
    with pytest.raises(SpecError, match=r"float32\[2\]"):
        robot.command(np.zeros(2, np.float32))


def test_nested_spaces_get_dotted_names_and_actions_their_shape() -> None:
    robot = make(env_id="UserNested-v0")
    specs = robot.spec.observation
    assert set(specs) == {"arm.position", "camera", "pair.0", "pair.1", "dials"}
    assert specs["arm.position"].dtype == "float32"
    assert specs["camera"].dtype == "uint8" and specs["camera"].shape == (16, 20, 3)
    assert (specs["pair.0"].low, specs["pair.0"].high) == (2.0, 4.0)
    assert specs["dials"].high == (1.0, 4.0)
    assert robot.spec.action.shape == (2,)
    robot.connect()
    check_arrays(robot.read().arrays, specs)
    robot.command(np.array([0.25, 3.0], np.float32))
    sent = robot._env.unwrapped.actions[0]  # type: ignore[union-attr]
    np.testing.assert_array_equal(sent, [[0.25, 3.0]])
    np.testing.assert_array_equal(robot.command(np.array([5.0, 9.0], np.float32)), [1.0, 9.0])
    assert robot.read().applied is not None and robot.read().applied.changed  # type: ignore[union-attr]
    assert robot.read().task.success is True
    assert make(env_id="UserNested-v0", float_dtype="float64").spec.action.dtype == "float64"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nan", "observation 'arm.position'.*not finite"),
        ("missing", "camera"),
        ("raise", "ZeroDivisionError: the environment broke"),
        ("reward", "reward of environment 'UserNested-v0' at episode 0, step 1: got inf"),
    ],
)
def test_an_environment_that_misbehaves_is_a_fault_with_its_name(bad: str, message: str) -> None:
    robot = make(env_id="UserNested-v0", kwargs={"bad": bad})
    robot.connect()
    with pytest.raises(DeviceFault, match=message):
        robot.command(np.zeros(2, np.float32))


def test_wrappers_step_limit_and_rendering() -> None:
    robot = make(
        env_id="CartPole-v1",
        wrappers=[{"target": "gymnasium.wrappers:TimeAwareObservation"}],
        max_episode_steps=5,
    )
    assert robot.spec.observation["state"].shape == (5,)
    robot.connect()
    for index in range(5):
        robot.command(np.array([index % 2]))
    assert robot.read().task.truncated


def test_the_rendered_image_is_part_of_the_observation() -> None:
    pytest.importorskip("mujoco")
    robot = make(env_id="HalfCheetah-v5", render_image=True, kwargs={"width": 64, "height": 48})
    robot.connect()
    first = robot.read().arrays["image_render"]
    assert first.dtype == np.uint8 and first.shape == (48, 64, 3) and first.std() > 5
    for _ in range(3):
        robot.command(np.ones(6, np.float32))
    assert (robot.read().arrays["image_render"] != first).any()
    robot.close()


def test_a_mujoco_environment() -> None:
    pytest.importorskip("mujoco")
    robot = make(env_id="HalfCheetah-v5")
    assert robot.spec.observation["state"].shape == (17,)
    assert robot.spec.observation["state"].low is None
    robot.connect()
    first = robot.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        robot.command(robot.spec.action.sample(rng))
    assert np.isfinite(robot.read().task.reward)
    np.testing.assert_array_equal(robot.reset(seed=3).arrays["state"], first.arrays["state"])
    robot.close()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"env_id": "Pendulm-v1"}, ConfigError, "Did you mean: `Pendulum`"),
        ({"env_id": "no_such_module:X-v0"}, ConfigError, "no_such_module"),
        ({"env_id": "Pendulum-v1", "kwargs": {"colour": 1}}, ConfigError, "colour"),
        (
            {"env_id": "Pendulum-v1", "wrappers": [{"target": "gymnasium.wrappers:Nope"}]},
            PluginError,
            "gymnasium.wrappers:Nope",
        ),
        (
            {"env_id": "Pendulum-v1", "wrappers": [{"target": "gymnasium.wrappers:ClipAction",
                                                   "kwargs": {"x": 1}}]},
            ConfigError,
            r"wrappers\[0\]",
        ),
        ({"env_id": "UserText-v0"}, SpecError, r"space of 'words': got Text"),
        ({"env_id": "Pendulum-v1", "sed": 1}, ConfigError, "unknown key 'sed'"),
        ({}, ConfigError, "missing key 'env_id'"),
        ({"env_id": "Pendulum-v1", "period_s": 0}, ConfigError, "period_s"),
    ],
)  # fmt: skip
def test_bad_configuration(params: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**params)


def test_an_environment_whose_extra_is_missing_says_what_to_install() -> None:
    try:
        import Box2D  # noqa: F401
    except ImportError:
        with pytest.raises(DeviceError, match=r"gymnasium\[box2d\]"):
            make(env_id="BipedalWalker-v3")
    else:
        pytest.skip("Box2D is installed here")


def test_use_before_connect_and_after_close() -> None:
    robot = make(env_id="Pendulum-v1")
    for call in (robot.read, robot.reset, lambda: robot.command(np.zeros(1, np.float32))):
        with pytest.raises(DeviceNotConnected):
            call()
    robot.connect()
    robot.close()
    robot.close()
    with pytest.raises(DeviceNotConnected):
        robot.read()
    robot.connect()
    assert robot.read().arrays["state"].shape == (3,)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "UserNested-v0"])
def test_conformance(env_id: str) -> None:
    report = check_robot(make(env_id=env_id))
    broken = [check.promise for check in report.checks if check.passed is False]
    unbounded = ["actions have bounds"] if env_id == "UserNested-v0" else []
    assert broken == unbounded, str(report)


def test_discover_lists_what_can_be_made_here() -> None:
    found = {item.name: item for item in GymnasiumRobot.discover()}
    assert found["Pendulum-v1"].params == {"env_id": "Pendulum-v1"}
    assert "Pendulum-v0" not in found


class Odd(gymnasium.Env):
    """Gives what no environment should, in one field of its second step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, field: str, value: object) -> None:
        self.field, self.value, self.steps = field, value, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        made = {
            "observation": np.zeros(2, np.float32), "reward": 0.0, "terminated": False,
            "truncated": False, "info": {},
        }  # fmt: skip
        if self.steps == 2:
            made[self.field] = self.value
        return tuple(made.values())


gymnasium.register("UserOdd-v0", Odd, disable_env_checker=True)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("reward", None, "got None"),
        ("reward", 1e25, "got 1e+25"),
        ("reward", math.nan, "got nan"),
        ("reward", np.zeros(2), "got array"),
        ("reward", "much", "got 'much'"),
        ("terminated", np.array([True, False]), "expected true or false"),
        ("truncated", None, "got None"),
        ("info", None, "expected a mapping"),
        ("info", {"success": np.array([1, 0])}, "info['success']"),
        ("info", {"is_success": "maybe" * 100}, "expected true or false"),
        ("observation", np.full(2, np.nan, np.float32), "not finite"),
        ("observation", None, "observation"),
        ("observation", {"a": 1}, "observation"),
    ],
)
def test_whatever_an_environment_gives_the_fault_names_it_the_field_and_the_step(
    field: str, value: object, words: str
) -> None:
    robot = make(env_id="UserOdd-v0", kwargs={"field": field, "value": value})
    robot.connect()
    robot.reset(1)
    robot.command(np.zeros(1, np.float32))
    with pytest.raises(DeviceFault) as caught:
        robot.command(np.zeros(1, np.float32))
    said = str(caught.value)
    assert "UserOdd-v0" in said and field in said and "episode 1, step 2" in said and words in said


@pytest.mark.parametrize(
    ("info", "success"),
    [({}, None), ({"success": None}, None), ({"is_success": np.array([1.0])}, True),
     ({"success": np.float32(0.0)}, False)],
)  # fmt: skip
def test_no_verdict_is_no_failure(info: dict, success: object) -> None:
    robot = make(env_id="UserOdd-v0", kwargs={"field": "info", "value": info})
    robot.connect()
    for _ in range(2):
        robot.command(np.zeros(1, np.float32))
    assert robot.read().task.success is success
