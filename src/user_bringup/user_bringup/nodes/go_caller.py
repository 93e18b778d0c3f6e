"""Speaks to actors by their services: says go (``~/go``), or asks them to finish (``~/finish``)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from user_msgs.srv import FinishEpisode

from user_comm.services import ask
from user_comm.start import start_rclpy
from user_core.runtime.processes.endings import end_last

_KIND = "std_srvs/srv/Trigger"
_LOOK_S = 0.1
#: DDS drops an answer that is ready before both ends know each other.
_ATTEMPTS, _ANSWER_S = 3, 2.0


@dataclass(frozen=True)
class Answer:
    """What an actor answered; ``actor`` is its full name."""

    actor: str
    accepted: bool
    text: str


class GoCaller:
    """Finds actors in one ROS domain, and says go to them. A context manager.

    Args:
        domain: The ROS domain; None: that of the environment.
    """

    def __init__(self, domain: int | None = None) -> None:
        self._domain, self._context = domain, rclpy.Context()
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> GoCaller:
        start_rclpy([], context=self._context, domain_id=self._domain)
        self._node = rclpy.create_node(
            "user_go", context=self._context, enable_rosout=False, start_parameter_services=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *ended: object) -> None:
        self._executor.shutdown(0)
        end_last(self._end)  # what was answered must be said first, and `user up` goes on

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self._node.destroy_node()
            self._context.try_shutdown()

    def actors(self, wait_s: float) -> list[str]:
        """Full names of the actors that are heard within ``wait_s``, sorted; returns earlier when no
        more have come for half of it."""
        end_s = time.monotonic() + wait_s
        found: set[str] = set()
        quiet_s = time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            seen = self._waiting()
            if seen != found:
                found, quiet_s = seen, now_s
            if found and now_s - quiet_s > wait_s / 2:
                break
            self._executor.spin_once(_LOOK_S)
        return sorted(found)

    def say_go(self, actor: str) -> Answer:
        """Say it to one; what it answers, or that it does not."""
        for _ in range(_ATTEMPTS):
            answer = self._call(Trigger, f"{actor}/go", Trigger.Request())
            if answer is not None:
                return Answer(actor, bool(answer.success), str(answer.message))
        return Answer(actor, False, "it does not answer")

    def _waiting(self) -> set[str]:
        return {
            name.removesuffix("/go")
            for name, kinds in self._node.get_service_names_and_types()
            if name.endswith("/go") and _KIND in kinds
        }

    def finish(self, actor: str, limit_s: float) -> Any:
        """Ask one to finish within ``limit_s``; the answer of ``FinishEpisode``, None when it does not answer."""
        return self._call(FinishEpisode, f"{actor}/finish", FinishEpisode.Request(limit_s=limit_s))

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        # Clients end with the node, under its limit: to destroy one may hang in the middleware.
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self._node.create_client(kind, service)
        end_s = time.monotonic() + _ANSWER_S
        while not client.service_is_ready() and time.monotonic() < end_s:
            self._executor.spin_once(_LOOK_S)
        if not client.service_is_ready():
            return None
        future = ask(client, request)
        self._executor.spin_until_future_complete(future, _ANSWER_S)
        return future.result() if future.done() else None


def chosen(actors: Sequence[str], words: Collection[str]) -> list[str]:
    """The actors that words mean: full names, or any part of them (``robot0``); all for no words."""
    parts = {actor: {actor, *actor.strip("/").split("/")} for actor in actors}
    return [actor for actor in actors if not words or parts[actor] & set(words)]
