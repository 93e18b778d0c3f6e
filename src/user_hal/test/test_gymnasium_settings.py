"""What other people's environments show, take and say, and the settings that make sense of it."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from user_core.config import from_mapping, yaml_value
from user_core.errors import ConfigError, DeviceFault, PluginError, SpecError, SuiteError
from user_core.specs import ActionKind
from user_hal.robots.gymnasium import GymnasiumConfig, GymnasiumRobot, making
from user_hal.robots.gymnasium.pictures import layout_of


class Given(gymnasium.Env[Any, Any]):
    """An environment with these spaces that shows these values, one after the other."""

    def __init__(self, **given: Any) -> None:
        self.observation_space = given.get("shows", spaces.Box(-1.0, 1.0, (2,), np.float32))
        self.action_space = given.get("takes", spaces.Box(-1.0, 1.0, (1,), np.float32))
        self.values = given.get("values") or [self.observation_space.sample()]
        self.infos, self.rewards = given.get("infos", [{}]), given.get("rewards", [0.0])
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions = []
        return self.values[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        n = len(self.actions)
        value = self.values[min(n, len(self.values) - 1)]
        reward = self.rewards[min(n, len(self.rewards)) - 1]
        return value, reward, n >= 3, False, self.infos[min(n, len(self.infos)) - 1]


gymnasium.register("UserGiven-v0", Given, disable_env_checker=True)


def robot(given: dict[str, Any] | None = None, **params: Any) -> GymnasiumRobot:
    params = {"env_id": "UserGiven-v0", "kwargs": given or {}, **params}
    return GymnasiumRobot(from_mapping(GymnasiumConfig, params))


def shown(given: dict[str, Any], steps: int = 0, **params: Any) -> dict[str, np.ndarray]:
    made = robot(given, **params)
    made.connect()
    for _ in range(steps):
        made.command(np.zeros(1, np.float32))
    return dict(made.read().arrays)


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (spaces.Box(0, 255, (20, 20, 3), np.uint8), np.full((20, 20, 3), 0.5), "0.5 (float64)"),
        (spaces.Box(-128, 127, (2,), np.int8), np.array([300, 0]), "300 (int64)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, -1]), "-1 (int64)"),
        (spaces.Discrete(3), 1.7, "1.7 (float64)"),
        (spaces.Discrete(3), 3, "[3], expected [0] to [2]"),
        (spaces.MultiBinary(2), np.array([0, 2]), "[0, 2]"),
        (spaces.Box(0, 10, (1,), np.int64), np.array([np.nan]), "nan (float64)"),
        (spaces.Box(-1, 1, (1,), np.float32), np.array(["fast"]), "<U4"),
        (spaces.Box(-1, 1, (2,), np.float32), [[1.0], 2.0], "expected an array of float32"),
    ],
)
def test_a_cast_that_changes_a_value_is_a_fault_with_environment_and_key(
    space: spaces.Space[Any], value: Any, words: str
) -> None:
    made = robot({"shows": spaces.Dict({"seen": space}), "values": [{"seen": value}]})
    with pytest.raises(DeviceFault) as caught:
        made.connect()
    said = str(caught.value)
    assert "UserGiven-v0" in said and "'seen'" in said and words in said


def test_a_cast_that_keeps_the_value_is_none() -> None:
    space = spaces.Dict({"n": spaces.Discrete(4), "b": spaces.Box(0, 255, (2,), np.uint8)})
    arrays = shown({"shows": space, "values": [{"n": np.float64(2.0), "b": [7.0, 255.0]}]})
    assert arrays["n"].tolist() == [2] and arrays["b"].tolist() == [7, 255]


GREY, COLOUR = bytes_of(20, 24), bytes_of(20, 24, 3)
STACK = bytes_of(4, 20, 24)
FLOATS = (COLOUR / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "bounds", "right"),
    [
        (GREY, (0, 255), GREY[:, :, None]),
        (GREY[:, :, None], (0, 255), GREY[:, :, None]),
        (COLOUR, (0, 255), COLOUR),
        (STACK, (0, 255), STACK.transpose(1, 2, 0)),
        (STACK.transpose(1, 2, 0), (0, 255), STACK.transpose(1, 2, 0)),
        (COLOUR.transpose(2, 0, 1), (0, 255), COLOUR),
        (np.stack([COLOUR, 255 - COLOUR]), (0, 255), np.concatenate([COLOUR, 255 - COLOUR], 2)),
        (np.stack([COLOUR, COLOUR]).transpose(0, 3, 1, 2), (0, 255), np.concatenate([COLOUR] * 2, 2)),
        (FLOATS, (0, 1), COLOUR),
        (FLOATS.transpose(2, 0, 1), (0, 1), COLOUR),
        (COLOUR.astype(np.float32), (0, 255), COLOUR),
        (COLOUR.astype(np.int64), (0, 255), COLOUR),
    ],
    ids=["hw", "hw1", "hwc", "nhw", "hwn", "chw", "nhwc", "nchw", "float", "floatchw", "f255", "int"],
)  # fmt: skip
def test_images_of_every_common_layout_are_height_width_channels(
    value: np.ndarray, bounds: tuple[int, int], right: np.ndarray
) -> None:
    space = spaces.Box(*bounds, value.shape, value.dtype.type)
    made = robot({"shows": space, "values": [value]})
    made.connect()
    np.testing.assert_array_equal(made.read().arrays["image"], right)
    assert made.spec.observation["image"].shape == right.shape
    assert made.read().arrays["image"].dtype == np.uint8


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (128,), np.uint8),
        spaces.Box(0, 1, (20, 24), np.float32),
        spaces.Box(-1, 1, (20, 24, 3), np.float32),
        spaces.Box(0, 1, (20, 24, 3), np.int8),
        spaces.Box(0, 255, (8, 8), np.uint8),
        spaces.Box(0, 255, (7, 7, 3), np.uint8),
        spaces.Discrete(3),
    ],
)
def test_what_is_no_image_by_itself(space: spaces.Space[Any]) -> None:
    assert layout_of(space) == "none"
    assert set(robot({"shows": space}).spec.observation) == {"state"}


def test_a_setting_says_what_is_an_image_and_what_is_none() -> None:
    space = spaces.Box(-np.inf, np.inf, (20, 24), np.float32)
    value = (GREY / 127.5 - 1).astype(np.float32)
    given = {"shows": space, "values": [value]}
    arrays = shown(given, images={"image": {"layout": "hw", "range": [-1, 1]}})
    np.testing.assert_array_equal(arrays["image"], GREY[:, :, None])
    arrays = shown(given, images={"state": {"layout": "hw", "range": [-1, 1]}})  # as the note says
    np.testing.assert_array_equal(arrays["state"], GREY[:, :, None])
    with pytest.raises(ConfigError, match=r"UserGiven-v0.*images.image.range"):
        robot(given, images={"image": {"layout": "hw"}})
    with pytest.raises(DeviceFault, match=r"'image'.*expected 0 to 1"):
        shown(given, images={"image": {"layout": "hw", "range": [0, 1]}})
    cells = {"shows": spaces.Box(0, 255, (7, 7, 3), np.uint8)}
    numbers = robot(cells).spec.observation["state"]
    assert (numbers.shape, numbers.dtype) == ((7, 7, 3), "float32"), (
        "no policy takes it for an image"
    )
    image = robot(cells, images={"image": {"layout": "hwc"}}).spec.observation["image"]
    assert image.dtype == "uint8"
    large = {"shows": spaces.Box(0, 255, (20, 24, 3), np.uint8)}
    numbers = robot(large, images={"image": {"layout": "none"}}).spec.observation["state"]
    assert numbers.dtype == "float32"
    with pytest.raises(ConfigError, match=r"images.front: got no such observation.*'image'"):
        robot(cells, images={"front": {}})
    with pytest.raises(ConfigError, match=r"layout: got 'nhwc' for an array of shape \[7, 7, 3\]"):
        robot(cells, images={"image": {"layout": "nhwc"}})


def test_floats_in_a_space_of_bytes_are_an_image_where_the_range_is_told() -> None:
    given = {"shows": spaces.Box(0, 255, COLOUR.shape, np.uint8), "values": [FLOATS]}
    with pytest.raises(DeviceFault, match=r"'image'.*images.image.range"):
        shown(given)
    arrays = shown(given, images={"image": {"range": [0, 1]}})
    np.testing.assert_array_equal(arrays["image"], COLOUR)


def test_images_are_cropped_scaled_made_grey_and_stacked() -> None:
    first, second = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60, 3), np.uint8)
    first[:, 10:50], second[:, 10:50] = (200, 0, 0), (0, 200, 0)
    given = {
        "shows": spaces.Dict({"camera": spaces.Box(0, 255, (40, 60, 3), np.uint8)}),
        "values": [{"camera": first}, {"camera": second}],
    }
    settings = {"camera": {"crop": "centre", "resize": [10, 10], "grey": True, "stack": 3}}
    start = shown(given, images=settings)["camera"]
    assert start.shape == (10, 10, 3) and (start == 60).all()
    after = shown(given, steps=1, images=settings)["camera"]
    assert [after[5, 5, i] for i in range(3)] == [60, 60, 117]
    rectangle = {"camera": {"crop": {"left": 0, "top": 0, "width": 10, "height": 4}}}
    cropped = shown(given, images=rectangle)["camera"]
    assert cropped.shape == (4, 10, 3) and not cropped.any()
    wide = bytes_of(32, 32, 9)
    scaled = shown(
        {"shows": spaces.Box(0, 255, wide.shape, np.uint8), "values": [wide]},
        images={"image": {"resize": [16, 16]}},
    )["image"]
    right = wide.reshape(16, 2, 16, 2, 9).mean((1, 3))
    assert scaled.shape == (16, 16, 9) and np.abs(scaled - right).max() <= 1


def test_stacked_images_do_not_cross_episodes() -> None:
    values = [np.full((20, 24), level, np.uint8) for level in (10, 20)]
    made = robot(
        {"shows": spaces.Box(0, 255, (20, 24), np.uint8), "values": values},
        images={"image": {"stack": 2}},
    )
    made.connect()
    made.command(np.zeros(1, np.float32))
    assert made.read().arrays["image"][0, 0].tolist() == [10, 20]
    assert made.reset().arrays["image"][0, 0].tolist() == [10, 10]


def test_many_numbers_that_are_no_image_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    robot({"shows": spaces.Box(-1, 1, (40, 40), np.float32)})
    (warning,) = caplog.messages
    assert "UserGiven-v0" in warning and "1600 numbers" in warning and "images" in warning
    caplog.clear()
    robot({"shows": spaces.Box(-1, 1, (400,), np.float32)})
    assert not caplog.messages


BOX = spaces.Box(-1, 1, (2,), np.float32)
LARGE = spaces.Box(np.array([0, -3]), np.array([5, 3]), dtype=np.float32)


def test_boxes_in_a_dict_or_tuple_are_one_vector() -> None:
    takes = spaces.Dict(
        {"arm": BOX, "rest": spaces.Tuple((LARGE, spaces.Box(0, 1, (), np.float32)))}
    )
    made = robot({"takes": takes})
    spec = made.spec.action
    assert spec.names == ("arm.0", "arm.1", "rest.0.0", "rest.0.1", "rest.1")
    assert spec.low == (-1, -1, 0, -3, 0) and spec.high == (1, 1, 5, 3, 1)
    made.connect()
    executed = made.command(np.array([0.5, 9, 4, -9, 0.25], np.float32))
    np.testing.assert_array_equal(executed, np.array([0.5, 1, 4, -3, 0.25], np.float32))
    sent = made._env.unwrapped.actions[0]  # type: ignore[union-attr]
    assert takes.contains(sent) and sent["arm"].tolist() == [0.5, 1.0]
    assert sent["rest"][0].tolist() == [4.0, -3.0] and float(sent["rest"][1]) == 0.25


@pytest.mark.parametrize(
    ("takes", "dtype", "low", "high", "action"),
    [
        (spaces.Discrete(3, start=1), "int64", 1, 3, [3]),
        (spaces.MultiDiscrete([2, 4]), "int64", 0, (1, 3), [1, 3]),
        (spaces.MultiBinary(3), "int8", 0, 1, [1, 0, 1]),
        (spaces.Box(-2, 2, (1, 2), np.int32), "int32", -2, 2, [-2, 2]),
        (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(1))), "int64", 0, 1, [1, 0]),
    ],
)
def test_actions_that_are_no_floats_have_an_honest_spec(
    takes: spaces.Space[Any], dtype: str, low: Any, high: Any, action: list[int]
) -> None:
    made = robot({"takes": takes})
    spec = made.spec.action
    assert (spec.dtype, spec.low, spec.high) == (dtype, low, high)
    assert spec.categorical == tuple(range(len(action)))
    assert made.spec.action_kind is ActionKind.DISCRETE
    made.connect()
    made.command(np.array(action, dtype))
    assert takes.contains(made._env.unwrapped.actions[0])  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="discrete action of 'UserGiven-v0'"):
        made.command(np.array([9] * len(action), dtype))


HYBRID = spaces.Dict({"arm": BOX, "gripper": spaces.Discrete(2)})


@pytest.mark.parametrize(
    ("takes", "vector", "right"),
    [
        (spaces.Discrete(3, start=5), [-1, 0.2, 0.1], 6),
        (spaces.MultiDiscrete([2, 3]), [0, 1, 0.3, 0.2, 0.1], [1, 0]),
        (spaces.MultiBinary(3), [-0.1, 0.1, 1], [0, 1, 1]),
        (spaces.Box(-2, 2, (2,), np.int32), [1.6, -9], [2, -2]),
        (HYBRID, [0.5, -0.5, -1, 1], {"arm": [0.5, -0.5], "gripper": 1}),
    ],
)
def test_argmax_offers_choices_as_floats(
    takes: spaces.Space[Any], vector: list[float], right: Any
) -> None:
    made = robot({"takes": takes}, discrete="argmax")
    spec = made.spec.action
    assert spec.dtype == "float32" and spec.shape == (len(vector),) and spec.low is not None
    made.connect()
    made.command(np.array(vector, np.float32))
    sent = made._env.unwrapped.actions[0]  # type: ignore[union-attr]
    assert takes.contains(sent)
    if isinstance(sent, dict):
        sent = {key: np.asarray(value).tolist() for key, value in sent.items()}
    assert (sent if isinstance(sent, dict) else np.asarray(sent).tolist()) == right


def test_choices_beside_floats_are_floats_of_which_the_spec_says_that_they_are_choices() -> None:
    made = robot({"takes": HYBRID})
    spec = made.spec.action
    assert (spec.dtype, spec.categorical, spec.counts) == ("float32", (2,), (2,))
    assert made.spec.action_kind is ActionKind.GENERIC
    made.connect()
    executed = made.command(np.array([0.5, 9.0, 1.0], np.float32))  # floats are clipped as ever
    assert executed.tolist() == [0.5, 1.0, 1.0]
    sent = made._env.unwrapped.actions[0]  # type: ignore[union-attr]
    assert HYBRID.contains(sent) and sent["gripper"] == 1
    for wrong in (0.5, 2.0, -1.0):
        with pytest.raises(SpecError, match=r"'UserGiven-v0': gripper.*its choices, 0 to 1"):
            made.command(np.array([0.5, 0.5, wrong], np.float32))


def test_integers_that_are_numbers_are_no_choices() -> None:
    many = spaces.Box(0, 256, (1,), np.int32)
    assert robot({"takes": many}).spec.action.categorical == ()
    assert robot({"takes": spaces.Box(0, 255, (1,), np.int32)}).spec.action.counts == (256,)
    with pytest.raises(SpecError, match=r"UserGiven-v0.*'steps'.*256 integers.*discrete: argmax"):
        robot({"takes": spaces.Dict({"arm": BOX, "steps": many})})
    endless = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    hybrid = spaces.Dict({"arm": endless, "gripper": spaces.Discrete(3)})
    with pytest.raises(SpecError, match=r"UserGiven-v0.*no bounds.*bounds:="):
        robot({"takes": hybrid})
    bounded = robot({"takes": hybrid}, bounds=[-0.5, 0.5]).spec.action
    assert (bounded.low, bounded.high) == ((-0.5, 0.0), (0.5, 2.0))


def test_words_are_refused_with_what_can_be_done() -> None:
    with pytest.raises(SpecError, match=r"action 'word' of 'UserGiven-v0'.*Text.*wrapper"):
        robot({"takes": spaces.Dict({"word": spaces.Text(3)})})


def test_bounds_for_actions_that_have_none() -> None:
    endless = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert robot({"takes": endless}).spec.action.low is None
    one = robot({"takes": endless}, bounds=[-2, 3]).spec.action
    assert (one.low, one.high) == (-2.0, 3.0)
    each = robot({"takes": endless}, bounds=[[-2, -1], [3, 1]])
    assert (each.spec.action.low, each.spec.action.high) == ((-2.0, -1.0), (3.0, 1.0))
    each.connect()
    assert each.command(np.array([9, 9], np.float32)).tolist() == [3.0, 1.0]
    assert robot({"takes": LARGE}, bounds=[-1, 4]).spec.action.low == (0.0, -1.0)
    for wrong in ([1, -1], [[0], [1]], [-1, float("inf")], [7, 9]):
        with pytest.raises(ConfigError, match="bounds"):
            robot({"takes": LARGE}, bounds=wrong)


@pytest.mark.parametrize(
    "unsupported",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(2)),
    ],
)
def test_what_cannot_be_an_array_is_left_out_where_that_is_said(
    unsupported: spaces.Space[Any], caplog: pytest.LogCaptureFixture
) -> None:
    space = spaces.Dict({"mission": unsupported, "state": BOX})
    value = {"mission": "go to the door", "state": np.zeros(2, np.float32)}
    with pytest.raises(SpecError, match=r"UserGiven-v0.*'mission'.*ignore: \[mission\]"):
        robot({"shows": space})
    assert set(shown({"shows": space, "values": [value]}, ignore=["mission"])) == {"state"}
    assert "left out, as ignore says: mission" in caplog.text
    with pytest.raises(ConfigError, match="ignore: got misson"):
        robot({"shows": space}, ignore=["misson"])
    with pytest.raises(SpecError, match="all ignored"):
        robot({"shows": unsupported}, ignore=["state"])


def verdicts(infos: list[dict[str, Any]], rewards: list[float], **params: Any) -> list[bool | None]:
    made = robot({"infos": infos, "rewards": rewards}, **params)
    made.connect()
    made.reset()
    found = []
    for _ in range(3):
        made.command(np.zeros(1, np.float32))
        found.append(made.read().task.success)
    return found


def test_success_by_key_by_reward_and_by_return() -> None:
    assert verdicts([{}], [1.0]) == [None, None, None]
    assert verdicts([{"succeed": False}, {"succeed": True}], [0.0]) == [False, True, True]
    nested = [{"episode": {"solved": np.bool_(True)}}]
    assert verdicts(nested, [0.0], success_key="episode.solved") == [True] * 3
    assert verdicts([{"a.b": 0}], [0.0], success_key="a.b") == [False] * 3
    assert verdicts([{}], [0.0, 5.0, 0.0], success_reward=5.0) == [None, True, True]
    assert verdicts([{}], [0.0], success_reward=5.0) == [None, None, False]
    assert verdicts([{}], [2.0], success_return=6.0) == [None, None, True]
    assert verdicts([{}], [1.9], success_return=6.0) == [None, None, False]
    with pytest.raises(ConfigError, match="success_return: got beside success_reward"):
        robot(success_reward=1.0, success_return=2.0)


def test_a_success_key_that_is_never_there_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    made = robot({"infos": [{"solved": True}]}, success_key="sloved")
    made.connect()
    for _ in range(2):
        made.reset()
        for _ in range(3):
            made.command(np.zeros(1, np.float32))
        assert made.read().task.success is None
    (warning,) = caplog.messages
    assert "UserGiven-v0" in warning and "'sloved'" in warning and "['solved']" in warning


def wrapped(
    target: str, env: str = "UserGiven-v0", given: Any = None, **kwargs: Any
) -> GymnasiumRobot:
    return robot(given, env_id=env, wrappers=[{"target": target, "kwargs": kwargs}])


def test_wrappers_of_yaml_get_tuples_and_arrays_where_they_need_them() -> None:
    colours = {"shows": spaces.Box(0, 255, (40, 60, 3), np.uint8)}
    for target in ("ResizeObservation", "gymnasium.wrappers:ResizeObservation"):
        made = wrapped(target, given=colours, shape=[20, 24])
        assert made.spec.observation["image"].shape == (20, 24, 3)
    for bounds in (
        {"min_action": [-1, -2], "max_action": [1, 2.5]},
        yaml_value("{min_action: [-1, -2], max_action: [1, 2.50]}"),
    ):
        made = wrapped("RescaleAction", given={"takes": LARGE}, **bounds)
        assert (made.spec.action.low, made.spec.action.high) == ((-1.0, -2.0), (1.0, 2.5))
    with pytest.raises(
        ConfigError, match=r"'ResizeObservation' of environment 'UserGiven-v0'.*shape: tuple"
    ):
        wrapped("ResizeObservation", given=colours, shape=[0, 24])
    with pytest.raises(PluginError, match="'ResizeObservatoin'.*'ResizeObservation'"):
        wrapped("ResizeObservatoin", given=colours, shape=[20, 24])


def test_the_arguments_that_an_environment_takes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'Pendulum-v1'.*colour.*It takes \(.*g=10.0\)"):
        robot(env_id="Pendulum-v1", kwargs={"colour": 1})


def test_a_seed_of_its_own_is_that_of_the_first_start() -> None:
    first, _ = gymnasium.make("Pendulum-v1").reset(seed=5)
    made = robot(env_id="Pendulum-v1", kwargs={}, seed=5)
    made.connect()
    np.testing.assert_array_equal(made.read().arrays["state"], first)
    assert not np.array_equal(made.reset().arrays["state"], first)


def test_versions_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**given: Any) -> Any:
        raise AttributeError("module 'mujoco' has no attribute 'mjtOld'")

    gymnasium.register("UserBroken-v0", broken, disable_env_checker=True)
    needs = ["numpy<1", "gymnasium>=1", "torch; extra == 'all'", "no-such-package"]
    monkeypatch.setattr(making, "_packages_of", lambda env_id: ["pydantic"])
    monkeypatch.setattr(making.metadata, "requires", lambda name: needs)
    with pytest.raises(ConfigError) as caught:
        robot(env_id="UserBroken-v0")
    said = str(caught.value)
    assert "UserBroken-v0" in said and "AttributeError: module 'mujoco'" in said
    assert f"needs numpy<1, and numpy {np.__version__} is installed" in said
    assert "needs no-such-package: not installed" in said
    assert "torch" not in said and "gymnasium>=1" not in said


def test_a_module_that_is_missing_is_told_with_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"'no_arm:Arm-v0'.*-m pip install no_arm\b.*PYTHONPATH"):
        robot(env_id="no_arm:Arm-v0")


def test_an_error_without_words_says_its_line() -> None:
    def silent() -> Any:
        raise AssertionError  # as an assert without a text

    gymnasium.register("UserSilent-v0", silent, disable_env_checker=True)
    with pytest.raises(
        ConfigError,
        match=r"UserSilent-v0.*AssertionError: raise AssertionError.*line \d+, in silent",
    ):
        robot(env_id="UserSilent-v0")


def test_each_refusal_names_the_environment() -> None:
    for params in (
        {"images": {"front": {}}}, {"ignore": ["x"]}, {"bounds": [1, 0]},
        {"wrappers": [{"target": "gymnasium.wrappers:ClipReward", "kwargs": {"x": 1}}]},
    ):  # fmt: skip
        with pytest.raises(SuiteError, match="UserGiven-v0"):
            robot(**params)
