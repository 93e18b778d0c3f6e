"""The tensor codec: named arrays to ``(name, dtype, shape, bytes)`` and back.

Every learning message carries its arrays in this form (``user_msgs/Tensor``). Encoding and
decoding copy nothing where the layout allows it; decoding checks names, types, dimensions
and sizes against limits before it makes an array, and the arrays it makes are views of the
received bytes, read-only. So a message costs no memory beyond its own bytes, whatever it
claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from user_core.errors import CodecError
from user_core.specs import DTYPES, MAX_DIMENSIONS, Array, Arrays, ArraySpec, check_arrays

#: dtype name to its code on the wire (``user_msgs/Tensor`` constants). Never renumber.
DTYPE_CODES: Mapping[str, int] = {
    name: code
    for code, name in enumerate(
        (
            "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
            "float16", "float32", "float64",
        )
    )
}  # fmt: skip
assert set(DTYPE_CODES) == set(DTYPES)  # noqa: S101 - one vocabulary, written down twice

_CODE_OF = {np.dtype(name): code for name, code in DTYPE_CODES.items()}
_DTYPES = tuple(np.dtype(name).newbyteorder("<") for name in DTYPE_CODES)
_BOOL = DTYPE_CODES["bool"]


class TensorLike(Protocol):
    """Anything with the fields of ``user_msgs/Tensor``."""

    name: str
    dtype: int
    shape: Sequence[int]
    data: Any


@dataclass(frozen=True)
class TensorRecord:
    """One encoded array.

    Attributes:
        name: Name, unique within a message.
        dtype: Code of the element type, see :data:`DTYPE_CODES`.
        shape: Sizes of the dimensions, outermost first.
        data: The elements in C order, little-endian; a view of the array where possible.
    """

    name: str
    dtype: int
    shape: Sequence[int]
    data: memoryview


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts at most.

    Attributes:
        tensors: Tensors in a message.
        name_length: Characters of a name.
        tensor_bytes: Bytes of one tensor.
        total_bytes: Bytes of all tensors of a message.
    """

    tensors: int = 256
    name_length: int = 128
    tensor_bytes: int = 64 * 2**20
    total_bytes: int = 64 * 2**20


DEFAULT_LIMITS = Limits()


def encode(arrays: Arrays) -> list[TensorRecord]:
    """Encode named arrays, in their order. Raises CodecError for a dtype that has no code."""
    return [encode_one(name, array) for name, array in arrays.items()]


def encode_one(name: str, array: Array) -> TensorRecord:
    """Encode one array; copies only where it is not contiguous or not little-endian."""
    code = _CODE_OF.get(array.dtype if array.dtype.isnative else array.dtype.newbyteorder("="))
    if code is None:
        raise CodecError(f"dtype of {name!r}", got=array.dtype, expected=f"one of {DTYPES}")
    flat = np.ascontiguousarray(array, dtype=_DTYPES[code])
    return TensorRecord(name, code, array.shape, flat.reshape(-1).view(np.uint8).data)


def decode(
    tensors: Iterable[TensorLike],
    limits: Limits = DEFAULT_LIMITS,
    specs: Mapping[str, ArraySpec] | None = None,
    where: str = "message",
) -> dict[str, Array]:
    """Decode the tensors of a message to read-only views of their bytes.

    Args:
        tensors: What came; not trusted.
        limits: What is accepted at most.
        specs: If given, the arrays must have exactly these names, shapes and dtypes, and be
            finite.
        where: What is being decoded, for the error.

    Raises:
        CodecError: Unknown dtype; too many dimensions; a negative size; a shape that does not
            agree with the number of bytes; a name that is empty, too long or there twice; more
            tensors or bytes than the limits allow; a bool that is neither 0 nor 1.
        SpecError: The arrays do not fit ``specs``.
    """
    arrays: dict[str, Array] = {}
    total = 0
    for index, tensor in enumerate(tensors):
        if index >= limits.tensors:
            raise CodecError(f"{where}: too many tensors", expected=f"at most {limits.tensors}")
        name = tensor.name
        if name in arrays:
            raise CodecError(f"{where}: tensor {name!r} occurs twice", expected="unique names")
        array = decode_one(tensor, limits, where)
        total += array.nbytes
        if total > limits.total_bytes:
            raise CodecError(
                f"{where}: size of all tensors",
                got=f"{total} bytes up to {name!r}",
                expected=f"at most {limits.total_bytes}",
            )
        arrays[name] = array
    if specs is not None:
        check_arrays(arrays, specs, where)
    return arrays


def decode_one(
    tensor: TensorLike, limits: Limits = DEFAULT_LIMITS, where: str = "message"
) -> Array:
    """Decode one tensor to a read-only view of its bytes; raises as :func:`decode`."""
    name = tensor.name
    if not isinstance(name, str) or not 0 < len(name) <= limits.name_length:
        raise CodecError(
            f"{where}: name of a tensor",
            got=repr(name)[:200],
            expected=f"1 to {limits.name_length} characters",
        )
    code = tensor.dtype
    if not isinstance(code, int) or not 0 <= code < len(_DTYPES):
        raise CodecError(
            f"{where}: dtype of {name!r}", got=code, expected=f"a code in {dict(DTYPE_CODES)}"
        )
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise CodecError(
            f"{where}: dimensions of {name!r}",
            got=len(tensor.shape),
            expected=f"at most {MAX_DIMENSIONS}",
        )
    shape = tuple(int(n) for n in tensor.shape)
    dtype = _DTYPES[code]
    size = dtype.itemsize  # Python integers do not overflow
    for n in shape:
        if n < 0:
            raise CodecError(f"{where}: shape of {name!r}", got=shape, expected="sizes >= 0")
        size *= n
    nbytes = _nbytes(tensor.data)
    if size != nbytes:
        raise CodecError(
            f"{where}: bytes of {name!r}",
            got=nbytes,
            expected=f"{size} for {dtype.name}{list(shape)}",
        )
    if nbytes > limits.tensor_bytes:
        raise CodecError(
            f"{where}: size of {name!r}",
            got=f"{nbytes} bytes",
            expected=f"at most {limits.tensor_bytes}",
        )
    flat = np.frombuffer(tensor.data, dtype=np.uint8)
    if code == _BOOL and nbytes and flat.max() > 1:
        raise CodecError(f"{where}: elements of {name!r}", got=flat.max(), expected="0 or 1")
    try:
        array = flat.view(dtype).reshape(shape) if nbytes else np.empty(shape, dtype)
    except ValueError as error:  # no elements, but sizes whose product numpy cannot hold
        raise CodecError(
            f"{where}: shape of {name!r}", got=shape, expected="sizes that fit memory"
        ) from error
    array.flags.writeable = False
    return array


def _nbytes(data: Any) -> int:
    try:
        with memoryview(data) as view:
            return view.nbytes
    except TypeError as error:
        raise CodecError("data of a tensor", got=type(data).__name__, expected="bytes") from error
