"""Statistics that LeRobot normalises with, as buffers: fixed, or settling from what is learned from. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.errors import PolicyError
from user_core.policies.lerobot.inputs import ACTION, InputMap
from user_core.policies.settling import SettlingScales, quantiles
from user_core.specs import Array

#: What each kind of normalisation needs.
NEEDED: dict[str, tuple[str, ...]] = {
    "MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}  # fmt: skip
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
#: Least half width of what data show, as a share of half the bounds, and where there are none; of actions.
_LEAST_SHARE, _LEAST_UNBOUNDED, _LEAST_ACTION = 0.02, 0.01, 1e-3
#: Of vectors that are filled up with zeros, what the filling is normalised with.
_FILLING = {
    "mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q10": -1.0, "q50": 0.0, "q90": 1.0, "q99": 1.0,
}  # fmt: skip
#: What its vision networks were trained with (ImageNet); LeRobot takes these for images, too.
_IMAGE = {
    "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "min": (0.0,) * 3, "max": (1.0,) * 3,
    **{name: (share,) * 3 for name, share in _QUANTILES.items()},
}  # fmt: skip

Values = dict[str, dict[str, Array]]


def read_statistics(path: str) -> Values:
    """Statistics of a LeRobot data set, from its folder or its ``stats.json``. Raises PolicyError."""
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "meta" / "stats.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {
            feature: {name: np.asarray(v, np.float32) for name, v in of.items()}
            for feature, of in found.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PolicyError(
            f"statistics {path}", got=str(error), expected="a LeRobot data set, or its meta/stats.json",
            hint="`user data export` writes one; or say statistics: data",
        ) from error  # fmt: skip


def from_bounds(inputs: InputMap) -> Values:
    """What is known before any data: bounds of the robot where it has some, ImageNet's of images."""
    found: Values = {
        name: {stat: np.asarray(v, np.float32).reshape(-1, 1, 1) for stat, v in _IMAGE.items()}
        for name, feature in inputs.features.items()
        if feature.image
    }
    for name in (*inputs.vectors, ACTION):
        low, high, _ = _bounds(inputs, name)
        values = {
            "mean": (low + high) / 2, "std": (high - low) / 2, "min": low, "max": high,
            **{stat: low + share * (high - low) for stat, share in _QUANTILES.items()},
        }  # fmt: skip
        found[name] = {stat: np.asarray(value, np.float32) for stat, value in values.items()}
    return found


class Statistics(SettlingScales):
    """Statistics by feature and name.

    Args:
        values: First values; float32.
        settling: Least half widths of the features that settle from data, each (S,).
        calls: Calls of :meth:`settle` that count, for each feature; then it stays.
    """

    def __init__(self, values: Values, settling: Mapping[str, Array], calls: int) -> None:
        super().__init__(calls)
        self._names = {name: tuple(of) for name, of in values.items()}
        self._least = {
            name: torch.from_numpy(np.asarray(v, np.float32)) for name, v in settling.items()
        }
        for feature, of in values.items():
            for stat, value in of.items():
                value = (
                    value[:, None, None]
                    if value.ndim == 1 and feature.startswith("observation.image")
                    else value
                )
                self.register_buffer(
                    _key(feature, stat), torch.from_numpy(np.array(value, np.float32))
                )
        for feature, least in self._least.items():
            self.register_buffer(_key(feature, "seen"), torch.zeros((), dtype=torch.int64))
            self.register_buffer(
                _key(feature, "sums"), torch.zeros((9, len(least)), dtype=torch.float64)
            )

    def values(self) -> dict[str, dict[str, Tensor]]:
        """The buffers themselves, by feature and name."""
        return {
            f: {s: getattr(self, _key(f, s)) for s in stats} for f, stats in self._names.items()
        }

    def named(self) -> dict[str, Tensor]:
        """The same in one dictionary, as an actor gets them."""
        return {f"statistics.{f}.{s}": t for f, of in self.values().items() for s, t in of.items()}

    def settles(self, feature: str) -> bool:
        """Whether rows of a feature may still count; False once it is known that they do not."""
        return feature in self._least and not self.has_settled(feature)

    @torch.no_grad()
    def settle(self, feature: str, rows: Tensor) -> None:
        """Take rows (n, S) of a feature into account, if it settles and has not settled yet."""
        if feature not in self._least:
            return
        seen, sums = getattr(self, _key(feature, "seen")), getattr(self, _key(feature, "sums"))
        if (counted := self.counted(feature, seen, rows)) is None:
            return
        before, exact = counted
        low, high = exact.min(0).values, exact.max(0).values
        if before:
            low, high = torch.minimum(low, sums[2]), torch.maximum(high, sums[3])
        means = torch.stack([exact.mean(0), exact.square().mean(0)])
        rest = quantiles(exact, tuple(_QUANTILES.values()))
        found = torch.cat([means, low[None], high[None], rest])
        sums.lerp_(found, 1 / (before + 1))
        sums[2], sums[3] = low, high
        least = self._least[feature].to(sums.device)
        values = {
            "mean": sums[0], "std": torch.maximum((sums[1] - sums[0].square()).clamp_min(0).sqrt(), least),
            "q50": sums[6],
        }  # fmt: skip
        for a, b, i, j in (("min", "max", 2, 3), ("q01", "q99", 4, 8), ("q10", "q90", 5, 7)):
            middle = (sums[i] + sums[j]) / 2
            half = torch.maximum((sums[j] - sums[i]) / 2, least)
            values |= {a: middle - half, b: middle + half}
        for stat, value in values.items():
            if stat in self._names[feature]:
                getattr(self, _key(feature, stat)).copy_(value)


def widened(
    values: dict[str, dict[str, Tensor]], features: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """Statistics for steps that normalise vectors which were filled up with zeros before (EVO1): as wide as these, and
    zeros stay zeros. The same ones where nothing is wider."""
    found = dict(values)
    for name, feature in features.items():
        for stat, value in values.get(name, {}).items():
            lacking = feature.shape[-1] - len(value) if value.dim() == 1 else 0
            if lacking > 0:
                filling = value.new_full((lacking,), _FILLING.get(stat, 0.0))
                found[name] = {**found[name], stat: torch.cat([value, filling])}
    return found


def least_widths(inputs: InputMap) -> dict[str, Array]:
    """Least half widths of the vectors and of the actions."""
    found = {}
    for name in (*inputs.vectors, ACTION):
        low, high, bounded = _bounds(inputs, name)
        share = _LEAST_ACTION if name == ACTION else _LEAST_SHARE
        least = np.where(bounded, share * (high - low) / 2, _LEAST_UNBOUNDED)
        if name == ACTION:  # a choice that is rarely made would outweigh all else
            least = np.where(inputs.choosing, (high - low) / 2, least)
        found[name] = least.astype(np.float32)
    return found


def _bounds(inputs: InputMap, name: str) -> tuple[Array, Array, Array]:
    """Bounds of a vector or of actions, -1 and 1 where there are none of use; and where there are."""
    low, high = inputs.bounds(name)
    bounded = (
        np.isfinite(low) & np.isfinite(high) & (high > low) & (np.abs(low) + np.abs(high) < 1e6)
    )
    return np.where(bounded, low, -1.0), np.where(bounded, high, 1.0), bounded


def require_statistics(
    steps: list[Any], values: Mapping[str, Mapping[str, Any]], name: str
) -> None:
    """Raise PolicyError unless every feature that a step normalises has the statistics for it.

    LeRobot passes over features without statistics: what it makes of them then is meaningless, and nobody is told.
    """
    lacking = []
    for step in steps:
        for feature, what in step.features.items():
            mode = step.norm_map.get(what.type)
            needed = NEEDED.get(getattr(mode, "name", ""), ())
            has = values.get(feature, {})
            if missing := [one for one in needed if one not in has]:
                lacking.append(f"{feature} ({', '.join(missing)})")
    if lacking:
        raise PolicyError(
            f"normalisation of {name}", got=f"no statistics of {', '.join(dict.fromkeys(lacking))}",
            expected="statistics of everything that it normalises",
            hint="Name the data set that it was trained on: statistics: FOLDER; or say statistics: data, to take those "
            "of what is learned from, which suit weights that are trained anew only",
        )  # fmt: skip


def _key(feature: str, stat: str) -> str:
    return f"{feature}|{stat}".replace(".", "/")
