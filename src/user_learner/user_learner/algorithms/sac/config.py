"""Parameters of SAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError


@dataclass(frozen=True)
class SACConfig(Config):
    """Soft Actor-Critic with twin critics and automatic temperature.

    Settings that are not ``read_only`` may change between two runs of one training.
    """

    critic_hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of the critics' hidden layers.", ge=1, le=8192, min_length=1
    )
    critics: int = setting(2, doc="Members of the ensemble of critics.", ge=1, le=100)
    target_critics: int = setting(
        2, doc="Members, drawn anew at every update, whose minimum is the target.", ge=1
    )
    layer_norm: bool = setting(False, doc="Normalise the critics' hidden layers.")
    critic_updates: int = setting(
        1, doc="Critic updates per actor update; a call takes that many minibatches.", ge=1, le=100
    )
    actor_learning_rate: float = setting(3e-4, doc="Of Adam.", gt=0, read_only=False)
    critic_learning_rate: float = setting(3e-4, doc="Of Adam.", gt=0, read_only=False)
    temperature_learning_rate: float = setting(
        3e-4, doc="Of Adam; 0 keeps the temperature as it is.", ge=0, read_only=False
    )
    initial_temperature: float = setting(1.0, doc="Weight of the entropy at the start.", gt=0)
    target_entropy_per_action: float = setting(
        -1.0, doc="Entropy aimed at, per element of the action.", read_only=False
    )
    entropy_in_target: bool = setting(
        True, doc="Whether the critics' targets count future entropy as reward.", read_only=False
    )
    target_rate: float = setting(
        0.005, doc="Share by which target critics follow at each update.", gt=0, le=1,
        read_only=False,
    )  # fmt: skip
    value_min: float | None = setting(
        None, doc="Smallest return that is possible; targets are cut there.", read_only=False
    )
    value_max: float | None = setting(
        None, doc="Largest return that is possible; targets are cut there.", read_only=False
    )
    max_grad_norm: float = setting(
        0.0, doc="Norm that gradients are cut to; 0: never.", ge=0, read_only=False
    )
    image_shift: int = setting(
        4, doc="Largest random shift of pictures while learning.", unit="px", ge=0, read_only=False
    )
    device: str = setting(
        "cpu", doc="torch device that learns: cpu, cuda, cuda:1.", read_only=False
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", doc="Type that critics and encoders compute in.", read_only=False
    )
    seed: int = setting(0, doc="Seed of first weights and of all noise.", ge=0)

    def validate(self) -> None:
        if self.target_critics > self.critics:
            raise ConfigError(
                "target_critics", came=self.target_critics, expected=f"<= critics {self.critics}"
            )
        if None not in (self.value_min, self.value_max) and self.value_min >= self.value_max:  # type: ignore[operator]
            raise ConfigError("value_min", came=self.value_min, expected=f"< {self.value_max}")
