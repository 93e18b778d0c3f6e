"""What the operator's console costs a robot and its learner: run by ``console.py cost``.

One system runs all the time: a simulated arm at 20 Hz with four cameras of 128x128, and a learner that makes as many
updates as it can. Short turns follow each other, those of a round in random order: no console, one that nobody looks
at, one that a page without a browser looks at (:mod:`user_testing.console_page`, as from another device), and one with
a page in Chromium on this host. Each turn counts, over the same time: the learner's updates, how much later than a
period after the last each action was sent, and what each process took of the processor.

:func:`paired` takes only the first and the third, in turns that follow each other within seconds: the console with its
page goes on all the time, and between the turns the page hides its cameras, and both are frozen (SIGSTOP), so that
nothing has to be started and nothing has to settle. It tells the median of the ratios of neighbours.

Told are ratios of medians to those without a console, with the range that holds 95 of 100 ratios of turns drawn anew
from those that there were (bootstrap). Updates per second scatter by more than what is looked for; what the
learner gets of the processor hardly does, and says the same, as long as an update takes what it took before.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rclpy.qos import QoSProfile
from user_msgs.msg import LearnerStatus

from user_bringup.nodes.graph_listener import GraphListener
from user_core.specs import Array
from user_learner.replay import StoreReader
from user_testing.console_page import Traffic
from user_testing.ports import free_port
from user_testing.systems import started, words_of_run

_BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--no-first-run")  # fmt: skip
RATE_HZ = 20.0
#: A tenth of a period: later than that is counted.
LATE_MS = 5.0
KINDS = ("no console", "nobody looks", "light page", "Chromium")
#: What begins (a console, a browser) has begun after this; what the learner does first is over after that.
_SETTLE_S, _WARM_S = 5.0, 30.0
#: Of what it is told how much of the processor it took.
_PARTS = ("learner", "hal", "actor", "console", "page", "others")
_COST = """
name: cost
values: {task: reach}
roles: [learner]
robots: {robot0: simulated_arm}
processes:
  hal:
    parameters:
      robot: {params: {rate_hz: %g}}
      cameras:
        devices:
          one: &camera {plugin: fake, params: {width: 128, height: 128}}
          two: *camera
          three: *camera
          four: *camera
  learner:
    parameters:
      policy: {params: {observations: [tcp_pose, goal_position], ignored_observations: []}}
      training: {utd: {target: null, learning_starts: 100}}
"""


class Updates(GraphListener):
    """Hears how many updates the learner has made, and when that was true."""

    def __init__(self) -> None:
        super().__init__("benchmark", ["user_msgs/msg/LearnerStatus"])
        self.said: list[tuple[float, int]] = []

    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """Each status."""
        return LearnerStatus, self._take, QoSProfile(depth=10)

    def _take(self, message: LearnerStatus) -> None:
        stamp = message.header.stamp
        self.said.append((stamp.sec + stamp.nanosec * 1e-9, message.update))

    def rate(self, begin_s: float, end_s: float) -> float:
        """Updates a second between two times since the epoch."""
        said = [one for one in self.said if begin_s <= one[0] <= end_s]
        if len(said) < 2:
            return 0.0
        return (said[-1][1] - said[0][1]) / (said[-1][0] - said[0][0])


@dataclass
class Turn:
    """One of the turns: when it was, and shares of a core by what took them.

    Attributes:
        kind: Of :data:`KINDS`.
        begin_s: Since the epoch.
        end_s: Since the epoch.
        shares: Of a core, by what took it; ``others`` is all that is not of this benchmark.
        updates_per_s: Of the learner.
        late_ms: Of each action, how much later than a period after the last it was sent.
    """

    kind: str
    begin_s: float
    end_s: float
    shares: dict[str, float]
    updates_per_s: float = 0.0
    late_ms: Array = field(default_factory=lambda: np.zeros(0))


@contextmanager
def _learning() -> Iterator[tuple[Path, Updates, subprocess.Popen[Any]]]:
    """The system to measure, from its first update on: the folder of its run, its updates, its process."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "cost.yaml").write_text(_COST % RATE_HZ, encoding="utf-8")
        words = words_of_run(
            folder / "cost.yaml", f"policy_endpoint:=tcp/127.0.0.1:{free_port()}", runs=folder
        )
        updates = stack.enter_context(Updates())
        system = stack.enter_context(started(words, stdout=subprocess.DEVNULL))
        _wait(lambda: updates.said and updates.said[-1][1] > 0, system, "the first update")
        yield folder, updates, system


def cost(kinds: Sequence[str], total_s: float, seconds: float, apart: bool) -> None:
    """Measure, and print.

    Args:
        kinds: Which of :data:`KINDS`, the first without a console.
        total_s: How long all turns together may take.
        seconds: Of each turn.
        apart: The pages have the last core for themselves, and all else the others.
    """
    cores = sorted(os.sched_getaffinity(0))
    if apart and len(cores) < 2:
        sys.exit("--apart needs two cores")
    browsers_cores = set(cores[-1:]) if apart else set(cores)
    if apart:
        os.sched_setaffinity(0, cores[:-1])  # all that is started inherits it
    with _learning() as (folder, updates, system):
        say(f"the system runs; {_WARM_S:g} s until it does so evenly")
        time.sleep(_WARM_S)
        turns = list(_turns(kinds, system, folder, total_s, seconds, browsers_cores))
        for turn in turns:
            turn.updates_per_s = updates.rate(turn.begin_s, turn.end_s)
        _note_lateness(folder / "r" / "replay", turns)
        _tell(kinds, turns)
        if len(kinds) == len(KINDS):
            print(_compare(folder, browsers_cores), flush=True)


#: A frozen page has let go of its cameras, one that goes on shows them again, after this. Of DDS a participant may be
#: silent for 20 s before the others forget it, so that a turn without a console ends before.
_CHANGE_S, _LONGEST_FROZEN_S = 2.5, 15.0


def paired(total_s: float, seconds: float) -> None:
    """Measure neighbouring turns with and without a console and its page, and print.

    Args:
        total_s: How long all turns together may take.
        seconds: Of each turn.
    """
    if seconds + _CHANGE_S > _LONGEST_FROZEN_S:
        sys.exit(f"--seconds: at most {_LONGEST_FROZEN_S - _CHANGE_S:g} with --paired")
    kinds = (KINDS[0], KINDS[2])
    with _learning() as (folder, updates, system):
        with (
            _console(folder) as (url, console),
            _light(url, total_s + 120, set(os.sched_getaffinity(0))) as page,
        ):
            # It stands for another device: what it computes itself is to take from nobody.
            os.sched_setscheduler(page.pid, os.SCHED_IDLE, os.sched_param(0))
            say(f"the system runs; {_WARM_S:g} s until it does so evenly")
            time.sleep(_WARM_S)
            turns = list(_pairs(system, console, page, total_s, seconds))
        for turn in turns:
            turn.updates_per_s = updates.rate(turn.begin_s, turn.end_s)
        _note_lateness(folder / "r" / "replay", turns)
        _tell(kinds, turns)
        _tell_pairs(turns)


def _pairs(
    system: subprocess.Popen[Any],
    console: subprocess.Popen[Any],
    page: subprocess.Popen[Any],
    total_s: float,
    seconds: float,
) -> Iterator[Turn]:
    """Without, with, with, without, ...: what grows or shrinks slowly is in both of them."""
    end_s, with_page = time.monotonic() + total_s, False
    counted = {"system": system.pid, "console": console.pid, "page": page.pid}
    while time.monotonic() + 2 * (seconds + 2 * _CHANGE_S) < end_s:
        for kind in (KINDS[2], KINDS[0]) if with_page else (KINDS[0], KINDS[2]):
            if kind == KINDS[0]:
                page.send_signal(signal.SIGUSR1)
                time.sleep(1.0)
                frozen = [console, page]
            else:
                page.send_signal(signal.SIGUSR2)
                frozen = []
            for process in frozen:
                process.send_signal(signal.SIGSTOP)
            try:
                time.sleep(_CHANGE_S)
                turn = _count(kind, counted, seconds)
            finally:
                for process in frozen:
                    process.send_signal(signal.SIGCONT)
            if page.poll() is not None:
                sys.exit("the page has ended: its console has closed its connection")
            yield turn
        with_page = not with_page


def _tell_pairs(turns: Sequence[Turn]) -> None:
    """Ratios of neighbours, their median, and where it lies in 95 of 100 draws of as many pairs."""
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    chance = random.Random(0)
    measures: list[tuple[str, Callable[[Turn], float]]] = [
        ("updates/s", lambda turn: turn.updates_per_s),
        ("learner, of a core", lambda turn: turn.shares.get("learner", 0.0)),
        ("lateness p99", lambda turn: float(np.percentile(turn.late_ms, 99))),
    ]
    print(f"neighbours, with the page by without: {len(pairs)} pairs")
    for name, measure in measures:
        ratios = []
        for pair in pairs:
            without, with_it = sorted(pair, key=lambda turn: turn.kind != KINDS[0])
            if measure(without) > 0:
                ratios.append(measure(with_it) / measure(without))
        draws = [statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000)]
        low, high = np.percentile(draws, [2.5, 97.5])
        print(f"{name:24} x {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


def say(text: str) -> None:
    """How far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _wait(there: Callable[[], Any], process: subprocess.Popen[Any], what: str) -> None:
    end_s = time.monotonic() + 240
    while not there():
        if process.poll() is not None:
            sys.exit(f"{what} did not come: what runs has ended, with {process.returncode}")
        if time.monotonic() > end_s:
            sys.exit(f"{what} did not come within 240 s")
        time.sleep(0.2)


def _turns(
    kinds: Sequence[str],
    system: subprocess.Popen[Any],
    folder: Path,
    total_s: float,
    seconds: float,
    cores: set[int],
) -> Iterator[Turn]:
    """Rounds of one turn of each kind; a console goes on while kinds follow each other that need one."""
    end_s, longest_s = time.monotonic() + total_s, 0.0
    with ExitStack() as console:
        at: tuple[str, subprocess.Popen[Any]] | None = None
        while (round_s := time.monotonic()) + longest_s < end_s:
            for kind in random.sample(kinds, len(kinds)):
                if kind == KINDS[0]:
                    console.close()
                    at = None
                elif at is None:
                    at = console.enter_context(_console(folder))
                    time.sleep(_SETTLE_S)
                yield _turn(kind, at, system, folder, seconds, cores)
            longest_s = max(longest_s, time.monotonic() - round_s)


def _turn(
    kind: str,
    at: tuple[str, subprocess.Popen[Any]] | None,
    system: subprocess.Popen[Any],
    folder: Path,
    seconds: float,
    cores: set[int],
) -> Turn:
    counted = {"system": system.pid}
    with ExitStack() as looking:
        if at is not None:
            counted["console"] = at[1].pid
        if kind == KINDS[2] and at is not None:
            light = looking.enter_context(_light(at[0], 2 * _SETTLE_S + seconds + 60, cores))
            counted["page"] = light.pid
        elif kind == KINDS[3] and at is not None:
            browser = looking.enter_context(_chromium(at[0], folder, cores))
            counted["page"] = browser.pid
        time.sleep(_SETTLE_S)
        return _count(kind, counted, seconds)


def _count(kind: str, counted: dict[str, int], seconds: float) -> Turn:
    """What happens in the next seconds."""
    begin_s, before, busy = time.time(), _used_s(counted), _busy_s()
    time.sleep(seconds)
    took_s, after = time.time() - begin_s, _used_s(counted)
    busy = _busy_s() - busy
    shares = {name: (after[name] - before.get(name, 0.0)) / took_s for name in after}
    ours = sum(shares.get(name, 0.0) for name in counted)
    shares["others"] = max(0.0, busy / took_s - ours)
    say(f"{kind}: " + ", ".join(f"{n} {100 * share:.1f} %" for n, share in sorted(shares.items())))
    return Turn(kind, begin_s, begin_s + took_s, shares)


def _busy_s() -> float:
    """Processor seconds of all that runs here."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)


def _used_s(counted: dict[str, int]) -> dict[str, float]:
    """Processor seconds of each with all its children, and of the system's parts."""
    used: dict[str, float] = defaultdict(float)
    for name, pid in counted.items():
        try:
            whole = psutil.Process(pid)
            processes = [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            sys.exit(f"{name} has ended")
        for process in processes:
            try:
                times, words = process.cpu_times(), process.cmdline()
            except psutil.Error:
                continue
            part = next((Path(w).name for w in words if w.endswith("_node")), "")
            used[name] += times.user + times.system
            if name == "system" and part:
                used[part.removesuffix("_node")] += times.user + times.system
    return used


@contextmanager
def _console(folder: Path) -> Iterator[tuple[str, subprocess.Popen[Any]]]:
    port = free_port()
    words = [
        "user",
        "console",
        str(folder / "r"),
        "--port",
        str(port),
        "--tokens",
        str(folder / "t"),
    ]
    with started(words, stdout=subprocess.DEVNULL) as process:
        # a page that is asked for would be looked at
        _wait(lambda: _is_open(port), process, "the console")
        yield f"http://127.0.0.1:{port}/", process


def _is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _light(
    url: str, seconds: float, cores: set[int], quiet: bool = True
) -> AbstractContextManager[subprocess.Popen[Any]]:
    until_served(url)
    words = [sys.executable, "-m", "user_testing.console_page", url, "--seconds", f"{seconds:g}"]
    where = subprocess.DEVNULL if quiet else subprocess.PIPE
    return _started_on(cores, words, stdout=where, stderr=subprocess.DEVNULL)


def _chromium(
    url: str, folder: Path, cores: set[int]
) -> AbstractContextManager[subprocess.Popen[Any]]:
    """A browser that nothing drives: a tool that does makes it report each message."""
    until_served(url)
    words = ["chromium", "--headless", *_BROWSER, "--window-size=1280,1100", url,
             f"--user-data-dir={folder}/browser"]  # fmt: skip
    return _started_on(cores, words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _started_on(
    cores: set[int], words: Sequence[str], **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    with ExitStack() as stack:
        with _on(cores):
            process = stack.enter_context(started(words, **options))
        yield process


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """What is started in the block stays on these cores."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def until_served(url: str) -> None:
    """Wait until there is this page."""
    end_s = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).read()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end_s:
                raise
            time.sleep(0.5)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that Playwright drives."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(_BROWSER)
        )
        try:
            yield browser
        finally:
            browser.close()


def _compare(folder: Path, cores: set[int]) -> str:
    """The page without a browser beside one in Chromium, at the same console at the same time: what each gets."""
    say("the page without a browser beside one in Chromium")
    with _console(folder) as (url, _), ExitStack() as stack:
        until_served(url)
        with _on(cores):
            browser = stack.enter_context(chromium())
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        updates = Traffic()

        def went(_: str | bytes) -> None:
            updates.said += 1

        def opened(socket: Any) -> None:
            if "/cameras" not in socket.url:
                socket.on("framereceived", updates.heard)
                socket.on("framesent", went)

        page.on("websocket", opened)
        page.goto(url, timeout=120_000)
        page.wait_for_function("() => window.userCameras && userCameras.drawn > 3", timeout=120_000)
        with _light(url, 15.0, cores, quiet=False) as light:
            page.wait_for_timeout(4000)
            began_s, first = time.monotonic(), page.evaluate("({...userCameras})")
            first_updates = asdict(updates)
            page.wait_for_timeout(10_000)
            took_s, last = time.monotonic() - began_s, page.evaluate("({...userCameras})")
            last_updates = asdict(updates)
            answer, _ = light.communicate(timeout=120)
    seen = json.loads(answer)
    lines = ["a second:            messages   kB   answers   (Chromium; without a browser)"]
    for name, real in (
        ("updates", {n: last_updates[n] - first_updates[n] for n in first_updates}),
        ("cameras", {n: last[n] - first[n] for n in ("messages", "size", "said")}),
    ):
        columns = [
            f"{real[n] / took_s / scale:.1f} {seen[name][n] / seen['seconds'] / scale:.1f}"
            for n, scale in (("messages", 1), ("size", 1000), ("said", 1))
        ]
        lines.append(f"{name:18}  " + "   ".join(columns))
    images = (last["images"] - first["images"]) / took_s
    lines.append(f"images               {images:.1f} {seen['images'] / seen['seconds']:.1f}")
    return "\n".join(lines)


def _note_lateness(store: Path, turns: Sequence[Turn]) -> None:
    """How much later than a period after the last action each one was sent, from what was recorded."""
    found = []
    with closing(StoreReader(store)) as reader:
        for episode in reader.episodes():
            columns = reader.read_episode(episode)
            stamps = columns["action_stamp_ns"][~columns["final"]].astype(np.int64)
            stamps = stamps[stamps > 0]
            if len(stamps) > 1:
                found.append(np.stack([stamps[1:] * 1e-9, np.diff(stamps) * 1e-6]))
    at_s, between_ms = np.concatenate(found, axis=1)
    late_ms = np.maximum(0.0, between_ms - 1000 / RATE_HZ)
    for turn in turns:
        turn.late_ms = late_ms[(at_s >= turn.begin_s) & (at_s <= turn.end_s)]


def _tell(kinds: Sequence[str], turns: Sequence[Turn]) -> None:
    by_kind = {kind: [turn for turn in turns if turn.kind == kind] for kind in kinds}
    base = by_kind[kinds[0]]
    measures: list[tuple[str, Callable[[Sequence[Turn]], float]]] = [
        ("updates/s", lambda of: statistics.median(t.updates_per_s for t in of)),
        ("late p99, ms", lambda of: float(np.percentile(np.concatenate([t.late_ms for t in of]), 99))),
        (f"later than {LATE_MS:g} ms, %",
         lambda of: 100 * float((np.concatenate([t.late_ms for t in of]) > LATE_MS).mean())),
        *((f"{part}, % of a core", partial(_median_share, part)) for part in _PARTS),
    ]  # fmt: skip
    print(f"{len(base)} turns of each; load {os.getloadavg()[0]:.1f}", flush=True)
    for name, measure in measures:
        told = []
        for kind in kinds:
            text = f"{kind} {measure(by_kind[kind]):.2f}"
            if kind != kinds[0] and measure(base) > 0:
                low, high = _range(measure, by_kind[kind], base)
                text += (
                    f" (x {measure(by_kind[kind]) / measure(base):.3f}, {low:.3f} to {high:.3f})"
                )
            told.append(text)
        print(f"{name:24} {'; '.join(told)}")
    print("updates/s of each turn:")
    for kind in kinds:
        print(f"{kind:13} " + " ".join(f"{turn.updates_per_s:.0f}" for turn in by_kind[kind]))


def _median_share(part: str, turns: Sequence[Turn]) -> float:
    return 100 * statistics.median(turn.shares.get(part, 0.0) for turn in turns)


def _range(
    measure: Callable[[Sequence[Turn]], float], turns: Sequence[Turn], base: Sequence[Turn]
) -> tuple[float, float]:
    """Where 95 of 100 ratios lie, of turns that are drawn anew from those that there were."""
    chance, ratios = random.Random(0), []
    for _ in range(1000):
        below = measure(chance.choices(base, k=len(base)))
        if below > 0:
            ratios.append(measure(chance.choices(turns, k=len(turns))) / below)
    low, high = np.percentile(ratios, [2.5, 97.5]) if ratios else (math.nan, math.nan)
    return float(low), float(high)
