"""The operator's page in a real browser: watch, stop, judge, take over, look at what was recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from rclpy.node import Node

from user_bringup import console as console_package
from user_bringup.console.access import COOKIE, Role, Tokens
from user_bringup.running.process_board import ProcessBoard
from user_comm import topics
from user_comm.converters import observation_from_message
from user_comm.topics import interface_class, profile
from user_core.config import from_mapping
from user_core.fakes import PolicyMailbox
from user_core.reasons import Reason
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Outcome, TrajectorySchema
from user_fleet.processes import find_processes
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.store import FleetStore
from user_hal.sim.tasks import Reach
from user_learner import learner
from user_learner.replay import StoreWriter
from user_learner.replay.index import WHOLE_SEGMENT, Damage, connect, set_aside
from user_learner.sampling.source import ReplaySource
from user_testing.console_page import LightPage
from user_testing.ports import free_port
from user_testing.spinning import spinning
from user_testing.waiting import wait_until
from user_testing.worlds.replay import QUICK, Actor, Plan, fill, many_episodes, reward_of

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("nicegui", reason="nicegui is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium (apt install chromium)"),
]

_DEPLOYMENT = """
name: by_hand
description: A person drives a simulated arm.
values: {task: reach}
roles: [replay]
robots: {robot0: simulated_arm}
processes:
  hal: {parameters: {robot: {params: {cameras: [front], image_height: 64, image_width: 64}}}}
  actor: {parameters: {loop: {mode: demonstration, max_episode_steps: 600, evaluation: {every: 0}}}}
"""
_KEYS = (("w", "s"), ("a", "d"), ("q", "e"))


@pytest.fixture
def console(tmp_path, start_process, ros_domain):
    """A running system with a console; its address."""
    file, port = tmp_path / "by_hand.yaml", free_port()
    file.write_text(_DEPLOYMENT, encoding="utf-8")
    words = ["user", "up", str(file), "console:=true", f"console_port:={port}", "console.stop_on_blur:=true",
             "--runs", str(tmp_path), "--run", "r", "--no-table"]  # fmt: skip
    start_process(words, stdout=subprocess.DEVNULL, env=dict(os.environ))

    wait_until(lambda: _listens(port), "the console listens")
    return f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=_CHROMIUM,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        yield chromium
        chromium.close()


class Eyes(Node):
    """What the person sees of the robot: its observations."""

    def __init__(self, context):
        super().__init__("eyes", context=context, start_parameter_services=False)
        topic = topics.OBSERVATION
        self.newest = None
        self.create_subscription(
            interface_class(topic.type), "/robot0/observation", self._take, profile(topic.quality)
        )

    def _take(self, message):
        self.newest = observation_from_message(message)

    def way(self):
        """From the tool to the goal, m, in the base frame."""
        arrays = self.newest.arrays
        return arrays["goal_position"] - arrays["tcp_pose"][:3]


#: A headset in place of those of the browser: its right hand, and a call that makes it show a frame.
_HEADSET = """() => {
    const buttons = Array.from({ length: 6 }, () => ({ pressed: false }));
    const hand = { handedness: "right", gripSpace: {}, gamepad: { mapping: "xr-standard", buttons } };
    const place = { position: { x: 0, y: 1, z: 0 }, orientation: { x: 0, y: 0, z: 0, w: 1 } };
    let next = null;
    const session = Object.assign(new EventTarget(), {
        inputSources: [hand], updateRenderState: async () => {}, requestReferenceSpace: async () => ({}),
        requestAnimationFrame: (frame) => { next = frame; },
    });
    window.XRWebGLLayer = class {};
    Object.defineProperty(navigator, "xr", { value: { isSessionSupported: async () => true, requestSession: async () => session } });
    window.xr = { buttons, place, show: () => next(0, { getPose: () => ({ transform: place }) }) };
    return userDrive.headset();
}"""


def test_keys_and_hand_of_a_headset_are_those_of_the_standard_mapping(browser):
    page = browser.new_page()
    page.set_content("<p>")
    page.add_script_tag(path=Path(console_package.__file__).parent / "static" / "drive.js")
    page.evaluate(_HEADSET)

    def holds(*which):
        page.evaluate(
            "which => xr.buttons.forEach((b, i) => { b.pressed = which.includes(i) })", which
        )
        page.evaluate("[0, 1].forEach(() => xr.show())")  # what is held on is told once

    for which in ((4,), (5,), (3,), (), (4, 1)):
        holds(*which)
    assert page.evaluate("userDrive.state.acts") == ["success", "failure", "abort", "success"]
    assert page.evaluate("userDrive.state.held.xr"), "the grip is the switch"
    holds()
    assert not page.evaluate("userDrive.state.held.xr")


@pytest.fixture
def eyes(ros_domain):
    with spinning(Eyes) as (node,):
        yield node


def test_the_page_has_the_certificate_of_the_network_and_its_token_travels_by_tls_alone(
    browser, tmp_path, start_process
):
    net, port = str(tmp_path / "net"), free_port()
    tokens = tmp_path / "tokens.json"
    token = Tokens(tokens).add("anna", Role.LABEL)
    many_episodes(tmp_path / "store", 20)
    for words in (["init"], ["add-console", "--host", "localhost", "--host", "127.0.0.1"]):
        subprocess.run(["user", "net", *words, "--net", net], check=True, stdout=subprocess.DEVNULL)
    words = ["user", "console", str(tmp_path / "store"), "--finished", "--host", "0.0.0.0",
             "--port", str(port), "--net", net, "--tokens", str(tokens)]  # fmt: skip
    start_process(words, stdout=subprocess.DEVNULL)
    wait_until(lambda: _listens(port), "the console listens")
    trusting = ssl.create_default_context(cafile=f"{net}/ca.pem")
    for name in ("localhost", "127.0.0.1"):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            with trusting.wrap_socket(plain, server_hostname=name) as secure:
                assert secure.version() == "TLSv1.3"
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        trusting.wrap_socket(plain, server_hostname="elsewhere")
    context = browser.new_context(
        ignore_https_errors=True
    )  # Chromium asks the system for authorities
    page = context.new_page()
    page.goto(f"https://localhost:{port}/episodes")
    page.get_by_label("token").fill("guessed")
    page.get_by_role("button").click()
    page.get_by_text("does not count").wait_for()
    page.get_by_label("token").fill(token)
    page.get_by_role("button").click()
    page.goto(f"https://localhost:{port}/episodes")
    page.get_by_text("20 of 20 episodes").wait_for()  # over a websocket, wss
    (cookie,) = [c for c in context.cookies() if c["name"] == COOKIE]
    assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    Tokens(tokens).remove("anna")
    page.reload()
    page.get_by_text("Who are you?").wait_for()


def _serves(start_process, page, port, *words):
    start_process(
        ["user", "console", "--finished", "--port", str(port), *words], stdout=subprocess.DEVNULL
    )
    wait_until(lambda: _listens(port), "the console listens")
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    return faults


_EXPERIMENT = {"name": "peg", "roles": {"robots": {"kind": "robot", "count": 2}}}


def test_the_fleet_page_follows_the_scheduler_and_is_seen_whole_on_a_phone(
    browser, tmp_path, start_process
):
    file, port = tmp_path / "fleet.sqlite", free_port()
    arms = tuple(Resource(id=f"cell/robot/{n}", kind="robot", site="hall", joints=7) for n in "ab")
    report = HostReport(host="cell", site="hall", life="one", sequence=1, resources=arms)
    store = FleetStore(file)
    store.take_over()
    with store.transaction():
        store.note_host("cell", "here", "", report.to_json())
        store.add(from_mapping(Experiment, _EXPERIMENT))
        grant = store.grant("cell/robot/a", "peg", "robots", False)
        store.set_state("peg", "queued", Reason("no_match", "no second robot is free"))
    store.say_alive()
    (tmp_path / "history.jsonl").touch()
    page = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
    faults = _serves(start_process, page, port, str(tmp_path), "--fleet", str(file))
    page.goto(f"http://127.0.0.1:{port}/fleet")
    page.get_by_test_id("experiments").get_by_text("no second robot is free [no_match]").wait_for()
    page.get_by_test_id("hosts").get_by_text("peg (robots)").wait_for()
    page.wait_for_selector("[data-testid=timeline] canvas")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than a phone"
    with store.transaction():
        store.end_grants(Reason("resource_failed", "it fell over"), fencing=grant.fencing)
        store.note_host("cell", "silent", "nothing heard for 40 s", report.to_json())
        store.set_state("peg", "running")
    page.get_by_test_id("experiments").get_by_text("running").wait_for()  # without a reload
    page.get_by_test_id("hosts").get_by_text("silent", exact=True).wait_for()
    page.wait_for_function(
        """() => getElement(parseInt(document.querySelector("[data-testid=timeline]").id.slice(1)))
            .chart.getOption().series.some((one) => one.name === "failed")"""
    )
    store.close()
    file.write_bytes(b"no database" * 100)
    page.get_by_text("fleet.sqlite").wait_for()
    assert page.locator("body").inner_text(), "a page that cannot read says why"
    assert not faults, faults


def test_an_episode_of_a_segment_that_was_set_aside_is_said_so_and_the_others_are_shown(
    browser, tmp_path, start_process
):
    port, folder = free_port(), tmp_path / "store"
    with StoreWriter(folder, config=QUICK.replace(segment_bytes=1)) as writer:
        fill(writer, Actor(chunk_rows=2048), [Plan(1200) for _ in range(3)])
    with contextlib.closing(connect(folder, writable=True)) as db:
        set_aside(db, [Damage(1, WHOLE_SEGMENT, "its checksum is wrong")])
    for file in sorted((folder / "segments").iterdir())[-1].iterdir():
        file.unlink()
    page = browser.new_page()
    faults = _serves(start_process, page, port, str(folder))
    page.goto(f"http://127.0.0.1:{port}/episodes")
    page.get_by_text("3 of 3 episodes").wait_for()
    said = []
    for number in range(3):
        page.goto(f"http://127.0.0.1:{port}/episode?key=actor1~1~{number}")
        page.locator("[data-testid=plot] canvas, .text-negative").first.wait_for()
        said.append(page.locator("body").inner_text())
        if "rows of episode" not in said[-1]:
            page.wait_for_selector("[data-testid=plot] canvas")
    assert any("its checksum is wrong" in text for text in said), said
    assert any("rows of episode" in text for text in said), said
    assert any("damaged" not in text and "rows of episode" not in text for text in said), said
    assert not faults, faults


_ARM = RobotSpec(
    "arm", {"place": ArraySpec((3,), low=-99.0, high=99.0)}, ArraySpec((2,), low=-99.0, high=99.0)
)


class Drawn:
    """A learner that runs, and what its updates get of one episode: the reward and discount of its last step."""

    def __init__(self, folder, monkeypatch, steps):
        self.newest, self.batches, self.without = None, 0, 0
        watch = self

        class Watched(ReplaySource):
            def sample(self, *arguments, **options):
                batch = super().sample(*arguments, **options)
                place = np.asarray(batch.observation["place"])
                mine = np.flatnonzero((place[:, 1] == 1) & (place[:, 2] == steps - 1))
                watch.batches += 1
                watch.without = 0 if (place[:, 1] == 1).any() else watch.without + 1
                if len(mine):
                    watch.newest = float(batch.reward[mine[0]]), float(batch.discount[mine[0]])
                return batch

        monkeypatch.setattr(learner, "ReplaySource", Watched)
        config = from_mapping(
            learner.LearnerConfig,
            {
                "directory": str(folder / "learner"), "store": str(folder / "replay"), "tensorboard": False,
                "algorithm": {"plugin": "sac", "params": {"critic_hidden": [8]}},
                "policy": {"plugin": "tanh_gaussian", "params": {"hidden": [8]}},
                "training": {"batch_size": 64, "utd": {"target": None, "learning_starts": 0}},
            },
        )  # fmt: skip
        self.stack = contextlib.ExitStack()
        self.loop = self.stack.enter_context(learner.open_learner(config, _ARM, PolicyMailbox()))
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def close(self):
        self.loop.stop()
        self.thread.join(60)
        self.stack.close()


def test_what_is_said_of_an_episode_on_its_page_reaches_the_sampler_of_a_learner_that_runs(
    browser, tmp_path, start_process, monkeypatch
):
    steps, port = 9, free_port()
    with StoreWriter(tmp_path / "replay", TrajectorySchema.of(_ARM), QUICK) as writer:
        fill(writer, Actor(schema=TrajectorySchema.of(_ARM)), [Plan(steps) for _ in range(4)])
    (tmp_path / "history.jsonl").touch()
    start_process(
        ["user", "console", str(tmp_path), "--finished", "--port", str(port)],
        stdout=subprocess.DEVNULL,
    )
    running = Drawn(tmp_path, monkeypatch, steps)
    try:
        wait_until(lambda: running.newest, "the episode is drawn")
        recorded = running.newest
        assert recorded == (pytest.approx(reward_of(1, steps - 1)), pytest.approx(0.99, abs=0.02))
        wait_until(lambda: _listens(port), "the console listens")
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/episode?key=actor1~1~1")
        page.get_by_test_id("relabel success").click()
        page.get_by_test_id("edits").get_by_text("relabel", exact=False).wait_for()
        wait_until(
            lambda: running.newest == (1.0, 0.0),
            "a success is drawn",
            30,
            seen=lambda: running.newest,
        )
        page.get_by_role("button", name="undo").click()
        wait_until(
            lambda: running.newest == recorded, "it is undone", 30, seen=lambda: running.newest
        )
        page.get_by_test_id("exclude").click()
        wait_until(
            lambda: running.without > 50, "it is drawn no more", 30, seen=lambda: running.without
        )
        updates = running.batches
        wait_until(lambda: running.batches > updates + 20, "training goes on")
    finally:
        running.close()


def test_a_person_drives_judges_stops_and_looks_at_what_was_recorded(
    console, browser, eyes, tmp_path
):
    context = browser.new_context(viewport={"width": 1280, "height": 860}, has_touch=True)
    page = context.new_page()
    page.goto(console)
    page.wait_for_selector('[data-robot="robot0"]', timeout=60_000)
    _sees_the_camera_move(page)
    _a_page_without_a_browser_gets_the_same(page, console)
    history = tmp_path / "r" / "history.jsonl"

    def solved() -> bool:
        lines = [line for line in history.read_text().splitlines() if '"episode"' in line]
        return any(json.loads(line)["outcome"] == Outcome.SUCCESS for line in lines)

    _drives_to_the_goal(page, console, eyes, solved)
    _drives_by_other_hands(page, eyes)
    _sees_the_arm_as_it_stands(page, eyes)
    _stops_when_the_page_loses_the_focus(page)
    _stops_in_an_emergency(page, eyes)
    _finds_the_episode(page, console)
    _says_that_a_camera_has_stopped(page, console, tmp_path)
    _starts_a_node_anew(page)
    _starts_a_process_anew(page, ProcessBoard(tmp_path / "r"))
    acts = [json.loads(t) for t in (tmp_path / "r" / "console_acts.jsonl").read_text().splitlines()]
    said = [act["what"] for act in acts]
    for what in ("takes the controls", "drives", "leaves the controls", "emergency stop"):
        assert what in said, said
    (anew,) = [act for act in acts if act["what"] == "start anew"]
    assert anew["ok"] and anew["whom"] == "/robot0/actor", anew
    (anew,) = [act for act in acts if act["what"] == "start the process anew"]
    assert anew["ok"] and anew["whom"] == "replay", anew


def _sees_the_camera_move(page):
    page.wait_for_selector('user-camera[data-camera="front"]', timeout=60_000)
    page.wait_for_function(
        "() => { const c = document.querySelector('user-camera[data-camera=front] canvas'); return c && c.width === 64 }",
        timeout=30_000,
    )
    before = page.evaluate("document.querySelector('user-camera[data-camera=front]').images")
    page.wait_for_function(
        f"() => document.querySelector('user-camera[data-camera=front]').images > {before + 3}"
    )


def _a_page_without_a_browser_gets_the_same(page, console):
    """What the cost of a page is measured with is no other than a page in a browser."""
    light = LightPage(f"{console}/")
    with ThreadPoolExecutor(1) as beside:  # this thread has a loop of its own
        seen = beside.submit(asyncio.run, light.look(3.0)).result(90)
    real = page.evaluate("({...userCameras})")
    assert seen.images, seen
    assert light.is_accepted, "no update would come"
    assert seen.cameras.size / seen.images == pytest.approx(real["size"] / real["images"], rel=0.3)
    assert seen.cameras.said - seen.cameras.messages in (-1, 0, 1), seen


def _drives_to_the_goal(page, console, eyes, solved):
    page.goto(f"{console}/drive_robot?robot=/robot0")
    page.wait_for_function("() => window.userDrive && document.querySelector('[data-testid=take]')")
    page.get_by_test_id("take").click()
    page.wait_for_function("() => userDrive.state.answered > 0", timeout=30_000)
    wait_until(lambda: eyes.newest is not None, "observations")
    page.keyboard.down("Space")
    page.wait_for_function("() => userDrive.state.engaged", timeout=30_000)
    down = set()
    end_s = time.monotonic() + 120
    while not solved() and time.monotonic() < end_s:  # a busy machine may abort an attempt
        wanted = {
            keys[0] if way > 0 else keys[1]
            for way, keys in zip(eyes.way(), _KEYS, strict=True)
            if abs(way) > 0.01
        }
        for key in down - wanted:
            page.keyboard.up(key)
        for key in wanted - down:
            page.keyboard.down(key)
        down = wanted
        if math.dist(eyes.way(), (0, 0, 0)) < 0.02:
            page.keyboard.press("1")  # the person says that it is solved
        time.sleep(0.02)
    for key in down:
        page.keyboard.up(key)
    assert solved(), f"not reached: {eyes.way()} m are left"
    page.keyboard.up("Space")
    page.wait_for_function("() => !userDrive.state.engaged", timeout=30_000)


#: A gamepad in place of those of the browser.
_GAMEPAD = """() => {
    const buttons = Array.from({ length: 17 }, () => ({ value: 0 }));
    window.pad = { index: 0, mapping: "standard", axes: [0, 0, 0, 0], buttons };
    navigator.getGamepads = () => [pad];
}"""


#: Where the tool can be in every direction, m, in the base frame.
_MIDDLE_M = (np.add(Reach.workspace_low_m, Reach.workspace_high_m)) / 2


def _drives_by_other_hands(page, eyes):
    """A gamepad, fingers and the tilt of a tablet, each one way; the arm stands still when they let go."""
    page.evaluate(_GAMEPAD)
    tools = page.context.new_cdp_session(page)
    box, button = (page.locator(where).first.bounding_box() for where in (".pad", "[data-tilt]"))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def stick(up):
        page.evaluate("up => { pad.axes[3] = -up; pad.buttons[5].value = Math.abs(up); }", up)

    def finger(left):
        places = ({"x": x, "y": y}, {"x": x - left * box["width"] / 3, "y": y}) if left else ()
        for kind, place in zip(("touchStart", "touchMove"), places, strict=False):
            tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
        if not places:
            tools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tilt(forward):
        if not forward:
            page.mouse.up()
            return
        page.mouse.move(button["x"] + button["width"] / 2, button["y"] + button["height"] / 2)
        page.mouse.down()
        for beta in (40, 39, 40 - 20 * forward):  # after how it was held
            page.wait_for_timeout(200)
            said = {"alpha": 0, "beta": beta, "gamma": 0}
            tools.send("DeviceOrientation.setDeviceOrientationOverride", said)

    for axis, hand in ((2, stick), (1, finger), (0, tilt)):
        before = float(eyes.newest.arrays["tcp_pose"][axis])
        way = 1 if before < _MIDDLE_M[axis] else -1  # at an edge of its workspace it stands still

        def moved(axis=axis, hand=hand, before=before, way=way):
            if page.evaluate("userDrive.state.mustRelease"):  # a busy machine was silent
                hand(0)
                page.wait_for_timeout(300)
                hand(way)
            return way * (eyes.newest.arrays["tcp_pose"][axis] - before) > 0.02

        def seen(before=before, way=way):
            state = page.evaluate(
                "(({engaged, mustRelease, held, axes, message}) => ({engaged, mustRelease, held, axes, message}))(userDrive.state)"
            )
            return (
                f"{eyes.newest.arrays['tcp_pose']}, {before} before, way {way}; the page: {state}"
            )

        hand(way)
        wait_until(moved, f"axis {axis} moves", 30, seen=seen)
        hand(0)
        page.wait_for_function("() => !userDrive.state.engaged", timeout=30_000)
    page.evaluate("navigator.getGamepads = () => []")
    tools.detach()


def _sees_the_arm_as_it_stands(page, eyes):
    """The hand that is drawn is where the robot measures its tool, and the goal where its observation has it."""
    page.get_by_test_id("arm").locator(".q-expansion-item__container > .q-item").first.click()
    page.wait_for_selector("[data-testid=arm-scene] canvas", timeout=30_000)

    def drawn():
        return page.evaluate(
            """() => {
                const scene = window["scene_" + document.querySelector("[data-testid=arm-scene]").id];
                const places = [];
                scene.updateMatrixWorld(true);
                scene.traverse((one) => { const m = one.matrixWorld.elements; places.push([m[12], m[13], m[14]]); });
                return places;
            }"""
        )

    def nearest(place):
        return min(math.dist(place, found) for found in drawn())

    goal = lambda: eyes.newest.arrays["goal_position"]  # noqa: E731 - each episode has another
    wait_until(lambda: nearest(goal()) < 0.002, "the goal is drawn", 30, seen=drawn)
    # The fingers reach to the tool centre; the middle of each is some centimetres behind it.
    wait_until(
        lambda: nearest(eyes.newest.arrays["tcp_pose"][:3]) < 0.06,
        "the hand is drawn",
        30,
        seen=drawn,
    )


def _stops_when_the_page_loses_the_focus(page):
    """As `stop_on_blur` wants it, and only while the switch is held."""
    other = page.context.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": False})
    page.bring_to_front()
    _engages(page)
    other.bring_to_front()
    page.wait_for_selector("[data-testid=reset]:visible", timeout=30_000)
    other.close()
    page.bring_to_front()
    page.keyboard.up("Space")
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": True})
    page.get_by_test_id("reset").click()
    page.get_by_test_id("sure").click()
    page.wait_for_selector("[data-testid=reset]:visible", state="hidden", timeout=30_000)


def _engages(page):
    """Hold the switch; where a busy machine was silent meanwhile it must be held anew."""

    def is_engaged():
        page.keyboard.up("Space")
        page.wait_for_timeout(200)
        page.keyboard.down("Space")
        with contextlib.suppress(playwright.TimeoutError):
            page.wait_for_function("() => userDrive.state.engaged", timeout=30_000)
        return page.evaluate("userDrive.state.engaged")

    wait_until(is_engaged, "he drives", 60, seen=lambda: page.evaluate("userDrive.state.message"))


def _stops_in_an_emergency(page, eyes):
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-testid=reset]:visible", timeout=30_000)
    before = eyes.newest.arrays["tcp_pose"][:3].copy()
    page.keyboard.down("Space")
    page.keyboard.down("q")
    time.sleep(1.0)
    page.keyboard.up("q")
    page.keyboard.up("Space")
    assert math.dist(eyes.newest.arrays["tcp_pose"][:3], before) < 0.005, "a stopped robot moved"
    page.get_by_test_id("reset").click()
    page.get_by_test_id("sure").click()
    page.wait_for_selector("[data-testid=reset]:visible", state="hidden", timeout=30_000)


def _finds_the_episode(page, console):
    page.goto(f"{console}/episodes")
    page.wait_for_selector("[data-testid=episodes] tbody tr", timeout=30_000)
    page.locator("[data-testid=episodes] tbody tr", has_text="success").first.click()
    page.wait_for_selector("[data-testid=plot] canvas", timeout=30_000)
    page.wait_for_function(
        "() => [...document.images].filter(i => i.src.includes('/picture')).some(i => i.naturalWidth === 64)",
        timeout=30_000,
    )


#: How bright the image of the camera is on the page, 0 to 255; -1: there is none.
_BRIGHTNESS = """() => {
    const image = document.querySelector("user-camera[data-camera=front] canvas");
    if (!image || image.width < 2) return -1;
    const [canvas, size] = [document.createElement("canvas"), image.width];
    canvas.width = canvas.height = size;
    const place = canvas.getContext("2d");
    place.drawImage(image, 0, 0);
    const bytes = place.getImageData(0, 0, size, size).data;
    let sum = 0;
    for (let i = 0; i < bytes.length; i += 4) sum += bytes[i] + bytes[i + 1] + bytes[i + 2];
    return sum / (3 * size * size);
}"""


def _starts_a_node_anew(page):
    page.locator("[data-node=actor]").click()
    page.get_by_test_id("restart").click()
    page.get_by_text("it acts again").wait_for(timeout=60_000)
    page.locator("[data-node=actor]", has_text=re.compile("^actor$")).wait_for(timeout=30_000)


def _says_that_a_camera_has_stopped(page, console, folder):
    page.goto(console)
    _sees_the_camera_move(page)
    before = page.evaluate(_BRIGHTNESS)
    assert before > 20
    (pid,) = find_processes([str(folder / "r" / "config" / "hal.yaml")]).values()
    hal = psutil.Process(pid)
    hal.suspend()
    try:
        dark = (
            f"() => {{ const now = ({_BRIGHTNESS})(); return now >= 0 && now < {0.6 * before}; }}"
        )
        page.wait_for_function(dark, timeout=30_000)  # crossed out
    finally:
        hal.resume()
    page.wait_for_function(f"() => ({_BRIGHTNESS})() > {0.8 * before}", timeout=60_000)


def _starts_a_process_anew(page, board):
    def pid():
        return next(line.pid for line in board.lines() if line.name == "replay")

    before = pid()
    page.locator("[data-process=replay]").click()
    page.get_by_test_id("restart").click()
    page.get_by_text("start replay anew: `user up` does it").wait_for(timeout=30_000)
    wait_until(lambda: pid() not in (0, before), "the store's process is another one")
    page.locator("[data-process=replay]", has_text=re.compile("^replay$")).wait_for(timeout=30_000)
