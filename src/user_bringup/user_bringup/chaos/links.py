"""Links that can be cut, in a process of their own, so that whoever records a run does not slow them down.

    python -m user_bringup.chaos.links HOST:PORT...

It prints the ports as a JSON list, and then reads lines, ``cut NUMBER`` or ``restore NUMBER``, until its input ends;
each is answered by an empty line.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from user_bringup.chaos.faults import Link
from user_core.runtime.closing import Closing


class FarLink:
    """A link of another process; like :class:`~user_bringup.chaos.faults.Link`.

    Attributes:
        port: Where it listens.
        is_cut: Whether nothing moves.
    """

    def __init__(self, process: subprocess.Popen[str], number: int, port: int) -> None:
        self._process, self._number = process, number
        self.port, self.is_cut = port, False

    def cut(self) -> None:
        """From now on nothing moves."""
        self._say("cut")
        self.is_cut = True

    def restore(self) -> None:
        """It moves again."""
        self._say("restore")
        self.is_cut = False

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {self._number}\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is done


class LinkProcess(Closing):
    """The process, which ends with this one in any case.

    Args:
        targets: Where the links go to.

    Attributes:
        links: One for each target.
    """

    def __init__(self, targets: Sequence[tuple[str, int]]) -> None:
        words = [f"{host}:{port}" for host, port in targets]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.links = [FarLink(self._process, i, port) for i, port in enumerate(ports)]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """The program."""
    with contextlib.suppress(OSError):  # where we may: a link is not to be slower on a full machine
        Path("/proc/self/autogroup").write_text("-10", encoding="ascii")
    with ExitStack() as stack:
        links = []
        for word in sys.argv[1:]:
            host, _, port = word.rpartition(":")
            links.append(stack.enter_context(Link(host, int(port))))
        print(json.dumps([link.port for link in links]), flush=True)
        for line in sys.stdin:
            order, number = line.split()
            link = links[int(number)]
            (link.cut if order == "cut" else link.restore)()
            print(flush=True)


if __name__ == "__main__":
    main()
