"""What plain Python code logs, in a node's log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any


class NodeLogHandler(logging.Handler):
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
            level = min(record.levelno // 10 * 10, logging.CRITICAL) or logging.DEBUG
            self._say[level](self.format(record))
        except Exception:
            self.handleError(record)


def bridge_logging(logger: Any, package: str) -> Callable[[], None]:
    """Send what a package logs to a node's logger; return what ends that."""
    handler, source = NodeLogHandler(logger), logging.getLogger(package)
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    return lambda: source.removeHandler(handler)
