"""`user fleet`: what it shows, and what it leaves for the scheduler to do."""

import json
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from user_bringup.cli import fleet
from user_bringup.cli.fleet import state as fleet_state
from user_bringup.monitor.fleet import view_of
from user_core.errors import CodecError, ConfigError, StoreError, TransportError
from user_core.reasons import Reason
from user_fleet.presence.hosts import Hosts
from user_fleet.presence.messages import Heartbeat
from user_fleet.presence.requests import RequestHandler
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.scheduler import Scheduler
from user_fleet.scheduling.store import FleetStore

ROBOTS = (
    Resource(id="h1/robot/left", kind="robot", site="hall", joints=7, tags=("cell-a",)),
    Resource(id="h1/robot/right", kind="robot", site="hall", joints=6),
)
REPORT = HostReport(host="h1", site="hall", life="life-one", sequence=1, resources=ROBOTS)
EXPERIMENT = "name: one\nroles: {robots: {kind: robot, tags: [cell-a]}}\n"


class Lab:
    """A scheduler's file with one host, and a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "fleet.sqlite"
        self.store = FleetStore(self.file)
        self.store.take_over()
        self.hosts = Hosts()
        beat = Heartbeat(host="h1", life="life-one", sequence=1, wall_ns=1)
        self.hosts.heartbeat("h1", beat.to_json())
        self.hosts.reported("h1", REPORT.to_json())
        with self.store.transaction():
            self.store.note_host("h1", "here", "", REPORT.to_json())
        self.scheduler = Scheduler(self.store)
        self.log = ""
        self.all_is_known = threading.Event()  # who asks for the log has it to its end
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._work)
        (folder / "one.yaml").write_text(EXPERIMENT)

    def _work(self) -> None:
        handler = RequestHandler(self.scheduler, self.hosts, self.log_part)
        while not self.closing.wait(0.01):
            if handler.answer():
                self.scheduler.step(view_of(self.store))

    def log_part(self, host: str, fencing: int, offset: int) -> dict[str, Any]:
        """As a host answers, 200 bytes at a time."""
        if not self.log:
            raise TransportError(f"log of grant {fencing}", got=f"no answer of {host}")
        begin = max(0, len(self.log) + offset) if offset < 0 else offset
        part = self.log[begin : begin + 200]
        if not part:
            self.all_is_known.set()
        return {"offset": begin, "end": begin + len(part), "size": len(self.log), "text": part}

    def stop(self) -> None:
        """End the scheduler's thread; then its store may be used from this one."""
        self.closing.set()
        self.thread.join()

    def run(self, *words: str) -> tuple[int, str]:
        out = StringIO()
        command = [*words, "--state", str(self.file)]
        code = fleet.main(command, Console(file=out, width=200))
        return code, out.getvalue()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.thread.start()
    yield made
    made.stop()
    made.store.close()


def test_submit_status_drain_release_and_finish(lab: Lab) -> None:
    assert lab.run("submit", str(lab.folder / "one.yaml"))[0] == 0
    _, text = lab.run("status")
    assert "running" in text and "h1/robot/left" in text
    _, text = lab.run("ls")
    assert "one (robots)" in text and "here" in text
    code, text = lab.run("drain", "h1/robot/left", "--why", "new gripper")
    assert code == 0 and "h1/robot/left is given to nobody until" in text
    _, text = lab.run("ls")
    assert "asked back" in text and "drained: new gripper" in text
    assert lab.run("release", "h1/robot/left") == (0, "h1/robot/left is given again\n")
    assert "nothing has changed" in lab.run("release", "h1/robot/left")[1]
    assert lab.run("finish", "one") == (0, "one is done\n")
    assert lab.run("cancel", "one") == (0, "one is done\n")  # and was not ended by it
    code, text = lab.run("cancel", "nobody")
    assert code == 1 and "nobody" in text and "[store]" in text
    _, text = lab.run("timeline")
    assert "h1/robot/left |" in text and "A  one" in text


def test_logs_are_fetched_in_parts_and_bounded(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no such"):
        lab.run("logs", "one")
    file = lab.folder / "one.yaml"
    file.write_text("name: one\nroles: {robots: {tags: [cell-a], run: {deployment: edge}}}\n")
    assert lab.run("submit", str(file))[0] == 0
    code, text = lab.run("logs", "one")
    assert code == 1 and "robots/left: log of grant" in text and "no answer of h1" in text
    lab.log = "".join(f"step {number}\n" for number in range(100)) + "half a li"
    capsys.readouterr()
    assert lab.run("logs", "one", "robots", "-n", "3")[0] == 0
    assert capsys.readouterr().out.split("\n")[:3] == ["step 97", "step 98", "step 99"]
    assert lab.run("logs", "one", "--json", "-n", "1")[0] == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["role"], row["line"]) == ("robots", "step 99")
    with pytest.raises(ConfigError, match="learner"):
        lab.run("logs", "one", "learner")

    def goes_on() -> None:
        assert lab.all_is_known.wait(60)
        lab.log += "ne\nthe end\n"
        lab.all_is_known.clear()
        assert lab.all_is_known.wait(60)
        lab.run("finish", "one")  # not by the scheduler's own connection, which is of its thread

    lab.all_is_known.clear()
    going = threading.Thread(target=goes_on)
    going.start()
    assert lab.run("logs", "one", "-f", "-n", "0")[0] == 0  # ends with the experiment
    going.join()
    assert capsys.readouterr().out == "half a line\nthe end\n"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_timeline_is_drawn(lab: Lab, tmp_path: Path, kind: str) -> None:
    lab.run("submit", str(lab.folder / "one.yaml"))
    file = tmp_path / f"fleet.{kind}"
    code, text = lab.run("timeline", "--picture", str(file))
    assert code == 0 and file.name in text.replace("\n", "")
    assert file.stat().st_size > 5000
    with pytest.raises(ConfigError, match="FILE.png"):
        lab.run("timeline", "--picture", str(tmp_path / "fleet.nothing"))


def test_the_page_of_the_fleet_shows_what_the_commands_show(lab: Lab) -> None:
    pytest.importorskip("nicegui")
    from user_bringup.console.pages.fleet import look_at, timeline

    assert timeline(look_at(lab.file))["series"] == []
    lab.run("submit", str(lab.folder / "one.yaml"))
    look = look_at(lab.file)
    assert [row["name"] for row in look.experiments] == ["one"]
    assert {one.item.id: one.use for one in look.resources}["h1/robot/left"] == "one (robots)"
    (bars,) = timeline(look)["series"]
    ((begin_ms, end_ms, row),) = [bar["value"] for bar in bars["data"]]
    assert begin_ms < end_ms
    assert timeline(look)["yAxis"]["data"][row] == "h1/robot/left"
    lab.stop()
    with lab.store.transaction():
        lab.store.end_grants(Reason("resource_failed", "it fell over"), resource="h1/robot/left")
    _, crosses = timeline(look_at(lab.file))["series"]
    assert crosses["name"] == "failed" and "it fell over" in crosses["data"][0]["name"]


def test_reservations_come_from_files(lab: Lab) -> None:
    file = lab.folder / "night.yaml"
    file.write_text("name: night\ntags: [cell-a]\nbegin: '20:00'\nend: '06:00'\n")
    assert lab.run("reserve", str(file))[0] == 0
    assert "night: #cell-a 20:00 to 06:00, for nobody" in lab.run("status")[1]
    assert lab.run("unreserve", "night")[0] == 0


def test_json_is_for_programs(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run("submit", str(lab.folder / "one.yaml"))
    capsys.readouterr()
    lab.run("status", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["state"], list(row["has"])) == ("one", "running", ["h1/robot/left"])
    (granted,) = row["roles"]["robots"]["grants"]
    assert granted["fencing"] == row["has"]["h1/robot/left"] and not granted["asked_back"]
    lab.run("ls", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [item["use"] for item in found["resources"]] == ["one (robots)", ""]
    lab.run("timeline", "--json")
    (grant,) = json.loads(capsys.readouterr().out)
    assert (grant["fencing"], grant["ended_ns"]) == (row["has"]["h1/robot/left"], None)


def test_a_plan_with_the_fleet_says_who_holds_what(lab: Lab) -> None:
    code, text = lab.run("plan", str(lab.folder / "one.yaml"))
    assert code == 0 and "one: now, at hall" in text
    (lab.folder / "two.yaml").write_text(EXPERIMENT.replace("one", "two"))
    lab.run("submit", str(lab.folder / "two.yaml"))
    code, text = lab.run("plan", str(lab.folder / "one.yaml"))
    assert code == 1 and "held by two" in text


def test_a_plan_with_reports_needs_no_scheduler(tmp_path: Path) -> None:
    (tmp_path / "h1.json").write_bytes(REPORT.to_json())
    (tmp_path / "one.yaml").write_text(EXPERIMENT)
    report, out = str(tmp_path / "h1.json"), StringIO()
    words = ["plan", str(tmp_path / "one.yaml"), "--report", report]
    assert fleet.main(words, Console(file=out, width=200)) == 0
    assert "h1/robot/left" in out.getvalue() and "no tag cell-a" in out.getvalue()
    with pytest.raises(ConfigError, match="each host once"):
        fleet.main([*words, "--report", report])
    (tmp_path / "h1.json").write_text("[]")
    with pytest.raises(CodecError):
        fleet.main(words)
    with pytest.raises(ConfigError, match="two_arms"):
        fleet.main(["plan", "nothing"])


def test_what_is_said_of_many_is_said_once(tmp_path: Path) -> None:
    crowd = [Resource(id=f"h1/robot/r{n}", kind="robot", site="hall") for n in range(9)]
    report = REPORT.replace(resources=(*crowd, *ROBOTS))
    (tmp_path / "h1.json").write_bytes(report.to_json())
    (tmp_path / "one.yaml").write_text(EXPERIMENT)
    words = ["plan", str(tmp_path / "one.yaml"), "--report", str(tmp_path / "h1.json")]
    out = StringIO()
    fleet.main(words, Console(file=out, width=200))
    assert "h1/robot/r0, h1/robot/r1, h1/robot/r2 and 7 more" in out.getvalue()
    out = StringIO()
    fleet.main([*words, "--all"], Console(file=out, width=200))
    assert "h1/robot/r8" in out.getvalue() and "more" not in out.getvalue()


def test_without_a_scheduler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="file of a scheduler"):
        fleet.main(["ls", "--state", str(tmp_path / "none.sqlite")])
    file = tmp_path / "fleet.sqlite"
    FleetStore(file).close()
    out = StringIO()
    fleet.main(["ls", "--state", str(file)], Console(file=out, width=200))
    assert "No scheduler has worked" in out.getvalue()
    monkeypatch.setattr(fleet_state, "_PATIENCE_S", 0.0)
    with pytest.raises(StoreError, match="when a scheduler is started"):
        fleet.main(["cancel", "one", "--state", str(file)])
