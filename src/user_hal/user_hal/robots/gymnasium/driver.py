"""The robot that is an environment.

Time passes by commands only (lockstep): one command is one ``env.step``. ``terminated`` and
``truncated`` are handed on exactly as the environment tells them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from user_core.errors import DeviceError, DeviceFault, DeviceNotConnected, SpecError, SuiteError
from user_core.interfaces import Discovered, Robot
from user_core.specs import Array, ArraySpec, RobotSpec
from user_core.types import LARGEST_REWARD, AppliedAction, Observation, TaskFeedback
from user_hal.robots.gymnasium.actions import Actions
from user_hal.robots.gymnasium.config import GymnasiumConfig, PictureConfig
from user_hal.robots.gymnasium.making import close, conflicts_of, installed, make, module_of, said
from user_hal.robots.gymnasium.observations import RENDER, Observations
from user_hal.robots.gymnasium.pictures import Picture

_log = logging.getLogger(__name__)
_SUCCESS_KEYS = (
    "is_success", "success", "succeed", "is_solved", "solved", "task_success", "goal_achieved",
)  # fmt: skip
#: Words in the name of a key that may be a verdict.
_LIKE_SUCCESS = ("succ", "solved", "achiev", "reached", "complet")


#: What an environment gives.
_STEP = ("observation", "reward", "terminated", "truncated", "info")
_RESET = ("observation", "info")


class GymnasiumRobot(Robot):
    """Drives one environment. ``spec`` needs the spaces, so the environment is made at once.

    Observations: one array per leaf of the observation space
    (:mod:`~user_hal.robots.gymnasium.observations`). Actions: a vector
    (:mod:`~user_hal.robots.gymnasium.actions`). ``TaskFeedback`` holds the environment's reward and
    flags, and ``success`` as ``info`` or a threshold of the reward says it; None where neither does.

    Raises:
        ConfigError: There is no such environment, or a setting does not fit it.
        DeviceError: The environment needs a module that is not installed.
        SpecError: It has a space that cannot be an array.
    """

    Config = GymnasiumConfig
    simulated = True

    def __init__(self, config: GymnasiumConfig) -> None:
        self._config = config
        self._env: gymnasium.Env[Any, Any] | None = make(config)
        self._rendered: Picture | None = None
        self._sequence = self._commands = self._episode = self._steps = 0
        try:
            self._observations = Observations(_space(self._env, "observation_space"), config)
            self._actions = Actions(_space(self._env, "action_space"), config)
            observation = dict(self._observations.specs)
            if config.render_image:
                observation[RENDER] = self._render_spec()
        except SuiteError as error:
            close(self._env)
            what = f"environment {config.env_id!r}: {error.what}"
            raise type(error)(
                what, got=error.got, expected=error.expected, hint=error.hint
            ) from error
        for note in self._observations.notes:
            _log.warning("environment %r: %s", config.env_id, note)
        self._spec = RobotSpec(
            robot=config.env_id.rpartition(":")[2],
            observation=observation,
            action=self._actions.spec,
            action_kind=self._actions.kind,
            period_s=config.period_s,
            lockstep=True,
            task_reward=True,
        )
        self._return, self._solved, self._key_seen = 0.0, False, False
        self._seed = config.seed
        self._applied: AppliedAction | None = None
        self._observation: Observation | None = None

    @property
    def spec(self) -> RobotSpec:
        """Spaces of the environment, as specs."""
        return self._spec

    def connect(self) -> None:
        """Start a first episode, so that there is something to read."""
        if self._env is None:
            self._env = make(self._config)
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
            DeviceFault: The environment raised, or showed what does not fit its spaces.
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
        executed = self._actions.checked(action)
        try:
            given = self._env.step(self._actions.to_env(executed))
        except Exception as error:  # an environment may fail in any way
            raise self._fault("step", error) from error
        self._commands += 1
        self._steps += 1
        value, reward, terminated, truncated, info = self._parts("step", given, _STEP)
        number = self._number("reward", reward)
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        feedback = TaskFeedback(number, *ends, self._success(info, number, any(ends)))
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
            Discovered(spec.id, {"env_id": spec.id}, f"Gymnasium, {module_of(spec)}")
            for spec in newest.values()
            if installed(module_of(spec))
        ]

    def _number(self, field: str, value: Any) -> float:
        """A number of the step; raises DeviceFault with the place where it came."""
        try:
            array = np.asarray(value)
            counts = array.dtype.kind in "biuf" or isinstance(value, SupportsFloat)
            hidden = np.ma.is_masked(value) or array.dtype.kind in "SUmM"
            number = float(array.item()) if counts and not hidden else math.nan
        except Exception:  # what cannot become a number, in whatever way it says so
            number = math.nan
        if not abs(number) <= LARGEST_REWARD:
            raise DeviceFault(
                self._where(field), got=_short(value),
                expected=f"a finite number, at most {LARGEST_REWARD:g} in size",
                hint="" if math.isnan(number) else "gymnasium.wrappers.TransformReward can scale it",
            )  # fmt: skip
        return number

    def _flag(self, field: str, value: Any, hint: str = "") -> bool:
        """A truth value of the step, also as the number 0 or 1; raises DeviceFault."""
        try:
            array = np.asarray(value)
            if array.dtype.kind in "biuf" and array.item() in (0, 1):
                return bool(array.item())
        except Exception:  # what has no truth, in whatever way it says so
            pass
        raise DeviceFault(
            self._where(field), got=_short(value), expected="true or false, 0 or 1", hint=hint
        )

    def _success(self, info: Any, reward: float, ended: bool) -> bool | None:
        """Whether the task is solved; None where neither info nor a threshold tells."""
        config = self._config
        self._return += reward
        if config.success_reward is not None:
            self._solved |= reward >= config.success_reward
            return True if self._solved else (False if ended else None)
        if config.success_return is not None:
            return self._return >= config.success_return if ended else None
        chosen = config.success_key
        for key in (chosen,) if chosen else _SUCCESS_KEYS:
            value = _found(info, key)
            if value is not None:
                self._key_seen = True
                hint = "success_key, success_reward or success_return can decide instead"
                return self._flag(f"info[{key!r}]", value, hint)
        if ended and not self._key_seen:
            self._key_seen = True  # said once
            self._say_no_verdict(chosen, info)
        return None

    def _say_no_verdict(self, chosen: str, info: Mapping[str, Any]) -> None:
        """At the end of a first episode of which nobody knows whether it succeeded."""
        if chosen:
            _log.warning(
                "%s: success_key %r is not there at the end of an episode; there are %s",
                self._where("info"), chosen, sorted(map(str, info)),
            )  # fmt: skip
        elif like := _like_success(info):
            _log.warning(
                "%s: no key that is known to mean success, but %s. If one of them does, "
                "success_key:=%s says so", self._where("info"), ", ".join(like), like[0],
            )  # fmt: skip

    def _parts(self, what: str, given: Any, names: Sequence[str]) -> Sequence[Any]:
        """What step or reset gave, in its parts; the last of them is a mapping.

        Raises:
            DeviceFault: There are more or fewer of them, as in Gym before 0.26.
        """
        if not isinstance(given, (tuple, list)) or len(given) != len(names):
            shown = f"{len(given)} values" if isinstance(given, tuple) else _short(given)
            raise DeviceFault(
                self._where(what), got=shown, expected=f"{len(names)} values: {', '.join(names)}",
                hint="Environments of Gym before 0.26 need a wrapper, for instance shimmy's "
                "GymV21CompatibilityV0",
            )  # fmt: skip
        if not isinstance(given[-1], Mapping):
            raise DeviceFault(self._where("info"), got=_short(given[-1]), expected="a mapping")
        return given

    def _where(self, field: str) -> str:
        place = f"episode {self._episode}, step {self._steps}"
        return f"{field} of environment {self._config.env_id!r} at {place}"

    def _begin(self, seed: int | None) -> Observation:
        assert self._env is not None  # noqa: S101 - callers made sure
        self._applied, self._steps, self._return, self._solved = None, 0, 0.0, False
        self._observations.begin()
        if self._rendered is not None:
            self._rendered.begin()
        if seed is None:
            seed, self._seed = self._seed, None
        try:
            given = self._env.reset(seed=seed)
        except Exception as error:
            raise self._fault("reset", error) from error
        value, _ = self._parts("reset", given, _RESET)
        self._observation = self._observe(value, TaskFeedback(reward=0.0))
        return self._observation

    def _observe(self, value: Any, task: TaskFeedback) -> Observation:
        try:
            arrays = self._observations.arrays(value)
            if self._rendered is not None:
                arrays[RENDER] = self._rendered.show(self._image())
        except SpecError as error:
            raise DeviceFault(self._where("observation"), got=str(error)) from error
        except Exception as error:  # what cannot become an array
            raise DeviceFault(self._where("observation"), got=said(error)) from error
        self._sequence += 1
        return Observation(
            arrays, time.time_ns(), self._sequence, self._episode, task, self._applied
        )

    def _image(self) -> Array:
        assert self._env is not None  # noqa: S101 - callers made sure
        image = self._env.render()
        array = np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
            raise DeviceFault(
                self._where("rendering"), got=_short(image),
                expected="an image, height x width x channels",
                hint="kwargs:='{render_mode: rgb_array}' gives one, where the environment can",
            )  # fmt: skip
        return array

    def _render_spec(self) -> ArraySpec:
        assert self._env is not None  # noqa: S101 - called from __init__
        try:
            self._env.reset()
            space = gymnasium.spaces.Box(0, 255, self._image().shape, np.uint8)
            config = self._config.images.get(RENDER, PictureConfig())
            self._rendered = Picture(RENDER, space, config)
        except SuiteError:
            raise
        except Exception as error:
            raise self._fault("rendering", error) from error
        return self._rendered.spec

    def _fault(self, what: str, error: Exception) -> SuiteError:
        text = f"{what} of environment {self._config.env_id!r}"
        conflicts = conflicts_of(self._config.env_id)
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            hint = f"Install the extra it names{'. ' * bool(conflicts)}{conflicts}"
            return DeviceError(text, got=said(error), hint=hint)
        return DeviceFault(text, got=said(error), hint=conflicts)


def _space(env: gymnasium.Env[Any, Any], name: str) -> Any:
    """One of its spaces; raises SpecError where there is none."""
    try:
        space = getattr(env, name)
    except Exception as error:  # a property may fail in any way
        raise SpecError(name, got=said(error), expected="a gymnasium.spaces.Space") from error
    if not isinstance(space, gymnasium.Space):
        raise SpecError(
            name, got=_short(space), expected="a gymnasium.spaces.Space",
            hint="Spaces of the old package gym are others; shimmy converts such an environment",
        )  # fmt: skip
    return space


def _like_success(info: Mapping[str, Any], above: str = "") -> list[str]:
    """Keys of info, and of mappings in it, that have a truth value and a promising name."""
    found = []
    for key, value in info.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and not above:
            found += _like_success(value, path)
        elif isinstance(value, (bool, np.bool_)) and any(w in path.lower() for w in _LIKE_SUCCESS):
            found.append(path)
    return found


def _found(info: Mapping[str, Any], key: str) -> Any:
    """What stands under a key, or a path of keys with dots; None if nothing does."""
    if key in info:
        return info[key]
    value: Any = info
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _short(value: Any) -> str:
    """A value as it came, with its type, at most a line of it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of whoever made the value
        text = "something without words"
    return f"{text[:80]} ({type(value).__name__})"
