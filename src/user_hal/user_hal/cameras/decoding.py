"""From messages of image topics to arrays: colour as RGB, depth as metres.

Encodings are those of ``sensor_msgs/image_encodings.hpp``. An encoding that says nothing about
colour is not taken for colour, and the other way round: a depth image shown as grey would be
almost black, and nobody would notice.

What numpy alone cannot turn into RGB goes through OpenCV (YUV, Bayer), and what that does not
know through cv_bridge, where it is installed.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any

import numpy as np

from user_core.errors import DeviceFault
from user_core.specs import Array

#: encoding: (dtype, channels, order of the channels that makes RGB)
PLAIN: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "rgb8": ("u1", 3, (0, 1, 2)),
    "bgr8": ("u1", 3, (2, 1, 0)),
    "rgba8": ("u1", 4, (0, 1, 2)),
    "bgra8": ("u1", 4, (2, 1, 0)),
    "mono8": ("u1", 1, (0, 0, 0)),
    "8UC1": ("u1", 1, (0, 0, 0)),
    "8UC3": ("u1", 3, (2, 1, 0)),  # OpenCV's order, which is what such publishers mean
    "8UC4": ("u1", 4, (2, 1, 0)),
    "rgb16": ("u2", 3, (0, 1, 2)),
    "bgr16": ("u2", 3, (2, 1, 0)),
    "rgba16": ("u2", 4, (0, 1, 2)),
    "bgra16": ("u2", 4, (2, 1, 0)),
    "16UC3": ("u2", 3, (2, 1, 0)),
    "16UC4": ("u2", 4, (2, 1, 0)),
    "mono16": ("u2", 1, (0, 0, 0)),
}

#: One row of two bytes a pixel, and OpenCV's name of the conversion.
_PACKED_YUV = {
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2",
    "yuyv": "COLOR_YUV2RGB_YUY2",
}
#: A plane of brightness, then colours: OpenCV's name, and rows of colour for each two of the image.
_PLANAR_YUV = {
    "nv12": ("COLOR_YUV2RGB_NV12", 1),
    "nv21": ("COLOR_YUV2RGB_NV21", 1),
    "nv24": ("COLOR_YUV2RGB_NV12", 4),
}
#: OpenCV names a pattern by the second row and column, ROS by the first.
_BAYER = {
    "bayer_rggb": "COLOR_BayerBG2RGB",
    "bayer_bggr": "COLOR_BayerRG2RGB",
    "bayer_gbrg": "COLOR_BayerGR2RGB",
    "bayer_grbg": "COLOR_BayerGB2RGB",
}
#: Depth by REP-118: 16 bits are millimetres unless configured, floats are metres.
_DEPTH = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4", "64FC1": "f8"}
_NOT_COLOUR = {*_DEPTH, "16SC1", "32SC1", "8SC1"}
#: Every encoding that is known here, by its lower-case letters: some drivers write RGB8.
_BY_LETTERS = {
    known.lower(): known
    for known in (
        *PLAIN,
        *_PACKED_YUV,
        *_PLANAR_YUV,
        *_NOT_COLOUR,
        *(f"{bayer}{bits}" for bayer in _BAYER for bits in (8, 16)),
    )
}


def _spelled(encoding: str) -> str:
    """An encoding as ``image_encodings.hpp`` writes it, or as it is where it is none of those."""
    return _BY_LETTERS.get(encoding.strip().lower(), encoding)


def from_raw(message: Any, name: str, *, grey16: bool = False) -> Array:
    """A ``sensor_msgs/Image`` as (height, width, 3) uint8 RGB; 16 bits are scaled to 8.

    Rows may be padded (``step``) and 16-bit values may be big-endian.

    Args:
        message: The message.
        name: Of the topic, for errors.
        grey16: Whether ``mono16`` is a grey image, which it is for few cameras.

    Raises:
        DeviceFault: The encoding is not an image's, or sizes contradict each other.
    """
    encoding = _spelled(message.encoding)
    if encoding in _NOT_COLOUR and not (encoding == "mono16" and grey16):
        raise _depth_as_colour(name, repr(encoding))
    if encoding in _PACKED_YUV:
        pixels = _rows(message, name, "u1", 2, even_width=True)
        return _opencv(name, pixels, _PACKED_YUV[encoding])
    if encoding in _PLANAR_YUV:
        return _from_planes(message, encoding, name)
    if encoding[:-2] in _BAYER and encoding.endswith("16"):
        mosaic = (_rows(message, name, "u2", 1)[:, :, 0] >> 8).astype(np.uint8)
        return _opencv(name, mosaic, _BAYER[encoding[:-2]])
    if encoding[:-1] in _BAYER and encoding.endswith("8"):
        return _opencv(name, _rows(message, name, "u1", 1)[:, :, 0], _BAYER[encoding[:-1]])
    if encoding not in PLAIN:
        return _by_cv_bridge(message, name)
    kind, channels, order = PLAIN[encoding]
    pixels = _rows(message, name, kind, channels)
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if order == (0, 1, 2) and channels == 3 else pixels[:, :, list(order)]


def from_compressed(message: Any, name: str, *, grey16: bool = False) -> Array:
    """A ``sensor_msgs/CompressedImage`` (JPEG, PNG or whatever else OpenCV reads) as RGB.

    What it is the data say, not the format's name; the format tells the order of the channels.

    Raises:
        DeviceFault: It is a depth image, cannot be decoded, or OpenCV is not installed.
    """
    original, _, coding = message.format.partition(";")
    if "compresseddepth" in message.format.lower() or (
        original.strip() in _NOT_COLOUR and not (original.strip() == "mono16" and grey16)
    ):
        raise _depth_as_colour(name, f"format {message.format!r}")
    pixels = _imdecode(message.data, message.format, name)
    if pixels.dtype != np.uint8:
        if pixels.dtype != np.uint16 or (pixels.ndim == 2 and not grey16):
            raise _depth_as_colour(
                name, f"{pixels.dtype.itemsize * 8} bits in one channel, format {message.format!r}"
            )
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return pixels[:, :, None][:, :, [0, 0, 0]]
    # As compressed_image_transport's own decoder has it: without "compressed bgr8" beside a
    # colour encoding, the order within the file is the one that is named.
    if "compressed rgb" in coding:
        return pixels[:, :, :3]
    return pixels[:, :, [2, 1, 0]]


def depth_from_raw(
    message: Any, name: str, unit_m: float = 0.001, float_unit_m: float = 1.0
) -> Array:
    """A depth image as (height, width, 1) float32, metres; NaN where nothing was measured.

    Args:
        message: A ``sensor_msgs/Image``: 16UC1 or mono16 in steps of ``unit_m``, 0 for a hole,
            or 32FC1 or 64FC1 in metres, NaN or infinite for a hole (REP-118).
        name: Of the topic, for errors.
        unit_m: Metres of one step of an integer.
        float_unit_m: Metres of a floating point number's 1.

    Raises:
        DeviceFault: It is no depth image, or sizes contradict each other.
    """
    kind = _DEPTH.get(_spelled(message.encoding))
    if kind is None:
        raise _colour_as_depth(name, repr(message.encoding))
    return _metres(_rows(message, name, kind, 1), unit_m if kind == "u2" else float_unit_m)


def depth_from_compressed(message: Any, name: str, unit_m: float = 0.001) -> Array:
    """A compressed depth image, like :func:`depth_from_raw`.

    Both kinds that image_transport has: ``16UC1; compressedDepth`` (a PNG of the integers, or
    of the inverse of metres for 32FC1, or the same as RVL, behind a header of 12 bytes), and ``16UC1; png
    compressed`` (a PNG).

    Raises:
        DeviceFault: It is no depth image, or cannot be decoded.
    """
    form = message.format.lower()
    if "compresseddepth" not in form:
        pixels = _imdecode(message.data, message.format, name)
        if pixels.dtype != np.uint16 or pixels.ndim != 2:
            raise _colour_as_depth(
                name, f"{pixels.dtype}{list(pixels.shape)}, format {message.format!r}"
            )
        return _metres(pixels[:, :, None], unit_m)
    data = memoryview(message.data).cast("B")
    if len(data) <= _DEPTH_HEADER.size:
        raise DeviceFault(
            f"depth image on {name!r}",
            got=f"{len(data)} bytes of format {message.format!r}",
            expected="an image behind a header of 12 bytes",
        )
    _, quantum_a, quantum_b = _DEPTH_HEADER.unpack_from(data)
    is_bare = bytes(data[: len(_PNG)]) == _PNG and not message.format.strip().startswith("32FC1")
    if is_bare:  # of publishers that leave the header out
        pixels = _imdecode(data, message.format, name)
    elif "rvl" in form:
        pixels = _from_rvl(data[_DEPTH_HEADER.size :], name)
    else:
        pixels = _imdecode(data[_DEPTH_HEADER.size :], message.format, name)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise _colour_as_depth(name, f"a PNG of {pixels.dtype}{list(pixels.shape)}")
    if not message.format.strip().startswith("32FC1"):
        return _metres(pixels[:, :, None], unit_m)
    if not (np.isfinite(quantum_a) and np.isfinite(quantum_b) and quantum_a > 0):
        raise DeviceFault(
            f"depth image on {name!r}",
            got=f"quantisation {quantum_a:g}, {quantum_b:g}",
            expected="two finite numbers, the first above 0",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(quantum_a) / (pixels.astype(np.float32) - np.float32(quantum_b))
    metres[pixels == 0] = np.nan
    return _metres(metres[:, :, None], 1.0)


#: How a PNG begins.
_PNG = b"\x89PNG\r\n\x1a\n"
#: compressed_depth_image_transport's ConfigHeader: kind, and two numbers of the quantisation.
_DEPTH_HEADER = struct.Struct("<iff")


#: More pixels than any depth camera has: a few broken bytes must not ask for gigabytes.
_MOST_RVL_PIXELS = 1 << 25


def _from_rvl(data: Any, name: str) -> Array:
    """Depth as RVL (Wilson, Fast Lossless Depth Image Compression, 2017), (height, width) uint16.

    Numbers are groups of three bits, each with a fourth that says whether more follow. They are
    in turn a run of zeros, a run of others, and the differences of those others.
    """
    fault = DeviceFault(
        f"depth image on {name!r}", got=f"{len(data)} bytes of RVL that cannot be decoded"
    )
    if len(data) < 12:
        raise fault
    width, height = struct.unpack_from("<II", data)
    words = np.frombuffer(data[8 : 8 + (len(data) - 8) // 4 * 4], "<u4")
    if not 0 < width * height <= _MOST_RVL_PIXELS:
        raise fault
    nibbles = (words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)).ravel() & 15
    ends = np.flatnonzero(nibbles < 8)
    if not ends.size:
        raise fault
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(ends[-1] + 1) - np.repeat(starts, ends - starts + 1)
    if places.max() > 10:
        raise fault
    groups = (nibbles[: ends[-1] + 1] & 7).astype(np.int64) << (3 * places)
    numbers = np.add.reduceat(groups, starts)
    pixels = np.zeros(width * height, np.int64)
    at, read, last = 0, 0, 0
    while at < pixels.size:
        if read + 1 >= numbers.size:
            raise fault
        at += int(numbers[read])
        count = int(numbers[read + 1])
        read += 2
        if at + count > pixels.size or read + count > numbers.size:
            raise fault
        coded = numbers[read : read + count]
        if count:
            pixels[at : at + count] = last + np.cumsum((coded >> 1) ^ -(coded & 1))
            last = int(pixels[at + count - 1])
        at, read = at + count, read + count
    if pixels.min() < 0 or pixels.max() > 65535:
        raise fault
    return pixels.astype(np.uint16).reshape(height, width)


def _metres(values: Array, unit_m: float) -> Array:
    with np.errstate(over="ignore"):
        metres = values.astype(np.float32)
        if unit_m != 1.0:
            metres *= np.float32(unit_m)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


def _rows(message: Any, name: str, kind: str, channels: int, *, even_width: bool = False) -> Array:
    """The pixels of a message, (height, width, channels), in this machine's byte order."""
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    height, width = int(message.height), int(message.width)
    row_nbytes = width * channels * dtype.itemsize
    rows = _lines(message, name, height, row_nbytes)
    if even_width and width % 2:
        raise DeviceFault(f"image on {name!r}", got=f"a width of {width}", expected="an even one")
    values = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _lines(message: Any, name: str, count: int, row_nbytes: int) -> Array:
    """The data as ``count`` rows of ``row_nbytes`` bytes, without what pads them.

    The size must be exact: an image that is padded without saying so would come out slanted.
    The padding of the last row may be missing, and a step of 0 means none.
    """
    step = int(message.step) or row_nbytes
    data = np.frombuffer(message.data, np.uint8)
    least = (count - 1) * step + row_nbytes
    if row_nbytes < 1 or count < 1 or step < row_nbytes or data.size not in (least, count * step):
        raise DeviceFault(
            f"image on {name!r}",
            got=f"{data.size} bytes for {message.width}x{message.height} {message.encoding} "
            f"with a step of {message.step}",
            expected=f"a step of at least {row_nbytes}, and height times step bytes",
            hint="The publisher pads its rows without saying so: correct its step, or choose a "
            "width and height that it need not pad (often multiples of 32 and 16)",
        )
    if data.size == count * step:
        return data.reshape(count, step)[:, :row_nbytes]
    whole = np.empty((count, row_nbytes), np.uint8)
    whole[:-1] = data[: (count - 1) * step].reshape(count - 1, step)[:, :row_nbytes]
    whole[-1] = data[-row_nbytes:]
    return whole


def _from_planes(message: Any, encoding: str, name: str) -> Array:
    height, width = int(message.height), int(message.width)
    code, rows_of_colour = _PLANAR_YUV[encoding]
    if height % 2 or width % 2:
        raise DeviceFault(
            f"image on {name!r}", got=f"{width}x{height} {message.encoding}", expected="even sizes"
        )
    if message.step and int(message.step) > width and encoding != "nv24":
        # Some publishers give the bytes of a pixel, 1.5, times the width as the step.
        total = np.frombuffer(message.data, np.uint8).size
        if 2 * int(message.step) == 3 * width and 2 * total == 3 * width * height:
            message = _WithStep(message, width)
    lines = _lines(message, name, height + rows_of_colour * height // 2, width)
    if encoding == "nv24":
        colours = lines[height:].reshape(height, width, 2)[::2, ::2].reshape(height // 2, width)
        lines = np.concatenate([lines[:height], colours])
    return _opencv(name, lines, code)


class _WithStep:
    """A message with another step."""

    def __init__(self, message: Any, step: int) -> None:
        self.width, self.height, self.step = message.width, message.height, step
        self.encoding, self.data = message.encoding, message.data


def _opencv(name: str, pixels: Array, code: str) -> Array:
    cv2 = _cv2(name)
    if min(pixels.shape[:2]) < 2:
        raise DeviceFault(
            f"image on {name!r}", got=f"a size of {list(pixels.shape)}", expected="at least 2x2"
        )
    converted: Array = cv2.cvtColor(np.ascontiguousarray(pixels), getattr(cv2, code))
    return converted


def _cv2(name: str) -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise DeviceFault(
            f"image on {name!r}",
            got=str(error),
            hint="Install opencv-python-headless, or let the driver publish rgb8",
        ) from error


def _imdecode(data: Any, form: str, name: str) -> Array:
    cv2 = _cv2(name)
    encoded = np.frombuffer(data, np.uint8)
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    except cv2.error:  # an impossible size
        pixels = None
    if pixels is None:
        raise DeviceFault(
            f"compressed image on {name!r}",
            got=f"{encoded.size} bytes of format {form!r} that cannot be decoded",
            expected="a whole JPEG or PNG",
        )
    decoded: Array = pixels
    return decoded


def _by_cv_bridge(message: Any, name: str) -> Array:
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except ImportError as error:
        known = [*PLAIN, *_PACKED_YUV, *_PLANAR_YUV, *(f"{bayer}8" for bayer in _BAYER)]
        raise DeviceFault(
            f"encoding of the image on {name!r}",
            got=repr(message.encoding),
            expected=f"one of {sorted(known)}, or an installed cv_bridge",
            hint="Let the camera's driver publish rgb8, or use its compressed topic",
        ) from error
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # cv_bridge raises its own errors and OpenCV's
        raise DeviceFault(
            f"encoding of the image on {name!r}", got=f"{message.encoding!r} ({error})"
        ) from error


def _depth_as_colour(name: str, got: str) -> DeviceFault:
    return DeviceFault(
        f"encoding of the image on {name!r}",
        got=f"{got}, which is depth or another measurement",
        expected="RGB or another colour image",
        hint="Configure kind: depth for a depth camera, or grey16: true where the topic "
        "carries grey of 16 bits (mono16)",
    )


def _colour_as_depth(name: str, got: str) -> DeviceFault:
    return DeviceFault(
        f"encoding of the depth image on {name!r}",
        got=got,
        expected="16UC1 or 32FC1, raw, as a PNG of 16 bits or compressedDepth",
        hint="Choose the camera's depth topic, or configure kind: colour",
    )
