"""Ensembles of critics: names and first values of their arrays, and what they say, in numpy.

A learner trains them (``user_learner.algorithms.common.torch_tools.evaluate`` says the same in torch); a policy that
chooses among several actions by their values (:mod:`user_core.policies.improving.best_of`) has them with it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from user_core.specs import Array, Arrays

#: Of layer normalisation.
EPSILON = 1e-5


def ensemble_arrays(
    members: int,
    inputs: int,
    hidden: tuple[int, ...],
    rng: np.random.Generator,
    outputs: int = 1,
) -> dict[str, Array]:
    """First values: ``layer<i>.weight`` (E, in, out), ``layer<i>.bias`` (E, 1, out).

    Glorot-uniform weights, drawn for each member; the last layer has ``outputs`` outputs.
    """
    arrays: dict[str, Array] = {}
    sizes = (inputs, *hidden, outputs)
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        limit = np.sqrt(6 / (rows + columns))
        weight = rng.uniform(-limit, limit, (members, rows, columns))
        arrays[f"layer{i}.weight"] = weight.astype(np.float32)
        arrays[f"layer{i}.bias"] = np.zeros((members, 1, columns), np.float32)
    return arrays


def values_of(arrays: Arrays, x: Array, layer_norm: bool) -> Array:
    """What all members say of inputs (N, I), (E, N).

    A hidden layer is linear, then with ``layer_norm`` normalised, plus bias, ReLU.
    """
    count = sum(name.endswith(".weight") for name in arrays)
    for i in range(count):
        x = x @ arrays[f"layer{i}.weight"]
        if layer_norm and i < count - 1:
            middle = x.mean(-1, keepdims=True)
            x = (x - middle) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
        x = x + arrays[f"layer{i}.bias"]
        if i < count - 1:
            x = np.maximum(x, 0)
    values: Array = x[..., 0]
    return values
