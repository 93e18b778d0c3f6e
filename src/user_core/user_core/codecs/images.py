"""Images as bytes: in columns of trajectories, and in observations for a policy elsewhere.

A column of images (n, H, W) or (n, H, W, C), uint8, becomes one vector of bytes::

    0   1  number of dimensions, u8, then each size, u32
    ..     ``zstd``: one byte with the prediction, then a zstd frame of what it leaves
           ``jpegQ``, ``webpQ``: for each row its bytes, u32, and the image, quality Q

Prediction makes the bytes smaller that an image shares with its left neighbours or with the
image before. Lossy images are taken for RGB where C is 3. Decoding allocates what the sizes
say, and those are checked against the limits, and against the images' own headers, before.

In an observation for a policy elsewhere (:func:`encode_observation`) arrays keep their names. An
image (H, W) or (H, W, C), uint8, travels as ``name@coding``, in one of these codings. The array
``@deterministic`` says that the policy should act without noise. ``@plan`` (P, A) and ``@frozen`` are a plan that
is being carried out, for the answer to go on from.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import zstandard

from user_core.codecs.blocks import unpack_frame
from user_core.errors import CodecError, ConfigError
from user_core.specs import Array, Arrays, ArraySpec, check_arrays

LOSSLESS = "zstd"
_LOSSY = re.compile(r"(jpeg|webp)(100|[1-9]?[0-9])")
_WHERE = "image column"
_LEAST_ROW_BYTES = 1024
_SAMPLE_ROWS = 2


class Prediction(IntEnum):
    """What is subtracted from a byte before it is compressed. Never renumber."""

    NOTHING = 0
    LEFT = 1
    BEFORE = 2


def is_image_column(array: Array) -> bool:
    """Whether a column is worth coding."""
    return (
        array.dtype == np.uint8
        and array.ndim in (3, 4)
        and len(array) > 0
        and array[0].size >= _LEAST_ROW_BYTES
    )


def is_lossy(coding: str) -> bool:
    """Whether a coding changes the images. Raises ConfigError for one that there is not."""
    if coding != LOSSLESS and not _LOSSY.fullmatch(coding):
        raise ConfigError(
            "coding of images", got=repr(coding)[:40], expected=f"{LOSSLESS}, jpegQ or webpQ"
        )
    return coding != LOSSLESS


def encode_images(images: Array, coding: str) -> Array:
    """Code a column; the coding must be known to the decoder as well.

    Raises:
        ConfigError: There is no such coding, or OpenCV is needed and not there.
        CodecError: A lossy coding of what is no image of one or three channels.
    """
    head = struct.pack(f"<B{images.ndim}I", images.ndim, *images.shape)
    body = _encode_lossy(images, coding) if is_lossy(coding) else _encode_lossless(images)
    return np.frombuffer(b"".join([head, *body]), np.uint8)


def decode_images(data: Array, coding: str, max_bytes: int) -> Array:
    """Decode a column to a new read-only array of at most ``max_bytes``. Raises CodecError."""
    view = np.ascontiguousarray(data).data.cast("B")
    try:
        lossy = is_lossy(coding)
    except ConfigError as error:
        raise CodecError(_WHERE, got=repr(coding)[:40], expected="a known coding") from error
    shape, body = _shape(view, max_bytes)
    images = _decode_lossy(body, shape, coding) if lossy else _decode_lossless(body, shape)
    images.flags.writeable = False
    return images


def _shape(view: memoryview, max_bytes: int) -> tuple[tuple[int, ...], memoryview]:
    dimensions = view[0] if len(view) else 0
    end = 1 + 4 * dimensions
    if dimensions not in (3, 4) or len(view) < end:
        raise CodecError(f"{_WHERE}: sizes", got=f"{dimensions} dimensions", expected="3 or 4")
    shape = struct.unpack_from(f"<{dimensions}I", view, 1)
    total = 1
    for size in shape:
        total *= size
    if not 0 < total <= max_bytes:
        raise CodecError(f"{_WHERE}: bytes of {shape}", got=total, expected=f"1 to {max_bytes}")
    return shape, view[end:]


def coded_name(name: str, coding: str = "") -> str:
    """Name under which an array travels: ``name@coding``, and plain where it is not coded."""
    return f"{name}@{coding}" if coding or "@" in name else name


def split_coded_name(coded: str) -> tuple[str, str]:
    """Name and coding of an array that came; no coding: it is as it is."""
    name, at, coding = coded.rpartition("@")
    return (name, coding) if at else (coded, "")


def encode_columns(columns: Arrays, codings: Mapping[str, str]) -> dict[str, Array]:
    """Code the columns that ``codings`` names, under ``name@coding``; others stay."""
    return {
        coded_name(name, codings.get(name, "")): (
            encode_images(array, codings[name]) if name in codings else array
        )
        for name, array in columns.items()
    }


def decode_columns(columns: Arrays, max_bytes: int) -> tuple[dict[str, Array], dict[str, str]]:
    """Columns as they were, and how those came that were coded, by name. Raises CodecError."""
    plain: dict[str, Array] = {}
    codings: dict[str, str] = {}
    total = sum(array.nbytes for array in columns.values())
    for coded, array in columns.items():
        name, coding = split_coded_name(coded)
        if coding:
            array = decode_images(array, coding, max_bytes - total)
            total += array.nbytes
            codings[name] = coding
        if name in plain:
            raise CodecError(f"{_WHERE} {name[:80]!r}", got="there twice", expected="once")
        plain[name] = array
    return plain, codings


# --- without loss


def _encode_lossless(images: Array) -> list[bytes]:
    images = np.ascontiguousarray(images)
    compressor = zstandard.ZstdCompressor(level=1)
    some = images[: _SAMPLE_ROWS + 1]
    choices = [p for p in Prediction if p is not Prediction.BEFORE or len(images) > 1]
    best = min(choices, key=lambda p: len(compressor.compress(_left_over(some, p).data)))
    return [bytes([best]), compressor.compress(_left_over(images, best).data)]


def _left_over(images: Array, prediction: Prediction) -> Array:
    if prediction is Prediction.NOTHING:
        return images
    left_over = images.copy()
    if prediction is Prediction.LEFT:
        left_over[:, :, 1:] -= images[:, :, :-1]
    else:
        left_over[1:] -= images[:-1]
    return left_over


def _decode_lossless(body: memoryview, shape: tuple[int, ...]) -> Array:
    if not len(body) or body[0] not in list(map(int, Prediction)):
        raise CodecError(f"{_WHERE}: prediction", got=bytes(body[:1]), expected="one that is known")
    total = int(np.prod(shape, dtype=np.int64))
    images = np.frombuffer(unpack_frame(body[1:], total), np.uint8).reshape(shape)
    if body[0] == Prediction.NOTHING:
        return images
    axis = 2 if body[0] == Prediction.LEFT else 0
    summed: Array = np.cumsum(images, axis=axis, dtype=np.uint8)  # modulo 256, as it was made
    return summed


# --- with loss


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "lossy images", got="no OpenCV", expected="python3-opencv", hint="Install it"
        ) from error
    return cv2


def _encode_lossy(images: Array, coding: str) -> list[bytes]:
    cv2 = _cv2()
    channels = images.shape[3] if images.ndim == 4 else 1
    if channels not in (1, 3):
        raise CodecError(f"{_WHERE}: channels", got=channels, expected="1 or 3 for a lossy coding")
    kind, quality = _LOSSY.fullmatch(coding).groups()  # type: ignore[union-attr]
    option = cv2.IMWRITE_JPEG_QUALITY if kind == "jpeg" else cv2.IMWRITE_WEBP_QUALITY
    pieces = []
    for image in images:
        # OpenCV takes three channels for blue, green, red; WebP has no others.
        pixels = image[..., ::-1] if channels == 3 else image.reshape(image.shape[:2])
        done, coded = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels), [option, int(quality)])
        if not done:
            raise CodecError(f"{_WHERE}: {coding}", got=f"an image of {image.shape}")
        pieces += [struct.pack("<I", coded.size), coded.tobytes()]
    return pieces


def _decode_lossy(body: memoryview, shape: tuple[int, ...], coding: str) -> Array:
    cv2 = _cv2()
    channels = shape[3] if len(shape) == 4 else 1
    if channels not in (1, 3):
        raise CodecError(f"{_WHERE}: channels", got=channels, expected="1 or 3 for a lossy coding")
    images = np.empty(shape, np.uint8)
    flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    for image in images:
        if len(body) < 4 or len(body) - 4 < struct.unpack_from("<I", body)[0]:
            raise CodecError(f"{_WHERE}: image", got=f"{len(body)} bytes", expected="more")
        end = 4 + struct.unpack_from("<I", body)[0]
        coded, body = bytes(body[4:end]), body[end:]
        if image_size(coded) != (shape[2], shape[1]):
            raise CodecError(
                f"{_WHERE}: size of an image", got=image_size(coded), expected=shape[2:0:-1]
            )
        try:
            decoded = cv2.imdecode(
                np.frombuffer(coded, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION
            )
        except cv2.error as error:
            raise CodecError(f"{_WHERE}: {coding}", got=str(error)[:200]) from error
        if decoded is None or decoded.shape[:2] != shape[1:3]:
            raise CodecError(f"{_WHERE}: {coding}", got="what OpenCV cannot read")
        image[...] = decoded[..., ::-1] if channels == 3 else decoded.reshape(image.shape)
    if len(body):
        raise CodecError(f"{_WHERE}: end", got=f"{len(body)} bytes more")
    return images


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio of images of bytes, dB; infinite where nothing was lost."""
    if mean_squared_error <= 0:
        return math.inf
    return 10 * math.log10(255**2 / mean_squared_error)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG or WebP claims in its header; None for what is neither."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        if data[12:16] == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        if data[12:16] == b"VP8L":
            bits = struct.unpack_from("<I", data, 21)[0]
            return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
        return None
    if data[:2] != b"\xff\xd8":
        return None
    at, sizes = 2, set()
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            sizes.add((width, height))
        if marker == 0xDA:  # the image itself follows
            break
        at += 2 + length
    return sizes.pop() if len(sizes) == 1 else None


DETERMINISTIC = "@deterministic"
PLAN, FROZEN = "@plan", "@frozen"
_MOST_PLANNED = 4096
_OBSERVATION = "observation for a policy elsewhere"


def encode_observation(
    arrays: Arrays, coding: str = "", *, deterministic: bool = False, history: int = 1
) -> dict[str, Array]:
    """Arrays as they travel; ``coding`` of the images, empty: none. ``history``: of how many observations they
    are; of several each is (N, ...).

    Raises:
        ConfigError: There is no such coding, or OpenCV is needed and not there.
        CodecError: A lossy coding of what is no image of one or three channels.
    """
    coded: dict[str, Array] = {DETERMINISTIC: np.array(deterministic)}
    for name, array in arrays.items():
        images = array[None] if history == 1 else array
        if coding and is_image_column(images):
            coded[coded_name(name, coding)] = encode_images(images, coding)
        else:
            coded[coded_name(name)] = array
    return coded


def decode_observation(
    coded: Arrays, specs: Mapping[str, ArraySpec], history: int = 1
) -> tuple[dict[str, Array], bool]:
    """The arrays of these specs, and whether to act without noise; of ``history`` observations, each (N, ...) where
    N is more than 1.

    Raises:
        CodecError: What came does not hold together.
        SpecError: The arrays do not fit ``specs``.
    """
    flag = coded.get(DETERMINISTIC)
    if flag is None or flag.dtype != np.bool_ or flag.ndim:
        raise CodecError(f"{_WHERE}: {DETERMINISTIC}", got=flag, expected="one bool")
    arrays: dict[str, Array] = {}
    for came, array in coded.items():
        name, coding = split_coded_name(came)
        if came in (DETERMINISTIC, PLAN, FROZEN):
            continue
        spec = specs.get(name)
        if coding and spec is not None:
            images = decode_images(array, coding, history * spec.nbytes)
            array = images[0] if history == 1 else images
        if name in arrays:
            raise CodecError(f"{_WHERE}: {name[:80]!r}", got="there twice", expected="once")
        arrays[name] = array
    if history > 1:
        specs = {n: ArraySpec((history, *spec.shape), spec.dtype) for n, spec in specs.items()}
    check_arrays(arrays, specs, _OBSERVATION)
    return arrays, bool(flag)


def encode_plan(plan_ta: Array, frozen: int) -> dict[str, Array]:
    """A plan that is being carried out, (P, A), and how many of its rows are sure to be, beside what
    :func:`encode_observation` gives."""
    return {PLAN: np.ascontiguousarray(plan_ta), FROZEN: np.array(frozen, np.int64)}


def decode_plan(coded: Arrays, action: ArraySpec) -> tuple[Array, int] | None:
    """What :func:`encode_plan` gave; None where nothing is carried out.

    Raises CodecError where it is no plan for actions of this spec.
    """
    plan, frozen = coded.get(PLAN), coded.get(FROZEN)
    if plan is None and frozen is None:
        return None
    if (
        plan is None or plan.dtype != action.dtype or plan.ndim != 2
        or plan.shape[1:] != action.shape or not 0 < len(plan) <= _MOST_PLANNED
        or not np.isfinite(plan).all()
    ):  # fmt: skip
        got = None if plan is None else f"{plan.dtype}{list(plan.shape)}"
        raise CodecError(
            f"{_WHERE}: {PLAN}", got=got, expected=f"finite {action.dtype}[P, {action.size}]"
        )
    if frozen is None or frozen.ndim or frozen.dtype != np.int64 or not 0 <= frozen <= len(plan):
        raise CodecError(f"{_WHERE}: {FROZEN}", got=frozen, expected=f"0 to {len(plan)}")
    return plan, int(frozen)
