"""Statistics of LeRobot datasets: of every feature in every episode, and joined over all of them.

Pictures count by channel, as shares of 255, from at most :data:`SAMPLED` of an episode; as uint8 has
256 values, their quantiles are exact. Over all episodes smallest, largest, mean and deviation are
exact, and quantiles are means of those of the episodes by their length, as LeRobot joins them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from user_core.specs import Array

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
#: Pictures of an episode that are looked at.
SAMPLED = 100
Statistics = dict[str, Array]


def of_numbers(values: Array) -> Statistics:
    """Of numbers (n, ...); scalars become vectors of one."""
    flat = values.reshape(len(values), -1) if values.ndim == 1 else values
    wide = flat.astype(np.float64)
    found = {
        "min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0),
        "count": np.array([len(wide)]),
    }  # fmt: skip
    quantiles = np.quantile(wide, list(QUANTILES.values()), axis=0)
    return {**found, **dict(zip(QUANTILES, quantiles, strict=True))}


def of_images(images: Array) -> Statistics:
    """Of pictures (n, H, W, 3) uint8: each statistic (3, 1, 1)."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(int))
    step = max(1, max(images.shape[1:3]) // 150)
    small = images[chosen, ::step, ::step]
    found: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
    levels = np.arange(256) / 255.0
    for channel in range(small.shape[3]):
        counts = np.bincount(small[..., channel].reshape(-1), minlength=256)
        share = counts / counts.sum()
        seen = np.flatnonzero(counts)
        mean = float(share @ levels)
        found["min"].append(float(levels[seen[0]]))
        found["max"].append(float(levels[seen[-1]]))
        found["mean"].append(mean)
        found["std"].append(float(np.sqrt(share @ (levels - mean) ** 2)))
        below = np.cumsum(share)
        for name, quantile in QUANTILES.items():
            at = min(255, int(np.searchsorted(below, quantile - 1e-12)))
            found[name].append(float(levels[at]))
    values = {name: np.array(v).reshape(-1, 1, 1) for name, v in found.items()}
    return {**values, "count": np.array([len(small)])}


def joined(parts: Iterable[Mapping[str, Array]]) -> Statistics:
    """Of several episodes together, from those of each."""
    each = [{name: np.asarray(v, np.float64) for name, v in part.items()} for part in parts]
    counts = np.array([part["count"][0] for part in each])
    total = counts.sum()

    def weighted(values: list[Array]) -> Array:
        stacked = np.stack(values)
        return np.asarray(np.tensordot(counts / total, stacked, axes=(0, 0)))

    mean = weighted([part["mean"] for part in each])
    spread = weighted([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in each])
    return {
        "min": np.min([part["min"] for part in each], axis=0),
        "max": np.max([part["max"] for part in each], axis=0),
        "mean": mean,
        "std": np.sqrt(spread),
        "count": np.array([int(total)]),
        **{name: weighted([part[name] for part in each]) for name in QUANTILES},
    }
