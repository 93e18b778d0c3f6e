"""Policy versions on the wire: exact, small, and unmoved by what is hostile."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from user_core.codecs.blocks import BLOCK, BlockCoder, Coding, PlaneCoder, blocks, unpack_frame
from user_core.codecs.policy_blob import (
    BlobLimits,
    decode_blob,
    encode_delta,
    encode_keyframe,
    to_bfloat16,
)
from user_core.codecs.weights import content_hash, encode_version
from user_core.errors import CodecError, PolicyError, SuiteError
from user_core.specs import DTYPES
from user_core.types import PolicyVersion

RNG = np.random.default_rng(5)


def version(number=1, **arrays):
    return PolicyVersion(number, arrays, "c" * 64, 7 * number, 3 * number, 10**18 + number)


def bits(version):
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in version.arrays.items()}


def weights(*shape):
    return (RNG.standard_normal(shape) * 0.05).astype(np.float32)


def layers():
    return {
        "w0": weights(32, 256),
        "b0": weights(256),
        "w1": weights(256, 256),
        "log_std": weights(4),
    }


def step(arrays, size=1e-4):
    return {n: a + (weights(*a.shape) * size / 0.05).astype(a.dtype) for n, a in arrays.items()}


names = st.text("abcdefg.01", min_size=1, max_size=8)
array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
    )
)
layout = st.dictionaries(names, array, max_size=4)


@given(layout, st.data())
def test_whatever_the_arrays_both_forms_bring_them_back_bit_by_bit(arrays, data):
    after = {
        n: data.draw(st.one_of(st.just(a), hnp.arrays(a.dtype, a.shape)), n)
        for n, a in arrays.items()
    }
    base, new = version(1, **arrays), version(2, **after)
    assert bits(decode_blob(encode_keyframe(new))) == bits(new)
    delta = encode_delta(new, base)
    assert bits(decode_blob(delta, base=base, expected_hash=content_hash(new))) == bits(new)
    full = len(encode_version(new))
    assert len(encode_keyframe(new)) <= 1.01 * full
    assert len(delta) <= 1.01 * full


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64"])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
@pytest.mark.parametrize("changed", [0.0, 0.001, 0.03, 0.5, 1.0])
def test_blocks_of_every_size_and_density(dtype, size, changed):
    before = RNG.integers(0, 100, size).astype(dtype)
    after = np.where(RNG.random(size) < changed, before + 1, before).astype(dtype)
    base, new = version(1, x=before), version(2, x=after)
    assert bits(decode_blob(encode_delta(new, base), base=base)) == bits(new)
    assert bits(decode_blob(encode_keyframe(new))) == bits(new)


def test_numbers_that_are_no_numbers_keep_their_bits():
    strange = np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324], np.float64)
    strange.view(np.uint64)[0] |= 0xDEAD
    base, new = version(1, x=np.zeros(5)), version(2, x=strange)
    assert bits(decode_blob(encode_delta(new, base), base=base)) == bits(new)


def test_numbers_of_the_other_endianness_arrive_as_equal_numbers():
    new = version(2, x=np.arange(5, dtype=">f4"))
    np.testing.assert_array_equal(decode_blob(encode_keyframe(new)).arrays["x"], new.arrays["x"])


def test_small_steps_make_small_deltas():
    before = layers()
    base, new = version(1, **before), version(2, **step(before))
    full = sum(a.nbytes for a in before.values())
    assert len(encode_delta(new, base)) < 0.72 * full
    assert len(encode_keyframe(new)) < 0.9 * full


def test_float32_that_holds_bfloat16_travels_as_its_upper_halves():
    before = {n: to_bfloat16(a) for n, a in layers().items()}
    after = {n: to_bfloat16(a) for n, a in step(before, 1e-3).items()}
    base, new = version(1, **before), version(2, **after)
    published = sum(a.size * 2 for a in before.values())
    assert len(encode_delta(new, base)) < 0.5 * published
    assert len(encode_keyframe(new)) < 0.8 * published
    assert bits(decode_blob(encode_delta(new, base), base=base)) == bits(new)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_one_percent_of_changes_costs_about_one_percent(dtype):
    before = weights(1_000_000).view(np.uint32)
    before = (before >> 16).astype(dtype) if dtype is np.uint16 else before.view(np.float32)
    after = before.copy()
    where = RNG.random(before.size) < 0.01
    after[where] = after[where] + np.asarray(3, dtype)
    delta = encode_delta(version(2, x=after), version(1, x=before))
    assert len(delta) < 0.02 * before.nbytes


def test_what_did_not_change_costs_nothing():
    same = weights(10 * BLOCK)
    assert len(encode_delta(version(2, x=same), version(1, x=same))) < 400


def test_another_layout_has_no_delta():
    base = version(1, x=weights(4))
    assert encode_delta(version(2, x=weights(5)), base) is None
    assert encode_delta(version(2, y=weights(4)), base) is None
    assert encode_delta(version(2, x=weights(4).astype(np.float64)), base) is None


@settings(deadline=None)  # torch is imported within
@given(hnp.arrays(np.float32, 20))
def test_bfloat16_is_rounded_as_torch_rounds(array):
    torch = pytest.importorskip("torch")
    theirs = torch.from_numpy(array).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(to_bfloat16(array), theirs)


# --- what is refused


@pytest.fixture(scope="module")
def pair():
    before = layers()
    return version(1, **before), version(2, **step(before))


def test_a_delta_needs_its_own_base(pair):
    base, new = pair
    delta = encode_delta(new, base)
    with pytest.raises(PolicyError, match="base of policy version 2"):
        decode_blob(delta)
    with pytest.raises(PolicyError, match="base of policy version 2"):
        decode_blob(delta, base=version(1, **layers()))


def test_what_was_not_announced_is_refused(pair):
    _, new = pair
    with pytest.raises(PolicyError, match="content hash"):
        decode_blob(encode_keyframe(new), expected_hash="0" * 64)
    with pytest.raises(PolicyError, match="configuration"):
        decode_blob(encode_keyframe(new), config_hash="d" * 64)


def test_a_forged_name_is_found_out(pair):
    base, new = pair
    other = content_hash(base)
    with pytest.raises(PolicyError, match="content hash"):
        decode_blob(encode_keyframe(new, name=other), expected_hash=other)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.data())
def test_damaged_blobs_are_refused_with_an_error_of_ours(pair, as_delta, data):
    base, new = pair
    blob = bytearray(encode_delta(new, base) if as_delta else encode_keyframe(new))
    wanted = content_hash(new)
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["flip", "cut", "swap", "grow", "zero"]))
        at = data.draw(st.integers(0, len(blob) - 1) if len(blob) else st.just(0))
        if kind == "flip" and blob:
            blob[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del blob[at:]
        elif kind == "grow":
            blob += data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "zero":
            blob[at : at + 8] = bytes(len(blob[at : at + 8]))
        else:
            middle = len(blob) // 2
            blob = blob[middle:] + blob[:middle]
    try:
        came = decode_blob(blob, base=base, expected_hash=wanted)
    except SuiteError:
        return
    assert bits(came) == bits(new)  # the damage undid itself


@given(st.binary(max_size=400), st.booleans())
@example(b"", False)
def test_noise_is_refused(noise, with_magic):
    blob = b"USERPOL\x01" + noise if with_magic else noise
    with pytest.raises(SuiteError):
        decode_blob(blob)


def peak_bytes(action):
    tracemalloc.start()
    try:
        with pytest.raises(SuiteError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def with_header(text, body=b""):
    packed = zstandard.ZstdCompressor().compress(text)
    return struct.pack("<8sII", b"USERPOL\x01", len(packed), len(text)) + packed + body


def header(arrays):
    return (
        b'{"number":1,"update":0,"environment_steps":0,"created_ns":0,"config_hash":"",'
        b'"content_hash":"","arrays":' + arrays + b"}"
    )


@pytest.mark.parametrize(
    "arrays",
    [
        b'[["x","float32",[1000000000000]]]',
        b'[["x","float32",[4294967296,4294967296,4294967296]]]',
        b'[["x","float32",[0,9999999999999999999]]]',
        b'[["x","float32",[1]],["x","float32",[1]]]',
        b'[["x","object",[1]]]',
        b'[["x","float32",[-1]]]',
        b'[["x","float32",[1.5]]]',
        b'["x"]',
        b'{"x":1}',
        b"null",
    ],
)
def test_layouts_that_lie_are_refused_before_memory_is_taken(arrays):
    assert peak_bytes(lambda: decode_blob(with_header(header(arrays)))) < 2**20


def test_a_layout_within_the_limits_takes_no_more_than_they_say():
    claim = header(b'[["x","uint8",[3000000]]]')
    with pytest.raises(CodecError, match="bytes of all arrays"):
        decode_blob(with_header(claim), limits=BlobLimits(total_bytes=2**20))


def test_a_header_that_unpacks_to_gigabytes_is_refused():
    bomb = zstandard.ZstdCompressor().compress(bytes(2**28))
    for stated in (2**28, 100):
        blob = struct.pack("<8sII", b"USERPOL\x01", len(bomb), stated) + bomb
        assert peak_bytes(lambda blob=blob: decode_blob(blob)) < 2**20


def test_a_frame_that_unpacks_to_another_size_is_refused():
    bomb = zstandard.ZstdCompressor().compress(bytes(2**26))
    assert peak_bytes(lambda: unpack_frame(bomb, 1000)) < 2**20
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(CodecError):
        unpack_frame(streamed, 1000)
    with pytest.raises(CodecError):
        unpack_frame(zstandard.ZstdCompressor().compress(bytes(1000)) + b"more", 1000)


def test_places_outside_a_block_are_refused():
    coder = PlaneCoder()
    gaps, values = np.array([5, 90], "<u2"), np.array([1, 1], "<u4")
    block = b"".join(
        [bytes([Coding.SPARSE]), struct.pack("<I", 2), *coder.encode(gaps), *coder.encode(values)]
    )
    out, base = np.zeros(10, "<u4"), np.zeros(10, "<u4")
    with pytest.raises(CodecError, match="place"):
        BlockCoder().decode(memoryview(block), out, [base])
    many = bytes([Coding.SPARSE]) + struct.pack("<I", 2**31)
    assert peak_bytes(lambda: BlockCoder().decode(memoryview(many), out, [base])) < 2**20


def test_a_keyframe_cannot_lean_on_a_base():
    for coding in (Coding.SAME, Coding.DIFF, Coding.SPARSE, 200):
        with pytest.raises(CodecError, match="coding"):
            BlockCoder().decode(memoryview(bytes([coding]) * 40), np.zeros(4, "<u4"), None)


def test_halves_do_not_nest():
    deep = memoryview(bytes([Coding.HALVES]) * 5000)
    with pytest.raises(CodecError):
        BlockCoder().decode(deep, np.zeros(4, "<u4"), None)


@pytest.mark.parametrize("sizes", [[BLOCK], [1, BLOCK, 0, 3 * BLOCK + 5, 7], [BLOCK - 1, 1, 2], []])
def test_blocks_of_many_arrays_are_those_of_one(sizes):
    rng = np.random.default_rng(len(sizes))
    parts = [rng.integers(0, 2**32, size, dtype="<u4") for size in sizes]
    whole = np.concatenate([*parts, np.empty(0, "<u4")])
    found = list(blocks(parts))
    assert all(block.size == BLOCK for block in found[:-1])
    assert np.array_equal(np.concatenate([*found, np.empty(0, "<u4")]), whole)
    assert b"".join(BlockCoder().encode(parts, None)) == b"".join(
        BlockCoder().encode([whole], None)
    )
