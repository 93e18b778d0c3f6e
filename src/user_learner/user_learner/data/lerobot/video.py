"""Videos of LeRobot datasets: pictures to mp4 and back, with PyAV.

Lossless is H.264 in RGB without quantisation, which the decoders of ffmpeg give back bit by bit.
Every second picture is a key picture, as in LeRobot's own files, so that one that is drawn at random
needs at most two to be decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from user_core.errors import CodecError, ConfigError
from user_core.specs import Array
from user_learner.data.extras import library

#: Ways of keeping images: codec of ffmpeg, pixel format, its options. None: PNG within parquet.
CODINGS: dict[str, tuple[str, str, dict[str, str]] | None] = {
    "h264": ("libx264", "yuv420p", {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0"}),
    "av1": ("libsvtav1", "yuv420p", {"crf": "30", "preset": "12", "g": "2"}),
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast", "g": "2", "bf": "0"}),
    "png": None,
}
_PURPOSE = "video of a LeRobot dataset"
#: Pictures whose loss is measured, of each file.
MEASURED = 32


class VideoWriter:
    """Writes pictures (H, W, 3) uint8 to one mp4 file.

    Args:
        path: The file; replaced when it is there.
        fps: Pictures per second.
        size: Height and width.
        coding: One of :data:`CODINGS`, not ``png``.

    Raises:
        MissingLibrary: PyAV is not installed.
        ConfigError: The codec is not in this build of ffmpeg.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, fps: Fraction, size: tuple[int, int], coding: str) -> None:
        self._av = library("av", _PURPOSE)
        chosen = CODINGS[coding]
        if chosen is None:
            raise ConfigError("coding of a video", got=coding, expected="one that makes videos")
        codec, pixels, options = chosen
        if pixels == "yuv420p" and (size[0] % 2 or size[1] % 2):
            pixels = "yuv444p"  # colours of every second pixel need even sizes
            if codec == "libsvtav1":
                codec, _, options = CODINGS["h264"] or ("", "", {})
        self.path, self._count = path, 0
        self._originals: list[Array] = []
        os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 tells its life to stderr
        self._container = self._av.open(str(path), "w", format="mp4")
        try:
            stream = self._container.add_stream(codec, rate=fps, options=dict(options))
        except Exception as error:
            self._container.close()
            raise ConfigError(
                f"codec of {path.name}", got=str(error), expected=f"{codec} in this build of ffmpeg"
            ) from error
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.time_base = 1 / fps
        stream.codec_context.time_base = 1 / fps
        self._stream: Any = stream

    def __len__(self) -> int:
        return self._count

    def add(self, images: Array) -> None:
        """Add pictures of one episode, (n, H, W, 3) uint8. Raises OSError."""
        first = True
        for image in images:
            if len(self._originals) < MEASURED:
                self._originals.append(image.copy())
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self._count
            frame.time_base = self._stream.codec_context.time_base
            if first:  # an episode can be cut out without its neighbours
                frame.pict_type = self._av.video.frame.PictureType.I
                first = False
            self._count += 1
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    def close(self) -> float:
        """Finish the file and make it durable.

        Returns:
            Mean squared error of the first pictures, in squared steps of 255; 0.0 without loss.
        """
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        with open(self.path, "rb") as stream:
            os.fsync(stream.fileno())
        if not self._originals:
            return 0.0
        wanted = np.stack(self._originals)
        with_errors = VideoReader(self.path)
        try:
            rate = 1 / self._stream.codec_context.time_base
            found, _ = with_errors.frames(0.0, len(wanted), float(rate))
        finally:
            with_errors.close()
        return float(np.mean(np.square(found.astype(np.float32) - wanted)))

    def abort(self) -> None:
        """Leave the file unfinished."""
        self._container.close()


class VideoReader:
    """Decodes one video, forward; seeks only when it must.

    Args:
        path: The file; not trusted.
        size: Height and width that pictures are brought to; None as they are.

    Raises:
        MissingLibrary: PyAV is not installed.
        CodecError: It is no video, or cut short.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None = None) -> None:
        self._av = library("av", _PURPOSE)
        self.path, self._size = path, size
        try:
            self._container = self._av.open(str(path), "r")
            self._stream: Any = self._container.streams.video[0]
        except (OSError, ValueError, IndexError) as error:  # av's errors are of these kinds
            raise _damaged(path, error) from error
        self._stream.thread_type = "AUTO"
        self._held: Any = None
        self._frames: Iterator[Any] = iter(())
        self._start()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture as it comes, (H, W, 3)."""
        height, width = self._size or (self._stream.height, self._stream.width)
        return (height, width, 3)

    def frames(self, start_s: float, count: int, fps: float) -> tuple[Array, str]:
        """Pictures at ``start_s + i / fps``.

        Returns:
            Pictures (count, H, W, 3) uint8, and a digest of the bytes that they were decoded from.

        Raises:
            CodecError: One is missing or damaged.
        """
        images = np.empty((count, *self.shape), np.uint8)
        half = 0.5 / fps
        if start_s < self._at_s - half or start_s > self._at_s + 10.0:
            self._seek(start_s)
        for i in range(count):
            due = start_s + i / fps
            images[i] = self._frame_at(due, half)
        end = start_s + (count - 0.5) / fps
        digest = hashlib.blake2b(digest_size=16)
        for time in sorted(t for t in self._packets if t < end):
            content = self._packets.pop(time)
            if time >= start_s - half:
                digest.update(content)
        return images, digest.hexdigest()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._container.close()

    def _frame_at(self, due: float, half: float) -> Array:
        while True:
            frame = self._held if self._held is not None else next(self._frames, None)
            self._held = None
            if frame is None:
                raise CodecError(
                    f"video {self.path}", got=f"its end before {due:.3f} s",
                    expected="a picture for every step", hint="The file may be cut short",
                )  # fmt: skip
            time = float(frame.time or 0.0)
            if time < due - half:
                continue
            if time > due + half:
                self._held = frame
                raise CodecError(
                    f"video {self.path}", got=f"a picture at {time:.3f} s",
                    expected=f"one at {due:.3f} s",
                )  # fmt: skip
            self._at_s = time
            if self._size is None:
                return np.asarray(frame.to_ndarray(format="rgb24"))
            height, width = self._size
            area = self._av.video.reformatter.Interpolation.AREA
            small = frame.reformat(width=width, height=height, format="rgb24", interpolation=area)
            return np.asarray(small.to_ndarray())

    def _seek(self, start_s: float) -> None:
        try:
            offset = int(start_s / self._stream.time_base)
            self._container.seek(max(0, offset), stream=self._stream, backward=True)
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error
        self._start()

    def _start(self) -> None:
        self._held = None
        self._at_s = 0.0
        self._packets: dict[float, bytes] = {}
        self._frames = self._decode()

    def _decode(self) -> Iterator[Any]:
        base = float(self._stream.time_base)
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    content = hashlib.blake2b(bytes(packet), digest_size=16).digest()
                    self._packets[packet.pts * base] = content
                yield from packet.decode()
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> CodecError:
    if isinstance(error, FileNotFoundError):
        return CodecError(f"video {path}", got="no such file", expected="the images of an episode")
    return CodecError(
        f"video {path}", got=" ".join(str(error).split()), expected="a whole video",
        hint="The file may be cut short or of another kind",
    )  # fmt: skip
