"""What plain Python code logs, in the node's log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any


class RosLogHandler(logging.Handler):
    """Hands records of Python's ``logging`` to a node's logger, with their level.

    Args:
        logger: The node's logger.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        # rclpy ties a level to the place of the call, so each level has a place of its own.
        self._say: Mapping[int, Callable[[str], None]] = {
            logging.DEBUG: lambda text: logger.debug(text),
            logging.INFO: lambda text: logger.info(text),
            logging.WARNING: lambda text: logger.warning(text),
            logging.ERROR: lambda text: logger.error(text),
            logging.CRITICAL: lambda text: logger.fatal(text),
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            self._say[min(record.levelno // 10 * 10, logging.CRITICAL) or logging.DEBUG](
                self.format(record)
            )
        except Exception:
            self.handleError(record)


def bridge_logging(logger: Any, name: str = "user_hal") -> Callable[[], None]:
    """Send what a package logs to a node's logger; return what ends that."""
    handler, source = RosLogHandler(logger), logging.getLogger(name)
    source.addHandler(handler)
    source.setLevel(logging.INFO)

    def undo() -> None:
        source.removeHandler(handler)

    return undo
