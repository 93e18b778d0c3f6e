"""What cameras really send: depth, YUV, Bayer, padded rows, and formats that say one thing and another.

Inputs are written by other libraries than the one that reads them, where these have the format.
"""

from __future__ import annotations

import io as bytes_io
import struct
from typing import Any

import cv2
import imageio.v3 as imageio
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_core.errors import DeviceFault
from user_hal.cameras import decoding
from user_hal.cameras.images import ImageConfig, fit
from user_hal.fakes.local_topics import CompressedImage, Header, Image

RGB = (200, 100, 40)
DEPTH_MM = np.array([[0, 300, 1000], [2000, 65535, 1]], np.uint16)
DEPTH_M = np.where(DEPTH_MM == 0, np.nan, DEPTH_MM / 1000)[:, :, None]


def message(data: Any, encoding: str, height: int, width: int, step: int, big: int = 0) -> Image:
    return Image(Header(), height, width, encoding, big, step, np.asarray(data).tobytes())


def compressed(form: str, data: bytes) -> CompressedImage:
    return CompressedImage(Header(), form, data)


def png16(values: Any) -> bytes:
    return bytes(imageio.imwrite("<bytes>", values, extension=".png"))


@pytest.mark.parametrize("encoding", ["RGB8", "rgb8 ", "Rgb8"])
def test_an_encoding_is_known_in_whatever_letters(encoding: str) -> None:
    data = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    decoded = decoding.from_raw(message(data, encoding, 1, 2, 6), "/c")
    np.testing.assert_array_equal(decoded, data)
    with pytest.raises(DeviceFault, match="depth"):
        decoding.from_raw(message(DEPTH_MM, "16uc1", 2, 3, 6), "/c")


@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1", "64FC1", "16SC1"])
def test_depth_is_refused_as_colour(encoding: str) -> None:
    data = DEPTH_MM.astype({"32": "f4", "64": "f8"}.get(encoding[:2], "u2"))
    with pytest.raises(DeviceFault, match="which is depth.*kind: depth"):
        decoding.from_raw(message(data, encoding, 2, 3, data.strides[0]), "/d")


@pytest.mark.parametrize(
    "form", ["16UC1; png compressed ", "png", "jpeg", "mono16; png compressed ", ""]
)
def test_depth_in_a_png_is_refused_as_colour_whatever_it_is_called(form: str) -> None:
    with pytest.raises(DeviceFault, match="which is depth"):
        decoding.from_compressed(compressed(form, png16(DEPTH_MM)), "/d")


def test_raw_depth_in_millimetres_and_metres_with_holes() -> None:
    for big in (False, True):
        data = DEPTH_MM.astype(">u2" if big else "<u2")
        for encoding in ("16UC1", "mono16"):
            metres = decoding.depth_from_raw(message(data, encoding, 2, 3, 6, big), "/d")
            np.testing.assert_allclose(metres, DEPTH_M, rtol=1e-6)
        data = np.array([[np.nan, 0.3, np.inf], [-np.inf, -1.0, 0.0]], ">f4" if big else "<f4")
        metres = decoding.depth_from_raw(message(data, "32FC1", 2, 3, 12, big), "/d")
        holes = [[np.nan, 0.3, np.nan], [np.nan] * 3]
        np.testing.assert_allclose(metres[:, :, 0], holes, rtol=1e-6)
    thousands = message(np.array([[300, 1500, 0]], "<f4"), "32FC1", 1, 3, 12)
    metres = decoding.depth_from_raw(thousands, "/d", float_unit_m=0.001)
    np.testing.assert_allclose(metres[:, :, 0], [[0.3, 1.5, np.nan]], rtol=1e-6)
    quarter = decoding.depth_from_raw(message(DEPTH_MM, "16UC1", 2, 3, 6), "/d", 0.00025)
    np.testing.assert_allclose(quarter, DEPTH_M / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "header"),
    [
        ("16UC1; compressedDepth", 12),
        ("16UC1; compressedDepth png", 12),
        ("16UC1; png compressed ", 0),
        ("mono16; png", 0),
        ("16UC1; compressedDepth png", 0),  # a publisher that leaves the header out
    ],
)
def test_compressed_depth(form: str, header: int) -> None:
    data = bytes(header) + png16(DEPTH_MM)
    metres = decoding.depth_from_compressed(compressed(form, data), "/d")
    np.testing.assert_allclose(metres, DEPTH_M, rtol=1e-6)


def test_compressed_depth_of_floats_is_the_inverse_within_its_quantisation() -> None:
    """As compressed_depth_image_transport's codec.cpp encodes 32FC1."""
    depth_m = np.array([[0.5, 1.0, np.nan], [3.0, 9.0, 0.4]], np.float32)
    depth_max, quantization = 10.0, 100.0
    quantum_a = quantization * (quantization + 1)
    quantum_b = 1.0 - quantum_a / depth_max
    coded = np.nan_to_num(quantum_a / depth_m + quantum_b, nan=0.0).astype(np.uint16)
    data = struct.pack("<iff", 1, quantum_a, quantum_b) + png16(coded)
    metres = decoding.depth_from_compressed(compressed("32FC1; compressedDepth", data), "/d")
    np.testing.assert_allclose(metres[:, :, 0], depth_m, rtol=0.002)


def rvl(values: Any) -> bytes:
    """As the paper's encoder writes it, behind compressed_depth_image_transport's two headers."""
    numbers: list[int] = []
    flat = [int(value) for value in values.ravel()]
    at, last = 0, 0
    while at < len(flat):
        begin = at
        while at < len(flat) and not flat[at]:
            at += 1
        end = at
        while end < len(flat) and flat[end]:
            end += 1
        numbers += [at - begin, end - at]
        for value in flat[at:end]:
            delta, last = value - last, value
            numbers.append((delta << 1) ^ (delta >> 31))
        at = end
    nibbles = []
    for number in numbers:
        while number >= 8:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)
    ]
    return bytes(12) + struct.pack(f"<II{len(words)}I", values.shape[1], values.shape[0], *words)


@given(st.lists(st.sampled_from([0, 0, 0, 1, 299, 300, 65535]) | st.integers(0, 65535), min_size=1))
def test_depth_as_rvl(values: list[int]) -> None:
    depth = np.array([values], np.uint16)
    message = compressed("16UC1; compressedDepth rvl", rvl(depth))
    metres = decoding.depth_from_compressed(message, "/d")
    expected = np.where(depth == 0, np.nan, depth / 1000)
    np.testing.assert_allclose(metres[:, :, 0], expected, rtol=1e-6)


@given(st.binary(max_size=60))
def test_no_rvl_does_more_than_raise_a_fault(data: bytes) -> None:
    for size in ((2, 3), (2**31, 2**31), (0, 1)):
        whole = bytes(12) + struct.pack("<II", *size) + data
        try:
            decoding.depth_from_compressed(compressed("16UC1; compressedDepth rvl", whole), "/d")
        except DeviceFault:
            continue


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("16UC1; compressedDepth rvl", bytes(12) + b"whatever"),
        ("16UC1; compressedDepth", b"short"),
        ("16UC1; compressedDepth", bytes(12) + b"no png"),
        ("32FC1; compressedDepth", struct.pack("<iff", 1, np.nan, 0) + png16(DEPTH_MM)),
        ("bgr8; jpeg compressed bgr8", bytes(imageio.imwrite(
            "<bytes>", np.zeros((4, 4, 3), np.uint8), extension=".jpg"))),
        ("16UC1; png compressed ", bytes(imageio.imwrite(
            "<bytes>", np.zeros((4, 4), np.uint8), extension=".png"))),
    ],
)  # fmt: skip
def test_what_is_no_compressed_depth_is_a_fault(form: str, data: bytes) -> None:
    with pytest.raises(DeviceFault, match="'/d'"):
        decoding.depth_from_compressed(compressed(form, data), "/d")


def test_colour_is_refused_as_depth() -> None:
    with pytest.raises(DeviceFault, match="depth image on '/d': got 'rgb8'"):
        decoding.depth_from_raw(message(np.zeros(12, np.uint8), "rgb8", 2, 2, 6), "/d")


@given(st.binary(max_size=80), st.sampled_from(["16UC1; compressedDepth", "png", "32FC1; compressedDepth"]))  # fmt: skip
def test_no_compressed_bytes_do_more_than_raise_a_fault(data: bytes, form: str) -> None:
    for decode in (decoding.from_compressed, decoding.depth_from_compressed):
        with pytest.raises(DeviceFault):
            decode(compressed(form, data), "/x")


def test_rows_that_are_padded_without_saying_so_are_refused() -> None:
    """raspicam_node#77: 410 x 308 with rows and columns up to 416 x 320."""
    with pytest.raises(DeviceFault, match="399360 bytes for 410x308.*pads its rows"):
        decoding.from_raw(message(np.zeros(399360, np.uint8), "bgr8", 308, 410, 1230), "/c")
    with pytest.raises(DeviceFault, match="410x308"):
        decoding.from_raw(message(np.zeros(399360, np.uint8), "bgr8", 308, 410, 0), "/c")


def test_the_last_row_may_lack_its_padding_and_a_step_of_0_means_none() -> None:
    rows = np.arange(3 * 8, dtype=np.uint8).reshape(3, 8)
    expected = rows[:, :6].reshape(3, 2, 3)
    whole = decoding.from_raw(message(rows, "rgb8", 3, 2, 8), "/c")
    lacking = decoding.from_raw(message(rows.ravel()[:-2], "rgb8", 3, 2, 8), "/c")
    unstepped = decoding.from_raw(message(rows[:, :6], "rgb8", 3, 2, 0), "/c")
    for decoded in (whole, lacking, unstepped):
        np.testing.assert_array_equal(decoded, expected)
    with pytest.raises(DeviceFault, match="bytes for 2x3"):
        decoding.from_raw(message(rows.ravel()[:-1], "rgb8", 3, 2, 8), "/c")


def a_colour(height: int = 8, width: int = 8) -> Any:
    return np.full((height, width, 3), RGB, np.uint8)


def yuv(image_hwc: Any) -> tuple[int, int, int]:
    """BT.601 with limited range, which is what OpenCV and V4L2 cameras use."""
    red, green, blue = (float(value) for value in image_hwc[0, 0])
    return (
        round(16 + 0.257 * red + 0.504 * green + 0.098 * blue),
        round(128 - 0.148 * red - 0.291 * green + 0.439 * blue),
        round(128 + 0.439 * red - 0.368 * green - 0.071 * blue),
    )


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_packed_yuv(encoding: str, order: str, padding: int) -> None:
    values = dict(zip("yuv", yuv(a_colour()), strict=True))
    row = [values[letter] for letter in order] * 4 + [7] * padding
    data = np.array([row] * 8, np.uint8)
    decoded = decoding.from_raw(message(data, encoding, 8, 8, 16 + padding), "/c")
    np.testing.assert_allclose(decoded.astype(int), a_colour(), atol=4)
    with pytest.raises(DeviceFault):
        decoding.from_raw(message(data[:, :14], encoding, 8, 7, 14), "/c")


@pytest.mark.parametrize(
    ("encoding", "step"),
    # Some publishers of NV12 give one and a half widths, the bytes of a pixel, as the step.
    [*((e, s) for e in ("nv12", "nv21", "nv24") for s in (8, 0, 10)), ("nv12", 12), ("nv21", 12)],
)
def test_planar_yuv(encoding: str, step: int) -> None:
    y, u, v = yuv(a_colour())
    colours = [v, u] if encoding == "nv21" else [u, v]
    rows_of_colour = 16 if encoding == "nv24" else 4
    lines = np.array([[y] * 8] * 8 + [colours * 4] * rows_of_colour, np.uint8)
    if step == 10:
        lines = np.pad(lines, ((0, 0), (0, 2)))
    decoded = decoding.from_raw(message(lines, encoding, 8, 8, step), "/c")
    np.testing.assert_allclose(decoded.astype(int), a_colour(), atol=4)
    with pytest.raises(DeviceFault):
        decoding.from_raw(message(lines[:-1], encoding, 8, 8, step), "/c")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(pattern: str, bits: int) -> None:
    tile = np.array([RGB["rgb".index(letter)] for letter in pattern]).reshape(2, 2)
    mosaic = np.tile(tile, (4, 4)).astype(np.uint8)
    data = mosaic if bits == 8 else mosaic.astype("<u2") << 8 | 0x5A
    decoded = decoding.from_raw(
        message(data, f"bayer_{pattern}{bits}", 8, 8, data.strides[0]), "/c"
    )
    np.testing.assert_array_equal(decoded, a_colour())


@pytest.mark.parametrize(
    ("encoding", "dtype"), [("8UC4", "u1"), ("16UC4", "<u2"), ("16UC3", "<u2")]
)
def test_opencvs_own_names_are_in_opencvs_order(encoding: str, dtype: str) -> None:
    data = cv2.cvtColor(a_colour(), cv2.COLOR_RGB2BGRA)[:, :, : int(encoding[-1])].astype(dtype)
    data = data << 8 if dtype == "<u2" else data
    decoded = decoding.from_raw(message(data, encoding, 8, 8, data.strides[0]), "/c")
    np.testing.assert_array_equal(decoded, a_colour())


def test_what_a_compressed_image_is_called_and_what_it_is() -> None:
    def by_pil(kind: str, image_hwc: Any) -> bytes:
        stream = bytes_io.BytesIO()
        PIL.Image.fromarray(image_hwc).save(stream, kind)
        return stream.getvalue()

    for form in ("jpeg", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8", "png", "x"):
        for kind in ("JPEG", "PNG"):
            decoded = decoding.from_compressed(compressed(form, by_pil(kind, a_colour())), "/c")
            np.testing.assert_allclose(decoded.astype(int), a_colour(), atol=3)
    # A publisher that handed RGB to an encoder of BGR says so, and is believed.
    swapped = by_pil("PNG", np.ascontiguousarray(a_colour()[:, :, ::-1]))
    decoded = decoding.from_compressed(compressed("rgb8; png compressed rgb8", swapped), "/c")
    np.testing.assert_array_equal(decoded, a_colour())
    grey = decoding.from_compressed(
        compressed("mono8; jpeg compressed ", by_pil("PNG", a_colour()[:, :, 0])), "/c"
    )
    assert grey.shape == (8, 8, 3) and (grey == RGB[0]).all()
    alpha = np.dstack([a_colour(), np.full((8, 8), 255, np.uint8)])
    decoded = decoding.from_compressed(compressed("png", by_pil("PNG", alpha)), "/c")
    np.testing.assert_array_equal(decoded, a_colour())
    deep = cv2.imencode(".png", a_colour()[:, :, ::-1].astype(np.uint16) << 8)[1].tobytes()
    decoded = decoding.from_compressed(compressed("bgr16; png compressed bgr16", deep), "/c")
    np.testing.assert_array_equal(decoded, a_colour())


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_turning_is_clockwise_and_after_the_rectangle(angle: int) -> None:
    image_hwc = np.zeros((4, 6, 3), np.uint8)
    image_hwc[0, 0] = 255
    width, height = (4, 6) if angle in (90, 270) else (6, 4)
    turned = fit(image_hwc, ImageConfig(width=width, height=height, rotate=angle), "c")
    corner = {0: (0, 0), 90: (0, width - 1), 180: (height - 1, width - 1), 270: (height - 1, 0)}
    assert turned.shape == (height, width, 3) and turned[corner[angle]].all()
    assert turned.sum() == 3 * 255
    region = {"left": 0, "top": 0, "width": 2, "height": 1}
    part = fit(image_hwc, ImageConfig(width=1, height=2, crop=region, rotate=90), "c")
    assert part[:, 0, 0].tolist() == [255, 0]


def test_depth_is_scaled_without_mixing_near_and_far() -> None:
    depth = np.array([[0.5, 0.5, 3.0, 3.0]] * 4, np.float32)[:, :, None]
    for size in (1, 2, 3, 8):
        scaled = fit(depth, ImageConfig(width=size, height=size), "c", nearest=True)
        assert scaled.shape == (size, size, 1) and set(scaled.ravel()) <= {0.5, 3.0}
