"""Features of images, computed once by a frozen encoder and kept beside the images, so that batches never touch pixels.

In the directory of each segment, beside the file of an image column, lies one with a row of features for each of its
rows, named by the key of the encoder, and one with how many rows are done. Both can be deleted at any time: they are
made again. They go with their segment. What a learner adds is only this; rows are never written to.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import StoreError
from user_core.interfaces import FrozenFeatures
from user_core.runtime.files import pwrite_all, write_atomically
from user_core.specs import Array, ArraySpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.replay.layout import ColumnFile, RowLayout, column_file
from user_learner.replay.segments import read_rows
from user_learner.sampling.catalog import Snapshot

_log = logging.getLogger(__name__)
#: Of the file that says how many rows of features are done; it is written after them.
PROGRESS_SUFFIX = ".rows"
#: Images that are read and seen at once, and computing that is long enough to be told.
_AT_ONCE, _LONG_S = 256, 5.0


class LayoutWithFeatures(RowLayout):
    """A layout with features in the place of some image columns, which have files of their own."""

    def __init__(self, base: RowLayout, features: Mapping[str, ArraySpec], key: str) -> None:
        self.schema = TrajectorySchema({**base.schema.columns, **features})
        self.large, self.small = base.large, base.small
        self.files = tuple(
            column_file(file.name, {file.name: features[file.name]}, f"{key}.features")
            if file.name in features
            else file
            for file in base.files
        )


class KeptFeatures:
    """Computes what is missing, and says where it lies.

    Args:
        makers: What makes features of each image, by the name of the observation; see
            :meth:`~user_core.interfaces.Policy.image_features`.
        device: Where to compute, a torch device.
    """

    def __init__(self, makers: Mapping[str, FrozenFeatures], device: str = "cpu") -> None:
        self._makers = {OBSERVATION + name: maker for name, maker in makers.items()}
        self._device = device
        self._base: RowLayout | None = None
        self._layout: RowLayout | None = None
        #: Images whose features were computed by this process.
        self.computed = 0

    def layout(self, base: RowLayout) -> RowLayout:
        """Where columns lie, features in the place of images; images without a file of their own stay."""
        if self._layout is None or self._base is not base:
            specs = {}
            for name in base.large:
                spec, maker = base.schema.columns[name], self._makers.get(name)
                if maker is not None:
                    height, width, _ = spec.shape
                    specs[name] = ArraySpec(
                        (maker.places(height, width), maker.channels), "float16"
                    )
            key = next(iter(self._makers.values())).key.tobytes().hex()
            self._base, self._layout = base, LayoutWithFeatures(base, specs, key)
        return self._layout

    def complete(self, base: RowLayout, snapshot: Snapshot) -> None:
        """Compute features of all rows of a state of the stores that have none yet.

        Raises:
            StoreError: They cannot be written beside the images.
        """
        layout, begin_s, told = self.layout(base), time.monotonic(), False
        runs, table = snapshot.runs, snapshot.segments
        segment, row = table.locate(runs.address)
        for index in np.unique(segment).tolist():
            here = segment == index
            rows = int((row[here] + runs.rows[here]).max())
            path = table.paths[index]
            aside = sorted(table.aside.get(path, ()))
            for images, features in zip(base.files, layout.files, strict=True):
                if images is features:
                    continue
                capacity = int(table.capacity[index])
                for done in self._extend(path, images, features, rows, capacity, aside):
                    self.computed += done
                    if not told and time.monotonic() - begin_s > _LONG_S:
                        told = True
                        _log.info("features of images are computed, once for each: %s", path)

    def _extend(
        self, path: Path, images: ColumnFile, features: ColumnFile, rows: int, capacity: int,
        aside: Sequence[tuple[int, int]],
    ) -> Iterator[int]:  # fmt: skip
        """Features up to a row of a segment, but of those that are set aside; gives how many images were seen, again
        and again."""
        target = path / features.filename
        progress = target.with_suffix(PROGRESS_SUFFIX)
        done = _number(progress)
        if done >= rows and target.exists():
            return
        maker = self._makers[images.name]
        with _locked(target) as handle:
            done = min(_number(progress), rows) if os.fstat(handle).st_size else 0
            os.ftruncate(handle, capacity * features.stride)
            while done < rows:
                low, high = next((one for one in aside if one[1] > done), (rows, rows))
                if low <= done:
                    done = min(high, rows)
                    continue
                count = min(_AT_ONCE, min(low, rows) - done)
                pixels = read_rows(path, images, done, count)
                seen = RowLayout.view(images, pixels)[images.name]
                records = np.zeros(count, features.dtype)
                records[features.name] = _made(maker, seen, self._device)
                pwrite_all(handle, memoryview(records.tobytes()), done * features.stride)
                done += count
                yield count
            os.fsync(handle)
            if os.fstat(handle).st_ino != target.stat().st_ino:
                raise StoreError(
                    f"features beside the images in {path}",
                    got="a segment that was moved to another disk meanwhile",
                    expected="the one that they were written to", hint="They are computed again",
                )  # fmt: skip
            write_atomically(progress, str(done).encode())


def _made(maker: FrozenFeatures, images: Array, device: str) -> Array:
    import torch

    found: Any = maker(torch.from_numpy(np.ascontiguousarray(images)).to(device))
    made: Array = found.cpu().numpy()
    return made


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there yet: nothing is done
        return 0


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A file to write to, by one process at a time."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(
            f"features beside the images in {path.parent}", got=error.strerror or str(error),
            expected="a folder that can be written to: they are computed once and kept there",
            hint="Make it writable, or let the learner see pixels: policy image_encoder.trained: true, or no image_encoder",
        ) from error  # fmt: skip
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    except OSError as error:
        raise StoreError(
            f"features beside the images in {path.parent}", got=error.strerror or str(error),
            expected="room on the disk",
        ) from error  # fmt: skip
    finally:
        os.close(handle)
