"""Several people at the console of one robot, from good and bad places: who holds it, and that it stops.

The robot's driver writes down what it gets, so that "it stopped" is what reached the driver. As root, the system is in
a network namespace, and Ben's browser in another one behind a link that is slow and loses packets; else he stands
beside the robot, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from user_bringup.console.access import COOKIE, Role, Tokens
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.ports import free_port
from user_testing.processes import waited_for_core_s
from user_testing.waiting import wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("nicegui", reason="nicegui is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium (apt install chromium)"),
]

RATE_HZ = 20.0
#: From what happens to a page to the last command that moves: 200 ms until the person counts as gone, one control
#: period, and what a machine takes that is not busy with other things. The 200 ms themselves are tested with a clock of
#: the test's own.
STOPPED_S = 0.2 + 1 / RATE_HZ + 0.25
_DEPLOYMENT = """
name: by_hand
roles: [replay]
robots: {robot0: robot}
processes:
  hal: {parameters: {robot: {plugin: mock, params: {rate_hz: %g, log_file: %s}}, task: t}}
  actor: {parameters: {reward: {plugin: operator}, loop: {mode: demonstration, max_episode_steps: 100000, evaluation: {every: 0}}}}
"""
_CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip

_OPENS = """
import asyncio, sys
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

async def opened(address, cookie):
    try:
        return await connect(f"{address}/cameras".replace("http", "ws"), additional_headers={"Cookie": cookie})
    except (WebSocketException, OSError):  # refused, or cut off before that
        return None

async def main(address, cookie, many):
    got = await asyncio.gather(*(opened(address, cookie) for _ in range(int(many))))
    await asyncio.sleep(1.0)
    print(sum(one is not None for one in got))

asyncio.run(main(*sys.argv[1:]))
"""


class Moment(NamedTuple):
    """Until when processes had waited for a core for how long, and which."""

    waited_s: float
    ns: int
    processes: tuple[int, ...]


class Lab:
    """A system with a console, the names of who may come, and what the robot's driver got."""

    def __init__(
        self, folder: Path, port: int, lab: Host | None, home: Host | None, link: Link | None
    ):
        self.folder, self.port, self.lab, self.home, self.link = folder, port, lab, home, link
        self.log = folder / "driver.jsonl"
        tokens = Tokens(folder / "tokens.json")
        self.tokens = {name: tokens.add(name, Role.DRIVE) for name in ("anna", "ben", "carl")}

    def moved_ns(self) -> int:
        """When the driver got its last command that moves; monotonic, 0 before the first."""
        lines = self.log.read_text().splitlines()[-200:] if self.log.exists() else []
        for line in reversed(lines):
            with contextlib.suppress(ValueError):  # it is being written
                said = json.loads(line)
                if said["what"] == "command" and any(said["action"][:3]):
                    return said["monotonic_ns"]
        return 0

    def moves(self) -> bool:
        return time.monotonic_ns() - self.moved_ns() < 0.5e9

    def moment(self) -> Moment:
        """Now."""
        own = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if str(self.folder) in " ".join(process.info["cmdline"] or ())
        ]
        return Moment(waited_for_core_s(*own), time.monotonic_ns(), tuple(own))

    def stopped_after_s(self, since: Moment) -> float:
        """Wait until the robot stands still; seconds from a moment to the last command that moves, less what the
        processes of the system and of the browsers have waited for a core."""
        wait_until(lambda: not self.moves(), "the robot stands still")
        late_s = max(0.0, waited_for_core_s(*since.processes) - since.waited_s)
        return max(0.0, (self.moved_ns() - since.ns) * 1e-9 - late_s)

    def acts(self) -> list[dict]:
        return [
            json.loads(line)
            for line in (self.folder / "r" / "console_acts.jsonl").read_text().splitlines()
        ]

    def opens(self, name: str, many: int) -> int:
        """Websockets that somebody gets of so many that he opens at once, and holds for a moment."""
        words = [
            sys.executable,
            "-c",
            _OPENS,
            self.address(False),
            f"{COOKIE}={self.tokens[name]}",
            str(many),
        ]
        words = self.lab.command(*words) if self.lab else words
        return int(subprocess.run(words, check=True, capture_output=True, timeout=120).stdout)

    def address(self, far: bool) -> str:
        host = self.link.address_of(self.lab) if far and self.link else "127.0.0.1"
        return f"http://{host}:{self.port}"


class Person:
    """Somebody with a browser of his own."""

    def __init__(self, tools, lab: Lab, name: str, far: bool = False):
        self.lab, self.name, self.far = lab, name, far
        where = (lab.home if far else lab.lab) if lab.lab else None
        program, self._pid_file = lab.folder / f"{name}.sh", lab.folder / f"{name}.pid"
        words = where.command(_CHROMIUM) if where else [_CHROMIUM]
        program.write_text(f'#!/bin/sh\necho $$ > {self._pid_file}\nexec {" ".join(words)} "$@"\n')
        program.chmod(0o755)
        self.browser = tools.chromium.launch(executable_path=program, args=_CHROMIUM_ARGS)
        self.context = self.browser.new_context()
        self.page = self.context.new_page()
        self.enter()

    def enter(self) -> None:
        self.page.goto(
            f"{self.lab.address(self.far)}/enter?token={self.lab.tokens[self.name]}", timeout=60_000
        )

    def opens_the_page(self, page=None) -> None:
        page = page or self.page
        page.goto(f"{self.lab.address(self.far)}/drive_robot?robot=/robot0", timeout=60_000)
        page.wait_for_function(
            "() => window.userDrive && document.querySelector('[data-testid=take]')", timeout=60_000
        )

    def takes(self) -> None:
        self.opens_the_page()
        self.page.get_by_test_id("take").click()

    def has_the_controls(self) -> None:
        self.page.wait_for_function(
            "() => userDrive.state.answered > 0 && !userDrive.state.waitingFor && userDrive.state.socket",
            timeout=30_000,
        )

    def takes_when_free(self) -> None:
        """Tries until nobody else has them."""

        def has() -> bool:
            if self.page.evaluate("!userDrive.state.socket"):  # refused, or not asked yet
                self.takes()
            return bool(self.page.evaluate("userDrive.state.answered > 0"))

        wait_until(has, "the controls are free", 40, period_s=0.2)
        self.has_the_controls()

    def drives(self) -> None:
        self.page.keyboard.down("Space")
        self.page.wait_for_function("() => userDrive.state.engaged", timeout=30_000)
        self.page.keyboard.down("w")
        wait_until(self.lab.moves, "the robot moves")

    def goes_on(self) -> None:
        """Drives still. A page that a busy machine kept silent for a second has to hold the switch anew, and says
        so."""

        def moves() -> bool:
            if self.page.evaluate("userDrive.state.mustRelease"):
                self.page.keyboard.up("Space")
                self.page.wait_for_function("() => !userDrive.state.mustRelease", timeout=30_000)
                self.page.keyboard.down("Space")
            return self.lab.moves()

        status = "document.getElementById('drive-status').textContent"
        wait_until(moves, "the robot moves on", 20, seen=lambda: self.page.evaluate(status))

    def lets_go(self) -> int:
        self.page.keyboard.up("w")
        now_ns = time.monotonic_ns()
        self.page.keyboard.up("Space")
        return now_ns

    def reads(self, words: str) -> None:
        self.page.wait_for_function(
            "words => document.getElementById('drive-status').textContent.includes(words)",
            arg=words,
            timeout=30_000,
        )

    def sees(self, test_id: str):
        self.page.wait_for_selector(f"[data-testid={test_id}]:visible", timeout=30_000)
        return self.page.get_by_test_id(test_id)

    def signal(self, number: int) -> Moment:
        """To all processes of the browser; when."""
        now = self.lab.moment()
        os.killpg(os.getpgid(int(self._pid_file.read_text())), number)
        return now


@pytest.fixture
def lab(tmp_path, start_process, ros_domain):
    with contextlib.ExitStack() as stack:
        hosts = link = None
        if not unavailable():
            hosts = [stack.enter_context(Host(name)) for name in ("lab", "home")]
            link = stack.enter_context(Link(*hosts, LinkQuality(rate_mbit_s=50, delay_ms=5)))
        there = Lab(tmp_path, free_port(), *(hosts or (None, None)), link)
        file = tmp_path / "by_hand.yaml"
        file.write_text(_DEPLOYMENT % (RATE_HZ, there.log), encoding="utf-8")
        words = ["user", "up", str(file), "console:=true", f"console_port:={there.port}",
                 "console_host:=0.0.0.0", "console.plain:=true", f"console.tokens_file:={tmp_path / 'tokens.json'}",
                 "--runs", str(tmp_path), "--run", "r", "--no-table"]  # fmt: skip
        start_process(
            hosts[0].command(*words) if hosts else words,
            stdout=subprocess.DEVNULL,
            env=dict(os.environ),
        )
        yield there


@pytest.fixture
def people(lab):
    with playwright.sync_playwright() as tools:
        came: list[Person] = []

        def come(name: str, **where) -> Person:
            came.append(_patiently(lambda: Person(tools, lab, name, **where)))
            return came[-1]

        yield come
        for person in came:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                person.signal(signal.SIGKILL)


def _patiently(make, patience_s: float = 90.0):
    """The console takes seconds to start."""
    end_s = time.monotonic() + patience_s
    while True:
        try:
            return make()
        except playwright.Error:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.5)


def test_one_drives_at_a_time_and_whatever_happens_to_his_page_the_robot_stops(lab, people):
    anna = people("anna")
    anna.takes()
    anna.has_the_controls()
    anna.drives()
    ben = people("ben", far=True)
    _the_second_is_refused_then_asks_and_gets_the_controls(lab, anna, ben)
    carl = people("carl")
    _a_flood_of_one_tab_is_cut_off_and_he_who_drives_does_not_notice(lab, ben, carl)
    _a_page_that_loses_the_focus_lets_go(lab, ben)
    if lab.link:
        _a_link_of_300_ms_that_loses_packets_drives_and_a_cut_one_stops(lab, ben)
    _a_token_that_is_taken_back_stops_whom_it_let_drive(lab, ben)
    _the_console_dies_and_the_robot_goes_on(lab, anna)
    _a_browser_that_freezes_or_dies_lets_go(lab, anna, carl)


def _the_second_is_refused_then_asks_and_gets_the_controls(lab, anna, ben):
    ben.takes()
    ben.reads("anna drives this robot already")
    ben.sees("ask").click()
    ben.reads("waiting for anna")
    anna.sees("keep").click()
    ben.reads("anna keeps the controls")
    anna.goes_on()
    ben.takes()
    ben.sees("ask").click()
    anna.sees("hand-over").click()
    anna.reads("you gave the controls to ben")
    ben.has_the_controls()
    wait_until(lambda: not lab.moves(), "the robot stands still in between")
    anna.lets_go()
    ben.drives()
    said = [(act["who"], act["what"]) for act in lab.acts()]
    assert said.index(("anna", "leaves the controls")) < said.index(("ben", "takes the controls"))


def _a_flood_of_one_tab_is_cut_off_and_he_who_drives_does_not_notice(lab, ben, carl):
    carl.opens_the_page()
    page = ben.page.evaluate("userDrive.state.number")
    code = carl.page.evaluate(
        """() => new Promise((done) => {
            const socket = new WebSocket(`ws://${location.host}/drive?robot=/robot0&ask=true`);
            const text = JSON.stringify({number: 0, axes: [], held: false, acts: [], sent_ms: 1});
            socket.onopen = () => { for (let i = 0; i < 10000; i++) socket.send(text); };
            socket.onclose = (event) => done(event.code);
        })"""
    )
    assert code != 1000
    assert ben.page.evaluate("userDrive.state.number") > page, "his page had to begin anew"
    ben.goes_on()
    page = ben.page.evaluate("userDrive.state.number")
    opened = lab.opens("carl", 1000)
    assert 0 < opened <= 32, opened
    assert ben.page.evaluate("userDrive.state.number") > page, "his page had to begin anew"
    ben.goes_on()
    _patiently(carl.page.reload)  # he may come back
    carl.page.wait_for_function("() => window.userDrive", timeout=30_000)


def _a_page_that_loses_the_focus_lets_go(lab, ben):
    other = ben.context.new_page()
    session = ben.context.new_cdp_session(ben.page)
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": False})
    since = lab.moment()
    other.bring_to_front()
    ben.page.wait_for_function("() => !userDrive.state.engaged", timeout=30_000)
    assert lab.stopped_after_s(since) < 2.0
    other.close()
    ben.page.bring_to_front()
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": True})
    ben.lets_go()


def _a_link_of_300_ms_that_loses_packets_drives_and_a_cut_one_stops(lab, ben):
    lab.link.change(delay_ms=150, loss=0.02)
    ben.page.wait_for_function(
        "() => Math.min(...userDrive.state.rtt.slice(-20)) > 290", timeout=20_000
    )
    ben.drives()
    lab.link.cut()
    since = lab.moment()
    took_s = lab.stopped_after_s(since)
    assert took_s < 0.15 + STOPPED_S, took_s
    ben.reads("no answer for 0.2 s")
    time.sleep(1.0)  # longer than `press_again_s`; the page has gone on sending
    lab.link.restore()
    lab.link.change(delay_ms=5, loss=0.0)
    # All that was sent meanwhile arrives, with the switch held: he must let go of it first.
    ben.page.wait_for_function(
        "() => /hold it anew|nothing was heard/.test(document.getElementById('drive-status').textContent)",
        timeout=20_000,
    )
    assert not lab.moves()
    ben.lets_go()
    ben.takes()
    ben.has_the_controls()
    ben.drives()
    ben.lets_go()


def _a_token_that_is_taken_back_stops_whom_it_let_drive(lab, ben):
    ben.drives()
    since = lab.moment()
    Tokens(lab.folder / "tokens.json").remove("ben")
    ben.reads("your token was taken back")
    ben.page.get_by_text("nothing is shown here any more").first.wait_for()
    assert lab.stopped_after_s(since) < 5.0
    ben.lets_go()
    ben.page.reload()
    ben.page.get_by_text("Who are you?").wait_for()


def _the_console_dies_and_the_robot_goes_on(lab, anna):
    anna.takes()
    anna.has_the_controls()
    anna.drives()
    others = {node: _process(lab, node) for node in ("hal_node", "actor_node", "replay_node")}
    since = lab.moment()
    _process(lab, "console_node").kill()
    assert (
        lab.stopped_after_s(since) < STOPPED_S + 0.25
    )  # the actor's own limit for a person who says nothing
    anna.reads("the connection has ended")
    _patiently(anna.takes)
    anna.has_the_controls()
    assert not lab.moves(), "what was held before moved the robot again"
    anna.lets_go()
    anna.drives()
    anna.lets_go()
    assert {node: _process(lab, node) for node in others} == others, "others were started anew"


def _process(lab, node) -> psutil.Process:
    """A node of this run; equal for the same process only."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == node and str(lab.folder / "r") in words:
            found.append(process)
    assert len(found) == 1, (node, found)
    return found[0]


def _a_browser_that_freezes_or_dies_lets_go(lab, anna, carl):
    anna.drives()
    took_s = lab.stopped_after_s(anna.signal(signal.SIGSTOP))
    assert took_s < STOPPED_S, took_s
    carl.takes_when_free()  # after some seconds of silence
    anna.signal(signal.SIGCONT)
    anna.reads("nothing was heard of your page")
    assert not lab.moves(), "a page that was frozen moved the robot"
    carl.drives()
    took_s = lab.stopped_after_s(carl.signal(signal.SIGKILL))
    assert took_s < STOPPED_S, took_s
