"""Checkpoints: one safetensors file each, whole or not there, verified before use.

Arrays of the state are tensors of the file; the rest is JSON in its metadata, with a SHA-256
over both. Nothing is ever unpickled. What is spread over several processes lies in a folder beside the file, which
names it with the SHA-256 of each file in it (:mod:`user_learner.training.shards`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.states import flatten, unflatten
from user_core.codecs.weights import array_bytes, pack, packing_order, read_arrays
from user_core.config import Config, config_fields, to_mapping
from user_core.errors import CodecError, ConfigError, StoreCorrupt, StoreError, SuiteError
from user_core.runtime.files import sync_directory, write_atomically
from user_core.specs import Arrays, RobotSpec, difference

FORMAT = "user.checkpoint.1"
#: Where they are, in the folder of a learner.
CHECKPOINTS = "checkpoints"
#: And there, the one of the last good policy version, where versions are watched.
GOOD = "good"
_NAME = re.compile(r"checkpoint-(\d{12})\.safetensors")
#: Key of a state under which stands what folder of shards belongs to it, and what ends such a folder's name.
SHARDS, SHARDS_ENDING = "shards", ".shards"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointInfo:
    """What stands beside the state.

    Attributes:
        update: Gradient updates made.
        environment_steps: Steps collected online.
        policy_version: Newest policy version that was published.
        created_ns: When it was taken, nanoseconds since the epoch.
    """

    update: int
    environment_steps: int
    policy_version: int
    created_ns: int


@dataclass(frozen=True)
class Checkpoint:
    """A state that was written, or is to be."""

    info: CheckpointInfo
    state: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"checkpoint-{self.info.update:012d}.safetensors"

    @property
    def folder(self) -> str:
        """Name of the folder with its shards; empty where it has none."""
        return str(self.state.get(SHARDS, {}).get("folder", ""))


class CheckpointStore:
    """The checkpoints of one run, in a directory of their own.

    Args:
        directory: Made when it is not there.
        identity: Plain data that says what the state belongs to (algorithm, configuration,
            specs); a checkpoint with another one is not used.
        keep: Newest checkpoints that are kept.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], keep: int = 3) -> None:
        self.directory, self._keep = directory, keep
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.refused: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(
            ".checkpoint-*.safetensors.tmp"
        ):  # of a write that was cut off
            leftover.unlink()

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write durably, then drop the oldest.

        Raises:
            OSError: The disk does not take it.
            StoreError: It holds numbers that are not finite: nobody could go on from it.
        """
        arrays, rest = flatten(checkpoint.state)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise StoreError(
                    f"checkpoint of update {checkpoint.info.update}: {name}",
                    got="numbers that are not finite", expected="finite numbers",
                    hint="The training diverged; earlier checkpoints are kept",
                )  # fmt: skip
        text = json.dumps(
            {"info": asdict(checkpoint.info), "identity": self._identity, "state": rest}
        )
        metadata = {"format": FORMAT, "content": text, "sha256": _hash(text, arrays)}
        path = self.directory / checkpoint.name
        write_atomically(path, pack(arrays, metadata))
        for old in self._paths()[self._keep :]:
            old.unlink(missing_ok=True)
            self._drop_shards(old)
        self._drop_shards(path)
        return path

    def _drop_shards(self, path: Path) -> None:
        """Remove folders of shards of this update that neither its checkpoint names nor one that is kept as good."""
        folders = list(self.directory.glob(f"{path.name}.*{SHARDS_ENDING}"))
        named = set()
        for place in (self.directory, self.directory / GOOD) if folders else ():
            try:
                named.add(_folder_named_in(place / path.name))
            except _UNREADABLE:
                return  # to be refused, with its folder
        for folder in folders:
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)

    def drop_leftovers(self) -> None:
        """Remove folders of shards whose checkpoint was never written. For who writes here."""
        for folder in self.directory.glob(f".checkpoint-*{SHARDS_ENDING}.tmp"):
            shutil.rmtree(folder, ignore_errors=True)
        folders = self.directory.glob(f"checkpoint-*{SHARDS_ENDING}")
        for name in sorted({".".join(folder.name.split(".")[:2]) for folder in folders}):
            self._drop_shards(self.directory / name)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and belongs here; None when there is none.

        Those that are not are moved to ``refused/`` with the reason beside them, logged, and
        listed in :attr:`refused`.
        """
        return self.restore(lambda state: None, start_over=True)

    def restore(
        self, load: Callable[[Mapping[str, Any]], None], *, start_over: bool = False
    ) -> Checkpoint | None:
        """Load the newest checkpoint that is whole, belongs here and can be loaded.

        Those before it that are not are moved to ``refused/`` with the reason beside them,
        logged, and listed in :attr:`refused`.

        Args:
            load: Takes a state; what it raises refuses the checkpoint.
            start_over: Where there are checkpoints and none can be used, set them all aside.

        Returns:
            The one that was loaded; None where there is none.

        Raises:
            ConfigError: There are checkpoints, and none can be used. All stay where they are.
        """
        bad: list[tuple[Path, str]] = []
        found: Checkpoint | None = None
        for path in self._paths():
            try:
                found = self.read(path)
                load(found.state)
                break
            except (SuiteError, OSError) as error:
                found = None
                bad.append((path, str(error)))
            except (KeyError, TypeError) as error:  # whole, but not what it should be
                found = None
                bad.append((path, f"{type(error).__name__}: {error}"))
        if bad and found is None and not start_over:
            raise self._unusable([reason for _, reason in bad])
        for path, reason in bad:
            self._refuse(path, reason)
        return found

    def look(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and belongs here, for somebody else to begin with; nothing is
        set aside."""
        for path in self._paths():
            try:
                return self.read(path)
            except (SuiteError, OSError) as error:
                _log.info("not begun with: %s", error)
        return None

    def require_usable(self, parts: Sequence[str]) -> None:
        """Find out whether there is a checkpoint to go on from, or none at all.

        Args:
            parts: Keys of the identity that are compared.

        Raises:
            ConfigError: There are checkpoints, and all belong to another configuration.
        """
        bad = []
        for path, mine, its in self._identities(parts):
            if mine == its:
                return
            bad.append(self._foreign(path, mine, its))
        if bad:
            raise self._unusable([str(error) for error in bad])

    def others(self, parts: Sequence[str]) -> list[str]:
        """How the newest checkpoint that can be read differs from what would belong here, a line a difference;
        none where it does not, or there is no such checkpoint.

        Args:
            parts: Keys of the identity that are compared.
        """
        return next((difference(its, mine) for _, mine, its in self._identities(parts)), [])

    def _identities(
        self, parts: Sequence[str]
    ) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
        """Checkpoints that can be read, the newest first, with parts of what belongs here, and of what they
        belong to. A damaged one is no matter of configuration."""
        for path in self._paths():
            try:
                there = json.loads(read_arrays(path)[1]["content"])["identity"]
                its = {key: there.get(key) for key in parts}
            except (SuiteError, OSError, KeyError, TypeError, ValueError):
                continue
            yield path, {key: self._identity.get(key) for key in parts}, its

    def _foreign(self, path: Path, mine: Mapping[str, Any], its: Mapping[str, Any]) -> ConfigError:
        return ConfigError(
            f"checkpoint {path.name} belongs to another configuration",
            got="; ".join(difference(mine, its, sides=("configured now", "in the checkpoint"))),
            expected="the same in both",
            hint="Configure it as it was, or go on without this checkpoint",
        )

    def _unusable(self, reasons: Sequence[str]) -> ConfigError:
        return ConfigError(
            f"{len(reasons)} checkpoints in {self.directory}",
            got=f"none that this learner can go on from: {reasons[0]}",
            expected="one of this configuration",
            hint="Configure it as it was, take another run or store, or say start_over: true "
            "to begin anew in this run, which sets them aside",
        )

    def go_back(self, reason: str, times: int) -> Checkpoint | None:
        """The checkpoint to go back to from a training that has diverged for the n-th time: the
        newest, then the one before, and so on; those after it are set aside with the reason."""
        paths = self._paths()
        for path in paths[: min(times, len(paths)) - 1]:
            self._refuse(path, f"training diverged after it: {reason}")
        return self.newest()

    def keep_good(self, update: int) -> int | None:
        """Keep a checkpoint of at most this update beside the others, until another is kept so.

        It stays whatever is written later. Where all are newer, what was kept stays, or the oldest is kept.

        Returns:
            The update of the one that is kept; None where there is none.
        """
        paths, kept = self._paths(), self._good()
        older = [path for path in paths if _update_of(path) <= update]
        for path in older or ([] if kept else paths[::-1]):
            target = self.directory / GOOD / path.name
            try:
                target.parent.mkdir(exist_ok=True)
                _link(path, target)
            except OSError as error:  # it made room for a newer one, or the disk is full
                _log.warning("%s is not kept as good: %s", path.name, error)
                continue
            sync_directory(target.parent)
            for other in self._good():
                if other != target:
                    other.unlink(missing_ok=True)
                    self._drop_shards(other)
            return _update_of(target)
        return _update_of(kept[0]) if kept else None

    def return_to_good(self, reason: str) -> Checkpoint | None:
        """The checkpoint that was kept as good, to go on from: it is the newest again, and those after it are
        set aside with the reason. None where none is kept that can be used."""
        for path in self._good():
            try:
                found = self.read(path)
                _link(path, self.directory / path.name)
            except (SuiteError, OSError) as error:
                _log.warning("the checkpoint that was kept as good cannot be used: %s", error)
                continue
            for newer in self._paths():
                if newer.name > path.name:
                    self._refuse(newer, f"the policy got worse before it: {reason}")
            return found
        return None

    def forget_good(self) -> None:
        """The training begins anew: what was kept as good is set aside."""
        for path in self._good():
            self._refuse(path, "the training began anew")

    def _good(self) -> list[Path]:
        return _checkpoints_in(self.directory / GOOD)

    def read(self, path: Path) -> Checkpoint:
        """Read and verify one file.

        Raises:
            StoreCorrupt: It is damaged.
            ConfigError: It belongs to another configuration; the differences are listed.
        """
        try:
            arrays, metadata = read_arrays(path)
            text = metadata["content"]
            digest = _hash(text, arrays)
            if metadata["format"] != FORMAT or digest != metadata["sha256"]:
                raise StoreCorrupt(
                    f"checkpoint {path.name}", got=f"{metadata['format']}, SHA-256 {digest}",
                    expected=f"{FORMAT}, SHA-256 {metadata['sha256']}",
                )  # fmt: skip
            content = json.loads(text)
            info = CheckpointInfo(**content["info"])
        except (CodecError, KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"checkpoint {path.name} is damaged", got=str(error)) from error
        if content["identity"] != self._identity:
            raise self._foreign(path, self._identity, content["identity"])
        found = Checkpoint(info, unflatten(arrays, content["state"]))
        if found.folder:
            self._verify_shards(found)
        return found

    def _verify_shards(self, checkpoint: Checkpoint) -> None:
        """Raise StoreCorrupt unless all files are there, as they were written."""
        folder = self.directory / Path(checkpoint.folder).name
        files: Mapping[str, str] = checkpoint.state[SHARDS]["files"]
        with ThreadPoolExecutor(max_workers=4) as pool:
            try:
                found = list(pool.map(hash_of_file, [folder / Path(name).name for name in files]))
            except OSError as error:
                raise StoreCorrupt(f"shards of {checkpoint.name}", got=str(error)) from error
        for name, there in zip(files, found, strict=True):
            if there != files[name]:
                raise StoreCorrupt(
                    f"shard {name} of {checkpoint.name}", got=f"SHA-256 {there}",
                    expected=f"SHA-256 {files[name]}",
                )  # fmt: skip

    def _paths(self) -> list[Path]:
        """All checkpoints, the newest first."""
        return _checkpoints_in(self.directory)

    def _refuse(self, path: Path, reason: str) -> None:
        _log.warning("checkpoint set aside: %s", reason)
        self.refused.append(reason)
        aside = self.directory / "refused"
        try:
            aside.mkdir(exist_ok=True)
            target, count = aside / path.name, 1
            while target.exists():
                target, count = aside / f"{path.name}.{count}", count + 1
            folders = list(self.directory.glob(f"{path.name}.*{SHARDS_ENDING}"))
            needed = ""
            if folders:
                with suppress(*_UNREADABLE):
                    needed = _folder_named_in(self.directory / GOOD / path.name)
            for folder in folders:
                if folder.name == needed:  # by the same update as it is kept as good
                    continue
                os.replace(folder, aside / f"{target.name}{folder.name[len(path.name) :]}")
            os.replace(path, target)
            target.with_name(f"{target.name}.reason.txt").write_text(reason + "\n")
            sync_directory(self.directory)
        except OSError as error:
            _log.warning("%s could not be moved: %s", path, error)


def _checkpoints_in(directory: Path) -> list[Path]:
    """All checkpoints in a folder, the newest first; none where it is not there."""
    found = [path for path in directory.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _update_of(path: Path) -> int:
    """The update that a checkpoint is of, by its name."""
    return int(path.stem.rpartition("-")[2])


#: What :func:`_folder_named_in` raises for a file that is no whole checkpoint.
_UNREADABLE = (SuiteError, OSError, KeyError, TypeError, ValueError, AttributeError)


def _folder_named_in(path: Path) -> str:
    """The folder of shards that a checkpoint names; empty where it names none, or is not there."""
    try:
        content = json.loads(read_arrays(path)[1]["content"])
    except FileNotFoundError:
        return ""
    return str(content["state"].get(SHARDS, {}).get("folder", ""))


def _link(path: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system knows no such links."""
    try:
        os.link(path, target)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:
        write_atomically(target, path.read_bytes())


def _hash(text: str, arrays: Arrays) -> str:
    """Of the text, and of the arrays in the order in which the file has them."""
    digest = hashlib.sha256(text.encode())
    for name in packing_order(arrays):
        digest.update(array_bytes(arrays[name]))
    return digest.hexdigest()


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def identity_of(
    algorithm: str, algorithm_config: Config, policy: str, policy_config: Config, spec: RobotSpec
) -> dict[str, Any]:
    """Names, configurations and specs that a checkpoint must share with the run that uses it.

    Settings that may change in a running training (``read_only=False``: learning rates, the
    device) do not count, nor do seeds and the robot's name.
    """
    specs = {
        k: v
        for k, v in spec.to_dict().items()
        if k not in ("robot", "lockstep", "task_reward", "grippers")
    }
    return {
        "algorithm": algorithm,
        "algorithm_config": _fixed(algorithm_config),
        "policy": policy,
        "policy_config": _fixed(policy_config),
        "spec": specs,
    }


def _fixed(config: Config) -> dict[str, Any]:
    """Settings that must stay as they are, under the names that they had first."""
    plain, found = to_mapping(config), dict[str, Any]()
    for item in config_fields(type(config)):
        how, value = item.setting, getattr(config, item.name)
        if not how.read_only or item.name == "seed":
            continue
        if how.late and value == item.default:
            continue  # checkpoints from before there was this setting do not name it
        counted = plain[item.name] if how.counts_as is None else how.counted(value)
        found[how.formerly or item.name] = counted
    return found
