"""Logs as lines of JSON, each behind a checksum: a line that was cut short or damaged is known as such."""

from __future__ import annotations

import json
import zlib
from typing import Any


def encode_line(data: Any) -> bytes:
    """CRC-32 of the JSON in eight hexadecimal digits, a blank, the JSON, the end of the line.

    Raises ValueError or TypeError for what JSON cannot say, NaN among it.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_line(line: bytes) -> Any:
    """The inverse, without the end of the line. Raises ValueError for a line that is not whole."""
    if line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
        raise ValueError("the checksum does not fit")
    return json.loads(line[9:])
