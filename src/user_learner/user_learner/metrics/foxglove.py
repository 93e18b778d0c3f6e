"""Sink ``foxglove``: curves for Foxglove, live and as a file, by its SDK."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import ConfigError, PluginError
from user_core.metrics import MetricsSink

#: Any object: which curves there are is known when they come.
_SCHEMA = {"type": "object", "title": "metrics", "properties": {"update": {"type": "integer"}}}


class FoxgloveConfig(Config):
    """Where the curves go."""

    topic: str = setting("/metrics", doc="Topic of the points.", min_length=1)
    file: bool = setting(
        True, doc="Write an MCAP file for each start of the learner, which Foxglove opens."
    )
    port: int = setting(
        0, doc="Serve them live at this port (Foxglove connects to ws://HOST:PORT); 0: not.", ge=0, le=65535
    )  # fmt: skip
    host: str = setting("127.0.0.1", doc="Address to serve at: this machine alone.", min_length=1)

    def validate(self) -> None:
        if not self.file and not self.port:
            raise ConfigError("port", got="0 and no file", expected="a port, or file: true")


class FoxgloveSink(MetricsSink):
    """JSON messages with the number of the update and all curves, nested as their names are: in Foxglove's plot
    ``/metrics.algorithm.loss`` over ``/metrics.update``."""

    Config: ClassVar[type[Config]] = FoxgloveConfig

    def __init__(self, config: FoxgloveConfig) -> None:
        self.config = config
        self._stack = contextlib.ExitStack()
        self._channel: Any = None

    def open(self, directory: Path, run: str) -> None:
        """Begin a file, and to serve."""
        try:
            import foxglove
        except ImportError as error:
            raise PluginError(
                "the sink foxglove needs the Python package foxglove-sdk", got=str(error),
                hint="pip install -r requirements/extra_metrics.txt",
            ) from error  # fmt: skip
        with contextlib.ExitStack() as stack:
            context = foxglove.Context()  # of its own: another sink has other points
            stack.callback(lambda: context)  # with it the channels would end
            if (
                self.config.port
            ):  # first: where it is taken, this is tried again, and leaves no file each time
                server = foxglove.start_server(
                    name=run, host=self.config.host, port=self.config.port, context=context
                )
                stack.callback(server.stop)
            if self.config.file:
                directory.mkdir(parents=True, exist_ok=True)
                file = directory / f"{run or 'run'}_{time.time_ns()}.mcap"
                stack.callback(foxglove.open_mcap(file, context=context).close)
            channel = foxglove.Channel(self.config.topic, schema=_SCHEMA, context=context)
            stack.callback(channel.close)
            self._stack, self._channel = stack.pop_all(), channel

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        point: dict[str, Any] = {"update": update}
        for name, value in scalars.items():
            if not math.isfinite(value):
                continue  # JSON has no NaN
            *groups, last = name.split("/")
            place = point
            for group in groups:
                inner = place.setdefault(group, {})
                if not isinstance(inner, dict):  # `loss` is a number, and there is `loss/more`
                    place, last = point, name
                    break
                place = inner
            if isinstance(place.get(last), dict):
                place, last = point, name
            place[last] = value
        self._channel.log(point)

    def close(self) -> None:
        """End the file and the server."""
        self._stack.close()
