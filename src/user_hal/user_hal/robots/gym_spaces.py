"""Gymnasium spaces as specs, and their values as named arrays and vectors.

Observation names: a ``Dict`` or ``Tuple`` space gives one array per leaf, named by the keys on
the way to it, joined by dots (``robot.joint_position``); a space that is no container gives one
array, ``image`` for pictures (uint8, height x width x 1, 3 or 4) and ``state`` for all else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from user_core.errors import SpecError
from user_core.specs import DTYPES, Array, ArraySpec

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
                came = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise SpecError(f"observation {path or '(top)'}", got=came, expected=f"key {key!r}")
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
