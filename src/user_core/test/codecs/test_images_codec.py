"""Coded image columns: exact or near, and bounded whatever comes."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from user_core.codecs.images import (
    LOSSLESS,
    decode_columns,
    decode_images,
    encode_columns,
    encode_images,
    image_size,
    is_image_column,
    is_lossy,
)
from user_core.errors import CodecError, ConfigError

LIMIT = 2**24


def scene(rows=4, height=48, width=64, channels=3):
    """Something smooth that moves."""
    t, y, x, c = np.ogrid[:rows, :height, :width, :channels]
    value = 120 + 60 * np.sin((x + 3 * t) / 9 + c) + 50 * np.cos(y / 7)
    return value.astype(np.uint8)


@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 4)))
def test_without_loss_every_column_comes_back(images):
    came = decode_images(encode_images(images, "zstd"), "zstd", LIMIT)
    np.testing.assert_array_equal(came, images)
    assert not came.flags.writeable
    if images.shape[3] == 1:
        plain = images[..., 0]
        came = decode_images(encode_images(plain, "zstd"), "zstd", LIMIT)
        np.testing.assert_array_equal(came, plain)


def test_what_is_alike_becomes_small():
    still = np.repeat(
        np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8), 9, axis=0
    )
    assert encode_images(still, "zstd").size < 0.15 * still.nbytes
    assert encode_images(scene(), "zstd").size < 0.6 * scene().nbytes


@pytest.mark.parametrize("coding", ["jpeg90", "webp90"])
@pytest.mark.parametrize("channels", [1, 3])
def test_with_loss_it_comes_back_nearly(coding, channels):
    pytest.importorskip("cv2")
    images = scene(channels=channels)
    coded = encode_images(images, coding)
    assert coded.size < 0.5 * images.nbytes
    came = decode_images(coded, coding, LIMIT)
    assert came.shape == images.shape
    error = np.abs(came.astype(int) - images)
    assert error.mean() < 4  # channels are not swapped
    plain = scene(channels=1)[..., 0]
    assert decode_images(encode_images(plain, coding), coding, LIMIT).shape == plain.shape


def test_codings_that_there_are_not():
    assert is_lossy("jpeg80")
    assert not is_lossy("zstd")
    for coding in ("gif", "jpeg", "jpeg101", "webp-1", "pickle", ""):
        with pytest.raises(ConfigError):
            encode_images(scene(), coding)
        with pytest.raises(CodecError):
            decode_images(encode_images(scene(), "zstd"), coding, LIMIT)


def test_which_columns_are_images():
    assert is_image_column(scene())
    assert not is_image_column(scene().astype(np.float32))
    assert not is_image_column(np.zeros((4, 8, 8, 3), np.uint8))
    assert not is_image_column(np.zeros((0, 48, 48, 3), np.uint8))
    assert not is_image_column(np.zeros((9, 4000), np.uint8))


@pytest.mark.parametrize("coding", ["zstd", "jpeg90", "webp90"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_stays_a_picture(coding, data):
    pytest.importorskip("cv2")
    coded = bytearray(encode_images(scene(2, 33, 40), coding).tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(coded) - 1))
        if data.draw(st.booleans()):
            coded[at] ^= data.draw(st.integers(1, 255))
        else:
            del coded[at : at + data.draw(st.integers(1, 50))]
        if not coded:
            return
    try:
        came = decode_images(np.frombuffer(bytes(coded), np.uint8), coding, 10**6)
    except CodecError:
        return
    assert came.nbytes <= 10**6


def peak(data, coding):
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_images(np.frombuffer(data, np.uint8), coding, LIMIT)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", ["zstd", "jpeg90", "webp90"])
@pytest.mark.parametrize(
    "shape", [(2**32 - 1,) * 4, (1, 2**16, 2**16, 3), (0, 4, 4, 3), (2, 2, 2), (1, 1, 1, 1, 1)]
)
def test_sizes_that_lie_take_no_memory(coding, shape):
    head = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    assert peak(head + b"\x00" * 40, coding) < 2**18


def test_a_picture_larger_than_it_should_be_is_not_opened():
    cv2 = pytest.importorskip("cv2")
    for kind in ("jpeg", "webp"):
        huge = cv2.imencode(f".{kind}", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
        assert image_size(huge) == (4000, 4000)
        head = struct.pack("<B4I", 4, 1, 40, 40, 3) + struct.pack("<I", len(huge))
        assert peak(head + huge, f"{kind}90") < 2**20
    bomb = zstandard.ZstdCompressor().compress(bytes(2**26))
    assert peak(struct.pack("<B4I", 4, 1, 40, 40, 3) + b"\x00" + bomb, "zstd") < 2**20


def test_names_may_hold_what_separates_name_and_coding():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    columns = {"@": np.arange(3), "a@b": np.arange(3), "cam@left": images, "plain": np.arange(3)}
    came = decode_columns(encode_columns(columns, {"cam@left": LOSSLESS}), 10**6)
    assert came[1] == {"cam@left": LOSSLESS}
    assert came[0].keys() == columns.keys()
    assert all(np.array_equal(came[0][name], columns[name]) for name in columns)
