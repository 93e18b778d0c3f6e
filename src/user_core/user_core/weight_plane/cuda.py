"""Memory of a GPU that another process of this host can map, by CUDA's driver itself.

PyTorch can hand a storage to another process, too. It counts who uses it in a file under ``/dev/shm``, which stays
there when a process is killed, and its allocator may hold memory of a kind that cannot be mapped elsewhere. Six calls
of the driver do without both: what is mapped ends with the process that has mapped it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from user_core.errors import TransportError
from user_core.runtime.closing import Closing

_HANDLE_BYTES = 64
_ENABLE_PEER_ACCESS = 1
_ALREADY_ENABLED = 704
#: What launches a copy, as errors name it.
COPY = "cuMemcpyAsync"


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]


class _Driver:
    """The driver of this process. Raises TransportError where there is none."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise TransportError(
                "CUDA's driver", got=str(error), expected="libcuda.so.1"
            ) from error
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Raises TransportError where the driver says no."""
        self.check(name, getattr(self._library, name)(*arguments))

    def launcher(self, name: str) -> Callable[[int, int, int, int], int]:
        """A function of the driver that takes two addresses, bytes and a stream, and is called often."""
        function = ctypes.CDLL("libcuda.so.1")[name]  # of its own, since its types are
        function.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
        found: Callable[[int, int, int, int], int] = function
        return found

    def check(self, name: str, code: int) -> None:
        """Raises TransportError where a call has returned an error."""
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            raise TransportError(
                name, got=(text.value or str(code).encode()).decode(), expected="no error of CUDA"
            )

    @lru_cache  # noqa: B019
    def context(self, index: int) -> tuple[int, Any]:
        """A GPU of this process by its number, and the context that PyTorch uses on it."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        return device.value, context

    def let_reach(self, index: int) -> None:
        """Let the GPU that calls are about write to another one's memory."""
        code = self._library.cuCtxEnablePeerAccess(self.context(index)[1], 0)
        if code != _ALREADY_ENABLED:
            self.check("cuCtxEnablePeerAccess", code)

    @contextmanager
    def on(self, index: int) -> Iterator[None]:
        """Calls in the block are about this GPU."""
        self.call("cuCtxPushCurrent_v2", self.context(index)[1])
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


@lru_cache
def _driver() -> _Driver:
    return _Driver()


def number_of_gpu(uuid: str) -> int | None:
    """Which number a GPU has in this process, by its :func:`uuid_of`; None: it is not visible here. Raises
    TransportError."""
    count = ctypes.c_int()
    _driver().call("cuDeviceGetCount", ctypes.byref(count))
    # Their contexts are not made for that: each takes half a GB of its GPU.
    return next((n for n in range(count.value) if _uuid(n) == uuid), None)


@lru_cache
def _uuid(index: int) -> str:
    driver, device, found = _driver(), ctypes.c_int(), ctypes.create_string_buffer(16)
    driver.call("cuDeviceGet", ctypes.byref(device), index)
    driver.call("cuDeviceGetUuid", found, device)
    return found.raw.hex()


def uuid_of(index: int) -> str:
    """Which GPU that is, whatever number it has in this process; hexadecimal."""
    return _uuid(index)


class SharedGpuMemory(Closing):
    """Memory of a GPU with a handle by which other processes map it.

    Args:
        nbytes: Its size.
        index: Number of the GPU.

    Raises:
        TransportError: There is less.
    """

    def __init__(self, nbytes: int, index: int) -> None:
        self.nbytes, self.index = nbytes, index
        driver, pointer, handle = _driver(), ctypes.c_uint64(), _Handle()
        with driver.on(index):
            driver.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(nbytes))
            self._pointer: int | None = pointer.value
            try:
                driver.call("cuIpcGetMemHandle", ctypes.byref(handle), pointer)
            except TransportError:
                self.close()
                raise
        self.handle = bytes(handle).hex()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As which PyTorch takes it for a tensor of bytes, which it must not outlive."""
        return {"shape": (self.nbytes,), "typestr": "|u1", "data": (self._pointer, False), "version": 2}  # fmt: skip

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            with _driver().on(self.index):
                _driver().call("cuMemFree_v2", ctypes.c_uint64(pointer))


class MappedGpuMemory(Closing):
    """What another process has shared, mapped for copies to a GPU of this process.

    Args:
        handle: As that process got it.
        index: Number of the GPU here that copies; the memory may lie on another one of the host.
        to: Number of the GPU that it copies to, where that is not the same: the one on which the memory lies then sends
            it.

    Raises:
        TransportError: It cannot be mapped: no such GPU is visible here, or neither reaches the other.
    """

    def __init__(self, handle: str, index: int, to: int | None = None) -> None:
        self.index = index
        try:
            raw = bytes.fromhex(handle)
        except ValueError:
            raw = b""
        if len(raw) != _HANDLE_BYTES:
            raise TransportError("handle of a GPU's memory", got=handle[:80], expected=f"{_HANDLE_BYTES} bytes")  # fmt: skip
        pointer, driver = ctypes.c_uint64(), _driver()
        with driver.on(index):
            if to is not None and to != index:
                driver.let_reach(to)
            driver.call(
                "cuIpcOpenMemHandle_v2", ctypes.byref(pointer), _Handle.from_buffer_copy(raw),
                ctypes.c_uint(_ENABLE_PEER_ACCESS),
            )  # fmt: skip
        self._pointer: int | None = pointer.value
        self._launch = driver.launcher(COPY)

    def copy(self, offset: int, nbytes: int, target: int, stream: int) -> None:
        """Launch a copy from there to an address of this process, on a stream of the GPU that copies. Raises
        TransportError."""
        # The stream says which one that is, whatever this thread is at.
        code = self._launch(target, (self._pointer or 0) + offset, nbytes, stream)
        if code:
            _driver().check(COPY, code)

    def close(self) -> None:
        """Unmap it; copies have ended. Idempotent."""
        if self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            with _driver().on(self.index):
                _driver().call("cuIpcCloseMemHandle", ctypes.c_uint64(pointer))
