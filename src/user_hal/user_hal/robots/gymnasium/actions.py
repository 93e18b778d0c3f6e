"""Actions of a Gymnasium environment as one vector.

===========================  =====================================================================
action space                 vector
===========================  =====================================================================
``Box`` of floats            flat, clipped to its bounds
``Discrete``                 int64, one choice
``MultiDiscrete``            int64, one choice each
``MultiBinary``              int8, the choice between 0 and 1, each
``Box`` of integers          its own type, flat; a choice each where there are at most 256
``Dict``, ``Tuple``          their parts one after the other; choices beside floats are floats, too,
                             and int64 beside other integers
===========================  =====================================================================

Choices are categorical elements of the spec. What is not made of floats is refused outside its range,
never clipped. With ``discrete: argmax`` all of it is floats: one from -1 to 1 for each choice, of which
the largest is taken; of MultiBinary one for each, 1 above zero; integers of a Box are rounded. That is a
stand-in for algorithms that know continuous actions only. It is not a categorical policy: its noise and
its entropy are those of the numbers, not of the choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from user_core.errors import ConfigError, SpecError
from user_core.specs import MOST_CHOICES, ActionKind, Array, ArraySpec
from user_hal.robots.gymnasium.config import GymnasiumConfig
from user_hal.robots.gymnasium.observations import LEAVES, children_of, few, leaf_spec

#: More integers than these in an element of a Box are a number, not a choice.
_MOST_OF_A_BOX = 256


#: Bounds beyond this (the largest float, to give an infinity a number) bound nothing: a policy that is
#: scaled by them would act with 1e38.
_LARGEST_BOUND = 1e15


@dataclass(frozen=True)
class _Part:
    """Consecutive elements of the vector that are one leaf of the space."""

    name: str
    space: spaces.Space[Any]
    low: Array
    high: Array
    dtype: str

    @property
    def size(self) -> int:
        return len(self.low)

    @property
    def is_float(self) -> bool:
        return np.dtype(self.dtype).kind == "f"

    @property
    def chooses(self) -> bool:
        """Whether its elements are choices."""
        if self.is_float or not self.size:
            return False
        most = _MOST_OF_A_BOX if isinstance(self.space, spaces.Box) else MOST_CHOICES
        return bool((self.high - self.low < most).all())


class Actions:
    """Makes actions of an environment of vectors.

    Args:
        space: Its action space.
        config: ``float_dtype``, ``bounds`` and ``discrete``.

    Raises:
        SpecError: A space that cannot be a vector, or floats beside integers that are no choices.
        ConfigError: ``bounds`` does not fit.

    Attributes:
        spec: Of the vector. Without bounds where an element has none: half of them would mislead
            what scales actions by them.
        kind: ``discrete`` where all elements are choices, or ``generic``.
    """

    def __init__(self, space: spaces.Space[Any], config: GymnasiumConfig) -> None:
        self._space, self._env_id = space, config.env_id
        self._choices = config.discrete == "argmax"
        self._parts = [self._part(name, leaf, config.float_dtype) for name, leaf in _leaves(space)]
        if not any(part.size for part in self._parts):
            raise SpecError(f"action of {config.env_id!r}", got=str(space), expected="some numbers")
        dtype = self._common_type()
        low = np.concatenate([part.low for part in self._parts])
        high = np.concatenate([part.high for part in self._parts])
        chooses = np.concatenate([np.full(part.size, part.chooses) for part in self._parts])
        if config.bounds is not None:
            low, high = self._narrowed(low, high, config.bounds, ~chooses)
        self._is_float = np.dtype(dtype).kind == "f"
        self._low, self._high = (b.astype(dtype) if self._is_float else b for b in (low, high))
        bounded = bool((np.maximum(np.abs(low), np.abs(high)) <= _LARGEST_BOUND).all())
        if chooses.any() and not bounded:
            raise SpecError(
                f"action of {config.env_id!r}", got="choices beside numbers that have no bounds",
                expected="bounds of these",
                hint='bounds:="[-1, 1]", or the range that makes sense; of choices it changes nothing',
            )  # fmt: skip
        self.spec = ArraySpec(
            (len(low),),
            dtype,
            few(low) if bounded else None,
            few(high) if bounded else None,
            names=self._names(),
            categorical=tuple(np.flatnonzero(chooses).tolist()),
        )
        self.kind = ActionKind.DISCRETE if chooses.size and chooses.all() else ActionKind.GENERIC

    def checked(self, action: Array) -> Array:
        """The action that is carried out: floats are clipped to the bounds.

        Raises:
            SpecError: Wrong shape or type, not finite, or out of range where it is no float.
        """
        self.spec.check(
            action, f"{'' if self._is_float else 'discrete '}action of {self._env_id!r}"
        )
        if self._is_float:  # choices were checked, clipping leaves them alone
            clipped: Array = np.clip(action, self._low, self._high)
            return clipped
        if ((action < self._low) | (action > self._high)).any():
            raise SpecError(
                f"discrete action of {self._env_id!r}",
                got=action.tolist(),
                expected=f"{self._low.tolist()} to {self._high.tolist()}",
            )
        return action

    def to_env(self, action: Array) -> Any:
        """A checked action in the form that ``env.step`` takes."""
        parts, at = iter(self._parts), 0

        def build(space: spaces.Space[Any]) -> Any:
            nonlocal at
            children = children_of(space)
            if children is not None:
                made = [(key, build(child)) for key, child in children]
                return dict(made) if isinstance(space, spaces.Dict) else tuple(v for _, v in made)
            size = next(parts).size
            at += size
            return self._leaf(space, action[at - size : at])

        return build(self._space)

    def _leaf(self, space: spaces.Space[Any], values: Array) -> Any:
        if isinstance(space, spaces.Discrete):
            start = int(space.start)
            return start + int(np.argmax(values)) if self._choices else int(values[0])
        assert space.shape is not None and space.dtype is not None  # noqa: S101 - of leaves, always
        if self._choices and isinstance(space, spaces.MultiDiscrete):
            counts = np.asarray(space.nvec).ravel()
            rows = np.split(values, np.cumsum(counts)[:-1])
            chosen = np.array([int(np.argmax(row)) for row in rows]).reshape(space.shape)
            return (chosen + space.start).astype(space.dtype)
        if self._choices and isinstance(space, spaces.MultiBinary):
            values = values > 0
        elif self._choices and np.issubdtype(space.dtype, np.integer):
            values = np.rint(values)
        return values.astype(space.dtype).reshape(space.shape)

    def _part(self, name: str, space: spaces.Space[Any], float_dtype: str) -> _Part:
        if not isinstance(space, LEAVES):
            raise SpecError(
                f"action {name!r} of {self._env_id!r}",
                got=str(space),
                expected=f"one of {[leaf.__name__ for leaf in LEAVES]}, or Dict and Tuple of them",
                hint="A wrapper (gymnasium.ActionWrapper, chosen by wrappers) can make one of it",
            )
        is_float = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if is_float or not self._choices:
            spec = leaf_spec(space, float_dtype, f"action {name!r}")
            if isinstance(space, spaces.Box):
                low, high = (np.asarray(b, np.float64).ravel() for b in (space.low, space.high))
            else:
                low, high = (
                    np.asarray(b, np.float64).ravel() for b in (spec.low_array, spec.high_array)
                )
            return _Part(name, space, low, high, spec.dtype)
        if isinstance(space, spaces.Box):
            low, high = (np.asarray(b, np.float64).ravel() for b in (space.low, space.high))
            return _Part(name, space, low, high, float_dtype)
        if isinstance(space, spaces.Discrete):
            size = int(space.n)
        elif isinstance(space, spaces.MultiDiscrete):
            size = int(np.sum(space.nvec))
        else:
            size = int(np.prod(space.shape or (1,)))
        return _Part(name, space, np.full(size, -1.0), np.full(size, 1.0), float_dtype)

    def _common_type(self) -> str:
        types = {part.dtype for part in self._parts}
        if len(types) == 1:
            return types.pop()
        if not any(part.is_float for part in self._parts):
            return "int64"
        if all(part.is_float or part.chooses for part in self._parts):
            return next(part.dtype for part in self._parts if part.is_float)
        raise SpecError(
            f"action of {self._env_id!r}",
            got={part.name: str(part.space) for part in self._parts},
            expected=f"parts of floats, or of at most {_MOST_OF_A_BOX} integers",
            hint="discrete: argmax offers all of it as floats, and rounds integers",
        )

    def _narrowed(self, low: Array, high: Array, bounds: Any, which: Array) -> tuple[Array, Array]:
        """Bounds within the given ones, of the elements ``which`` (A,)."""
        given = []
        for side, bound in zip(("smallest", "largest"), bounds, strict=True):
            array = np.asarray(bound, np.float64)
            if array.shape not in ((), low.shape) or not np.isfinite(array).all():
                raise ConfigError(
                    "bounds", got=bounds,
                    expected=f"one finite number, or {len(low)}, for the {side} action",
                )  # fmt: skip
            given.append(array)
        low = np.where(which, np.maximum(low, given[0]), low)
        high = np.where(which, np.minimum(high, given[1]), high)
        if not (low < high)[which].all():
            raise ConfigError(
                "bounds",
                got=bounds,
                expected="smallest below largest, within those of the environment",
            )
        return low, high

    def _names(self) -> tuple[str, ...]:
        """Names of the elements, where a container has some for its parts."""
        if children_of(self._space) is None:
            return ()
        return tuple(
            part.name if part.size == 1 else f"{part.name}.{index}"
            for part in self._parts
            for index in range(part.size)
        )


def _leaves(space: spaces.Space[Any], path: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    children = children_of(space)
    if children is None:
        yield path or "action", space
        return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))
