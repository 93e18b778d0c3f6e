import json
import math
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.codecs import Limits, decode_chunk, encode_chunk
from user_core.errors import CodecError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)

SPEC = RobotSpec(
    "r",
    {"position": ArraySpec((3,)), "image_front": ArraySpec((4, 5, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)
SCHEMA = TrajectorySchema.of(SPEC)
KEY = EpisodeKey("actor", 7, 3)


def chunk_of(rows, result=True):
    rng = np.random.default_rng(rows)

    def observation():
        return {name: spec.sample(rng) for name, spec in SPEC.observation.items()}

    steps = [
        Step(observation(), SPEC.action.sample(rng), SPEC.action.sample(rng), float(i), stamp_ns=i)
        for i in range(rows)
    ]
    if rows:
        steps.append(FinalObservation(observation(), 5))
    return TrajectoryChunk(
        ChunkId("actor", 2**62, 9),
        KEY,
        EpisodeSource.EVALUATION,
        17,
        SCHEMA.rows(steps),
        SCHEMA.hash,
        EpisodeResult(
            KEY, EpisodeSource.EVALUATION, Outcome.TIMEOUT, rows, -1.5, 1, 2, 3, 4, 5, "é"
        )
        if result
        else None,
        "arm",
        "peg",
    )


def same(one, other):
    plain = replace(one, columns={}) == replace(other, columns={})
    arrays = one.columns.keys() == other.columns.keys() and all(
        one.columns[k].dtype == other.columns[k].dtype
        and np.array_equal(one.columns[k], other.columns[k])
        for k in one.columns
    )
    return plain and arrays


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("result", [True, False])
def test_what_goes_in_comes_out(rows, result):
    chunk = chunk_of(rows, result)
    decoded = decode_chunk(encode_chunk(chunk))
    assert same(decoded, chunk)
    assert SCHEMA.check(decoded.columns) == len(chunk)


def test_decoded_arrays_are_read_only_views_of_the_block():
    block = encode_chunk(chunk_of(3))
    decoded = decode_chunk(block)
    whole = np.frombuffer(block, np.uint8)
    for array in decoded.columns.values():
        assert np.shares_memory(array, whole)
        assert not array.flags.writeable


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_noticed(data):
    block = bytearray(encode_chunk(chunk_of(2)))
    place = data.draw(st.integers(0, len(block) - 1))
    block[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CodecError):
        decode_chunk(bytes(block))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6))
def test_a_block_that_was_cut_short_is_refused(length):
    block = encode_chunk(chunk_of(2))
    with pytest.raises(CodecError):
        decode_chunk(block[: length % len(block)])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(CodecError):
        decode_chunk(noise)


def forged(change, tail=b""):
    """A block with a valid checksum whose header was changed by somebody who means harm."""
    block = encode_chunk(chunk_of(2))
    _, length, _ = struct.unpack_from("<8sII", block)
    header = json.loads(block[16 : 16 + length])
    text = change(header)
    text = json.dumps(header).encode() if text is None else text
    start = 16 + length + -(16 + length) % 64
    body = text + bytes(-(16 + len(text)) % 64) + block[start:] + tail
    return struct.pack("<8sII", block[:8], len(text), zlib.crc32(body)) + body


def setting(path, value):
    def change(header):
        *way, last = path
        for key in way:
            header = header[key]
        header[last] = value

    return change


def test_the_forger_can_also_make_a_good_one():
    assert same(decode_chunk(forged(lambda header: None)), chunk_of(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting(["columns", 0, 2], [2**40, 2**40]), "observation.position"),
        (setting(["columns", 0, 3], 2**40), "bytes of 'observation.position'"),
        (setting(["columns", 0, 3], -4), "bytes of 'observation.position'"),
        (setting(["columns", 0, 1], 77), "dtype of 'observation.position'"),
        (setting(["columns", 0, 1], "float32"), "dtype of 'observation.position'"),
        (setting(["columns", 0, 2], "3"), "shape of 'observation.position'"),
        (setting(["columns", 0, 2], [3, -3]), "sizes >= 0"),
        (setting(["columns", 1, 0], "observation.position"), "occurs twice"),
        (setting(["columns", 0, 0], "x" * 500), "1 to 128 characters"),
        (setting(["columns", 0, 0], 5), "name of a tensor"),
        (setting(["columns", 0], [1, 2]), "entry of a column"),
        (setting(["columns"], {}), "columns"),
        (setting(["columns"], []), "end of the block"),
        (setting(["id"], ["a", 1]), "id"),
        (setting(["id", 1], -1), "incarnation"),
        (setting(["id", 2], 2**63), "number"),
        (setting(["id", 0], 5), "producer"),
        (setting(["episode", 2], True), "number"),
        (setting(["source"], 9), "source"),
        (setting(["first_row"], 1.5), "first_row"),
        (setting(["robot"], "x" * 5000), "robot"),
        (setting(["result", "outcome"], 9), "outcome"),
        (setting(["result", "key"], None), "key"),
        (setting(["result", "episode_return"], None), "episode_return"),
        (lambda header: b"[1]", "a mapping"),
        (lambda header: b"[" * 10**5, "JSON"),
        (lambda header: b'{"a": NaN}', "NaN"),
        (lambda header: b"\xff\xfe", "JSON"),
        (lambda header: header.pop("schema_hash") and None, "schema_hash: got nothing"),
    ],
)
def test_what_is_wrong_within_is_refused_and_named(change, words):
    with pytest.raises(CodecError) as caught:
        decode_chunk(forged(change))
    assert words in str(caught.value)


def test_rows_must_agree():
    chunk = chunk_of(2)
    uneven = {**chunk.columns, "action": chunk.columns["action"][:1]}
    none = {k: v for k, v in chunk.columns.items() if k != "reward"}
    for columns in (uneven, none, {**chunk.columns, "reward": np.float32(1).reshape(())}):
        with pytest.raises(CodecError, match="rows of the columns"):
            decode_chunk(encode_chunk(replace(chunk, columns=columns)))


def test_bytes_after_the_end_and_sizes_over_the_limit():
    with pytest.raises(CodecError, match="end of the block"):
        decode_chunk(forged(lambda header: None, tail=b"more"))
    with pytest.raises(CodecError, match="size of all tensors"):
        decode_chunk(encode_chunk(chunk_of(7)), Limits(total_bytes=100))
    with pytest.raises(CodecError, match="size"):
        decode_chunk(b"USERCHK\x01" + bytes(2**20 + 200), Limits(total_bytes=100))


def test_a_result_that_is_no_number_is_refused_on_the_way_in():
    chunk = chunk_of(1)
    with pytest.raises(CodecError, match="finite"):
        encode_chunk(replace(chunk, result=replace(chunk.result, episode_return=math.nan)))
