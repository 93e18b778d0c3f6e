"""Parameters of the recorder."""

from __future__ import annotations

import re

from user_core.config import Config, setting
from user_core.errors import ConfigError


class RecorderConfig(Config):
    """Parameters of record_node."""

    folder: str = setting(
        "record", doc="Directory of the bag; made when it is not there.", min_length=1
    )
    images: bool = setting(
        False,
        doc="Record images too; a camera of 640 x 480 at 10 Hz takes 9 MB a second before compression.",
    )
    topics: tuple[str, ...] = setting(
        (),
        doc="Further topics, as regular expressions of whole names: /lidar/.*; those of the robot's own "
        "drivers, for instance.",
    )
    leave_out: tuple[str, ...] = setting(
        (), doc="Topics that are not recorded, as regular expressions of whole names."
    )
    part_mb: float = setting(512.0, doc="Size at which the next file begins.", unit="MB", gt=0)
    flush_s: float = setting(
        1.0,
        doc="After this long what was heard is in the file, also if this process is killed.",
        unit="s",
        gt=0,
    )
    keep_free_mb: float = setting(
        2048.0,
        doc="With less room on the disk recording stops: the store needs it more.",
        unit="MB",
        ge=0,
    )
    most_mb: float = setting(
        0.0, doc="Size of the bag at which its oldest files go; 0: none goes.", unit="MB", ge=0
    )
    queue_mb: float = setting(
        64.0,
        doc="What may wait for the disk; beyond it messages are left out and counted.",
        unit="MB",
        gt=0,
    )

    def validate(self) -> None:
        for key, patterns in (("topics", self.topics), ("leave_out", self.leave_out)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ConfigError(
                        key, got=f"{pattern!r}: {error}", expected="a regular expression"
                    ) from error
