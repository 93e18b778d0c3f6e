"""What to say where a GPU's memory does not hold an update: how large a batch it would hold."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from user_core.errors import ConfigError
from user_core.types import Batch


def is_short_of_memory(error: BaseException) -> bool:
    """Whether torch raised it because a device has no memory left. Without importing torch."""
    return any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)


def too_large(
    error: BaseException,
    update: Callable[[Batch], object] | None,
    batch: Batch,
    minibatches: int,
    processes: int,
) -> ConfigError:
    """The error that ends a training whose first update does not fit, with the batch that does.

    Found by trying: the algorithm's state is spoilt by it, and must not be kept. Of several processes only this
    one tries, so ``update`` must not wait for the others.

    Args:
        error: What torch raised.
        update: Takes a batch; None where it cannot run without the other processes: then nothing is tried.
        batch: What did not fit, G x B rows.
        minibatches: G.
        processes: How many share a batch.
    """
    traceback.clear_frames(error.__traceback__)  # they hold what was computed until it failed
    rows = len(batch) // minibatches
    if update is None:
        return _refusal(
            error, rows * processes,
            "a smaller one, or more processes: which one fits cannot be tried while they share a network",
        )  # fmt: skip
    fits = rows // 2
    while fits and not _works(update, _first_rows(batch, fits * minibatches)):
        fits //= 2
    found = (
        f"at most {fits * processes}, which was tried just now"
        if fits
        else "a policy and an algorithm that fit with a single row: nothing else does"
    )
    return _refusal(error, rows * processes, found)


def _refusal(error: BaseException, rows: int, expected: str) -> ConfigError:
    return ConfigError(
        "training.batch_size", got=f"{rows}: {str(error).splitlines()[0][:200]}", expected=expected,
        hint="Smaller images, adapters or a smaller policy need less; bc has `accumulate`, `activation_checkpointing` "
        "and `shard`",
    )  # fmt: skip


def _works(update: Callable[[Batch], object], batch: Batch) -> bool:
    try:
        update(batch)
    except Exception:  # also what the first failure has left half done
        return False
    return True


def _first_rows(batch: Batch, rows: int) -> Batch:
    def cut(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array[:rows] for name, array in arrays.items()}

    return Batch(
        cut(batch.observation), batch.action[:rows], batch.reward[:rows], batch.discount[:rows],
        cut(batch.next_observation), cut(batch.extras),
    )  # fmt: skip
