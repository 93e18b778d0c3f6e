"""Video streams on topics: H.264 and its kin, decoded as they come.

A packet needs those before it, so every packet is decoded, in the order of arrival. Decoding is
PyAV's (``pip install av``), an optional package.
"""

from __future__ import annotations

import importlib
from typing import Any

from user_core.errors import DeviceFault, PluginError
from user_core.specs import Array

#: Messages that carry a video stream: foxglove's, and ffmpeg_image_transport's.
VIDEO_TYPES = (
    "foxglove_msgs/msg/CompressedVideo",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
)
_CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "vp9": "vp9", "av1": "av1"}


class VideoDecoder:
    """Decodes the packets of one topic.

    Raises:
        PluginError: PyAV is not installed.
    """

    def __init__(self, name: str) -> None:
        try:
            self._av: Any = importlib.import_module("av")
        except ImportError as error:
            raise PluginError(
                f"video stream on {name!r}",
                got=str(error),
                expected="the package av, which decodes it",
                hint="pip install av, or choose the camera's raw or compressed topic",
            ) from error
        self._name = name
        self._codec = ""
        self._context: Any = None
        self._begun = False  # an image came out of it

    def decode(self, message: Any) -> Array | None:
        """The image that a packet completes, (height, width, 3) uint8 RGB; None if none.

        None too before the first key frame: a stream that is joined in the middle begins there.

        Raises:
            DeviceFault: The packet is broken, or coded in a way that is not known.
        """
        codec = self._codec_of(message)
        if codec != self._codec or self._context is None:
            context = self._av.CodecContext.create(codec, "r")
            context.thread_type = "SLICE"  # several threads for several frames would delay them
            context.flags |= 1 << 19  # AV_CODEC_FLAG_LOW_DELAY: a frame out for each packet in
            self._codec, self._context = codec, context
            self._begun = False
        try:
            frames = self._context.decode(self._av.Packet(bytes(message.data)))
        except self._av.error.FFmpegError as error:
            if not self._begun:
                return None  # joined in the middle: there is nothing yet to build on
            raise DeviceFault(
                f"video stream on {self._name!r}", got=f"a packet that cannot be decoded ({error})"
            ) from error
        if not frames:
            return None
        self._begun = True
        image_hwc: Array = frames[-1].to_ndarray(format="rgb24")
        return image_hwc

    def _codec_of(self, message: Any) -> str:
        said = str(getattr(message, "format", "") or getattr(message, "encoding", ""))
        # ffmpeg_image_transport may add pixel formats: "h264;yuv420p;bgr8;bgr8", or an encoder's
        # name: "libx264", "h264_nvenc", "hevc_vaapi".
        first = said.split(";")[0].strip().lower()
        first = {"libx264": "h264", "libx265": "hevc"}.get(first, first.split("_")[0])
        if first not in _CODECS:
            raise DeviceFault(
                f"video stream on {self._name!r}", got=f"format {said!r}", expected=sorted(_CODECS)
            )
        return _CODECS[first]
