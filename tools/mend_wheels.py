"""Make the CMake exports of the ROS 2 wheels point at this environment.

The wheels were built in a manylinux container and their CMake files still name its Python
(``/opt/python/cp311-cp311/...``). Building a message package against them fails until those paths are
those of the environment they are installed in. Run it with the Python of that environment; running it
again changes nothing.
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

import numpy

CONTAINER_PYTHON = rb"/opt/python/cp\d+-cp\d+"


def mend(prefix: Path) -> int:
    """Rewrite every file below ``prefix/share`` that names the container's Python, and return how many."""
    # Longest first: the last pattern is a prefix of the other two.
    replacements = (
        (CONTAINER_PYTHON + rb"/include/python3\.\d+", sysconfig.get_paths()["include"]),
        (
            CONTAINER_PYTHON + rb"/lib/python3\.\d+/site-packages/numpy/_core/include",
            numpy.get_include(),
        ),
        (CONTAINER_PYTHON, str(prefix)),
    )
    mended = 0
    for path in (prefix / "share").rglob("*"):
        if not path.is_file():
            continue
        before = after = path.read_bytes()
        for pattern, value in replacements:
            after = re.sub(pattern, lambda _match, value=value: os.fsencode(value), after)
        if after != before:
            # A new file, because an installer may have linked this one from its cache.
            mode = path.stat().st_mode
            path.unlink()
            path.write_bytes(after)
            path.chmod(mode)
            mended += 1
    return mended


if __name__ == "__main__":
    print(f"mended {mend(Path(sys.prefix))} exported files of the ROS 2 wheels")
