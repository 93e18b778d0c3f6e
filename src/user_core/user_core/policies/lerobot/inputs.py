"""What LeRobot's policy calls its inputs and outputs, and what these are at our robot. Needs neither LeRobot nor
torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from user_core.errors import ConfigError, SpecError
from user_core.policies.features import is_image
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.specs import Array, ArraySpec, RobotSpec

STATE, IMAGES, ACTION = "observation.state", "observation.images.", "action"
OBSERVATION = "observation."
VISUAL = "VISUAL"


@dataclass(frozen=True)
class Feature:
    """One input of a policy.

    Attributes:
        name: LeRobot's.
        image: Whether it is an image, (channels, height, width); a vector if not.
        shape: Its shape.
    """

    name: str
    image: bool
    shape: tuple[int, ...]


def features_of(spec: RobotSpec, mapping: Mapping[str, Any]) -> list[Feature]:
    """The inputs of a new policy for a robot: those that the mapping names, or all images and the joined numbers,
    under the names that ``user data export`` gives them."""
    found = []
    named: dict[str, Any] = dict(mapping)
    if not named:
        named = {_image_key(name): name for name in _images(spec)}
        if state := _joined(spec):
            named[STATE] = state
    for name, given in named.items():
        arrays = _names(given)
        specs = [_known(spec, array, name) for array in arrays]
        if len(specs) == 1 and is_image(specs[0]):
            height, width, channels = specs[0].shape
            found.append(Feature(name, True, (channels, height, width)))
        elif arrays:
            found.append(Feature(name, False, (sum(one.size for one in specs),)))
    return found


def size_of_actions(spec: ArraySpec) -> int:
    """Numbers of an action as a policy of LeRobot has it, D: of an element that is a choice one for each that there
    is."""
    return spec.size - len(spec.categorical) + sum(spec.counts)


class InputMap:
    """Brings observations of a robot into the form of a policy's features.

    Args:
        features: What the policy wants to see.
        action_size: Numbers of its actions.
        spec: The robot's.
        config: With mapping, scales, and whether images may be resized.
        resizes: Whether the policy itself brings images to its size.

    Raises:
        SpecError: The robot lacks something that the policy wants, or has it in another size.
        ConfigError: The mapping or the scales name what is not there.

    Attributes:
        images: Array of the robot, by feature; cameras that are left out are not in it.
        vectors: Arrays of the robot that are joined, by feature.
        sizes: Height and width that images are brought to, by feature; those that fit are not in it.
        action_size: Numbers of its actions, D.
    """

    def __init__(
        self, features: Sequence[Feature], action_size: int, spec: RobotSpec, config: LeRobotConfig,
        resizes: bool = False,
    ) -> None:  # fmt: skip
        self.spec, self._mapping = spec, config.mapping
        self.features = {feature.name: feature for feature in features}
        for what, given in (("mapping", config.mapping), ("scale", config.scale)):
            unknown = sorted(
                set(given) - set(self.features) - ({ACTION} if what == "scale" else set())
            )
            if unknown:
                raise ConfigError(
                    f"{what} of policy lerobot", got=unknown,
                    expected=f"features of the policy, {sorted(self.features)}",
                )  # fmt: skip
        self.images: dict[str, str] = {}
        self.vectors: dict[str, tuple[str, ...]] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        lacking = []
        for feature in features:
            if not feature.image:
                self.vectors[feature.name] = self._vector(feature)
            elif (name := self._camera(feature)) is None:
                lacking.append(feature)
            elif name:
                self.images[feature.name] = name
        if lacking:
            self._refuse_cameras(lacking)
        for name, array in self.images.items():
            self._fit_image(self.features[name], array, config.resize_images, resizes)
        if not self.images and not self.vectors:
            raise SpecError("inputs of policy lerobot", got="none", expected="at least one")
        self.action_size = size_of_actions(spec.action)
        if action_size != self.action_size:
            choices = ", and one for each way to choose" if spec.action.categorical else ""
            raise SpecError(
                f"actions of the policy for {spec.robot!r}", got=f"{action_size} numbers",
                expected=f"{self.action_size}, one for each of {list(spec.action.names) or 'its elements'}{choices}",
                hint="The policy was trained for another robot, or with another kind of action",
            )  # fmt: skip
        self._scale = {name: self._scales(name, config) for name in (*self.vectors, ACTION)}
        self.action_scale = self._scale[ACTION]

    def vector(self, name: str, observation: Mapping[str, Any], lead: tuple[int, ...]) -> Array:
        """A feature of observations with leading dimensions ``lead``: (*lead, S) float32, in its units."""
        parts = [np.asarray(observation[one]).reshape(*lead, -1) for one in self.vectors[name]]
        joined = np.concatenate(parts, axis=-1, dtype=np.float32, casting="unsafe")
        scale = self._scale[name]
        return joined if scale is None else joined * scale

    def bounds(self, name: str) -> tuple[Array, Array]:
        """The bounds of a vector, or of actions, in the policy's units; infinite where there are none."""
        if name == ACTION:
            low, high = self._bounds_of_actions()
        else:
            specs = [self.spec.observation[n] for n in self.vectors[name]]
            low, high = (
                np.concatenate([_bound(one, side) for one in specs]) for side in ("low", "high")
            )
        scale = self._scale[name]
        if scale is not None:
            low, high = np.minimum(low * scale, high * scale), np.maximum(low * scale, high * scale)
        return low, high

    @property
    def choosing(self) -> Array:
        """Which numbers of its actions stand for a choice, (D,) bool: they come after all others."""
        spec = self.spec.action
        return np.arange(self.action_size) >= spec.size - len(spec.categorical)

    def _bounds_of_actions(self) -> tuple[Array, Array]:
        spec, of_choices = self.spec.action, np.ones(int(self.choosing.sum()))
        moved = [i for i in range(spec.size) if i not in spec.categorical]
        return (
            np.concatenate([_bound(spec, "low")[moved], -of_choices]),
            np.concatenate([_bound(spec, "high")[moved], of_choices]),
        )

    def _vector(self, feature: Feature) -> tuple[str, ...]:
        if feature.name in self._mapping:
            names = tuple(_names(self._mapping[feature.name]))
        elif feature.name == STATE:
            names = tuple(_joined(self.spec))
        else:
            key = feature.name.removeprefix(OBSERVATION)
            names = tuple(n for n in self.spec.observation if n in (key, feature.name))[:1]
        specs = [_known(self.spec, name, feature.name) for name in names]
        size = sum(one.size for one in specs)
        if (size,) != feature.shape and size != int(np.prod(feature.shape)):
            offered = {n: s.size for n, s in self.spec.observation.items() if not is_image(s)}
            raise SpecError(
                f"input {feature.name!r} of the policy",
                got=f"{size} numbers ({', '.join(names) or 'nothing of that name'})",
                expected=f"{feature.shape}",
                hint=f"Say which it is: mapping: {{{feature.name}: [...]}}, of {offered}",
            )  # fmt: skip
        return names

    def _camera(self, feature: Feature) -> str | None:
        """The robot's array; empty: it is left out; None: nobody knows."""
        if feature.name in self._mapping:
            names = _names(self._mapping[feature.name])
            if not names:
                return ""
            for name in names:
                _known(self.spec, name, feature.name)
            if len(names) > 1 or names[0] not in _images(self.spec):
                raise ConfigError(
                    f"mapping of {feature.name!r}", got=self._mapping[feature.name],
                    expected=f"one image of the robot, of {_images(self.spec)}",
                )  # fmt: skip
            return names[0]
        key = feature.name.removeprefix(IMAGES).removeprefix(OBSERVATION)
        for name in (feature.name, key, f"image_{key}"):
            if name in _images(self.spec):
                return name
        return None

    def _refuse_cameras(self, lacking: Sequence[Feature]) -> None:
        used = set(self.images.values())
        free = [name for name in _images(self.spec) if name not in used]
        wanted = [feature.name for feature in lacking]
        if free:
            pairs = [f"{one}: {free[min(i, len(free) - 1)]}" for i, one in enumerate(wanted)]
            hint = "Say which it is, for instance mapping: {" + ", ".join(pairs) + "}"
        else:
            hint = (
                "Give the robot such a camera; or leave it out, if the policy can do without: mapping: {"
                + (", ".join(f"{one}: []" for one in wanted) + "}")
            )
        raise SpecError(
            f"cameras of {self.spec.robot!r} for the policy", got=_images(self.spec) or "no images",
            expected=f"images for {wanted}", hint=hint,
        )  # fmt: skip

    def _fit_image(self, feature: Feature, array: str, may_resize: bool, resizes: bool) -> None:
        height, width, channels = self.spec.observation[array].shape
        if channels != feature.shape[0]:
            raise SpecError(
                f"channels of image {array!r} for {feature.name!r}",
                got=channels,
                expected=feature.shape[0],
            )
        if (height, width) == feature.shape[1:] or resizes:
            return
        if not may_resize:
            raise SpecError(
                f"size of image {array!r} for {feature.name!r}", got=f"{height} x {width}",
                expected=f"{feature.shape[1]} x {feature.shape[2]}, as the policy was trained",
                hint="Let the camera give that size, or say resize_images: true",
            )  # fmt: skip
        self.sizes[feature.name] = (feature.shape[1], feature.shape[2])

    def _scales(self, name: str, config: LeRobotConfig) -> Array | None:
        if name not in config.scale:
            return None
        size = self.action_size if name == ACTION else sum(
            self.spec.observation[n].size for n in self.vectors[name]
        )  # fmt: skip
        try:
            scale = np.broadcast_to(np.asarray(config.scale[name], np.float32), (size,))
        except ValueError:
            scale = np.zeros(0, np.float32)
        if scale.shape != (size,) or not np.isfinite(scale).all() or not scale.all():
            raise ConfigError(
                f"scale of {name!r}", got=config.scale[name],
                expected=f"one number, or {size}, none of them 0",
            )  # fmt: skip
        return scale


def _names(given: Any) -> list[str]:
    if given is None or given == "":
        return []
    return [given] if isinstance(given, str) else [str(one) for one in given]


def _known(spec: RobotSpec, name: str, feature: str) -> ArraySpec:
    if name not in spec.observation:
        raise SpecError(
            f"observation for {feature!r}", got=name, expected=f"one of {sorted(spec.observation)}"
        )
    return spec.observation[name]


def _images(spec: RobotSpec) -> list[str]:
    return [n for n, s in spec.observation.items() if s.dtype == "uint8" and is_image(s)]


def _image_key(name: str) -> str:
    return IMAGES + name


def _joined(spec: RobotSpec) -> list[str]:
    """What ``user data export`` joins to the state: vectors of float32, in the order of the spec."""
    return [n for n, s in spec.observation.items() if s.dtype == "float32" and len(s.shape) <= 1]


def _bound(spec: ArraySpec, side: str) -> Array:
    if getattr(spec, side) is None:
        return np.full(spec.size, -np.inf if side == "low" else np.inf)
    bound: Array = np.asarray(getattr(spec, f"{side}_array"), np.float64).ravel()
    return bound
