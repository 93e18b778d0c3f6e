"""Weights of a checkpoint: hashed once, read once, not drawn before, never silently left out. No LeRobot is needed for
it."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from user_core.policies.lerobot.weights import FileHash, alias_frozen, common_of, read, share


class Theirs(nn.Module):
    """As LeRobot's policies are: made with weights at random, then loaded."""

    swallows = False
    state: dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.tied = self.body.weight
        self.register_buffer("table", torch.randn(3), persistent=False)
        nn.init.trunc_normal_(self.head.weight, std=0.5)

    @classmethod
    def from_pretrained(cls, place: str, config: Any, strict: bool) -> Theirs:
        made = cls()
        try:
            made.load_state_dict(dict(cls.state), strict=strict)
        except RuntimeError:
            if not cls.swallows:
                raise
        return made


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> type[Theirs]:
    torch.manual_seed(0)
    monkeypatch.setattr(
        Theirs, "state", {k: v.clone() for k, v in Theirs().state_dict().items()}, raising=False
    )
    return Theirs


class Drawn(TorchDispatchMode):
    """Shapes of what is filled with numbers at random."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.uniform_.default:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_what_comes_from_a_checkpoint_is_not_drawn_and_everything_else_is(
    theirs: type[Theirs],
) -> None:
    with Drawn() as drawn:
        policy = read(theirs, "", None, "cpu", strict=True)
    assert type(policy) is theirs and not drawn.shapes
    with Drawn() as drawn:
        read(theirs, "", None, "cpu", strict=False)
    assert (4, 4) in drawn.shapes
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state[name], rtol=0, atol=0)
    assert policy.table.std() > 0  # no parameter: it comes from nowhere else


def test_what_the_checkpoint_lacks_is_drawn_where_that_is_allowed(theirs: type[Theirs]) -> None:
    del theirs.state["head.weight"]
    policy = read(theirs, "", None, "cpu", strict=False)
    assert 0.1 < policy.head.weight.std() < 1.0
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        read(theirs, "", None, "cpu", strict=True)


def test_a_class_that_only_prints_that_weights_do_not_fit_is_not_believed(
    theirs: type[Theirs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs, "swallows", True)
    theirs.state["head.weight"] = torch.zeros(3, 4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        read(theirs, "", None, "cpu", strict=True)


def test_a_second_policy_takes_what_is_frozen_from_the_first(theirs: type[Theirs]) -> None:
    first = read(theirs, "", None, "cpu", strict=True)
    first.body.requires_grad_(False)
    share(first, "ab", frozenset())
    common = common_of("ab", "cpu", lambda name: name.startswith("head"))
    assert set(common) == {"body.weight", "body.bias", "tied"}
    second = read(theirs, "", None, "cpu", strict=True, common=common, freezes=True)
    assert second.body.weight is first.body.weight and second.tied is first.tied
    assert second.head.weight is not first.head.weight
    third = read(theirs, "", None, "cpu", strict=True, common=common)  # it trains them: its own
    assert third.body.weight is not first.body.weight
    assert common_of("cd", "cpu", lambda name: False) == {}


def test_a_copy_lies_beside_what_is_frozen_and_moves_alone(theirs: type[Theirs]) -> None:
    import copy

    first = read(theirs, "", None, "cpu", strict=True)
    first.body.requires_grad_(False)
    other = copy.deepcopy(first, alias_frozen(first))
    assert other.body.weight is not first.body.weight and other.tied is other.body.weight
    assert other.body.weight.data_ptr() == first.body.weight.data_ptr()
    assert other.head.weight.data_ptr() != first.head.weight.data_ptr()
    other.to(torch.float64)
    assert first.body.weight.dtype == torch.float32 and other.body.weight.dtype == torch.float64


def test_a_hash_is_found_once_for_the_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, content = tmp_path / "model.safetensors", os.urandom(9_000_000)
    file.write_bytes(content)
    assert FileHash(file).result() == hashlib.sha256(content).hexdigest()
    remembered = next((tmp_path / "cache/user/hashes").iterdir())
    assert FileHash(file).known == remembered.read_text() == hashlib.sha256(content).hexdigest()
    file.write_bytes(content[:-1] + b"x")  # as long, and another
    assert not FileHash(file).known
    assert FileHash(file).result() == hashlib.sha256(content[:-1] + b"x").hexdigest()
    monkeypatch.setenv(
        "XDG_CACHE_HOME", "/proc/nowhere"
    )  # cannot be written: it is found all the same
    file.write_bytes(b"short")
    assert FileHash(file).result() == hashlib.sha256(b"short").hexdigest()
    with pytest.raises(OSError, match="No such file"):
        FileHash(tmp_path / "none")


def test_a_file_that_only_looks_the_same_is_hashed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, content = tmp_path / "model.safetensors", bytearray(os.urandom(3_000_000))
    file.write_bytes(content)
    stat = file.stat()
    with (
        monkeypatch.context() as times
    ):  # as in an image of a file system, where they are always the same
        times.setattr(os, "fstat", lambda handle: stat)
        times.setattr(Path, "stat", lambda path, **_: stat)
        first = FileHash(file).result()
        content[: 1 << 20] = os.urandom(1 << 20)
        file.write_bytes(content)
        assert FileHash(file).result() == hashlib.sha256(content).hexdigest() != first


def test_a_file_that_is_written_to_while_it_is_read_has_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, other = tmp_path / "model.safetensors", tmp_path / "other"
    file.write_bytes(b"first")
    other.write_bytes(b"other")
    hashed = FileHash(file)
    os.replace(other, file)
    with pytest.raises(OSError, match="changed while it was read"):
        hashed.result()
    assert FileHash(file).result() == hashlib.sha256(b"other").hexdigest()


def test_a_hash_is_found_without_a_home_and_none_is_taken_from_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"here")
    right, thrown = hashlib.sha256(b"here").hexdigest(), []
    with monkeypatch.context() as homeless:
        homeless.delenv("XDG_CACHE_HOME", raising=False)
        homeless.setattr(Path, "home", nowhere)
        homeless.setattr(threading, "excepthook", thrown.append)
        assert FileHash(file).result() == right and not thrown
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("user_core.policies.lerobot.weights._HASHES", {})
    assert FileHash(file).result() == right
    next((tmp_path / "cache/user/hashes").iterdir()).write_bytes(b"\0" * 64)
    monkeypatch.setattr("user_core.policies.lerobot.weights._HASHES", {})
    assert FileHash(file).result() == right
