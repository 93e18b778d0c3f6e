"""The door: what a chunk must be before a byte of it is written."""

from __future__ import annotations

import math

import numpy as np

from user_core.errors import SchemaMismatch, SpecError, StoreError
from user_core.specs import Arrays, ArraySpec, RobotSpec, difference
from user_core.types import ActedBy, RewardSource, TrajectoryChunk, TrajectorySchema

MAX_INT = 2**63 - 1
MAX_TEXT = 256


def schema_of(columns: Arrays) -> TrajectorySchema:
    """Shapes and dtypes of the columns of a chunk, as far as they can be a schema."""
    return TrajectorySchema(
        {name: ArraySpec(array.shape[1:], array.dtype.name) for name, array in columns.items()}
    )


def schema_difference(stored: TrajectorySchema, other: TrajectorySchema) -> list[str]:
    """How two schemas differ in what counts: names, shapes and dtypes. Empty when they fit."""

    def plain(schema: TrajectorySchema) -> dict[str, dict[str, str]]:
        return {
            name: {"shape": str(list(spec.shape)), "dtype": spec.dtype}
            for name, spec in schema.columns.items()
        }

    return difference(plain(stored), plain(other))


def require_same_schema(stored: TrajectorySchema, other: TrajectorySchema, what: str) -> None:
    """Raise SchemaMismatch, with every difference, unless two schemas fit."""
    lines = schema_difference(stored, other)
    if lines:
        raise SchemaMismatch(
            f"schema of {what} (first: the store, second: {what})",
            got="; ".join(lines),
            expected="the schema of the store",
            hint="Keep robots with other observations or actions in a store of their own",
        )


def schema_from_chunk(chunk: TrajectoryChunk) -> TrajectorySchema:
    """The schema of a store that has none yet, from its first chunk."""
    fixed = TrajectorySchema.of(RobotSpec("any", {"any": ArraySpec(())}, ArraySpec((1,)))).columns
    schema = schema_of(chunk.columns)
    required = {n: s for n, s in fixed.items() if "." not in n and "action" not in n.split("_")}
    given = {name: schema.columns[name] for name in required if name in schema.columns}
    require_same_schema(TrajectorySchema(required), TrajectorySchema(given), "the first chunk")
    return schema


def check_chunk(
    chunk: TrajectoryChunk,
    schema: TrajectorySchema,
    schema_hash: str,
    max_rows: int,
    max_bytes: int,
) -> int:
    """Raise unless a chunk can be stored as it is; return its number of rows.

    Raises:
        SchemaMismatch: Its columns are not those of the store; says how they differ.
        SpecError: An array does not fit its spec, or is not finite.
        StoreError: Identity, size or flags are impossible.
    """
    _check_identity(chunk)
    what = f"chunk {chunk.id.sequence} of {chunk.id.producer}"
    try:
        rows = schema.check(chunk.columns)
    except SpecError:
        require_same_schema(schema, schema_of(chunk.columns), what)
        raise
    if chunk.schema_hash != schema_hash:
        raise SchemaMismatch(
            f"schema hash of {what}",
            got=chunk.schema_hash,
            expected=f"{schema_hash}, which is that of its columns",
        )
    if rows > max_rows or chunk.nbytes > max_bytes:
        raise StoreError(
            f"size of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"{rows} rows, {chunk.nbytes} bytes",
            expected=f"at most {max_rows} rows and {max_bytes} bytes",
        )
    _check_values(chunk)
    _check_flags(chunk, rows)
    return rows


def _check_identity(chunk: TrajectoryChunk) -> None:
    numbers = {
        "sequence": (chunk.id.sequence, 1),
        "incarnation": (chunk.id.incarnation, 0),
        "episode incarnation": (chunk.episode.incarnation, 0),
        "episode number": (chunk.episode.number, 0),
        "first_row": (chunk.first_row, 0),
    }
    for name, (value, low) in numbers.items():
        if not low <= value <= MAX_INT:
            raise StoreError(f"{name} of a chunk", got=value, expected=f"{low} to {MAX_INT}")
    texts = {"producer": chunk.id.producer, "robot": chunk.robot, "task": chunk.task}
    for name, text in texts.items():
        if len(text) > MAX_TEXT or (name == "producer" and not text):
            raise StoreError(
                f"{name} of a chunk", got=repr(text[:40]), expected=f"1 to {MAX_TEXT} characters"
            )
    if chunk.episode.producer != chunk.id.producer:
        raise StoreError(
            f"episode of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"an episode of {chunk.episode.producer}",
            expected="one of the same producer",
        )
    if chunk.result is not None and not math.isfinite(chunk.result.episode_return):
        raise StoreError(
            f"return of episode {chunk.episode}",
            got=chunk.result.episode_return,
            expected="a finite number",
        )
    if chunk.result is not None and chunk.result.key != chunk.episode:
        raise StoreError(
            f"result in chunk {chunk.id.sequence} of {chunk.id.producer}",
            got=f"that of episode {chunk.result.key}",
            expected=f"that of episode {chunk.episode}",
        )


def _check_values(chunk: TrajectoryChunk) -> None:
    for name, array in chunk.columns.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise SpecError(
                f"column {name!r} of chunk {chunk.id.sequence} of {chunk.id.producer}",
                got=f"a value that is not finite in row {row}",
                expected="finite numbers",
            )
    for name, kind in (("acted_by", ActedBy), ("reward_source", RewardSource)):
        column = chunk.columns[name]
        if len(column) and column.max() >= len(kind):
            raise StoreError(
                f"column {name!r} of chunk {chunk.id.sequence} of {chunk.id.producer}",
                got=int(column.max()),
                expected=f"one of {[f'{k.value} {k.name}' for k in kind]}",
            )


def _check_flags(chunk: TrajectoryChunk, rows: int) -> None:
    """After a step that ended the episode only its final observation may come."""
    final = chunk.columns["final"]
    over = chunk.columns["terminated"] | chunk.columns["truncated"]
    if final[:-1].any() or (over[:-1] & ~final[1:]).any() or (over & final).any():
        raise StoreError(
            f"flags of chunk {chunk.id.sequence} of {chunk.id.producer}",
            got="a row after the end of the episode, or a final observation that ends it again",
            expected="terminated or truncated on the last step, final on the observation after it",
        )
