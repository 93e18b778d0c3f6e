"""Policy versions to safetensors bytes and back, named by their content.

Number, configuration hash, update, environment steps and time of creation stand in the
metadata, with a SHA-256 over them and over every array. So a version cannot be damaged, mixed
up or taken for another without being refused, and nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from user_core.codecs.safetensors import FileLimits, pack, unpack
from user_core.errors import CodecError, PolicyError
from user_core.specs import Array
from user_core.types import PolicyVersion

FORMAT = "user.policy.1"
WEIGHT_LIMITS = FileLimits(header_bytes=2**20, total_bytes=2**30)
_NUMBERS = ("number", "update", "environment_steps", "created_ns")


def content_hash(version: PolicyVersion) -> str:
    """SHA-256, hexadecimal, over numbers, configuration hash and arrays of a version."""
    described = {
        "format": FORMAT,
        "config_hash": version.config_hash,
        **{name: getattr(version, name) for name in _NUMBERS},
        "arrays": [[n, _dtype_name(a.dtype), a.shape] for n, a in sorted(version.arrays.items())],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for _, array in sorted(version.arrays.items()):
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
        digest.update(flat.view(np.uint8).data)
    return digest.hexdigest()


@lru_cache  # numpy makes the name anew each time, which takes longer than hashing a small array
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name


def encode_version(version: PolicyVersion) -> bytes:
    """A version as a safetensors file; equal versions give equal bytes."""
    metadata = {name: str(getattr(version, name)) for name in _NUMBERS}
    metadata |= {
        "format": FORMAT,
        "config_hash": version.config_hash,
        "content_hash": content_hash(version),
    }
    return b"".join(pack(version.arrays, metadata))


def decode_version(
    data: bytes | bytearray | memoryview,
    *,
    config_hash: str | None = None,
    expected_hash: str | None = None,
    layout: Mapping[str, Array] | None = None,
    limits: FileLimits = WEIGHT_LIMITS,
) -> PolicyVersion:
    """Decode and verify; the arrays are read-only views of ``data``.

    Args:
        data: What came; not trusted.
        config_hash: The configuration it must be for
            (:func:`user_core.policies.policy_config_hash`); None takes any.
        expected_hash: The content hash that was announced; None trusts the one inside.
        layout: If given, the arrays must have exactly these names, shapes and dtypes.
        limits: What is accepted at most.

    Raises:
        CodecError: Not a policy version, or damaged in form.
        PolicyError: Wrong hash, foreign configuration, or arrays that do not fit ``layout``.
    """
    arrays, metadata = unpack(data, limits, "policy version")
    if metadata.get("format") != FORMAT:
        raise CodecError("policy version: format", got=metadata.get("format"), expected=FORMAT)
    try:
        numbers = {name: int(metadata[name]) for name in _NUMBERS}
        stated, made_for = metadata["content_hash"], metadata["config_hash"]
    except (KeyError, ValueError) as error:
        raise CodecError(
            "policy version: metadata", got=repr(error)[:200], expected=list(_NUMBERS)
        ) from error
    if not all(0 <= number < 2**63 for number in numbers.values()):
        raise CodecError("policy version: metadata", got=numbers, expected="0 to 2^63 - 1")
    version = PolicyVersion(arrays=arrays, config_hash=made_for, **numbers)
    check_identity(version, stated, expected_hash, config_hash)
    if layout is not None:
        _check_layout(version, layout)
    return version


def check_identity(
    version: PolicyVersion, stated: str, expected_hash: str | None, config_hash: str | None
) -> None:
    """Raise PolicyError unless a decoded version is what it says, and what is wanted.

    Args:
        version: What was decoded.
        stated: The content hash that came with it.
        expected_hash: The content hash that was announced; None trusts ``stated``.
        config_hash: The configuration it must be for; None takes any.
    """
    found = content_hash(version)
    if found != stated or (expected_hash is not None and found != expected_hash):
        raise PolicyError(
            f"content hash of policy version {version.number}",
            got=found,
            expected=stated if expected_hash is None else expected_hash,
            hint="It was damaged on the way: fetch it again",
        )
    if config_hash is not None and version.config_hash != config_hash:
        raise PolicyError(
            f"configuration of policy version {version.number}",
            got=version.config_hash[:200],
            expected=config_hash,
            hint="Actor and learner must have the same policy configuration and robot spec",
        )


def _check_layout(version: PolicyVersion, layout: Mapping[str, Array]) -> None:
    came = {name: f"{a.dtype}{list(a.shape)}" for name, a in version.arrays.items()}
    wanted = {name: f"{a.dtype}{list(a.shape)}" for name, a in layout.items()}
    if came != wanted:
        wrong = {n: came.get(n) for n in came.keys() | wanted if came.get(n) != wanted.get(n)}
        raise PolicyError(
            f"arrays of policy version {version.number}",
            got=wrong,
            expected={name: wanted.get(name) for name in wrong},
        )
