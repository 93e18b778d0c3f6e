import math
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.codecs import DTYPE_CODES, Limits, TensorRecord, decode, decode_one, encode
from user_core.errors import CodecError, SpecError
from user_core.specs import DTYPES, ArraySpec

any_dtype = st.sampled_from(DTYPES).map(np.dtype)
any_array = any_dtype.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)


@given(st.dictionaries(st.text(min_size=1, max_size=20), any_array, max_size=5))
def test_what_goes_in_comes_out(arrays):
    decoded = decode(encode(arrays))
    assert list(decoded) == list(arrays)
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_nothing_is_copied_and_nothing_can_be_written():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (record,) = encode({"image": image})
    assert np.shares_memory(image, np.frombuffer(record.data, np.uint8))
    decoded = decode([record])["image"]
    assert np.shares_memory(image, decoded)
    with pytest.raises(ValueError, match="read-only"):
        decoded[0] = 1


def test_other_layouts_are_encoded_too():
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    decoded = decode(encode({"a": array}))["a"]
    assert decoded.tolist() == array.tolist()


RECORD = TensorRecord("a", DTYPE_CODES["float32"], (2, 3), memoryview(bytes(24)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (2, 4)}, ["32 for float32[2, 4]", "24"]),
        ({"shape": (2**40, 2**40)}, ["24"]),
        ({"shape": (2**62, 4), "data": memoryview(b"")}, ["expected"]),
        ({"shape": (0, 2**62, 2**62), "data": memoryview(b"")}, ["shape"]),
        ({"shape": (-2, -3)}, ["(-2, -3)", "sizes >= 0"]),
        ({"shape": (1,) * 9}, ["dimensions of 'a'", "9", "at most 8"]),
        ({"dtype": 12}, ["dtype of 'a'", "12", "float32"]),
        ({"dtype": -1}, ["dtype"]),
        ({"name": ""}, ["name of a tensor"]),
        ({"name": "x" * 1000}, ["1 to 128 characters"]),
        ({"data": memoryview(bytes(23))}, ["23", "24"]),
        (
            {"dtype": DTYPE_CODES["bool"], "shape": (24,), "data": memoryview(b"\x02" * 24)},
            ["0 or 1"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_named(change, words):
    with pytest.raises(CodecError) as caught:
        decode([replace(RECORD, **change)])
    for word in words:
        assert word in str(caught.value)


def test_names_twice_and_sizes_over_the_limit():
    with pytest.raises(CodecError, match="'a' occurs twice"):
        decode([RECORD, RECORD])
    with pytest.raises(CodecError, match="size of 'a': got 24 bytes, expected at most 23"):
        decode([RECORD], Limits(tensor_bytes=23))
    other = replace(RECORD, name="b")
    with pytest.raises(CodecError, match="48 bytes up to 'b'"):
        decode([RECORD, other], Limits(total_bytes=47))
    with pytest.raises(CodecError, match="too many tensors"):
        decode([RECORD, other], Limits(tensors=1))


def test_specs_are_checked_on_request():
    with pytest.raises(SpecError, match=r"float32\[2, 3\]"):
        decode([RECORD], specs={"a": ArraySpec((2, 3), "float64")})
    assert decode([RECORD], specs={"a": ArraySpec((2, 3), "float32")})["a"].shape == (2, 3)


def test_an_object_array_has_no_code():
    with pytest.raises(CodecError, match="dtype of 'a'"):
        encode({"a": np.array([object()])})


sizes = st.one_of(st.integers(-3, 5), st.integers(-(2**63), 2**63), st.just(2**32))


@settings(max_examples=500)
@given(
    st.text(max_size=4),
    st.integers(-5, 300),
    st.lists(sizes, max_size=10),
    st.binary(max_size=64),
)
def test_a_decoder_gives_an_array_that_is_right_or_refuses(name, dtype, shape, data):
    record = TensorRecord(name, dtype, shape, memoryview(data))
    try:
        array = decode_one(record)
    except CodecError:
        return
    assert array.nbytes == len(data)
    assert array.shape == tuple(shape)
    assert math.prod(shape) * array.itemsize == len(data)
