"""How arrays become bytes and back. Decoding trusts nothing."""

from user_core.codecs.tensor import (
    DEFAULT_LIMITS,
    DTYPE_CODES,
    Limits,
    TensorRecord,
    decode,
    decode_one,
    encode,
    encode_one,
)
from user_core.codecs.trajectory import decode_chunk, encode_chunk

__all__ = [
    "DEFAULT_LIMITS",
    "DTYPE_CODES",
    "Limits",
    "TensorRecord",
    "decode",
    "decode_chunk",
    "decode_one",
    "encode",
    "encode_chunk",
    "encode_one",
]
