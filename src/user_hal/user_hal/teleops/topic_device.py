"""What the devices that live on ROS topics have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from user_core.errors import DeviceNotConnected
from user_hal.teleops.hand_device import HandConfig, HandTeleop
from user_hal.topic_io import TopicIo, TopicSubscription


class TopicTeleop(HandTeleop):
    """A device whose data come on topics; :meth:`attach` gives it the topics."""

    def __init__(self, config: HandConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self._io: TopicIo | None = None
        self._subscriptions: list[TopicSubscription] = []

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io

    @abstractmethod
    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Subscribe to what the device publishes."""

    def open(self) -> None:
        """Subscribe anew. Raises DeviceNotConnected when there are no topics to live on."""
        if self._io is None:
            raise DeviceNotConnected(
                type(self).__name__, got="no topics", hint="Call attach(io) before connect()"
            )
        self._end()
        self._subscriptions = self.subscribe(self._io)

    def close(self) -> None:
        """Stop listening."""
        self._end()
        super().close()

    def _end(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []
