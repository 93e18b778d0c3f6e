"""Models of rewards as files: weights in safetensors, and in the metadata what they look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from user_core.errors import ConfigError
from user_core.runtime.files import write_atomically

if TYPE_CHECKING:
    import torch

Model = TypeVar("Model")


def write(path: str | Path, key: str, model: Any, network: torch.nn.Module) -> None:
    """Write a model file, whole or not at all.

    Args:
        path: The file.
        key: Of the metadata; says what kind of model it is.
        model: What the file says of itself, a dataclass.
        network: Has the weights.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    write_atomically(Path(path), save(arrays, {key: json.dumps(asdict(model))}))


def is_of(path: str | Path, key: str) -> bool:
    """Whether a file says that it is a model of this kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            return key in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read(
    path: str | Path,
    key: str,
    make: Callable[[dict[str, Any]], tuple[Model, torch.nn.Module]],
    name: str,
    command: str,
) -> tuple[Model, torch.nn.Module]:
    """A model file and its network, for judging. Executes nothing that is in it.

    Args:
        path: The file.
        key: Of the metadata.
        make: Model and network, with any weights, from what the file says of itself; raises ValueError or TypeError
            for what cannot be.
        name: Of such models, for people.
        command: That writes them, for people.

    Raises:
        ConfigError: It is not there, or no such model.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            about = json.loads((file.metadata() or {})[key])
            about["cameras"] = {n: tuple(int(x) for x in s) for n, s in about["cameras"].items()}
            model, network = make(about)
            weights = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{name} {path}", got=f"{type(error).__name__}: {error}",
            expected=f"a file that `{command}` wrote",
        ) from error  # fmt: skip
    network.eval()
    return model, network
