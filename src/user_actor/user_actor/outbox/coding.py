"""Which coding image columns travel in: chosen by how far delivery is behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from user_actor.outbox.config import OutboxConfig
from user_core.codecs.images import LOSSLESS, is_image_column
from user_core.specs import Array

_log = logging.getLogger(__name__)
_CALM_FOR_S = 30.0
_CALM_SHARE = 0.2


class CodingChooser:
    """Steps from plain to lossless to lossy while the backlog grows old, and back when it is gone.

    Coding costs processor time that the robot may need, so it is not done where the link keeps
    up. Lossy pictures are taken only where the configuration names a lossy coding. What is on
    the disk stays as it was; a chunk is coded when it is sent.

    Args:
        config: Parameters.

    Attributes:
        coding: What images are sent in now; empty: plain.
        changes: How often that was changed.
    """

    def __init__(self, config: OutboxConfig) -> None:
        self._fixed = config.image_coding != "auto"
        self._after_s = config.coding_after_s
        self._steps = ["", LOSSLESS, *([config.lossy_coding] if config.lossy_coding else [])]
        self._step = 0
        if config.image_coding == "lossless":
            self._step = 1
        elif config.image_coding == "lossy":
            self._step = 2
        self._since_s: float | None = None
        self._calm_since_s: float | None = None
        self.changes = 0

    @property
    def coding(self) -> str:
        """What images are sent in now; empty: plain."""
        return self._steps[self._step]

    def update(self, oldest_age_s: float, now_s: float) -> None:
        """Look at the age of the oldest chunk that is not acknowledged."""
        if self._fixed:
            return
        if self._since_s is None:
            self._since_s = now_s
        calm = oldest_age_s < _CALM_SHARE * self._after_s
        if not calm:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        waited_s = now_s - self._since_s
        if oldest_age_s > self._after_s < waited_s and self._step + 1 < len(self._steps):
            self._change(
                self._step + 1, now_s, f"the oldest chunk has waited for {oldest_age_s:.1f} s"
            )
        elif calm and self._step and now_s - (self._calm_since_s or now_s) >= _CALM_FOR_S:
            self._change(self._step - 1, now_s, f"delivery has kept up for {_CALM_FOR_S:.0f} s")

    def codings(self, columns: Mapping[str, Array]) -> dict[str, str]:
        """The coding of each column that is coded."""
        if not self.coding:
            return {}
        return {
            name: self.coding if self._possible(column) else LOSSLESS
            for name, column in columns.items()
            if is_image_column(column)
        }

    def _possible(self, column: Array) -> bool:
        return self.coding == LOSSLESS or column.ndim == 3 or column.shape[3] in (1, 3)

    def _change(self, step: int, now_s: float, why: str) -> None:
        before, self._step = self.coding, step
        self._since_s, self._calm_since_s = now_s, None
        self.changes += 1
        _log.info(
            "images are sent %s instead of %s: %s", self.coding or "plain", before or "plain", why
        )
