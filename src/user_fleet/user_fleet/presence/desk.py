"""Carries out what people ask of the scheduler, through the requests in its store.

They are left in the file by ``user fleet`` on the scheduler's host: whoever may write the file may ask. A
request is answered in the same transaction order in which it was left, also by a scheduler that is started later.
"""

from __future__ import annotations

from typing import Any

from user_core.config import from_mapping
from user_core.errors import CodecError, LeaseError, SuiteError
from user_fleet.presence.hosts import Hosts
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.reservation import Reservation
from user_fleet.scheduling.scheduler import Scheduler


class Desk:
    """Answers requests.

    Args:
        scheduler: Works on the store.
        hosts: Who is there.
    """

    def __init__(self, scheduler: Scheduler, hosts: Hosts) -> None:
        self._scheduler, self._hosts = scheduler, hosts

    def work(self) -> int:
        """Answer what was asked meanwhile; returns how much that was."""
        store = self._scheduler.store
        asked = store.requests()
        for number, request in asked:
            try:
                answer: dict[str, Any] = {"ok": True, **self._do(request)}
            except LeaseError:  # another scheduler answers it
                raise
            except SuiteError as error:
                answer = {"ok": False, "code": error.code, "text": str(error)}
            except (KeyError, TypeError) as error:
                answer = {"ok": False, "code": CodecError.code, "text": f"request: {error!r}"}
            with store.transaction():
                store.answer(number, answer)
        return len(asked)

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
            raise CodecError(f"resource {name!r}", got="no such", expected="HOST/KIND/NAME or HOST")
        return of_host
