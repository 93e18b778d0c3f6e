"""What FastDDS keeps in shared memory, by the names of its files: ``fastdds_*``, before Fast DDS 3 (ROS 2 Humble and
Jazzy) ``fastrtps_*``.

A *port* is where messages come in for those who listen at it; listeners hold a lock beside it (``_el`` the only one,
``_sl`` one of several). A *segment* is where a participant keeps the messages that it sends; it holds ``_el`` beside
it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/dev/shm")
#: How their names begin.
STARTS = ("fastdds", "fastrtps")
PORT = re.compile(rf"(?:{'|'.join(STARTS)})_port\d+")
#: Its group is the name of the port.
LOCK_OF_PORT = re.compile(rf"({PORT.pattern})_[es]l")
SEGMENT = re.compile(rf"(?:{'|'.join(STARTS)})_[0-9a-f]{{16}}")


def files_named(name: re.Pattern[str], folder: Path = FOLDER) -> Iterator[Path]:
    """Files whose whole name is such a one; none where there is no such folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name):
                yield Path(entry.path)
