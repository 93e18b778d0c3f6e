"""Whether arrays that were fetched are those of a policy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from user_core.errors import PolicyError
from user_core.specs import Array, Arrays


def check_fits(given: Arrays, wanted: Arrays | Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raise PolicyError unless all arrays are there, of the same shapes, and finite.

    Args:
        given: What was fetched.
        wanted: What the policy has, or only the shapes of it: a large one need not be copied for this.
        name: Of the policy, for the error.
    """
    for subject, got, expected in (
        ("arrays", sorted(given), sorted(wanted)),
        ("shapes", _shapes(given), _shapes(wanted)),
    ):
        if got != expected:
            raise PolicyError(f"{subject} of {name}", got=got, expected=expected)
    for key, array in given.items():
        if not np.isfinite(array).all():
            raise PolicyError(
                f"array {key!r} of {name}", got="numbers that are not finite",
                expected="finite numbers", hint="The training that made it has diverged",
            )  # fmt: skip


def _shapes(
    arrays: Mapping[str, Array] | Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    found = {}
    for name in sorted(arrays):
        one = arrays[name]
        found[name] = one if isinstance(one, tuple) else tuple(np.shape(one))
    return found
