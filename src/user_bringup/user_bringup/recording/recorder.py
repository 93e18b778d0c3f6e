"""Writes what is heard to a bag, in a thread of its own. Nobody waits for it.

A full disk, or a disk with less room than the store may need, ends the recording with a reason;
it begins again when there is room. What a slow disk cannot take is left out and counted.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from user_bringup.recording.config import RecorderConfig
from user_core.errors import in_words
from user_core.reasons import DISK_FULL, NO_REASON, NOT_RECORDED, Reason
from user_learner.data.mcap.bags import SUFFIX, BagWriter, Channel, is_indexed, repair

_log = logging.getLogger(__name__)
_MB = 1024 * 1024
#: How often it is looked whether there is room again.
_LOOK_S = 5.0
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
NAME = "run"


@dataclass(frozen=True)
class Recorded:
    """How the recording is doing.

    Attributes:
        messages: Written since it began.
        nbytes: Of them.
        left_out: Messages that there was no time or no room for.
        files: Files of the bag.
        reason: Why nothing is recorded now; false while it is.
    """

    messages: int = 0
    nbytes: int = 0
    left_out: int = 0
    files: int = 0
    reason: Reason = NO_REASON


class Recorder:
    """Writes messages to a bag.

    Args:
        config: Where to, and how much.
        free_bytes: Room on the disk of a directory.

    Raises:
        MissingLibrary: ``mcap`` is not installed.
    """

    def __init__(
        self,
        config: RecorderConfig,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._config, self._free_bytes = config, free_bytes
        self._path = Path(config.folder)
        self._path.mkdir(parents=True, exist_ok=True)
        self._mend()
        self._bag = self._new_bag()
        self._waiting: deque[tuple[Channel, int, bytes]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._state = Recorded(files=len(self._files()))
        self._kept: dict[str, tuple[Channel, int, bytes]] = {}  # latched: each file has them
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def state(self) -> Recorded:
        """How it is doing now."""
        with self._changed:
            return self._state

    def put(self, channel: Channel, time_ns: int, data: bytes) -> None:
        """Take a message; returns at once. Any thread may call it."""
        with self._changed:
            room = self._config.queue_mb * _MB - self._waiting_bytes
            if self._state.reason or len(data) > room:
                self._state = replace(self._state, left_out=self._state.left_out + 1)
                return
            self._waiting.append((channel, time_ns, data))
            self._waiting_bytes += len(data)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, and the index. Idempotent."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(30.0)

    def _run(self) -> None:
        flushed_s = looked_s = time.monotonic()
        while True:
            with self._changed:
                if not self._waiting and not self._ending:
                    self._changed.wait(self._config.flush_s / 2)
                batch, self._waiting = self._waiting, deque()
                self._waiting_bytes = 0
                ending = self._ending
                is_stopped = bool(self._state.reason)
            now_s = time.monotonic()
            try:
                if is_stopped:
                    if now_s - looked_s > _LOOK_S or ending:
                        looked_s = now_s
                        self._try_again()
                else:
                    self._write(batch)
                    batch = deque()
                    if now_s - flushed_s > self._config.flush_s:
                        flushed_s = now_s
                        self._bag.flush()
                        self._require_room()
                if ending:
                    self._bag.close()
                    return
            except Exception as error:  # whatever it is: it is told, and tried again
                code = DISK_FULL if getattr(error, "errno", None) in _FULL else NOT_RECORDED
                self._stop(
                    Reason(code, f"the recording cannot be written: {in_words(error)}"), len(batch)
                )
                if ending:
                    return

    def _write(self, batch: deque[tuple[Channel, int, bytes]]) -> None:
        begun, files = self._state.files, len(self._bag.files)
        for channel, time_ns, data in batch:
            self._bag.write(channel, time_ns, data)
            if channel.latched:
                self._kept[channel.topic] = (channel, time_ns, data)
            if len(self._bag.files) != files:  # each file is to be understood by itself
                files = len(self._bag.files)
                for kept, _, content in list(self._kept.values()):
                    if kept.topic != channel.topic:
                        self._bag.write(kept, time_ns, content)
                self._retire()
                begun = len(self._files())
        if batch:
            with self._changed:
                self._state = replace(
                    self._state, messages=self._state.messages + len(batch),
                    nbytes=self._state.nbytes + sum(len(data) for *_, data in batch),
                    files=begun,
                )  # fmt: skip

    def _require_room(self) -> None:
        free, least = self._free_bytes(self._path), self._config.keep_free_mb * _MB
        if free < least:
            with suppress(OSError):
                self._bag.close()
            self._stop(Reason(
                DISK_FULL, f"{free / _MB:.0f} MB are free, and {least / _MB:.0f} are kept for the store",
            ))  # fmt: skip

    def _stop(self, reason: Reason, lost: int = 0) -> None:
        """Record no more for now; ``lost`` messages were taken out of the queue and not written."""
        self._bag.abandon()
        with self._changed:
            first = not self._state.reason
            lost += len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._state = replace(self._state, reason=reason, left_out=self._state.left_out + lost)
        if first:
            _log.error("recording stops: %s", reason.text)

    def _try_again(self) -> None:
        if self._free_bytes(self._path) < 1.1 * self._config.keep_free_mb * _MB:
            return
        self._mend()
        self._bag = self._new_bag()
        with self._changed:
            self._state = replace(self._state, reason=NO_REASON)
        _log.info("recording goes on")

    def _new_bag(self) -> BagWriter:
        return BagWriter(self._path, NAME, round(self._config.part_mb * _MB))

    def _files(self) -> list[Path]:
        found = self._path.glob(f"{NAME}_*{SUFFIX}")
        return sorted(found, key=lambda file: int(file.stem.rpartition("_")[2]))

    def _retire(self) -> None:
        """Remove the oldest files beyond the size that the bag may have."""
        most = self._config.most_mb * _MB
        files = self._files()
        sizes = [file.stat().st_size for file in files]
        while most and len(files) > 1 and sum(sizes) > most:
            files.pop(0).unlink()
            sizes.pop(0)

    def _mend(self) -> None:
        """Write the index of the file that an earlier recorder was killed at."""
        for file in self._files()[-1:]:
            if is_indexed(file):
                continue
            try:
                count = repair(file)
                _log.info("%s was cut off: %d messages of it are indexed now", file, count)
            except OSError as error:
                _log.warning("%s was cut off, and is left so: %s", file, error)
