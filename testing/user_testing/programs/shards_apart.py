"""Two processes write and read shards, the second as if it did not see the folder of the first."""

import resource
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from user_core.errors import StoreError
from user_learner.training import shards as module
from user_learner.training.shards import ShardStore


def fail_in_one(
    store: ShardStore, tensors: dict[str, torch.Tensor], rank: int, place: Path
) -> None:
    """What goes wrong in the second process, between what all do together, is told to the first at once."""
    write = partial(store.write, "checkpoint-3.safetensors", 1)
    mine = store.copy(tensors)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:  # no folder of its own
            patch.setattr(tempfile, "tempdir", str(place / "nowhere"))
        with pytest.raises(StoreError if rank == 0 else FileNotFoundError, match="nowhere"):
            write(mine)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:  # its files are gone before it has sent them
            complete = store._complete

            def gone(own: Path, *more: Any) -> object:
                shutil.rmtree(own)
                return complete(own, *more)

            patch.setattr(store, "_complete", gone)
        with pytest.raises(OSError if rank else (StoreError, OSError), match="rank 1|No such file"):
            write(mine)
    with pytest.raises(StoreError, match="not finite"):
        write(mine | {"a": torch.full_like(mine["a"], torch.nan if rank else 0.0)})
    dist.barrier()
    assert not list(place.glob("*checkpoint-3*"))
    assert bool(write(mine)) == (rank == 0), "they are in step"


def main() -> None:
    """Arguments: a folder that both have, and the rank."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    meeting = dist.FileStore(str(folder / "meeting"), 2)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=2)
    place = folder / "checkpoints"
    if rank == 0:
        place.mkdir()
    dist.barrier()
    module._PIECE = 256  # several pieces
    store = ShardStore(place)
    assert store._apart == []
    store._apart = [1]
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(300.0).reshape(100, 3)
    tensors = {
        "a": distribute_tensor(whole, mesh, [Shard(0)]),
        f"own/{rank}": torch.full((5,), rank),
    }
    said = store.write("checkpoint-1.safetensors", 7 + rank, store.copy(tensors))
    if rank == 0:
        assert said["folder"] == "checkpoint-1.safetensors.7.shards"
        assert len(said["files"]) == 2
    said = {"folder": "checkpoint-1.safetensors.7.shards"}
    empty = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    found = store.load(said, empty)
    assert isinstance(found["a"], DTensor)
    assert torch.equal(found["a"].full_tensor(), whole)
    assert torch.equal(found[f"own/{rank}"], tensors[f"own/{rank}"])
    if rank == 1:  # its disk is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    with pytest.raises(StoreError, match="rank 1"):
        store.write("checkpoint-2.safetensors", 8, store.copy(tensors))
    dist.barrier()
    assert not list(place.glob("*checkpoint-2*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert bool(store.write("checkpoint-2.safetensors", 9, store.copy(tensors))) == (rank == 0)
    fail_in_one(store, tensors, rank, place)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
