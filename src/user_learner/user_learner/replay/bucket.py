"""Segments whose column files are in a bucket (S3, or what speaks as it does), and come back when they are needed.

Such a segment keeps its directory and its log. ``bucket.json`` in it says where its column files are, how large, and
with which digests; each of them is here as well, or not. What is fetched takes its name when it is whole and its
digest right. What was fetched first goes first, where all that is here of such segments takes more than the store
allows (:func:`make_room`). Credentials and endpoint are those of the environment (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``~/.aws``): nothing of them is ever written.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from user_core.errors import ConfigError, PluginError, StoreCorrupt, StoreError, SuiteError
from user_core.runtime.files import replace_durably, sync_directory, write_atomically
from user_core.runtime.locks import FileLock

SCHEME = "s3://"
#: In a store: its segments.
SEGMENTS = "segments"
#: In a store: links to segments on another disk (or what says where they are in a bucket) that it does not need any
#: more, until they are removed there.
LEAVING = "leaving"
#: In the directory of a segment that is in a bucket.
MARK = "bucket.json"
#: In a store of which segments are in a bucket: how much of them may be here. Its time tells when that changed.
LIMIT = "bucket.limit"
FETCH_LOCK = "bucket.lock"
#: Beside the links to segments on another disk: what a bucket has, and the store does not need any more.
LEAVING_SUFFIX = ".bucket.json"
_PIECE = 2**20
#: How long another process may be fetching before the wait for it is given up.
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class InBucket:
    """Where the column files of a segment are.

    Attributes:
        url: ``s3://BUCKET/PREFIX``, of this segment alone.
        files: Bytes and SHA-256 by name.
    """

    url: str
    files: Mapping[str, tuple[int, str]]

    def write(self, file: Path) -> None:
        """Say it in a file, durably."""
        said = {"url": self.url, "files": {name: list(found) for name, found in self.files.items()}}
        write_atomically(file, json.dumps(said, indent=1) + "\n")


def in_bucket(path: Path) -> InBucket | None:
    """What a segment's directory says of a bucket; None where it is in none. Raises StoreCorrupt."""
    try:
        return parse_mark(path / MARK)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_mark(file: Path) -> InBucket:
    """What such a file says. Raises StoreCorrupt where it is damaged, OSError where there is none."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        said = json.loads(text)
        files = {str(n): (int(size), str(sha)) for n, (size, sha) in said["files"].items()}
        found = InBucket(str(said["url"]), files)
        if any(Path(name).name != name or name.startswith(".") for name in files):
            raise ValueError("a name that leads elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"{file}", got=str(error), expected="where a segment is") from error
    return found


def missing(path: Path) -> list[str]:
    """Names of the files of a segment that are in a bucket, and not here; something, too, where that cannot be told."""
    try:
        found = in_bucket(path)
    except StoreCorrupt:
        return [MARK]
    return [] if found is None else [name for name in found.files if not (path / name).exists()]


def fetch(path: Path) -> bool:
    """Bring the files of a segment here from its bucket, and make room for them; return whether any came.

    Several processes may want the same: one fetches, the others wait.

    Raises:
        StoreError: The bucket cannot be reached; says what to do.
        StoreCorrupt: It has another file there than the one that was moved, or none.
        OSError: The disk here is full.
    """
    if not missing(path):
        return False
    store = path.parent.parent
    with _fetching(store):
        found, names = in_bucket(path), missing(path)
        if found is None or not names:
            return False
        bucket, prefix = open_bucket(found.url)
        for old in path.glob(".*.fetched"):  # of a process that was killed
            old.unlink(missing_ok=True)
        for name in names:
            part = path / f".{name}.fetched"
            try:
                bucket.get(f"{prefix}/{name}", part, *found.files[name])
                replace_durably(part, path / name)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        _make_room(store, keep=path)
    _touch(store)
    return True


def bring(path: Path) -> None:
    """The same for who reads files: what cannot come is an OSError to him. Costs nothing where a segment is in no
    bucket.

    Raises:
        OSError: The bucket cannot be reached, or the disk here is full.
        StoreCorrupt: See :func:`fetch`.
    """
    if not (path / MARK).exists():
        return
    try:
        fetch(path)
    except StoreCorrupt:
        raise
    except SuiteError as error:
        raise OSError(errno.EHOSTUNREACH, f"{path.name} is in a bucket: {error}") from error


def leave(path: Path) -> None:
    """A segment is in its bucket no more, or will be gone: what that has is removed when it can be reached."""
    mark = leaving_mark(path)
    os.replace(path / MARK, mark)
    # before anything is removed there: the mark must not come back with the power
    sync_directory(mark.parent)
    sync_directory(path)


def leaving_mark(path: Path) -> Path:
    """A new name, in a directory that is there, for what says that a bucket has files of a segment which are not
    needed there."""
    leaving = path.parent.parent / LEAVING
    leaving.mkdir(exist_ok=True)
    return leaving / f"{path.name}-{time.time_ns()}{LEAVING_SUFFIX}"


def keep_here(path: Path) -> bool:
    """Let a segment be in its bucket no more, where all of it is here; return whether it is."""
    with _fetching(path.parent.parent):
        if in_bucket(path) is None or missing(path):
            return False
        leave(path)
    return True


def make_room(store: Path) -> int:
    """Remove files that a bucket has from here, of the segments that came first, until no more is here than the store
    allows; return how many bytes went."""
    with _fetching(store):
        gone = _make_room(store)
    if gone:
        _touch(store)
    return gone


def _make_room(store: Path, keep: Path | None = None) -> int:
    here: list[tuple[float, Path, int]] = []
    for path in (store / SEGMENTS).iterdir():
        with suppress(StoreCorrupt):
            found = in_bucket(path)
            if found is None:
                continue
            came_s, nbytes = _here(path, found)
            if nbytes:
                here.append((came_s, path, nbytes))
    total, limit, gone = sum(nbytes for *_, nbytes in here), limit_of(store), 0
    for _, path, nbytes in sorted(here):
        if total - gone <= limit:
            break
        found = in_bucket(path)
        if path == keep or found is None:
            continue
        for name in found.files:
            (path / name).unlink(missing_ok=True)
        gone += nbytes
    return gone


def _here(path: Path, found: InBucket) -> tuple[float, int]:
    """When the newest file of a segment came here, and the bytes of all that are here."""
    files = []
    for name in found.files:
        with suppress(FileNotFoundError):
            files.append((path / name).stat())
    return max((file.st_mtime for file in files), default=0.0), sum(file.st_size for file in files)


def limit_of(store: Path) -> int:
    """Bytes of segments in a bucket that may be here."""
    try:
        return int((store / LIMIT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0


def set_limit(store: Path, nbytes: int) -> None:
    """Say how many bytes of segments in a bucket may be here."""
    if not (store / LIMIT).exists() or limit_of(store) != nbytes:
        write_atomically(store / LIMIT, f"{nbytes}\n")


def changed(store: Path) -> int:
    """Differs when other files of segments in a bucket are here than before; 0 where none ever was in one."""
    try:
        return (store / LIMIT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _touch(store: Path) -> None:
    with suppress(FileNotFoundError):
        os.utime(store / LIMIT)


@contextmanager
def _fetching(store: Path) -> Iterator[None]:
    """One process at a time brings files here, or removes them."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock = FileLock(store / FETCH_LOCK, f"fetching for {store}", hint="Wait for it to end")
            break
        except StoreError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


# --------------------------------------------------------------------------------------------------
# The bucket
# --------------------------------------------------------------------------------------------------


def open_bucket(url: str) -> tuple[Bucket, str]:
    """A bucket, and the prefix within it.

    Raises:
        ConfigError: The URL is none.
        PluginError: The library is missing.
    """
    parts = urlsplit(url)
    name, prefix = parts.netloc, parts.path.strip("/")
    if not url.startswith(SCHEME) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise ConfigError("bucket", got=url, expected="s3://BUCKET/PREFIX")
    return _bucket(name, tuple(os.environ.get(word, "") for word in _SAID)), prefix


#: What makes another client necessary.
_SAID = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
)


@lru_cache(maxsize=8)
def _bucket(name: str, said: tuple[str, ...]) -> Bucket:
    """A client takes a tenth of a second to make; threads may share it."""
    return Bucket(name)


class Bucket:
    """A bucket. Each call raises StoreError when it cannot be reached or refuses, with what to do."""

    def __init__(self, name: str) -> None:
        try:
            boto3 = import_module("boto3")
            make_config = import_module("botocore.config").Config
            errors = import_module("botocore.exceptions")
        except ImportError as error:
            raise PluginError(
                "segments in a bucket need boto3", got=str(error), expected="boto3 to be installed",
                hint="pip install -r requirements/extra_s3.txt",
            ) from error  # fmt: skip
        # ValueError: of an endpoint that is none
        self.name, self._failed = name, (errors.BotoCoreError, errors.ClientError, ValueError)
        # digests are ours: not every server knows the newest checksums of Amazon's
        config = make_config(
            connect_timeout=5, read_timeout=30, retries={"max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )  # fmt: skip
        with self._named("open"):
            # a session of its own: the common one remembers what the environment said first
            self._client: Any = boto3.Session().client("s3", config=config)
        self._tried = set[str]()
        # no other process removes it, and what cannot be reached is told in the same words each time
        self._trial = f"tried-{uuid.uuid4().hex}"

    def require_usable(self, prefix: str) -> None:
        """See, once in each process, that objects below a prefix can be put, listed and deleted: an empty one is."""
        if prefix in self._tried:
            return
        place = "/".join(filter(None, [prefix, self._trial]))
        with self._named(f"put {place}/empty"):
            self._client.put_object(Bucket=self.name, Key=f"{place}/empty", Body=b"")
        self.remove(place)
        self._tried.add(prefix)

    def put(self, key: str, file: Path) -> tuple[int, str]:
        """Copy a file there, and see that it came whole; return its bytes and SHA-256."""
        md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with open(file, "rb") as stream:
            while piece := stream.read(_PIECE):
                md5.update(piece)
                sha.update(piece)
            size = stream.tell()
            stream.seek(0)
            with self._named(f"put {key}"):
                self._client.put_object(
                    Bucket=self.name, Key=key, Body=stream,
                    ContentMD5=base64.b64encode(md5.digest()).decode(),
                    Metadata={"sha256": sha.hexdigest()},
                )  # fmt: skip
        with self._named(f"look at {key}"):
            found = self._client.head_object(Bucket=self.name, Key=key)
        tag = found["ETag"].strip('"')
        # where the server encrypts with keys of its own, the tag is none of the content
        tag_fits = tag == md5.hexdigest() or not re.fullmatch("[0-9a-f]{32}", tag) or (
            found.get("ServerSideEncryption", "") not in ("", "AES256")
        )  # fmt: skip
        if found["ContentLength"] != size or not tag_fits:
            raise StoreError(
                f"s3://{self.name}/{key}", got=f"{found['ContentLength']} bytes, ETag {tag}",
                expected=f"{size} bytes, ETag {md5.hexdigest()}", hint="The segment stays here",
            )  # fmt: skip
        return size, sha.hexdigest()

    def get(self, key: str, target: Path, size: int, sha256: str) -> None:
        """Copy an object here, not yet durably, and see that it is the one that was put there. Raises StoreCorrupt
        where not."""
        sha, done = hashlib.sha256(), 0
        with self._named(f"get {key}"), open(target, "wb") as out:
            body = self._client.get_object(Bucket=self.name, Key=key)["Body"]
            while piece := body.read(_PIECE):
                sha.update(piece)
                out.write(piece)
                done += len(piece)
        if done != size or sha.hexdigest() != sha256:
            raise StoreCorrupt(
                f"s3://{self.name}/{key}", got=f"{done} bytes, SHA-256 {sha.hexdigest()[:12]}",
                expected=f"{size} bytes, SHA-256 {sha256[:12]}",
                hint="Somebody has written over it: restore it there, or take the segment from a backup",
            )  # fmt: skip

    def remove(self, prefix: str) -> None:
        """Remove all objects below a prefix."""
        with self._named(f"remove {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix.rstrip("/") + "/"
            ):
                for found in page.get("Contents", ()):
                    self._client.delete_object(Bucket=self.name, Key=found["Key"])

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._failed as error:
            code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
            is_lost = code in ("NoSuchKey", "404")
            raise (StoreCorrupt if is_lost else StoreError)(
                f"bucket {self.name}: {what}", got=" ".join(str(error).split())[:300],
                expected="an answer" if not code else "the object to be there, and to be allowed",
                hint=_hint(type(error).__name__, code),
            ) from error  # fmt: skip


def _hint(kind: str, code: str) -> str:
    if "Credentials" in kind or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return (
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials"
        )
    if code in ("AccessDenied", "403"):
        return "These credentials may not do that: put, get, list and delete objects are needed"
    if code == "NoSuchBucket":
        return "Make the bucket first"
    if code in ("NoSuchKey", "404"):
        return "Somebody has removed it there: take the segment from a backup"
    if code:
        return ""
    return (
        "Is the endpoint up? AWS_ENDPOINT_URL in the environment says where it is; nothing is lost"
    )
