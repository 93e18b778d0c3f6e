"""Which hosts are there, and what is refused."""

import json
from pathlib import Path

import pytest

from user_core.errors import CodecError
from user_fleet.presence.agent import Obedience
from user_fleet.presence.hosts import Hosts, HostState, PresenceConfig
from user_fleet.presence.messages import Assignment, Granted, Heartbeat
from user_fleet.resources.model import HostReport, Resource
from user_testing.virtual_time import VirtualTime


class Fleet:
    """A registry of hosts, and hosts that speak to it."""

    def __init__(self) -> None:
        self.clock = VirtualTime()
        self.hosts = Hosts(PresenceConfig(), lease_s=30.0, clock=self.clock)
        self.sequences: dict[tuple[str, str], int] = {}

    def beat(self, host: str, life: str = "life-one", key: str = "", **changes) -> None:
        number = self.sequences.get((host, life), 0) + 1
        self.sequences[host, life] = number
        said = {"sequence": number, "wall_ns": self.clock.wall_ns(), **changes}
        self.hosts.heartbeat(key or host, Heartbeat(host=host, life=life, **said).to_json())

    def report(self, host: str, life: str = "life-one", sequence: int = 1, key: str = "") -> None:
        robot = Resource(id=f"{host}/robot/r", kind="robot")
        report = HostReport(host=host, life=life, sequence=sequence, resources=(robot,))
        self.hosts.reported(key or host, report.to_json())

    def why(self, host: str) -> str:
        return self.hosts.why_away(self.state(host)).code

    def state(self, host: str) -> HostState:
        return next(state for state in self.hosts.states() if state.host == host)

    def refused(self, host: str) -> list[str]:
        return [what for (who, what) in self.hosts.refused if who == host]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_a_host_is_there_while_it_is_heard_and_unreachable_soon_after(fleet: Fleet) -> None:
    fleet.beat("h1")
    assert fleet.why("h1") == ""
    fleet.clock.move(1.5)
    assert fleet.why("h1") == ""
    fleet.clock.move(0.2)
    assert fleet.why("h1") == "host_unreachable"
    fleet.beat("h1")
    assert fleet.why("h1") == ""


def test_a_token_that_goes_is_believed_until_the_host_is_heard_again(fleet: Fleet) -> None:
    fleet.beat("h1")
    fleet.hosts.token_gone("h1", "another-life")
    assert fleet.why("h1") == ""
    fleet.hosts.token_gone("h1", "life-one")
    assert fleet.why("h1") == "host_gone"
    fleet.beat("h1")  # the router had only lost its link for a moment
    assert fleet.why("h1") == ""


def test_its_lease_runs_out_long_after_it_became_unreachable(fleet: Fleet) -> None:
    fleet.beat("h1", report=1)
    fleet.report("h1")
    fleet.clock.move(10.0)
    view = fleet.hosts.view()
    assert view.away["h1"].code == "host_unreachable"
    assert view.lost == frozenset()
    assert [item.id for item in view.resources] == ["h1/robot/r"]
    fleet.clock.move(21.0)
    assert fleet.hosts.view().lost == {"h1"}


def test_hosts_of_before_a_restart_have_their_lease_from_then_on(fleet: Fleet) -> None:
    robot = Resource(id="h1/robot/r", kind="robot")
    fleet.hosts.expect(["h1", "h2"], [HostReport(host="h1", resources=(robot,))])
    view = fleet.hosts.view()
    assert set(view.away) == {"h1", "h2"} and not view.lost
    assert [item.id for item in view.resources] == ["h1/robot/r"]
    fleet.beat("h1")
    fleet.clock.move(31.0)
    fleet.beat("h1")
    assert fleet.hosts.view().lost == {"h2"}
    assert fleet.hosts.forget("h2") and not fleet.hosts.forget("h1")


def test_reports_are_asked_for_when_there_is_news(fleet: Fleet) -> None:
    fleet.beat("h1")
    assert fleet.hosts.without_report() == []  # it has not looked yet
    fleet.beat("h1", report=1)
    assert fleet.hosts.without_report() == ["h1"]
    fleet.report("h1")
    assert fleet.hosts.without_report() == []
    fleet.beat("h1", report=2)
    assert fleet.hosts.without_report() == ["h1"]
    fleet.report("h1", sequence=2)
    fleet.hosts.token_gone("h1", "life-one")
    fleet.beat("h1", "life-two", report=1)  # restarted: its reports count anew
    assert fleet.hosts.without_report() == ["h1"]
    fleet.report("h1", "life-two")
    assert fleet.hosts.without_report() == []


def test_of_two_agents_of_one_name_the_first_counts_and_both_are_named(fleet: Fleet) -> None:
    fleet.beat("h1", "life-one")
    fleet.beat("h1", "life-two", report=7)
    fleet.beat("h1", "life-one")
    state = fleet.state("h1")
    assert (state.life, state.wanted_report) == ("life-one", 0)
    assert "second, life-two" in fleet.hosts.why_wrong(state).text
    assert fleet.why("h1") == ""  # nobody else is affected, the first neither
    assert fleet.refused("h1") == ["another agent of this name, life-two"]
    fleet.clock.move(60.0)
    fleet.beat("h1", "life-two")  # the first has ended
    assert fleet.state("h1").life == "life-two"
    assert not fleet.hosts.why_wrong(fleet.state("h1"))


def test_an_agent_that_was_restarted_is_there_at_once(fleet: Fleet) -> None:
    fleet.beat("h1", "life-one")
    fleet.hosts.token_gone("h1", "life-one")
    fleet.beat("h1", "life-two")
    assert (fleet.why("h1"), fleet.state("h1").life) == ("", "life-two")
    assert not fleet.hosts.refused


@pytest.mark.parametrize("offset_s", [3600.0, -3600.0])
def test_a_host_whose_clock_is_off_is_given_nothing_and_says_so(fleet: Fleet, offset_s) -> None:
    wall_ns = fleet.clock.wall_ns() + int(offset_s * 1e9)
    fleet.beat("h1", wall_ns=wall_ns)
    fleet.beat("h2")
    view = fleet.hosts.view()
    assert set(view.away) == {"h1"}
    assert view.away["h1"].code == "clock_off"
    assert "3600 s" in view.away["h1"].text
    fleet.beat("h1")  # somebody has set it
    assert fleet.hosts.view().away == {}


def test_forged_messages_are_refused_counted_and_named(fleet: Fleet) -> None:
    fleet.beat("h1", report=1)
    fleet.report("h1")
    before = fleet.state("h1")
    fleet.beat("h1", key="h2")  # h2 speaks for h1
    fleet.hosts.heartbeat("h1", b"{}")
    fleet.hosts.heartbeat("h1", b"\xff" * 100)
    fleet.hosts.heartbeat("h1", json.dumps({"host": "h1", "life": "x" * 99999}).encode())
    again = Heartbeat(host="h1", life="life-one", sequence=1, wall_ns=0).to_json()
    fleet.hosts.heartbeat("h1", again)  # an old one, said again
    fleet.report("h1", "life-nobody", sequence=9)
    fleet.report("h2", key="h1")
    fleet.hosts.reported("h1", b"[]")
    assert "h2" not in [state.host for state in fleet.hosts.states()]
    assert fleet.state("h1") is before and before.wanted_report == 1
    assert before.report is not None and before.report.sequence == 1
    assert fleet.refused("h2") == ["a heartbeat that names 'h1'"]
    words = " ".join(fleet.refused("h1"))
    for word in ("no heartbeat", "an old heartbeat", "another agent", "names 'h2'", "no report"):
        assert word in words, (word, words)


def test_refusals_do_not_fill_the_memory(fleet: Fleet) -> None:
    for number in range(3000):
        fleet.hosts.heartbeat(f"h{number}", b"")
    assert len(fleet.hosts.refused) <= 1001
    assert sum(fleet.hosts.refused.values()) == 3000


def _told(epoch: int, sequence: int, host: str = "h1", life: str = "life-one") -> Assignment:
    return Assignment(host=host, life=life, epoch=epoch, sequence=sequence)


def test_an_agent_obeys_the_newest_scheduler_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "a" / "agent.json"
    obeys = Obedience(file)
    assert not obeys.why_not(_told(1, 5), "h1", "life-one")
    assert not obeys.why_not(_told(1, 5), "h1", "life-one")  # it is said again and again
    assert "old assignment" in obeys.why_not(_told(1, 4), "h1", "life-one")
    assert not obeys.why_not(_told(2, 1), "h1", "life-one")
    assert "token 1, after one with 2" in obeys.why_not(_told(1, 9), "h1", "life-one")
    twin = obeys.why_not(_told(3, 1, life="life-two"), "h1", "life-one")
    assert "another agent of this name" in twin
    assert "'h2'" in obeys.why_not(_told(3, 1, "h2"), "h1", "life-one")
    again = Obedience(file)
    assert "token 1, after one with 2" in again.why_not(_told(1, 10), "h1", "life-one")
    assert not again.why_not(_told(2, 1), "h1", "life-one")
    file.write_text("not json")
    assert Obedience(file).epoch == 0


def test_messages_come_back_as_they_were_and_have_their_limits() -> None:
    grant = Granted(fencing=7, resource="h1/robot/r", experiment="e", role="robots")
    told = Assignment(host="h1", life="life-one", epoch=1, sequence=2, grants=(grant,))
    assert Assignment.from_json(told.to_json()) == told
    with pytest.raises(CodecError):
        Assignment.from_json(told.to_json().replace(b'"epoch":1', b'"epoch":0'))
    with pytest.raises(CodecError):
        Assignment.from_json(b" " * 70_000)
