"""The actor's way to a policy on another host, over topics."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

from user_actor.loop.inference_link import InferenceLink, RemoteConfig
from user_comm.diagnostics import Item, Level
from user_comm.flows import Flow, FlowFigures
from user_comm.publisher import TopicPublisher
from user_core.codecs.observation import encode_observation
from user_core.errors import TransportError
from user_core.specs import RobotSpec
from user_core.types import NO_TASK, Observation


class RemoteInference:
    """An :class:`InferenceLink` on ``remote_observation`` and ``remote_action``; a context manager.

    Args:
        config: How.
        spec: The robot.
        observations: Publisher of ``remote_observation``.

    Attributes:
        link: The link; whoever hears ``remote_action`` tells it.
        flow: What crosses the network, for diagnostics.
    """

    def __init__(self, config: RemoteConfig, spec: RobotSpec, observations: TopicPublisher) -> None:
        self._coding, self._observations = config.coding, observations
        self.link = InferenceLink(config, spec, self._send)
        self.flow = Flow("inference", self._figures)

    def __enter__(self) -> RemoteInference:
        self.link.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.link.close()

    def item(self) -> Item:
        """How it is doing, for /diagnostics."""
        link = self.link
        why = link.why_silent()
        return Item(
            "remote inference",
            Level.WARN if why else Level.OK,
            why,
            {
                "policy_version": link.version,
                "sent": link.sent,
                "answered": link.answered,
                "superseded": link.superseded,
                "lost": link.lost,
                "refused": link.refused,
                "unasked": link.unasked,
                "round_trip_p50_ms": round(link.round_trip_s(50) * 1e3, 1),
                "round_trip_p99_ms": round(link.round_trip_s(99) * 1e3, 1),
            },
        )

    def _send(self, observation: Observation, deterministic: bool) -> int:
        if not self._observations.wanted:
            raise TransportError(
                f"topic {self._observations.topic}", got="no inference node or bridge listens"
            )
        arrays = encode_observation(observation.arrays, self._coding, deterministic=deterministic)
        # what the robot says about its task is judged here, not there
        coded = replace(observation, arrays=arrays, task=NO_TASK, applied=None)
        if not self._observations.publish(coded):
            raise TransportError(f"topic {self._observations.topic}", got="an inactive node")
        return sum(array.nbytes for array in arrays.values())

    def _figures(self) -> FlowFigures:
        link = self.link
        return FlowFigures(
            bytes=link.sent_bytes,
            round_trip_s=link.round_trip_s(50),
            again=link.lost,
            refused=link.refused + link.unasked,
            coding=self._coding,
            note=link.why_silent(),
        )
