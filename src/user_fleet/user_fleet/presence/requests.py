"""Carries out what people ask of the scheduler, through the requests in its store.

They are left in the file by ``user fleet`` on the scheduler's host: whoever may write the file may ask. A
request is answered in the same transaction order in which it was left, also by a scheduler that is started later.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from user_core.config import from_mapping
from user_core.errors import CodecError, LeaseError, SuiteError
from user_fleet.presence.hosts import Hosts
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.reservation import Reservation
from user_fleet.scheduling.scheduler import Scheduler

#: How many hosts are asked at a time for what they have printed.
_ASKERS = 8


class RequestHandler:
    """Answers requests.

    Args:
        scheduler: Works on the store.
        hosts: Who is there.
        log_part: Asks a host for a part of what was printed for a grant; None: nobody can be asked.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        hosts: Hosts,
        log_part: Callable[[str, int, int], dict[str, Any]] | None = None,
    ) -> None:
        self._scheduler, self._hosts, self._log_part = scheduler, hosts, log_part
        # Hosts may take a while to answer, and others are not to wait for that.
        self._askers = ThreadPoolExecutor(_ASKERS, thread_name_prefix="logs")
        self._asked: dict[int, Future[dict[str, Any]]] = {}

    def close(self) -> None:
        """Answer nobody any more."""
        self._askers.shutdown(wait=False, cancel_futures=True)

    def answer(self) -> int:
        """Answer what was asked meanwhile; returns how much that was."""
        store = self._scheduler.store
        asked = store.requests()
        for number, request in asked:
            try:
                part = self._of_host(number, request)
                if part is None:
                    continue  # the host has not answered yet
                answer: dict[str, Any] = {"ok": True, **(part or self._do(request))}
            except LeaseError:  # another scheduler answers it
                raise
            except SuiteError as error:
                answer = {"ok": False, "code": error.code, "text": str(error)}
            except (KeyError, TypeError, ValueError) as error:
                answer = {"ok": False, "code": CodecError.code, "text": f"request: {error!r}"}
            with store.transaction():
                store.answer(number, answer)
        return len(asked)

    def _of_host(self, number: int, request: dict[str, Any]) -> dict[str, Any] | None:
        """What a host answers; None while it has not, and nothing where no host is asked."""
        if request.get("do") != "log":
            return {}
        if number not in self._asked:
            if self._log_part is None:
                raise CodecError("request 'log'", got="a scheduler without a network")
            host, fencing, offset = (
                str(request["host"]),
                int(request["fencing"]),
                int(request["offset"]),
            )
            self._asked[number] = self._askers.submit(self._log_part, host, fencing, offset)
        if not self._asked[number].done():
            return None
        return self._asked.pop(number).result()

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        scheduler, store = self._scheduler, self._scheduler.store
        what = request["do"]
        if what == "submit":
            experiment = from_mapping(Experiment, request["experiment"])
            known = store.find(experiment.name)  # a scheduler may have died before it answered
            same = known is not None and known.experiment == experiment
            if not (same and known is not None and known.state == "queued"):
                scheduler.submit(experiment)
            return {"name": experiment.name}
        if what == "cancel":
            scheduler.cancel(str(request["name"]), bool(request.get("at_once")))
            return {}
        if what == "finish":
            scheduler.finished(str(request["name"]))
            return {}
        if what == "drain":
            for name in self._resources(str(request["resource"])):
                scheduler.drain(name, str(request.get("text") or "for maintenance"))
            return {}
        if what == "release":
            released = [
                n for n in self._resources(str(request["resource"])) if scheduler.release(n)
            ]
            return {"released": released}
        if what == "reserve":
            with store.transaction():
                store.reserve(from_mapping(Reservation, request["reservation"]))
            return {}
        if what == "unreserve":
            with store.transaction():
                return {"was_there": store.unreserve(str(request["name"]))}
        if what == "forget":
            with store.transaction():
                if self._hosts.forget(str(request["host"])):
                    store.forget_host(str(request["host"]))
                    return {}
            raise CodecError(f"host {request['host']!r}", expected="one that is away")
        raise CodecError(
            f"request {what!r}", expected="submit, cancel, finish, drain, release, ..."
        )

    def _resources(self, name: str) -> list[str]:
        """The resources that a person means: an id, or a host with all that it has."""
        held = self._scheduler.store.held_back()
        known = [item.id for item in self._hosts.view().resources]
        ids = dict.fromkeys([*known, *held])
        if name in ids:
            return [name]
        of_host = [item for item in ids if item.startswith(f"{name}/")]
        if not of_host:
            raise CodecError(
                f"resource {name!r}",
                got="no such",
                expected=f"one of {sorted(ids)}, or a host with all that it has",
            )
        return of_host
