"""Weights in safetensors files: what goes in comes out, and nothing else gets in."""

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as package
from hypothesis import given
from hypothesis import strategies as st

from user_core.codecs import weights
from user_core.codecs.weights import (
    content_hash,
    encode_version,
    pack,
    read_arrays,
    read_version,
)
from user_core.errors import CodecError, PolicyError, SuiteError
from user_core.specs import DTYPES
from user_core.types import PolicyVersion


def arrays():
    rng = np.random.default_rng(0)
    return {
        "trunk.weight": rng.standard_normal((5, 3)).astype(np.float32),
        "bias": rng.standard_normal(3),
        "mask": np.array([True, False, True]),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float16),
    }


def read(data, reader=read_version, **options):
    """What a file with these bytes holds."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        return reader(Path(file.name), **options)


def version(**changes):
    return PolicyVersion(
        **{
            "number": 12,
            "arrays": arrays(),
            "config_hash": "c" * 64,
            "update": 3400,
            "environment_steps": 99,
            "created_ns": 1_700_000_000_000_000_000,
            **changes,
        }
    )


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def test_a_version_comes_back_whole():
    sent = version()
    came = read(encode_version(sent), config_hash="c" * 64, expected_hash=content_hash(sent))
    assert_same(came.arrays, sent.arrays)
    for name in ("number", "config_hash", "update", "environment_steps", "created_ns"):
        assert getattr(came, name) == getattr(sent, name)
    assert not came.arrays["bias"].flags.writeable


def test_equal_versions_give_equal_bytes_in_any_order_of_names():
    backwards = version(arrays=dict(reversed(arrays().items())))
    assert encode_version(version()) == encode_version(backwards)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_package_reads_what_we_write_and_we_what_it_writes(dtype):
    data = {"b": np.arange(6).reshape(2, 3).astype(dtype), "a": np.ones(5, dtype)}
    assert_same(package.load(b"".join(pack(data, {"k": "v"}))), data)
    came, metadata = read(package.save(data, {"k": "v"}), read_arrays)
    assert_same(came, data)
    assert metadata == {"k": "v"}


def test_arrays_are_aligned_and_not_copied():
    data = {"odd": np.ones(3, np.uint8), "wide": np.ones(2), "big": np.ones(1000, np.float32)}
    pieces = pack(data, {})
    assert any(np.shares_memory(np.frombuffer(p, np.uint8), data["big"]) for p in pieces[1:])
    assert_same(read(b"".join(pieces), read_arrays)[0], data)
    header = json.loads(pieces[0][8:])
    assert all(header[name]["data_offsets"][0] % data[name].itemsize == 0 for name in data)


@given(st.data())
def test_any_flipped_bit_is_noticed(data):
    good = encode_version(version())
    place = data.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[place // 8] ^= 1 << (place % 8)
    try:
        came = read(bytes(bad))
    except SuiteError:
        return
    # What is left are bytes that mean nothing, such as a space of JSON.
    assert content_hash(came) == content_hash(version())
    assert_same(came.arrays, arrays())


@given(st.binary(max_size=400))
def test_noise_is_refused(noise):
    with pytest.raises(CodecError):
        read(noise, read_arrays)


@given(st.integers(0, 400))
def test_a_file_that_is_cut_off_is_refused(missing):
    good = encode_version(version())
    with pytest.raises(SuiteError):
        read(good[: len(good) - 1 - missing])


def crafted(header, body=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 2**63), "header"),
        (crafted([1]), "sequence"),
        (crafted(b"[" * 100_000), "JSON"),
        (crafted(b'{"a": 1, "a": 2}'), "TensorInfo"),
        (crafted({"a": entry("F128")}), "F128"),
        (crafted({"a": entry(shape=(-2,))}), "usize"),
        (crafted({"a": entry(shape=(True, 2))}), "usize"),
        (crafted({"a": entry(shape=(1,) * 9)}), "shape"),
        (crafted({"a": entry(shape=(2**62, 4))}), "overflow"),
        (crafted({"a": entry(shape=(2**62, 0), offsets=(0, 0))}), "not fully covered"),
        (crafted({"a": entry(), "b": entry()}), "invalid offset"),
        (crafted({"a": entry(shape=(1,), offsets=(4, 8))}), "invalid offset"),
        (crafted({"a": entry(shape=(1,), offsets=(0, 4))}), "not fully covered"),
        (crafted({"a": entry("BF16", (4,))}), "bfloat16"),
        (crafted({"a": entry(), "__metadata__": {"x": 1}}), "string"),
    ],
)
def test_crafted_headers_are_refused(data, message):
    with pytest.raises(CodecError, match=message):
        read(data, read_arrays)


def test_foreign_and_mistaken_versions_are_refused():
    data = encode_version(version())
    with pytest.raises(PolicyError, match="configuration of policy version 12"):
        read(data, config_hash="d" * 64)
    with pytest.raises(PolicyError, match="content hash"):
        read(data, expected_hash=content_hash(version(number=13)))
    layout = arrays() | {"bias": np.zeros(4)}
    with pytest.raises(PolicyError, match=r"bias.*float64\[3\]"):
        read(data, layout=layout)
    assert read(data, layout=arrays()).number == 12


def test_other_safetensors_files_are_no_policy():
    with pytest.raises(CodecError, match="format"):
        read(b"".join(pack(arrays(), {})))


def test_python_objects_cannot_be_written():
    with pytest.raises(CodecError, match="object"):
        pack({"x": np.array([object()])}, {})


def test_the_hash_of_a_large_version_that_cannot_change_is_computed_once(monkeypatch):
    computed = []
    whole = weights._hash_of
    monkeypatch.setattr(weights, "_hash_of", lambda version: computed.append(1) or whole(version))
    array = np.zeros(weights._LARGE_BYTES, np.uint8)
    made = PolicyVersion(1, {"w": array})
    assert len({content_hash(made) for _ in range(2)}) == 1
    assert len(computed) == 2  # it could change
    array[3] = 1
    array.flags.writeable = False
    changed = content_hash(made)
    assert content_hash(made) == changed == whole(made)
    assert len(computed) == 3
    assert content_hash(PolicyVersion(2, {"w": array})) != changed
    kept = len(weights._KNOWN)
    del made
    assert len(weights._KNOWN) < kept
