"""What processes tell each other: arrays and plain values, and nothing else."""

import pickle

import numpy as np
import pytest

from user_core.codecs.states import decode_state, encode_state
from user_core.errors import CodecError, StoreError


def test_a_state_comes_back_with_every_dtype_and_can_be_written_to():
    arrays = {
        dtype: np.arange(3).astype(dtype)
        for dtype in ("bool", "uint8", "int8", "uint16", "int32", "int64", "float16", "float64")
    }
    state = {"arrays": arrays, "none": None, "list": [1, 2.5, "text", {"x": np.zeros((0, 4))}]}
    found = decode_state(encode_state(state))
    for name, array in arrays.items():
        assert found["arrays"][name].dtype == array.dtype
        np.testing.assert_array_equal(found["arrays"][name], array)
        found["arrays"][name][0] = 1
    assert found["none"] is None
    assert found["list"][:3] == [1, 2.5, "text"]
    assert found["list"][3]["x"].shape == (0, 4)
    assert decode_state(encode_state(None)) is None
    both = {"a/b": np.ones(1), "a": {"b": np.zeros(1)}}  # paths of one name
    assert decode_state(encode_state(both)) == {"a/b": 1, "a": {"b": 0}}
    scalar = decode_state(encode_state(np.array(3.5, np.float32)))
    assert scalar.shape == () and scalar == 3.5


def test_code_is_neither_written_nor_read():
    with pytest.raises(StoreError, match="object"):
        encode_state({"x": object()})
    with pytest.raises(CodecError):
        encode_state({"x": np.array(["a text"])})
    whole = encode_state({"x": np.ones(5)})
    for content in (pickle.dumps({"x": 1}), b"", whole[:-3], whole[:5], b"\xff" * 30):
        with pytest.raises(CodecError):
            decode_state(content)
