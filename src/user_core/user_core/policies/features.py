"""What a network sees of an observation, in which order and scale, and the scale of actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from user_core.config import Config, setting
from user_core.errors import SpecError
from user_core.interfaces import FrozenFeatures
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec

#: A bound beyond this says "no bound" (Gymnasium writes 3.4e38), and would scale all to nothing.
_LARGEST_BOUND = 1e6
#: What is smaller is no image, unless it has three colours.
_LEAST_SIZE = 16
#: More in the third dimension are hardly channels.
_MOST_CHANNELS = 64


def is_image(spec: ArraySpec) -> bool:
    """Whether an array goes through an encoder of images: uint8, height x width x 3, or another number
    of channels (grey, stacked images) where it is large enough to be one; or depth."""
    if len(spec.shape) != 3:
        return False
    height, width, channels = spec.shape
    is_large = min(height, width) >= _LEAST_SIZE
    if spec.dtype != "uint8":
        return is_large and channels == 1 and depth_range(spec) is not None
    return channels == 3 or (is_large and 1 <= channels <= _MOST_CHANNELS)


def depth_range(spec: ArraySpec) -> tuple[float, float] | None:
    """Metres of 1 in a depth image, and the farthest that it shows, m; None where an array is none.

    A depth image is (height, width, 1): float32 in m, or uint16 in steps that its unit says
    (``0.001 m``); from 0, which is a hole, to its upper bound.
    """
    number, _, unit = spec.unit.rpartition(" ")
    if unit != "m" or len(spec.shape) != 3 or spec.shape[2] != 1:
        return None
    if spec.dtype not in ("float32", "uint16") or (spec.dtype == "float32" and number):
        return None
    try:
        step_m = float(number or 1.0)
    except ValueError:
        return None
    far_m = float(spec.high_array.max()) * step_m
    return (step_m, far_m) if 0 < far_m <= _LARGEST_BOUND else None


class SeenConfig(Config):
    """What of the robot's observations a policy sees."""

    observations: tuple[str, ...] = setting(
        (), doc="Observation arrays to use; empty for all that the robot has."
    )
    ignored_observations: tuple[str, ...] = setting(
        (), doc="Observation arrays to leave out, where the robot has them."
    )
    observation_history: int = setting(
        1,
        doc="Observations that are seen at once, the last ones; sampler.observation_history is the same.",
        ge=1,
        le=32,
        late=True,
    )


class FeatureLayout:
    """The inputs of a network: numbers in one vector, images apart.

    Numbers are all arrays that are no images, flattened and joined in sorted order of their
    names. ``offset`` and ``scale`` bring those with finite bounds to -1 to 1 by
    ``(x - offset) * scale``; the others stay as they are.

    Args:
        spec: The robot's.
        names: Arrays to use; empty for all.
        ignored: Arrays to leave out of these; it is no error when the robot has none of such a
            name, so that one configuration may serve several tasks.
        history: How many observations, N, are seen at once. With more than one every array has a leading
            dimension N, oldest first; images of several are seen as one with N times the channels.
        instruction: Numbers of an instruction that is seen beside the vector.

    Raises:
        SpecError: A name to use that the robot does not have, or no array at all.

    Attributes:
        state_names: Arrays in the vector, sorted.
        image_names: Images, sorted; depth is one.
        depths: Metres of 1, and the farthest, m, of each of these that is depth.
        specs: Of all arrays, as networks see them: images with the channels of all N.
        state_size: Length O of the vector.
        conditioning_size: Of the vector and the instruction.
        offset: (O,) float32.
        scale: (O,) float32.
    """

    def __init__(
        self,
        spec: RobotSpec,
        names: Sequence[str] = (),
        ignored: Sequence[str] = (),
        history: int = 1,
        instruction: int = 0,
    ) -> None:
        unknown = sorted(set(names) - set(spec.observation))
        if unknown:
            raise SpecError(
                "observations of a policy", got=unknown, expected=sorted(spec.observation)
            )
        chosen = sorted(set(names or spec.observation) - set(ignored))
        self.specs = {name: spec.observation[name] for name in chosen}
        self.image_names = tuple(n for n in chosen if is_image(self.specs[n]))
        self.state_names = tuple(n for n in chosen if n not in self.image_names)
        ranges = {name: depth_range(self.specs[name]) for name in self.image_names}
        self.depths = {name: one for name, one in ranges.items() if one is not None}
        self.history = history
        self.state_size = history * sum(self.specs[n].size for n in self.state_names)
        self.conditioning_size = self.state_size + instruction
        if not self.image_names and not self.state_size:
            raise SpecError(
                f"observations of {spec.robot!r}", got="no numbers, no images",
                expected="something to look at",
            )  # fmt: skip
        pairs = [_normalisation(self.specs[name]) for name in self.state_names]
        empty = np.zeros(0, np.float32)
        self.offset = np.concatenate([empty, *(np.tile(offset, history) for offset, _ in pairs)])
        self.scale = np.concatenate([empty, *(np.tile(scale, history) for _, scale in pairs)])
        for name in self.image_names if history > 1 else ():
            height, width, channels = self.specs[name].shape
            self.specs[name] = ArraySpec(
                (height, width, history * channels), self.specs[name].dtype
            )

    def names(self) -> list[str]:
        """What each number of the vector is, for people, (O,)."""
        found: list[str] = []
        for name in self.state_names:
            spec = self.specs[name]
            elements = spec.names or tuple(str(i) for i in range(spec.size))
            each = [name if spec.size == 1 else f"{name}[{element}]" for element in elements]
            for before in range(self.history - 1, -1, -1):
                found += [f"{one}, {before} before" if before else one for one in each]
        return found

    def has_colours(self, name: str) -> bool:
        """Whether an image is one of three colours, for each of the N observations."""
        return self.specs[name].shape[2] == 3 * self.history

    def image(self, name: str, observation: Arrays) -> Array:
        """An image of observations, (..., h, w, c) or with history (..., N, h, w, c), as networks see it:
        (..., h, w, N x c)."""
        image = np.asarray(observation[name])
        if self.history == 1:
            return image
        frames = np.moveaxis(image, -4, -2)
        return np.ascontiguousarray(frames).reshape(*frames.shape[:-2], -1)

    def vector(self, observation: Arrays) -> Array:
        """The numbers of one observation, not normalised: (O,) float32."""
        if not self.state_names:
            return np.zeros(0, np.float32)
        parts = [observation[name].ravel() for name in self.state_names]
        return np.concatenate(parts, dtype=np.float32, casting="unsafe")

    def vectors(self, observation: Arrays, rows: int) -> Array:
        """The numbers of ``rows`` observations, each array (rows, ...): (rows, O) float32."""
        parts = [np.asarray(observation[n]).reshape(rows, -1) for n in self.state_names]
        if not parts:
            return np.zeros((rows, 0), np.float32)
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")

    def least_spreads(self, share: float, unbounded: float) -> Array:
        """The least standard deviation that an input may count as having, (O,) float32: a share of half its
        range where it has bounds, else ``unbounded``."""
        least: Array = np.where(self.scale != 1.0, share / self.scale, unbounded).astype(np.float32)
        return least


def _normalisation(spec: ArraySpec) -> tuple[Array, Array]:
    """Offset and scale of one array, flat, that bring its bounds to -1 and 1."""
    low, high = (a.ravel().astype(np.float64) for a in (spec.low_array, spec.high_array))
    half = (high - low) / 2
    usable = (np.maximum(np.abs(low), np.abs(high)) <= _LARGEST_BOUND) & (half > 0)
    offset = np.where(usable, (low + high) / 2, 0.0)
    scale = np.where(usable, 1 / np.where(usable, half, 1.0), 1.0)
    return offset.astype(np.float32), scale.astype(np.float32)


def encoder_by_image(
    features: FeatureLayout, encoder: FrozenFeatures | None
) -> dict[str, FrozenFeatures]:
    """A frozen encoder for each image of three colours; nothing without one."""
    names = [name for name in features.image_names if features.has_colours(name)]
    return {} if encoder is None else dict.fromkeys(names, encoder)


class ActionScale:
    """Actions as networks give them, and as the spec has them.

    Between -1 and 1 are the bounds of the spec. A categorical element is the number of its choice,
    counted from 0, on both sides.

    Args:
        spec: The robot's.
        choices: Whether who asks knows categorical elements.

    Raises:
        SpecError: The action has no finite bounds, or is neither made of floats nor categorical, or
            has categorical elements that ``choices`` does not allow.

    Attributes:
        middle: (A,) float32; of a categorical element its first choice.
        half: Half the range, (A,) float32; of a categorical element 1.
        continuous: Elements that are none of choices.
        categorical: Elements that are choices.
        counts: How many choices each of these has.
        unit_low: Least that a network may give, (A,) float32: -1, and 0 for choices.
        unit_high: Most, (A,) float32: 1, and the number of the last choice.
    """

    def __init__(self, spec: RobotSpec, choices: bool = False) -> None:
        self.spec = action = spec.action
        self.categorical, self.counts = list(action.categorical), action.counts
        self.continuous = [i for i in range(action.size) if i not in action.categorical]
        if self.categorical and not choices:
            raise SpecError(
                f"action of {spec.robot!r}",
                got=f"choices: {len(self.categorical)} of {action.size} elements are categorical",
                expected="floats with finite bounds: this policy knows no choices",
                hint="The policy tanh_gaussian does. A Gymnasium environment can offer its choices as "
                "floats, of which the largest is taken: discrete:=argmax",
            )
        if self.continuous and not action.dtype.startswith("float"):
            raise SpecError(
                f"action of {spec.robot!r}",
                got=f"integers that are no choices ({action.dtype}, {action.low} to {action.high})",
                expected="floats with finite bounds, or categorical elements",
                hint="A Gymnasium environment can offer them as floats, which are rounded: "
                "discrete:=argmax",
            )
        if action.low is None or action.high is None:
            raise SpecError(
                f"action of {spec.robot!r}",
                got=f"{action.dtype}, low {action.low}, high {action.high}",
                expected="floats with finite bounds",
                hint="Give the robot's action bounds (of a Gymnasium environment: "
                'bounds:="[-1, 1]"), or choose another policy',
            )
        self._low, self._high = action.low_array, action.high_array
        self._dtype = np.dtype(action.dtype)
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        self.middle: Array = ((low + high) / 2).astype(np.float32)
        self.half: Array = ((high - low) / 2).astype(np.float32)
        self.middle[self.categorical] = low[self.categorical]
        self.half[self.categorical] = 1
        self.unit_low: Array = np.full(action.size, -1.0, np.float32)
        self.unit_high: Array = np.ones(action.size, np.float32)
        self.unit_low[self.categorical] = 0
        self.unit_high[self.categorical] = [count - 1 for count in self.counts]

    def unit(self, action: Array) -> Array:
        """Actions (..., A) as a network has them, from the robot's, float32."""
        half = np.where(self.half > 0, self.half, 1)
        found: Array = ((action - self.middle) / half).astype(np.float32)
        return found

    def to_robot(self, unit: Array) -> Array:
        """Actions (..., A) of the spec's type and within its bounds, as a network gives them."""
        action = (self.middle + self.half * unit).astype(self._dtype, copy=False)
        bounded: Array = np.minimum(np.maximum(action, self._low), self._high)
        return bounded


def together(observations: Sequence[Arrays]) -> dict[str, Array]:
    """Observations of several robots as one batch, each array (B, ...)."""
    return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
