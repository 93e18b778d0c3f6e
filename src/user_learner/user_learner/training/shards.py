"""Sharded checkpoints: each process writes its parts of what is spread over all of them.

Each process writes a safetensors file, as ``torch.distributed.checkpoint`` writes and reads them, into a folder beside
the checkpoint that names them with their SHA-256. The folder is written first, so that a checkpoint is complete or
absent whatever is killed when. A process of another number of processes finds what it needs in the files of all.

Nothing is ever unpickled: torch's own way to write with several processes sends plans as pickles, so each writes
by itself here, and reads by torch's way of one process.

Processes on hosts that do not see the folder of the first write and read in a folder of their own; the files travel
between it and the first in pieces.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from user_core.errors import StoreError, in_words
from user_core.runtime.files import sync_directory
from user_learner.algorithms.common.averaging import AVERAGE
from user_learner.algorithms.common.distributed import (
    broadcast,
    exchanged,
    rank,
    said_by_all,
    world,
)
from user_learner.algorithms.common.sharded import part_of, with_part
from user_learner.training.checkpoint import SHARDS_ENDING, hash_of_file

_PIECE = 8 << 20
#: As torch names files and metadata of parts of tensors.
_FILE, _PLACES, _OFFSETS = (
    "shard-{:05d}-model-00001-of-00001.safetensors",
    "DCP_SHARDING_INFO",
    "saved_offsets",
)
_PATIENCE = timedelta(minutes=10)


class ShardStore:
    """The shards beside the checkpoints of a run. Made, and used, by all processes at the same time.

    Args:
        directory: Of the checkpoints; that of the first process counts.
    """

    def __init__(self, directory: Path) -> None:
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        first = Path(broadcast(str(directory.absolute())))
        token = first / f".seen-{broadcast(os.urandom(8).hex())}"
        if rank() == 0:
            token.touch()
        dist.barrier(group=self._group)
        sees = exchanged([token.exists()])
        dist.barrier(group=self._group)
        if rank() == 0:
            token.unlink()
        self._apart = [number for number, [there] in enumerate(sees) if not there]
        self._directory = first
        self._mesh = init_device_mesh("cpu", (world(),))

    def copy(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's parts as they are now, on the CPU."""
        return {
            name: with_part(tensor, part_of(tensor).to("cpu", copy=True), self._mesh)
            for name, tensor in shards.items()
        }

    def write(self, name: str, number: int, shards: Mapping[str, Tensor]) -> dict[str, Any]:
        """Write durably, in a thread of its own beside the training.

        Args:
            name: Of the checkpoint's file.
            number: Makes the folder's name one that was not there before; the first process's counts.
            shards: What :meth:`copy` gave.

        Returns:
            What the checkpoint has to say of them, which is folder, and SHA-256 of each file by its name.

        Raises:
            StoreError: They hold numbers that are not finite, or a disk of any process does not take them. All
                processes raise, so that nobody waits for one that has failed, and all are in step for the next.
        """
        what = f"shards of {name}"
        own: Path | None = None
        wrong: Exception | None = None
        try:
            if not all(bool(part_of(t).isfinite().all()) for t in shards.values()):
                wrong = StoreError(
                    what, got="numbers that are not finite", expected="finite numbers",
                    hint="The training diverged; earlier checkpoints are kept",
                )  # fmt: skip
            elif rank() in self._apart:
                own = Path(tempfile.mkdtemp(prefix="user_shards_"))
        except Exception as error:
            wrong = error
        place: Path | None = None
        try:
            said = self._agree(what, wrong, {"number": number, "alike": _alike(shards)})
            folder = f"{name}.{said[0]['number']}{SHARDS_ENDING}"
            place = self._directory / f".{folder}.tmp"
            before = {name for one in said[: rank()] for name in one["alike"]}
            try:
                _write_own(own or place, {n: t for n, t in shards.items() if n not in before})
            except Exception as error:
                wrong = error
            self._agree(what, wrong)
            result = self._complete(own, place, folder)
            self._agree(what, result if isinstance(result, Exception) else None)
            return {} if isinstance(result, Exception) else result
        except BaseException:
            if rank() == 0 and place is not None:
                shutil.rmtree(place, ignore_errors=True)
            raise
        finally:
            if own is not None:
                shutil.rmtree(own, ignore_errors=True)

    def _agree(self, what: str, wrong: Exception | None, mine: Any = None) -> list[Any]:
        """Go on together, or not at all; what all processes say.

        Args:
            what: For the error.
            wrong: What went wrong in this process, if something did.
            mine: What this process says.

        Raises:
            StoreError: Something went wrong in another one, or in this one what is not said by an error of ours.
            StoreError, OSError: ``wrong``.
        """
        said = said_by_all(["" if wrong is None else in_words(wrong), mine], self._group)
        if isinstance(wrong, StoreError | OSError):
            raise wrong
        reasons = [f"rank {k}: {text}" for k, (text, _) in enumerate(said) if text]
        if reasons:
            raise StoreError(what, got="; ".join(reasons), expected="no errors") from wrong
        return [words for _, words in said]

    def _complete(self, own: Path | None, place: Path, folder: str) -> dict[str, Any] | Exception:
        """Bring together what was written, and give it its name; in the first, what to say of it. What went wrong
        is returned, so that nobody waits for it."""
        if rank():
            return (None if own is None else self._send(own, 0)) or {}
        wrong = [error for number in self._apart if (error := self._receive(place, number))]
        if wrong:
            return wrong[0]
        try:
            files = {file.name: hash_of_file(file) for file in sorted(place.iterdir())}
            sync_directory(place)
            os.replace(place, self._directory / folder)
            sync_directory(self._directory)
        except OSError as error:
            return error
        return {"folder": folder, "files": files}

    def load(self, said: Mapping[str, Any], shards: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy what was written into this process's parts.

        Args:
            said: What the checkpoint says of them.
            shards: Where they go. What has another shape is refused.

        Returns:
            Those of ``shards`` that the files had.
        """
        place = self._directory / str(said["folder"])
        own: Path | None = None
        wrong: Exception | None = None
        found: dict[str, Tensor] = {}
        what = f"shards in {place.name}"
        try:
            if rank() in self._apart:
                place = own = Path(tempfile.mkdtemp(prefix="user_shards_"))
        except OSError as error:
            wrong = error
        try:
            if self._apart:
                self._agree(what, wrong)
            for number in self._apart:
                if rank() == 0:
                    wrong = self._send(place, number) or wrong
                elif rank() == number:
                    wrong = self._receive(place, 0)
            if self._apart:
                self._agree(what, wrong)
            try:
                found = _read_own(place, shards)
            except Exception as error:
                wrong = error
            self._agree(what, wrong)
        finally:
            if own is not None:
                shutil.rmtree(own, ignore_errors=True)
        return found

    def _send(self, folder: Path, to: int) -> OSError | None:
        """Send all files of a folder, to the end: zeros stand for what cannot be read. What went wrong, if
        something did; who receives is told."""
        sizes: dict[Path, int] = {}
        wrong: OSError | None = None
        try:
            sizes = {file: file.stat().st_size for file in sorted(folder.iterdir())}
        except OSError as error:
            wrong = error
        dist.send(torch.tensor([len(sizes)]), to, group=self._group)
        for file, size in sizes.items():
            name = file.name.encode()
            dist.send(torch.tensor([len(name), size]), to, group=self._group)
            dist.send(torch.frombuffer(bytearray(name), dtype=torch.uint8), to, group=self._group)
            for start in range(0, size, _PIECE):
                piece = bytearray(min(size - start, _PIECE))
                try:
                    with file.open("rb") as stream:
                        stream.seek(start)
                        if stream.readinto(piece) < len(piece):
                            raise OSError(f"{file} has become shorter")
                except OSError as error:
                    wrong = error
                dist.send(torch.frombuffer(piece, dtype=torch.uint8), to, group=self._group)
        dist.send(torch.tensor([int(wrong is None)]), to, group=self._group)
        return wrong

    def _receive(self, folder: Path, sender: int) -> OSError | None:
        """Take what :meth:`_send` sends, to its end; what went wrong, if something did."""
        count, whole = torch.zeros(2, 1, dtype=torch.int64)
        wrong: OSError | None = None
        dist.recv(count, sender, group=self._group)
        for _ in range(int(count)):
            sizes = torch.zeros(2, dtype=torch.int64)
            dist.recv(sizes, sender, group=self._group)
            letters = torch.empty(int(sizes[0]), dtype=torch.uint8)
            dist.recv(letters, sender, group=self._group)
            try:
                with ExitStack() as stack:
                    try:
                        name = Path(bytes(letters.numpy()).decode()).name
                        stream = stack.enter_context((folder / name).open("wb"))
                        stack.callback(os.fsync, stream.fileno())
                        stack.callback(stream.flush)
                    except OSError as error:
                        wrong = error
                    left = int(sizes[1])
                    while left:
                        piece = torch.empty(min(left, _PIECE), dtype=torch.uint8)
                        dist.recv(piece, sender, group=self._group)
                        left -= len(piece)
                        try:
                            if wrong is None:
                                stream.write(piece.numpy().data)
                        except OSError as error:
                            wrong = error
            except OSError as error:  # at its end
                wrong = error
        dist.recv(whole, sender, group=self._group)
        if not int(whole):
            return OSError(f"rank {sender} could not read what it was to send")
        return wrong


def _alike(shards: Mapping[str, Tensor]) -> list[str]:
    """What is not cut: where several processes have it, the first of them writes it."""
    return [name for name, tensor in shards.items() if not isinstance(tensor, DTensor)]


def _write_own(folder: Path, shards: Mapping[str, Tensor]) -> None:
    """Write this process's parts durably into a file, with their places in the whole tensors."""
    content, places = dict[str, Tensor](), dict[str, Any]()
    for name, tensor in shards.items():
        part, offsets = part_of(tensor), [0] * tensor.dim()
        if isinstance(tensor, DTensor):
            if not part.numel():  # more processes than rows
                continue
            (chunk,) = tensor.__create_chunk_list__()
            offsets = list(chunk.offsets)
        content[name], places[name] = part.contiguous(), {_OFFSETS: offsets}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE.format(rank() + 1)
    save_file(content, path, {_PLACES: json.dumps(places)})
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _read_own(folder: Path, shards: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill this process's parts from the files of all; those that were there."""
    reader = HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    lacking = [
        name
        for name, tensor in shards.items()
        if isinstance(tensor, DTensor) and name not in there and not name.startswith(AVERAGE)
    ]  # averages came later
    if lacking:
        raise StoreError(f"shards in {folder.name}", got=f"no {lacking[0]}", expected="all")
    found = {name: tensor for name, tensor in shards.items() if name in there}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # on purpose
            dcp.load(found, storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # not an Exception
        reasons = "; ".join(in_words(failure[0]) for failure in error.failures.values())
        raise StoreError(f"shards in {folder.name}", got=reasons, expected="no errors") from error
    return found
