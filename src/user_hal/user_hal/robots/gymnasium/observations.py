"""Observations of a Gymnasium environment as named arrays.

A ``Dict`` or ``Tuple`` space gives one array per leaf, named by the keys on the way to it, joined
by dots (``robot.joint_position``). A space that is no container gives one array, ``image`` for an
image (:mod:`~user_hal.robots.gymnasium.pictures`) and ``state`` for all else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from user_core.errors import ConfigError, SpecError
from user_core.specs import DTYPES, Array, ArraySpec
from user_hal.robots.gymnasium.config import GymnasiumConfig, PictureConfig
from user_hal.robots.gymnasium.pictures import Picture, layout_of

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
RENDER = "image_render"
#: More numbers than this in one array are hardly a state that a network of numbers learns from.
_MANY_NUMBERS = 1000
#: Bytes of an image that makes everything slow: more than 256 x 256 in colours.
_LARGE_IMAGE = 200_000


class Observations:
    """Makes arrays of the values of an observation space.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these; other spaces
            only where they are ignored.
        config: ``float_dtype``, ``images`` and ``ignore``.

    Raises:
        SpecError: A leaf has another space (its name and the space are in the message), two leaves
            have the same dotted name, or nothing is left.
        ConfigError: ``images`` or ``ignore`` names what there is not, or does not fit.

    Attributes:
        specs: Of the arrays.
        notes: What a person should know.
    """

    def __init__(self, space: spaces.Space[Any], config: GymnasiumConfig) -> None:
        self._space, self._config = space, config
        self._pictures: dict[str, Picture] = {}
        self._single = self._single_name()
        self._counts: set[str] = set()
        self._empty: set[str] = set()
        self.specs: dict[str, ArraySpec] = {}
        self.notes: list[str] = []
        leaves = list(self._leaves(space))
        self._ignored = self._find_ignored([name for name, _ in leaves])
        for name, leaf in leaves:
            if name not in self._ignored:
                self._add(name, leaf)
        if not self.specs:
            raise SpecError(
                "observation", got=f"{space}, all ignored", expected="at least one array"
            )
        known = {*self.specs, self._single, *([RENDER] if config.render_image else [])}
        if isinstance(space, spaces.Box) and len(space.shape) > 1:
            known.add("image")  # also where it is none until a setting says that it is one
        for name in config.images:
            if name not in known:
                raise ConfigError(
                    f"images.{name}", got="no such observation", expected=sorted(known)
                )
        if self._ignored:
            self.notes.append(f"left out, as ignore says: {', '.join(sorted(self._ignored))}")

    def begin(self) -> None:
        """An episode begins: images of the last one are not stacked with its own."""
        for picture in self._pictures.values():
            picture.begin()

    def arrays(self, value: Any) -> dict[str, Array]:
        """Named arrays of one observation, in the types and shapes of ``specs``; read-only, own.

        Raises:
            SpecError: The value does not fit the space, or would be another after the cast.
        """
        arrays: dict[str, Array] = {}
        for name, element in self._values(self._space, value):
            if name in self._ignored or name in self._empty:
                continue
            picture = self._pictures.get(name)
            arrays[name] = picture.show(element) if picture else self._numbers(name, element)
        return arrays

    def _numbers(self, name: str, value: Any) -> Array:
        spec = self.specs[name]
        array = exact(value, spec.dtype, f"observation {name!r}")
        if array.shape == () and spec.shape == (1,):
            array = array.reshape(1)
        spec.check(array, f"observation {name!r}")
        if name in self._counts and not (
            (array >= spec.low_array).all() and (array <= spec.high_array).all()
        ):
            raise SpecError(
                f"observation {name!r}",
                got=array.tolist(),
                expected=f"{spec.low_array.tolist()} to {spec.high_array.tolist()}",
            )
        array.flags.writeable = False
        return array

    def _add(self, name: str, leaf: spaces.Space[Any]) -> None:
        if name in self.specs:
            raise SpecError(
                f"observation {name!r}", got="two leaves of that name", expected="unique names"
            )
        config = self._config.images.get(name)
        if config is None and children_of(self._space) is None:  # it goes by two names
            config = self._config.images.get("image")
        says_none = config is not None and config.layout == "none"
        if not says_none and (config is not None or layout_of(leaf) != "none"):
            if not isinstance(leaf, spaces.Box):
                raise ConfigError(f"images.{name}", got=str(leaf), expected="a Box")
            self._pictures[name] = picture = Picture(name, leaf, config or PictureConfig())
            self.specs[name] = picture.spec
            if picture.spec.size > _LARGE_IMAGE:
                height, width, channels = picture.spec.shape
                self.notes.append(
                    f"image {name!r} has {height} x {width} x {channels} bytes, which every step stores "
                    f"and every update computes with. images: {{{name}: {{resize: [84, 84]}}}} makes it "
                    "smaller"
                )
            return
        spec = leaf_spec(leaf, self._config.float_dtype, name)
        if spec.dtype == "uint8" and len(spec.shape) == 3:  # else a policy takes it for an image
            spec = ArraySpec(spec.shape, self._config.float_dtype, spec.low, spec.high)
        if not spec.size:
            self._empty.add(name)
            self.notes.append(f"observation {name!r} has no numbers ({leaf}): left out")
            return
        self.specs[name] = spec
        if not isinstance(leaf, spaces.Box):
            self._counts.add(name)
        if spec.size > _MANY_NUMBERS:
            self.notes.append(
                f"observation {name!r} is {spec.size} numbers ({spec.dtype}{list(spec.shape)}), and no "
                f"image. If it is one, images: {{{name}: {{layout: hwc, range: [0, 1]}}}} says so"
            )

    def _find_ignored(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        for ignored in self._config.ignore:
            below = [name for name in names if name == ignored or name.startswith(f"{ignored}.")]
            if not below:
                raise ConfigError("ignore", got=ignored, expected=f"some of {sorted(names)}")
            found.update(below)
        return found

    def _single_name(self) -> str:
        """The name of what is no container."""
        config = self._config.images.get("image")
        layout = layout_of(self._space) if config is None else config.layout
        return "state" if layout == "none" else "image"

    def _leaves(
        self, space: spaces.Space[Any], path: str = ""
    ) -> Iterator[tuple[str, spaces.Space[Any]]]:
        children = children_of(space)
        if children is None:
            yield path or self._single, space
            return
        for key, child in children:
            yield from self._leaves(child, f"{path}.{key}" if path else str(key))

    def _values(
        self, space: spaces.Space[Any], value: Any, path: str = ""
    ) -> Iterator[tuple[str, Any]]:
        children = children_of(space)
        if children is None:
            yield path or self._single, value
            return
        is_mapping = isinstance(space, spaces.Dict)
        for key, child in children:
            name = f"{path}.{key}" if path else str(key)
            if name in self._ignored:
                continue
            if is_mapping and (not isinstance(value, Mapping) or key not in value):
                got = (
                    sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
                )
                raise SpecError(f"observation {path or '(top)'}", got=got, expected=f"key {key!r}")
            yield from self._values(child, value[key], name)


def children_of(space: spaces.Space[Any]) -> list[tuple[Any, spaces.Space[Any]]] | None:
    """Keys and spaces of a Dict or Tuple; None of anything else."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return list(enumerate(space.spaces))
    return None


def exact(value: Any, dtype: str, where: str) -> Array:
    """The value as an array of that type, its own.

    Raises:
        SpecError: It is no array of numbers, or an integer type cannot hold what it is.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SpecError(where, got=str(error), expected=f"an array of {dtype}") from error
    if np.ma.is_masked(value):
        raise SpecError(where, got="a masked array, some of it hidden", expected="all values")
    if array.dtype.kind not in "biuf":
        raise SpecError(
            where, got=f"{type(value).__name__} ({array.dtype})", expected=f"an array of {dtype}"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        made: Array = np.array(array, dtype=dtype)
    if made.dtype.kind != "f" and made.dtype != array.dtype:
        changed = made != array
        if changed.any():
            was, became = array[changed].flat[0], made[changed].flat[0]
            raise SpecError(
                where,
                got=f"{was} ({array.dtype}), which would become {became}",
                expected=f"a value of {dtype}, as its space says",
                hint="Mend the environment's observation_space, or wrap it",
            )
    return made


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
        expected=f"one of {[leaf.__name__ for leaf in LEAVES]}, or Dict and Tuple of them",
        hint=f"What is not needed is left out by ignore: [{name}]; what is, a wrapper must turn into "
        "numbers of a fixed shape",
    )


def _bound(bound: Array, dtype: str) -> float | tuple[float, ...] | None:
    finite = np.isfinite(bound)
    if not finite.any():
        return None
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else None
    values: Array = np.asarray(bound, dtype=np.float64).ravel()
    if info is not None:
        values = np.clip(values, float(info.min), float(info.max))
    return few(values)


def few(values: Array) -> float | tuple[float, ...]:
    """One number where all are the same."""
    if (values == values[0]).all():
        return float(values[0])
    return tuple(values.tolist())
