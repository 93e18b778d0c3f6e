"""Which grant of the fleet's scheduler a robot obeys: the newest that it has ever seen.

The numbers of grants only grow, over restarts of the scheduler and over schedulers. The newest one that was seen is in
a file of the robot, so that a HAL that is restarted, or a second one for the same robot, knows it too. What comes under
an older grant is refused: its actor was cut off, or suspended, or was told by a scheduler that is not obeyed any more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from user_core.errors import OldGrant, StoreCorrupt, StoreError
from user_core.reasons import NO_REASON, OLD_GRANT, Reason
from user_core.runtime.files import write_atomically

NAME = "grant.json"


class GrantOrder:
    """The newest grant of one robot. Used by one thread at a time; the file by several processes.

    Two numbers are kept: the newest grant under which somebody was leased the robot, and the newest under which a HAL
    was started. A HAL that was itself started under an older one than another HAL is to end (:meth:`why_over`).

    A HAL without a grant of its own, which a person started, obeys requests without one until it has seen one
    with: so robots without a scheduler work as if there were no such thing as a grant.

    Args:
        folder: Folder of the robot's state; None: nothing is kept.
        own: The grant under which this HAL was started; 0: none.
        resource: Name of the robot, for messages.

    Raises:
        OldGrant: A HAL was started under a newer grant already.
        StoreError: The file cannot be read or written, or is damaged.
    """

    def __init__(self, folder: Path | None = None, own: int = 0, resource: str = "robot") -> None:
        self._file = None if folder is None else folder / NAME
        self.own, self._resource = own, resource
        self._newest = self._hal = 0
        self._seen_here = own > 0
        if self._file is not None:
            self._read()
        if own:
            if why := self.why_over():
                raise OldGrant(why.text, hint="It is over; end what was started under it")
            self._raise_to(own, own)

    @property
    def newest(self) -> int:
        """The newest grant that was seen, by any process as far as is known; 0: none."""
        return self._newest

    def admit(self, grant: int, holder: str) -> None:
        """Let a request under a grant pass, and remember it, before it is acted on.

        Raises:
            OldGrant: There was a newer grant; or the request has none, and the robot is the scheduler's.
            StoreError: It cannot be remembered.
        """
        if self._file is not None:
            self._read()
        if why := self.why_over():
            raise OldGrant(why.text, hint="It is over; end what was started under it")
        if not grant:
            if self._seen_here:
                raise OldGrant(
                    f"{self._resource!r} is given out by a scheduler", got=f"{holder!r}, without a grant",
                    expected=f"grant {self._newest}",
                    hint="Submit it to the fleet; or start the robot's HAL anew, without a grant",
                )  # fmt: skip
            return
        if grant < self._newest:
            raise self.refusal(grant, holder)
        if grant > self._newest:
            self._raise_to(grant, self._hal)
        self._seen_here = True

    def refusal(self, grant: int, holder: str) -> OldGrant:
        """What is said to somebody whose grant is over."""
        return OldGrant(
            f"{self._resource!r} was granted to somebody else since",
            got=f"{holder!r} under grant {grant}", expected=f"grant {self._newest}, the newest",
            hint="It is over; end what was started under it",
        )  # fmt: skip

    def look(self) -> Reason:
        """See what other processes have written; why this HAL is to end, false when it is not."""
        if self._file is not None:
            self._read()
        return self.why_over()

    def why_over(self) -> Reason:
        """Why this HAL is one of an old grant; false when it is not."""
        if not 0 < self.own < self._hal:
            return NO_REASON
        text = f"the hal of {self._resource!r} was started under grant {self.own}, and another under {self._hal} since"
        return Reason(OLD_GRANT, text)

    def _raise_to(self, newest: int, hal: int) -> None:
        """Remember larger numbers, durably, whatever others write at the same time."""
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._locked(self._file):
                    self._read()
                    newest, hal = max(newest, self._newest), max(hal, self._hal)
                    write_atomically(self._file, json.dumps({"newest": newest, "hal": hal}))
            except OSError as error:
                raise StoreError(
                    f"newest grant of {self._resource!r} in {self._file}", got=str(error),
                    expected="a file that outlives this process", hint="Make room, or make it writable",
                ) from error  # fmt: skip
        self._newest, self._hal = max(newest, self._newest), max(hal, self._hal)

    def _read(self) -> None:
        assert self._file is not None
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            newest, hal = int(found["newest"]), int(found["hal"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(
                f"newest grant of {self._resource!r} in {self._file}", got=repr(error),
                expected='{"newest": number, "hal": number}',
                hint="Remove it when nothing of an old grant runs any more",
            ) from error  # fmt: skip
        self._newest, self._hal = max(newest, self._newest), max(hal, self._hal)

    @contextmanager
    def _locked(self, file: Path) -> Iterator[None]:
        handle = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
