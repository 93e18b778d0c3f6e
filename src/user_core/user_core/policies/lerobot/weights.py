"""The weights of a checkpoint in a policy of LeRobot: hashed while they are read, read once, checked. Imports torch.

LeRobot makes a policy with weights at random and reads those of the checkpoint over them. Of several billion weights
that draws for a minute what nobody sees, so here parameters are not drawn when all of them come from the checkpoint.
What policies of one process have in common, the frozen base of adapters, is taken from the one that is there already.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from user_core.runtime.files import cache_home, write_atomically

#: Names of functions that fill a tensor at random, of torch.nn.init and of tensors.
_DRAWS = frozenset(
    ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
     "xavier_normal_", "orthogonal_")
)  # fmt: skip


def read(
    cls: Any, place: str, theirs: Any, device: str, *, strict: bool, common: Mapping[str, nn.Parameter] | None = None,
    freezes: bool = False, **keywords: Any,
) -> Any:  # fmt: skip
    """A policy of LeRobot's with the weights of a checkpoint, by its own ``from_pretrained``.

    Args:
        cls: LeRobot's class.
        place: Folder of the checkpoint, or its name on the hub.
        theirs: Its configuration.
        device: Where the policy will be.
        strict: Whether all weights must be in the checkpoint, and no others.
        common: Frozen weights of this checkpoint that are in this process already, by their names: taken instead of
            read where type, shape and device are the policy's, and the policy does not train them.
        freezes: Whether all that is in ``common`` will be frozen; else what LeRobot has frozen when it is made.
        keywords: Further ones of ``from_pretrained``.

    Raises:
        Exception: What LeRobot or torch raise where the weights do not fit. Some of LeRobot's policies print that, and
            go on with weights at random; here they do not.
    """
    for undrawn in (True, False) if strict else (False,):
        note = _Note(common or {}, freezes)
        with torch.device(device), _Undrawn() if undrawn else nullcontext():
            policy = note.noted(cls).from_pretrained(
                place, config=theirs, strict=strict, **keywords
            )
        policy.__class__ = cls
        if note.error is not None:
            raise note.error
        if not undrawn or note.is_filled(policy):
            return policy
    raise AssertionError


class _Undrawn(TorchFunctionMode):
    """In this thread parameters keep what is in their memory, instead of being drawn; other tensors are drawn."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


class _Note:
    """What came of the loading of a policy's weights, noted by a class that is the policy's while it is made."""

    def __init__(self, common: Mapping[str, nn.Parameter], freezes: bool) -> None:
        self.error: Exception | None = None
        self.missing: set[str] | None = None
        self._common, self._freezes = common, freezes

    def noted(self, cls: Any) -> Any:
        note = self

        class Noted(cls):  # type: ignore[misc]
            def load_state_dict(self, state_dict: Any, *args: Any, **keywords: Any) -> Any:
                try:
                    given = note._with_common(self, state_dict)
                    found = super().load_state_dict(given, *args, **keywords)
                except Exception as error:
                    note.error = error
                    raise
                note.missing = set(found.missing_keys)
                return found

        Noted.__name__, Noted.__qualname__, Noted.__module__ = (
            cls.__name__, cls.__qualname__, cls.__module__,
        )  # fmt: skip
        return Noted

    def _with_common(self, policy: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put what the process has into the policy; what is to be loaded, without reading that from the file."""
        found = dict(state)
        for prefix, module in policy.named_modules() if self._common else ():
            for name, mine in module._parameters.items():
                full = f"{prefix}.{name}".lstrip(".")
                other = self._common.get(full)
                if mine is None or other is None or full not in found:
                    continue
                if mine.requires_grad and not self._freezes:
                    continue
                if (other.shape, other.dtype, other.device) == (
                    mine.shape,
                    mine.dtype,
                    mine.device,
                ):
                    module._parameters[name] = found[full] = (
                        other  # copied onto itself: nothing is done
                    )
        return found

    def is_filled(self, policy: nn.Module) -> bool:
        """Whether every parameter came from the checkpoint, under one of its names."""
        if self.missing is None:
            return False  # it has a way of its own
        all_of = list(policy.named_parameters(remove_duplicate=False))
        loaded = {id(parameter) for name, parameter in all_of if name not in self.missing}
        return all(id(parameter) in loaded for _, parameter in all_of)


# --------------------------------------------------------------------------------------------------
# Frozen weights that policies of a process have in common
# --------------------------------------------------------------------------------------------------

#: By the base's hash, name, type and place.
_BASES: weakref.WeakValueDictionary[tuple[str, ...], nn.Parameter] = weakref.WeakValueDictionary()
_IN_ADAPTER = ".base_layer."


def share(policy: nn.Module, base_hash: str, kept: frozenset[str]) -> None:
    """Let policies that were trained on one base have its frozen weights once in this process: the one that acts and
    the one that is made ready beside it, and those of other adapters. What a network trains stays its own.

    Args:
        policy: LeRobot's, with its adapters.
        base_hash: Of its base; nothing is shared without one.
        kept: Names of its tensors that are its own.
    """
    if not base_hash:
        return
    for prefix, module in policy.named_modules():
        for name, mine in module._parameters.items():
            full = f"{prefix}.{name}".lstrip(".")
            if mine is None or mine.requires_grad or full in kept:
                continue
            key = (base_hash, full.replace(_IN_ADAPTER, "."), str(mine.dtype), str(mine.device))
            common = _BASES.setdefault(key, mine)
            if common is not mine and torch.equal(common, mine):
                module._parameters[name] = common


def common_of(base_hash: str, device: str, own: Callable[[str], bool]) -> dict[str, nn.Parameter]:
    """Frozen weights of a base that are in this process, on this device, by their names without adapters; without those
    that are a policy's ``own``. Nothing for an empty hash."""
    if not base_hash:
        return {}
    wanted = torch.empty(0, device=device).device
    return {
        key[1]: parameter
        for key, parameter in list(_BASES.items())
        if key[0] == base_hash and parameter.device == wanted and not own(key[1])
    }


def alias_frozen(module: nn.Module) -> dict[int, Any]:
    """A memo for :func:`copy.deepcopy` with which frozen parameters of a copy lie in the memory of the original's:
    nothing writes to them, and of a large policy they are nearly all. Each has its own :class:`~torch.nn.Parameter`, so
    that a copy that goes to another device does not take the original along."""
    return {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for part in module.modules()
        for parameter in part._parameters.values()
        if parameter is not None and not parameter.requires_grad
    }


# --------------------------------------------------------------------------------------------------
# The hash of a file
# --------------------------------------------------------------------------------------------------

_PIECE = 1 << 22
#: How many bytes are looked at, at how many places, to tell a file from another that was copied there with its times.
_SAMPLE, _SAMPLES = 1 << 12, 64
_HASHES: dict[str, str] = {}


class FileHash:
    """SHA-256 of a large file, found in a thread of its own while the caller does something else.

    What was found is remembered, in this process and in ``$XDG_CACHE_HOME/user/hashes`` (``~/.cache/user/hashes``), for
    the file as it is: its place, size, inode and times, and samples of its bytes: images of file systems have the same
    times and inodes for whatever is in them.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._path, self._stream = file, file.open("rb")
        try:
            handle = self._stream.fileno()
            self._stat = stat = os.fstat(handle)
            sign = (str(file.resolve()), *_written(stat), stat.st_ctime_ns)
            self._key = hashlib.sha256(
                repr(sign).encode() + _samples(handle, stat.st_size)
            ).hexdigest()
        except OSError:
            self._stream.close()
            raise
        self._error: OSError | None = None
        self._found = _HASHES.get(self._key) or self._remembered()
        self._thread: threading.Thread | None = None
        if self._found:
            self._stream.close()
        else:
            self._thread = threading.Thread(target=self._find, name="hash", daemon=True)
            self._thread.start()

    @property
    def known(self) -> str:
        """The hash where it is known already, else empty."""
        return self._found

    def result(self) -> str:
        """The hash, waited for. Raises OSError where the file could not be read, or has become another meanwhile:
        whoever has read it at the same time may have something of both."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if _written(self._path.stat()) != _written(self._stat):
            raise OSError("it was changed while it was read")
        if not self._found:
            raise OSError("its hash could not be computed")
        _HASHES[self._key] = self._found
        return self._found

    def _find(self) -> None:
        digest = hashlib.sha256()
        try:
            with self._stream as stream:
                for piece in _pieces(stream):
                    digest.update(piece)
                changed = _written(os.fstat(stream.fileno())) != _written(self._stat)
        except OSError as error:
            self._error = error
            return
        self._found = digest.hexdigest()
        if changed:
            return
        with suppress(OSError, RuntimeError):  # no room, or no home
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, self._found, durable=False)

    @property
    def _file(self) -> Path:
        return cache_home() / "hashes" / self._key

    def _remembered(self) -> str:
        try:
            text = self._file.read_text(encoding="ascii")
        except (OSError, RuntimeError, ValueError):
            return ""
        return (
            text if re.fullmatch("[0-9a-f]{64}", text) else ""
        )  # after a power cut it may be anything


def _written(stat: os.stat_result) -> tuple[int, ...]:
    """What another file, or a file that is written to, has otherwise."""
    return stat.st_size, stat.st_ino, stat.st_mtime_ns


def _samples(handle: int, size: int) -> bytes:
    """Bytes from everywhere in a file, its beginning and its end among them."""
    last = max(0, size - _SAMPLE)
    places = sorted({last * n // (_SAMPLES - 1) for n in range(_SAMPLES)})
    return b"".join(os.pread(handle, _SAMPLE, place) for place in places)


def _pieces(stream: Any) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_PIECE))
    while read_bytes := stream.readinto(buffer):
        yield buffer[:read_bytes]
