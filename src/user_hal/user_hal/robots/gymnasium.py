"""Any Gymnasium environment as a robot (https://gymnasium.farama.org).

Time passes by commands only (lockstep): one command is one ``env.step``. ``terminated`` and
``truncated`` are handed on exactly as the environment tells them.

Observation names: a ``Dict`` or ``Tuple`` space gives one array per leaf, named by the keys on
the way to it, joined by dots (``robot.joint_position``); a space that is no container gives one
array, ``image`` for images (uint8, height x width x 1, 3 or 4) and ``state`` for all else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from user_core.config import Config, setting
from user_core.errors import (
    ConfigError,
    DeviceError,
    DeviceFault,
    DeviceNotConnected,
    SpecError,
    SuiteError,
)
from user_core.interfaces import Discovered, Robot
from user_core.plugins import import_object
from user_core.specs import DTYPES, ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import LARGEST_REWARD, AppliedAction, Observation, TaskFeedback

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def observation_specs(space: spaces.Space[Any], float_dtype: str) -> dict[str, ArraySpec]:
    """Specs of the leaves of an observation space.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these.
        float_dtype: Type that floating-point leaves are given in.

    Raises:
        SpecError: A leaf has another space (its name and the space are in the message), or two
            leaves have the same dotted name.
    """
    specs: dict[str, ArraySpec] = {}
    for name, leaf in _leaves(space):
        if name in specs:
            raise SpecError(
                f"observation {name!r}", got="two leaves of that name", expected="unique names"
            )
        specs[name] = leaf_spec(leaf, float_dtype, name)
    return specs


def action_spec(space: spaces.Space[Any], float_dtype: str) -> ArraySpec:
    """Spec of an action as a vector: a Box is flattened, a Discrete is one int64 number.

    A Box with any infinite bound has no bounds in the spec: half of them would only mislead
    what scales actions by them.
    """
    spec = leaf_spec(space, float_dtype, "action")
    bounded = not isinstance(space, spaces.Box) or bool(
        np.isfinite(space.low).all() and np.isfinite(space.high).all()
    )
    low, high = (spec.low, spec.high) if bounded else (None, None)
    return ArraySpec((spec.size,), spec.dtype, low, high)


def clip(space: spaces.Space[Any], action: Array) -> Array:
    """An action vector, brought within the bounds of a Box; anything else as it is."""
    if not isinstance(space, spaces.Box):
        return action
    low, high = (np.asarray(bound, action.dtype).ravel() for bound in (space.low, space.high))
    clipped: Array = np.clip(action, low, high)
    return clipped


def leaf_spec(space: spaces.Space[Any], float_dtype: str, name: str) -> ArraySpec:
    """Spec of one leaf. Infinite bounds become none; where only some elements have a bound,
    the others get the largest number of the type."""
    if isinstance(space, spaces.Box):
        dtype = float_dtype if np.issubdtype(space.dtype, np.floating) else str(space.dtype)
        if dtype not in DTYPES:
            raise SpecError(f"{name}: dtype of {space}", got=dtype, expected=f"one of {DTYPES}")
        return ArraySpec(
            tuple(int(n) for n in space.shape),
            dtype,
            low=_bound(space.low, dtype),
            high=_bound(space.high, dtype),
        )
    if isinstance(space, spaces.Discrete):
        low = float(space.start)
        return ArraySpec((1,), "int64", low=low, high=low + float(space.n) - 1)
    if isinstance(space, spaces.MultiDiscrete):
        low_array = np.asarray(space.start, dtype=np.float64).ravel()
        high_array = low_array + np.asarray(space.nvec, dtype=np.float64).ravel() - 1
        shape = tuple(int(n) for n in space.shape)
        return ArraySpec(shape, "int64", tuple(low_array.tolist()), tuple(high_array.tolist()))
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(tuple(int(n) for n in space.shape), "int8", low=0.0, high=1.0)
    raise SpecError(
        f"space of {name!r}",
        got=str(space),
        expected=f"one of {[leaf.__name__ for leaf in _LEAVES]}, or Dict and Tuple of them",
        hint="Wrap the environment, for instance with gymnasium.wrappers.FlattenObservation",
    )


def flatten(
    space: spaces.Space[Any], value: Any, specs: Mapping[str, ArraySpec]
) -> dict[str, Array]:
    """Named arrays of one observation, in the dtypes and shapes of ``specs``; copies, read-only.

    Raises:
        SpecError: The value does not fit the space.
    """
    arrays: dict[str, Array] = {}
    for name, element in _values(space, value):
        spec = specs[name]
        array = np.array(element, dtype=spec.dtype)
        if array.shape == () and spec.shape == (1,):
            array = array.reshape(1)
        spec.check(array, f"observation {name!r}")
        array.flags.writeable = False
        arrays[name] = array
    return arrays


def to_env(space: spaces.Space[Any], action: Array) -> Any:
    """An action vector in the form that ``env.step`` takes."""
    if isinstance(space, spaces.Discrete):
        return int(action[0])
    assert space.shape is not None and space.dtype is not None  # noqa: S101 - of leaves, always
    return action.astype(space.dtype).reshape(space.shape)


def _leaves(space: spaces.Space[Any], path: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(space, spaces.Tuple):
        for index, child in enumerate(space.spaces):
            yield from _leaves(child, f"{path}.{index}" if path else str(index))
    else:
        yield path or _single_name(space), space


def _values(space: spaces.Space[Any], value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            if not isinstance(value, Mapping) or key not in value:
                got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise SpecError(f"observation {path or '(top)'}", got=got, expected=f"key {key!r}")
            yield from _values(child, value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(space, spaces.Tuple):
        for index, child in enumerate(space.spaces):
            yield from _values(child, value[index], f"{path}.{index}" if path else str(index))
    else:
        yield path or _single_name(space), value


def _single_name(space: spaces.Space[Any]) -> str:
    shape = space.shape or ()
    is_image = (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(shape) == 3
        and shape[-1] in (1, 3, 4)
    )
    return "image" if is_image else "state"


def _bound(bound: Array, dtype: str) -> float | tuple[float, ...] | None:
    finite = np.isfinite(bound)
    if not finite.any():
        return None
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else None
    values: Array = np.asarray(bound, dtype=np.float64).ravel()
    if info is not None:
        values = np.clip(values, float(info.min), float(info.max))
    if (values == values[0]).all():
        return float(values[0])
    return tuple(values.tolist())


_RENDER = "image_render"


class WrapperConfig(Config):
    """One wrapper around the environment."""

    target: str = setting(
        doc="What to wrap with, package.module:Class, for instance "
        "gymnasium.wrappers:RescaleAction."
    )
    kwargs: dict[str, Any] = setting(factory=dict, doc="Its keyword arguments.")


class GymnasiumConfig(Config):
    """Which environment, and how it is shown."""

    env_id: str = setting(
        doc="Registered name, for instance Pendulum-v1; module:Name-v0 imports the module first.",
        min_length=1,
    )
    kwargs: dict[str, Any] = setting(factory=dict, doc="Keyword arguments of gymnasium.make.")
    wrappers: tuple[WrapperConfig, ...] = setting((), doc="Wrappers, the innermost first.")
    float_dtype: Literal["float32", "float64"] = setting(
        "float32", doc="Type of floating-point observations and actions."
    )
    render_image: bool = setting(
        False, doc="Add the rendered image as the observation image_render."
    )
    max_episode_steps: int | None = setting(
        None, doc="Steps until truncation, instead of the registered number.", ge=1
    )
    period_s: float = setting(
        0.05,
        doc="Control period that the robot's spec tells; no time really passes.",
        unit="s",
        gt=0,
    )


class GymnasiumRobot(Robot):
    """Drives one environment. ``spec`` needs the spaces, so the environment is made at once.

    Observations: one array per leaf of the observation space (:mod:`~user_hal.robots.gymnasium`).
    Actions: Box as a flat vector, clipped to its bounds; Discrete as an int64 vector of one
    element, refused outside its range. ``TaskFeedback`` holds the environment's reward and flags,
    and ``success`` where ``info`` has ``is_success`` or ``success``.

    Raises:
        ConfigError: There is no such environment, or a keyword does not fit it.
        DeviceError: The environment needs a module that is not installed.
        SpecError: It has a space that cannot be an array.
    """

    Config = GymnasiumConfig

    def __init__(self, config: GymnasiumConfig) -> None:
        self._config = config
        self._env: gymnasium.Env[Any, Any] | None = _make(config)
        self._space = self._env.observation_space
        self._action_space = self._env.action_space
        self._state_specs = observation_specs(self._space, config.float_dtype)
        observation = dict(self._state_specs)
        if config.render_image:
            observation[_RENDER] = self._render_spec()
        self._spec = RobotSpec(
            robot=config.env_id.rpartition(":")[2],
            observation=observation,
            action=action_spec(self._action_space, config.float_dtype),
            action_kind=ActionKind.GENERIC,
            period_s=config.period_s,
            lockstep=True,
            task_reward=True,
        )
        self._sequence = self._commands = self._episode = self._steps = 0
        self._applied: AppliedAction | None = None
        self._observation: Observation | None = None

    @property
    def spec(self) -> RobotSpec:
        """Spaces of the environment, as specs."""
        return self._spec

    def connect(self) -> None:
        """Start a first episode, so that there is something to read."""
        if self._env is None:
            self._env = _make(self._config)
        self._begin(None)

    def read(self) -> Observation:
        """The observation after the last step; no time passes in between."""
        if self._observation is None:
            raise DeviceNotConnected(f"environment {self._config.env_id!r}", hint="Call connect()")
        return self._observation

    def command(self, action: Array) -> Array:
        """Make one step; returns the action after clipping.

        Raises:
            DeviceError: The episode is over: the environment needs a reset first.
            DeviceFault: The environment raised, or showed numbers that are not finite.
            SpecError: Wrong shape or type, not finite, or a discrete action out of its range.
        """
        if self._observation is None or self._env is None:
            raise DeviceNotConnected(f"environment {self._config.env_id!r}", hint="Call connect()")
        task = self._observation.task
        if task.terminated or task.truncated:
            raise DeviceError(
                f"step of environment {self._config.env_id!r} after its episode ended",
                got="terminated" if task.terminated else "truncated",
                hint="Call reset()",
            )
        executed = self._checked(action)
        try:
            value, reward, terminated, truncated, info = self._env.step(
                to_env(self._action_space, executed)
            )
        except Exception as error:  # an environment may fail in any way
            raise self._fault("step", error) from error
        self._commands += 1
        self._steps += 1
        feedback = TaskFeedback(
            self._number("reward", reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            self._success(info),
        )
        changed = not np.array_equal(executed, action)
        self._applied = AppliedAction(executed, self._commands, 0, changed, time.time_ns())
        self._observation = self._observe(value, feedback)
        return executed

    def stop(self) -> None:
        """Nothing moves between two commands, so there is nothing to stop."""

    def reset(self, seed: int | None = None) -> Observation:
        """Begin an episode; the same seed gives the same start."""
        if self._env is None or self._observation is None:
            raise DeviceNotConnected(f"environment {self._config.env_id!r}", hint="Call connect()")
        self._episode += 1
        return self._begin(seed)

    def close(self) -> None:
        """Close the environment; :meth:`connect` makes a new one."""
        env, self._env, self._observation = self._env, None, None
        if env is not None:
            env.close()

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Newest versions of the registered environments whose modules are installed."""
        newest: dict[str, Any] = {}
        for spec in gymnasium.registry.values():
            known = newest.get(spec.name)
            if spec.namespace is None and (known is None or spec.version > known.version):
                newest[spec.name] = spec
        return [
            Discovered(spec.id, {"env_id": spec.id}, f"Gymnasium, {_module(spec)}")
            for spec in newest.values()
            if _installed(_module(spec))
        ]

    def _number(self, field: str, value: Any) -> float:
        """A number of the step; raises DeviceFault with the place where it came."""
        try:
            number = float(np.asarray(value, np.float64).item())
        except (TypeError, ValueError):
            number = math.nan
        if not abs(number) <= LARGEST_REWARD:
            raise DeviceFault(
                self._where(field), got=_short(value),
                expected=f"a finite number, at most {LARGEST_REWARD:g} in size",
                hint="gymnasium.wrappers.TransformReward can scale it",
            )  # fmt: skip
        return number

    def _flag(self, field: str, value: Any) -> bool:
        """A truth value of the step; raises DeviceFault."""
        try:
            if value is not None:
                return bool(np.asarray(value).item())
        except (TypeError, ValueError):
            pass
        raise DeviceFault(self._where(field), got=_short(value), expected="true or false")

    def _success(self, info: Any) -> bool | None:
        if not isinstance(info, Mapping):
            raise DeviceFault(self._where("info"), got=_short(info), expected="a mapping")
        for key in ("is_success", "success"):
            if info.get(key) is not None:
                return self._flag(f"info[{key!r}]", info[key])
        return None

    def _where(self, field: str) -> str:
        place = f"episode {self._episode}, step {self._steps}"
        return f"{field} of environment {self._config.env_id!r} at {place}"

    def _begin(self, seed: int | None) -> Observation:
        assert self._env is not None  # noqa: S101 - callers made sure
        self._applied, self._steps = None, 0
        try:
            value, _ = self._env.reset(seed=seed)
        except Exception as error:
            raise self._fault("reset", error) from error
        self._observation = self._observe(value, TaskFeedback(reward=0.0))
        return self._observation

    def _observe(self, value: Any, task: TaskFeedback) -> Observation:
        try:
            arrays = flatten(self._space, value, self._state_specs)
        except SpecError as error:
            raise DeviceFault(self._where("observation"), got=str(error)) from error
        except Exception as error:  # what cannot become an array
            got = f"{type(error).__name__}: {error}"
            raise DeviceFault(self._where("observation"), got=got) from error
        if self._config.render_image:
            image = self._image()
            self._spec.observation[_RENDER].check(image, _RENDER)
            arrays[_RENDER] = image
        self._sequence += 1
        return Observation(
            arrays, time.time_ns(), self._sequence, self._episode, task, self._applied
        )

    def _checked(self, action: Array) -> Array:
        spec = self._spec.action
        spec.check(action, f"action of {self._config.env_id!r}")
        is_discrete = np.dtype(spec.dtype).kind != "f" and spec.low is not None
        if is_discrete and ((action < spec.low_array) | (action > spec.high_array)).any():
            raise SpecError(
                f"discrete action of {self._config.env_id!r}",
                got=action.tolist(),
                expected=f"{spec.low_array.tolist()} to {spec.high_array.tolist()}",
            )
        return clip(self._action_space, action)

    def _image(self) -> Array:
        assert self._env is not None  # noqa: S101 - callers made sure
        image = np.array(self._env.render(), dtype=np.uint8)
        image.flags.writeable = False
        return image

    def _render_spec(self) -> ArraySpec:
        assert self._env is not None  # noqa: S101 - called from __init__
        try:
            self._env.reset()
            return ArraySpec(self._image().shape, "uint8")
        except Exception as error:
            raise self._fault("rendering", error) from error

    def _fault(self, what: str, error: Exception) -> SuiteError:
        text = f"{what} of environment {self._config.env_id!r}"
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            return DeviceError(text, got=str(error), hint="Install the extra it names")
        return DeviceFault(text, got=f"{type(error).__name__}: {error}")


def _make(config: GymnasiumConfig) -> gymnasium.Env[Any, Any]:
    kwargs = dict(config.kwargs)
    if config.render_image:
        kwargs.setdefault("render_mode", "rgb_array")
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    try:
        env: gymnasium.Env[Any, Any] = gymnasium.make(config.env_id, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise DeviceError(
            f"environment {config.env_id!r} needs what is not installed",
            got=str(error),
            hint="Install the extra it names",
        ) from error
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ConfigError(
            f"environment {config.env_id!r} cannot be made",
            got=f"{type(error).__name__}: {error}",
            expected="a registered environment and keyword arguments that it takes",
            hint="`python -m gymnasium.envs.registration` lists those that are registered",
        ) from error
    for index, wrapper in enumerate(config.wrappers):
        try:
            env = import_object(wrapper.target)(env, **wrapper.kwargs)
        except SuiteError:
            env.close()
            raise
        except Exception as error:
            env.close()
            raise ConfigError(
                f"wrappers[{index}] {wrapper.target!r}",
                got=f"{type(error).__name__}: {error}",
                expected="a wrapper that takes this environment and these keyword arguments",
            ) from error
    return env


def _short(value: Any) -> str:
    """A value as it came, with its type, at most a line of it."""
    text = " ".join(repr(value).split())
    return f"{text[:80]} ({type(value).__name__})"


def _module(spec: Any) -> str:
    point = spec.entry_point
    return point.partition(":")[0] if isinstance(point, str) else getattr(point, "__module__", "")


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    needs = {"box2d": "Box2D", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}
    parts = module.split(".")
    if parts[:2] == ["gymnasium", "envs"] and len(parts) > 2 and parts[2] in needs:
        return find_spec(needs[parts[2]]) is not None
    try:
        return bool(parts[0]) and find_spec(parts[0]) is not None
    except (ImportError, ValueError):
        return False
