"""TCP ports and ROS domains that no other test uses meanwhile, also not one of another pytest on this machine.

Each is taken by one process at a time: a lock file for each number. A lock ends with its process,
however that ends, so nothing has to be tidied up.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from user_core.runtime.dds.half_made_ports import mend_half_made_ports

_FOLDER = Path(tempfile.gettempdir()) / "user_testing"
# Above the ports that Linux gives to clients, and away from those that DDS computes from a domain.
_PORTS = range(61000, 65500)
# DDS computes ports from the domain; up to 101 they stay below the ports that Linux gives to clients.
_DOMAINS = range(10, 102)


class Claim:
    """A number that is ours until :meth:`release`, or until this process ends.

    ``with claim(...) as number:`` releases it behind the block.
    """

    def __init__(self, number: int, lock: int) -> None:
        self.number, self._lock = number, lock

    def release(self) -> None:
        """Give it back; idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(
    kind: str, numbers: Iterable[int], is_free: Callable[[int], bool] = lambda number: True
) -> Claim:
    """Take one of some numbers.

    Args:
        kind: What they number.
        numbers: Which there are; one is taken at random.
        is_free: Whether somebody who knows nothing of these locks uses a number.

    Raises:
        RuntimeError: All are taken.
    """
    choice = list(numbers)
    random.SystemRandom().shuffle(choice)
    for number in choice:
        lock = _lock(f"{kind}_{number}")
        if lock is None:
            continue
        if is_free(number):
            return Claim(number, lock)
        os.close(lock)
    raise RuntimeError(f"every {kind} of {len(choice)} is taken by other tests on this machine")


_claimed: list[Claim] = []  # kept until the process ends: a port may be used again after a restart


def free_port() -> int:
    """A port on which nobody listens, neither now nor later, but who is told of it."""
    _claimed.append(claim("port", _PORTS, _nobody_listens))
    return _claimed[-1].number


def free_endpoint(protocol: str = "tcp", address: str = "127.0.0.1") -> str:
    """A Zenoh endpoint with a port of its own, ``tcp/127.0.0.1:61234``."""
    return f"{protocol}/{address}:{free_port()}"


def claim_domain() -> Claim:
    """A ROS_DOMAIN_ID; release it when all that uses it has ended."""
    mend_half_made_ports()  # tests kill processes, in this domain, too
    return claim("domain", _DOMAINS)


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _lock(name: str) -> int | None:
    """An open file that we alone hold; None where another process does."""
    if not _FOLDER.exists():
        _FOLDER.mkdir(exist_ok=True)
        _FOLDER.chmod(0o777)  # tests of several users share the numbers
    path = _FOLDER / name
    try:
        # Not O_CREAT at once: Linux refuses that for another user's file in a shared folder.
        file = os.open(path, os.O_RDWR) if path.exists() else os.open(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        return None
    try:
        if os.fstat(file).st_uid == os.geteuid():
            os.fchmod(file, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
