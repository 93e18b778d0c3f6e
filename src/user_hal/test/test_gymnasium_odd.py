"""Environments that give what none should: each is told with its name, and nothing is taken for a value
that is none."""

from __future__ import annotations

import decimal
import fractions
import logging
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from user_core.config import from_mapping
from user_core.conformance import check_robot
from user_core.conformance.report import Check
from user_core.errors import ConfigError, DeviceFault, PluginError, SpecError
from user_hal.robots.gymnasium import GymnasiumConfig, GymnasiumRobot

STATE = spaces.Box(-1.0, 1.0, (2,), np.float32)
ACTION = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Odd(gymnasium.Env[Any, Any]):
    """Does and gives what it is told to."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as environments have it

    def __init__(self, **given: Any) -> None:
        self.given = given
        if not given.get("without_spaces"):
            self.observation_space = given.get("shows", STATE)
            self.action_space = given.get("takes", ACTION)

    def _value(self) -> Any:
        value = self.given.get("value")
        return self.observation_space.sample() if value is None else value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        instead: Callable[[], Any] | None = self.given.get("reset")
        return instead() if instead else (self._value(), {})

    def step(self, action: Any) -> Any:
        if instead := self.given.get("step"):
            return instead()
        given = self.given
        flags = given.get("terminated", False), given.get("truncated", False)
        return self._value(), given.get("reward", 0.0), *flags, given.get("info", {})

    def render(self) -> Any:
        return self.given["image"]

    def close(self) -> None:
        if self.given.get("closes_badly"):
            raise RuntimeError("close failed")


gymnasium.register("UserOddest-v0", Odd, disable_env_checker=True)


def robot(given: dict[str, Any], **params: Any) -> GymnasiumRobot:
    return GymnasiumRobot(
        from_mapping(GymnasiumConfig, {"env_id": "UserOddest-v0", "kwargs": given, **params})
    )


def stepped(given: dict[str, Any], **params: Any) -> GymnasiumRobot:
    made = robot(given, **params)
    made.connect()
    made.reset(1)
    made.command(made.spec.action.zeros())
    return made


def raiser(error: BaseException) -> Callable[[], Any]:
    def raises() -> Any:
        raise error

    return raises


class NotForArrays:
    """Refuses to be an array, as a tensor whose gradient is wanted."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("use detach()")


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "reward",
    [
        "1.0", b"1", np.array("1.0"), 1 + 0j, 10**400, {}, np.ma.masked, [1.0, 2.0],
        np.timedelta64(3, "s"), NotForArrays(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_reward_that_is_no_number_is_a_fault(reward: object) -> None:
    with pytest.raises(
        DeviceFault, match="reward of environment 'UserOddest-v0' at episode 1, step 1"
    ):
        stepped({"reward": reward})


@pytest.mark.parametrize(
    ("reward", "number"),
    [
        (True, 1.0), (np.float16(0.5), 0.5), (np.array([[2]]), 2.0),
        (fractions.Fraction(1, 2), 0.5), (decimal.Decimal("0.25"), 0.25), ([1], 1.0),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_reward_of_any_kind_of_number_is_that_number(reward: object, number: float) -> None:
    assert stepped({"reward": reward}).read().task.reward == number


@pytest.mark.parametrize(
    "value", ["False", "no", "", b"0", 2, 0.5, math.nan, {}, np.array("False")]
)
def test_what_is_no_truth_is_neither_end_nor_success(value: object) -> None:
    with pytest.raises(DeviceFault, match=r"terminated of environment .* expected true or false"):
        stepped({"terminated": value})
    with pytest.raises(DeviceFault, match=r"info\['success'\] of .*success_reward"):
        stepped({"info": {"success": value}})


def test_both_ends_at_once_are_both_told() -> None:
    task = stepped({"terminated": np.True_, "truncated": 1.0}).read().task
    assert task.terminated and task.truncated


def test_a_threshold_that_was_set_wins_over_keys_that_nobody_chose() -> None:
    given = {"info": {"success": 0.3}, "reward": 5.0, "terminated": True}
    assert stepped(given, success_reward=5.0).read().task.success is True
    assert stepped(given, success_return=6.0).read().task.success is False
    assert stepped({"info": {"goal_achieved": True}}).read().task.success is True


@pytest.mark.parametrize("name", ["success_reward", "success_return"])
def test_a_threshold_that_nothing_can_reach_is_refused(name: str) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"{name}: got .* expected a finite number"):
            robot({}, **{name: value})


def test_keys_that_may_mean_success_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    info = {"metrics": {"success_now": np.bool_(True)}, "steps": 3, "reached_goal": False}
    made = stepped({"info": info, "truncated": True})
    assert made.read().task.success is None
    (warning,) = caplog.messages
    assert "metrics.success_now, reached_goal" in warning and "success_key:=" in warning
    made.reset()
    made.command(made.spec.action.zeros())
    assert len(caplog.messages) == 1
    told = stepped({"info": info}, success_key="metrics.success_now")
    assert told.read().task.success is True


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reset": lambda: np.zeros(2, np.float32)}, "reset.*expected 2 values.*Gym before 0.26"),
        ({"reset": lambda: None}, "reset.*got None"),
        ({"reset": lambda: (np.zeros(2, np.float32), None)}, "info.*expected a mapping"),
        ({"step": lambda: (np.zeros(2), 0.0, False, {})}, "step.*got 4 values, expected 5.*0.26"),
        ({"step": lambda: None}, "step.*got None"),
        ({"step": raiser(Mute())}, "Mute: an error whose text cannot be had"),
        ({"reset": raiser(OSError("\udcff"))}, r"OSError: \\udcff"),
        ({"value": np.ma.array([0.1, 0.2], mask=[0, 1])}, "'state'.*masked"),
        ({"value": np.array([0.1 + 1j, 0])}, "complex128"),
        ({"value": np.zeros((1, 2), np.float32)}, r"float32\[1, 2\]"),
        ({"value": np.array([1e300, 0.0])}, "not finite"),
    ],
)
def test_whatever_it_gives_or_raises_is_a_fault_with_its_name(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeviceFault, match=words) as caught:
        stepped(given)
    assert "UserOddest-v0" in str(caught.value)


def test_a_text_without_end_is_cut() -> None:
    with pytest.raises(DeviceFault) as caught:
        stepped({"step": raiser(ValueError("x" * 1_000_000))})
    assert len(str(caught.value)) < 3000


def test_an_environment_without_spaces_is_refused_by_name() -> None:
    for given in ({"without_spaces": True}, {"shows": None}, {"takes": "Box"}):
        with pytest.raises(SpecError, match=r"'UserOddest-v0': (observation|action)_space: got"):
            robot(given)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "got None.*height x width x channels"),
        ("a text", "got 'a text'"),
        (np.full((20, 20, 3), 0.7), "0.7.*images.image_render.range"),
        (np.full((20, 20, 3), 300), "300"),
    ],
    ids=["none", "text", "float", "int"],
)
def test_what_is_rendered_is_an_image_or_a_fault(image: Any, words: str) -> None:
    with pytest.raises(DeviceFault, match=f"UserOddest-v0.*{words}"):
        stepped({"image": image}, render_image=True)


def test_a_rendered_image_of_floats_is_shown_where_its_range_is_told() -> None:
    images = {"image_render": {"range": [0, 1]}}
    made = stepped({"image": np.full((20, 20, 3), 0.6)}, render_image=True, images=images)
    assert (made.read().arrays["image_render"] == 153).all()


def test_an_error_in_close_does_not_hide_why_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'ClipReward'.*'x'"):
        robot({"closes_badly": True}, wrappers=[{"target": "ClipReward", "kwargs": {"x": 1}}])
    with pytest.raises(SpecError, match="Text"):
        robot({"closes_badly": True, "shows": spaces.Dict({"w": spaces.Text(3)})})


def test_a_wrapper_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "user_hal.robots.gymnasium.making._wrapper", lambda target: raiser(ImportError("no jax"))()
    )
    with pytest.raises(PluginError, match=r"'NumpyToTorch' of environment .*ImportError: no jax"):
        robot({}, wrappers=[{"target": "NumpyToTorch"}])


def test_arrays_without_numbers_are_left_out_and_actions_without_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    none = spaces.Box(-1.0, 1.0, (0,), np.float32)
    made = stepped({"shows": spaces.Dict({"state": STATE, "none": none})})
    assert set(made.read().arrays) == {"state"} and "'none' has no numbers" in caplog.text
    with pytest.raises(SpecError, match="at least one array"):
        robot({"shows": none})
    with pytest.raises(SpecError, match="expected some numbers"):
        robot({"takes": none})


def test_the_largest_float_is_no_bound() -> None:
    largest = float(np.finfo(np.float32).max)
    assert robot({"takes": spaces.Box(-largest, largest, (1,))}).spec.action.low is None
    half = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float32)
    assert robot({"takes": half}).spec.action.low is None
    assert robot({"takes": half}, bounds=[-1, 2]).spec.action.high == (1.0, 2.0)


def test_the_check_of_a_robot_says_what_an_episode_of_chance_looks_like() -> None:
    def last(given: dict[str, Any]) -> Check:
        report = check_robot(robot(given), steps=2)
        (found,) = (check for check in report.checks if "episode of chance" in check.promise)
        return found

    value = np.zeros(2, np.float32)
    frozen = last({"value": value})
    assert frozen.passed is False and "nothing can be learned from it" in frozen.detail
    pair = spaces.Dict({"state": STATE, "dead": spaces.Box(1.0, 1.0, (1,))})
    half = last({"shows": pair, "reward": -1.0, "info": {"success": False}})
    assert half.passed and "every reward was -1" in half.detail
    assert "never changed: dead" in half.detail and half.detail.endswith("no success")
    assert "nobody knows whether it succeeded" in last({}).detail


def test_a_large_image_is_told_with_what_makes_it_smaller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = {"shows": spaces.Dict({"top": spaces.Box(0, 255, (480, 640, 3), np.uint8)})}
    robot(camera)
    (note,) = caplog.messages
    assert "'top' has 480 x 640 x 3 bytes" in note and "{top: {resize: [84, 84]}}" in note
    caplog.clear()
    robot(camera, images={"top": {"resize": [84, 84]}})
    assert not caplog.messages
