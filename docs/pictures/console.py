"""Take the pictures of the operator's page anew, from a real run in a real Chromium::

    tools/run python docs/pictures/console.py [live drive episode phone pages fleet arm]

A simulated arm is driven by hand here and learned from, for a minute or two; only the scheduler's file, for the page of
the fleet, is made up. Look at each picture before it is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from user_core.config import from_mapping
from user_core.reasons import Reason
from user_core.runtime.clock import Clock
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.store import FleetStore
from user_testing.ports import claim_domain, free_port
from user_testing.systems import started, words_of_run

FOLDER = Path(__file__).parent
WHAT = ("live", "drive", "episode", "phone", "pages", "fleet", "arm")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
_BROWSER = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
#: Long enough for some episodes, evaluations and versions of the policy.
_LEARN_S = 75.0
_BOX = "{low: [0.28, -0.22, 0.0], high: [0.62, 0.22, 0.4]}"
_HOUR_NS = 3_600_000_000_000


class Moved(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def wall_ns(self) -> int:
        """What it was set to."""
        return self.now_ns


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A run with a console; its address."""
    port = free_port()
    words = ["sim_images", "console:=true", f"console_port:={port}", "image_size:=96",
             "hal.robot.params.cameras:=[front, wrist]", f"hal.safety.workspace:={_BOX}", f"console.fleet:={fleet(folder)}"]  # fmt: skip
    environment = {**os.environ, "ROS_HOME": str(folder)}
    with started(words_of_run(*words, runs=folder), stdout=subprocess.DEVNULL, env=environment):
        yield f"http://127.0.0.1:{port}"


def fleet(folder: Path) -> Path:
    """A scheduler's file that is made up: what two cells and a host with two GPUs did in some hours."""
    clock = Moved()
    clock.now_ns -= 5 * _HOUR_NS
    file = folder / "fleet.sqlite"
    with closing(FleetStore(file, clock)) as store:
        store.take_over()
        arms = [
            (f"cell-{n}", f"cell-{n}/robot/{side}") for n in (1, 2) for side in ("left", "right")
        ]
        gpus = [("gpu-1", f"gpu-1/gpu/{n}") for n in (0, 1)]
        with store.transaction():
            for host in ("cell-1", "cell-2", "gpu-1"):
                own = tuple(
                    Resource(
                        id=i, kind=i.split("/")[1], site="hall", joints=7 if "robot" in i else 0
                    )
                    for h, i in arms + gpus
                    if h == host
                )
                report = HostReport(host=host, site="hall", life="one", sequence=1, resources=own)
                store.note_host(host, "here", "", report.to_json())
            for name in ("peg", "drawer", "sort"):
                roles = {"robots": {"kind": "robot"}, "learner": {"kind": "gpu"}}
                store.add(from_mapping(Experiment, {"name": name, "roles": roles}))
        plan = [
            ("peg", [arms[0][1], gpus[0][1]], 0.0, 1.5, "finished", "the experiment is over"),
            ("drawer", [arms[1][1]], 0.3, 0.8, "resource_failed", "the arm reported a fault"),
            ("drawer", [arms[2][1], gpus[1][1]], 1.0, 2.5, "finished", "the experiment is over"),
            ("sort", [arms[3][1], gpus[0][1]], 1.8, 3.4, "preempted", "peg goes first"),
            ("peg", [arms[0][1], gpus[0][1]], 3.5, None, "", ""),
            ("drawer", [arms[1][1], arms[2][1], gpus[1][1]], 2.8, None, "", ""),
        ]
        begin_ns = clock.now_ns
        events = []
        for number, (name, ids, begins_h, ends_h, code, text) in enumerate(plan):
            events.append((begins_h, number, name, ids, "", ""))
            if ends_h is not None:
                events.append((ends_h, number, name, ids, code, text))
        held: dict[int, list[Any]] = {}
        for hour, number, name, ids, code, text in sorted(events, key=lambda one: one[:2]):
            clock.now_ns = begin_ns + round(hour * _HOUR_NS)
            with store.transaction():
                if code:
                    for grant in held.pop(number):
                        store.end_grants(Reason(code, text), fencing=grant.fencing)
                else:
                    roles_of = [(i, "robots" if "robot" in i else "learner") for i in ids]
                    held[number] = [store.grant(i, name, role, False) for i, role in roles_of]
        clock.now_ns = time.time_ns()
        with store.transaction():
            store.set_state("peg", "running")
            store.set_state("drawer", "running")
            store.set_state("sort", "queued", Reason("no_match", "no second robot is free"))
        store.say_alive()
    return file


def keep(page: Any, name: str, **options: Any) -> None:
    """Keep what a page shows, with few colours: a page has no more."""
    file = FOLDER / f"console_{name}.png"
    page.screenshot(path=str(file), **options)
    small(Image.open(file)).save(file, optimize=True)
    print(file)


def small(image: Image.Image) -> Image.Image:
    """With 256 colours."""
    return image.convert("RGB").quantize(256, dither=Image.Dither.NONE)


def look(browser: Any, url: str, path: str, dark: bool = False, **screen: Any) -> Any:
    """A page that has what it shows."""
    scheme = "dark" if dark else "light"
    page = browser.new_context(color_scheme=scheme, **(screen or DESKTOP)).new_page()
    page.goto(url + path, timeout=60_000)
    page.wait_for_timeout(4000)
    return page


def drive(page: Any) -> None:
    """Take the controls and move a little."""
    page.wait_for_function("() => window.userDrive")
    page.get_by_test_id("take").click()
    page.wait_for_timeout(2000)
    page.keyboard.down("Space")
    page.wait_for_timeout(800)
    page.keyboard.down("w")
    page.wait_for_timeout(1500)


def let_go(page: Any) -> None:
    """Leave the robot to its policy."""
    for key in ("w", "Space"):
        page.keyboard.up(key)
    page.get_by_test_id("leave").click()
    page.wait_for_timeout(500)


def take(browser: Any, url: str, what: list[str], scheduler: Path) -> None:
    """All that is wanted."""

    def schedules() -> None:
        """Else the scheduler would be said to be silent."""
        with closing(FleetStore(scheduler)) as store:
            store.take_over()
            store.say_alive()

    if "live" in what:
        keep(look(browser, url, "/"), "live", full_page=True)
        keep(look(browser, url, "/", dark=True, **PHONE), "live_phone")
    if "drive" in what:
        page = look(browser, url, "/drive_robot")
        drive(page)
        keep(page, "drive")
        let_go(page)
    if "phone" in what:
        page = look(browser, url, "/drive_robot", dark=True, **PHONE)
        drive(page)
        keep(page, "phone")
        let_go(page)
    if "episode" in what:
        page = look(browser, url, "/episodes", viewport={"width": 960, "height": 800})
        page.locator("[data-testid=episodes] tbody tr", has_text="success").first.click()
        page.wait_for_selector("[data-testid=plot] canvas", timeout=30_000)
        page.wait_for_timeout(5000)
        keep(page, "episode", full_page=True)
    if "pages" in what:
        rows = []
        for path, dark in (("/episodes", False), ("/fleet", True), ("/acts", False)):
            schedules()
            page = look(browser, url, path, dark=dark, **PHONE)
            file = FOLDER / "console_part.png"
            page.screenshot(path=str(file))
            rows.append(np.asarray(Image.open(file).convert("RGB")))
            file.unlink()
        white = np.full((rows[0].shape[0], 20, 3), 255, np.uint8)
        sheet = Image.fromarray(np.hstack([rows[0], white, rows[1], white, rows[2]]))
        sheet = sheet.resize(
            (sheet.width * 3 // 4, sheet.height * 3 // 4), Image.Resampling.LANCZOS
        )
        small(sheet).save(FOLDER / "console_phone_pages.png", optimize=True)
        print(FOLDER / "console_phone_pages.png")
    if "fleet" in what:
        schedules()
        page = look(browser, url, "/fleet", viewport={"width": 960, "height": 600})
        keep(page, "fleet", full_page=True)
    if "arm" in what:
        page = look(browser, url, "/drive_robot")
        page.get_by_text("in 3D", exact=False).first.click()
        page.wait_for_timeout(15_000)
        page.locator("canvas").last.screenshot(path=str(FOLDER / "console_arm.png"))
        print(FOLDER / "console_arm.png")


def main() -> None:
    """Take those that are named, or all."""
    what = [word for word in sys.argv[1:] if word in WHAT] or list(WHAT)
    domain = claim_domain()  # no robot of somebody else on this machine is seen
    os.environ["ROS_DOMAIN_ID"] = str(domain.number)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=_BROWSER)
        with running(Path(folder)) as url:
            wait_for_robot(browser, url)
            if set(what) - {"fleet", "arm"}:
                time.sleep(_LEARN_S)
            take(browser, url, what, Path(folder) / "fleet.sqlite")
        browser.close()


def wait_for_robot(browser: Any, url: str) -> None:
    """Until a robot is shown."""
    page, end_s = browser.new_page(), time.monotonic() + 180
    while time.monotonic() < end_s:
        try:
            page.goto(url, timeout=10_000)
            page.wait_for_selector("[data-robot]", timeout=10_000)
            break
        except Exception as error:  # not there yet
            print(json.dumps(str(error).splitlines()[0]), file=sys.stderr)
            time.sleep(2.0)
    page.close()


if __name__ == "__main__":
    main()
