"""What people ask for, through the scheduler's file."""

from pathlib import Path

import pytest

from user_core.config import to_mapping
from user_fleet.presence.hosts import Hosts
from user_fleet.presence.messages import Heartbeat
from user_fleet.presence.requests import RequestHandler
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.scheduler import Scheduler
from user_fleet.scheduling.store import FleetStore

ARM = Experiment(name="one", roles={"robots": {"kind": "robot"}})


class Office:
    """A scheduler, and somebody who asks in another process."""

    def __init__(self, path: Path) -> None:
        self.store, self.asker = FleetStore(path), FleetStore(path)
        self.store.take_over()
        self.hosts = Hosts()
        robot = Resource(id="h1/robot/r", kind="robot")
        report = HostReport(host="h1", life="life-one", sequence=1, resources=(robot,))
        self.hosts.heartbeat(
            "h1", Heartbeat(host="h1", life="life-one", sequence=1, wall_ns=0).to_json()
        )
        self.hosts.reported("h1", report.to_json())
        self.handler = RequestHandler(Scheduler(self.store), self.hosts)

    def ask(self, **request) -> dict:
        number = self.asker.ask(request)
        assert self.handler.answer() == 1
        answer = self.asker.answer_of(number)
        assert answer is not None
        return answer


@pytest.fixture
def office(tmp_path: Path):
    made = Office(tmp_path / "fleet.sqlite")
    yield made
    made.store.close()
    made.asker.close()


def test_requests_are_carried_out_and_answered(office: Office) -> None:
    assert office.ask(do="submit", experiment=to_mapping(ARM)) == {"ok": True, "name": "one"}
    entry = office.asker.find("one")
    assert entry is not None and entry.experiment == ARM
    assert office.ask(do="drain", resource="h1", text="new gripper")["ok"]
    assert "new gripper" in office.asker.held_back()["h1/robot/r"].text
    assert office.ask(do="release", resource="h1/robot/r")["released"] == ["h1/robot/r"]
    night = {"name": "night", "tags": ["a"], "begin": "20:00", "end": "06:00"}
    assert office.ask(do="reserve", reservation=night)["ok"]
    assert office.ask(do="unreserve", name="night")["was_there"]
    assert office.ask(do="cancel", name="one")["ok"]


def test_a_request_that_was_carried_out_and_not_answered_is_not_carried_out_twice(
    office: Office,
) -> None:
    office.handler._scheduler.submit(ARM)  # and then the scheduler died
    assert office.ask(do="submit", experiment=to_mapping(ARM))["ok"]
    assert len(office.asker.entries()) == 1


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({"do": "dance"}, "dance"),
        ({}, "do"),
        ({"do": "submit"}, "experiment"),
        ({"do": "submit", "experiment": {"name": "x"}}, "roles"),
        ({"do": "cancel", "name": "nobody"}, "nobody"),
        ({"do": "drain", "resource": "h9"}, "h9"),
        ({"do": "reserve", "reservation": {"name": "x", "begin": "8"}}, "begin"),
        ({"do": "forget", "host": "h9"}, "h9"),
    ],
)
def test_what_makes_no_sense_is_answered_with_why(office: Office, request_, word) -> None:
    answer = office.ask(**request_)
    assert not answer["ok"]
    assert word in answer["text"]


def test_a_request_waits_for_the_next_scheduler(office: Office) -> None:
    number = office.asker.ask({"do": "submit", "experiment": to_mapping(ARM)})
    assert office.asker.answer_of(number) is None
    office.handler.answer()
    answer = office.asker.answer_of(number)
    assert answer is not None and answer["ok"]
