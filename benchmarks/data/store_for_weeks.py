"""A store of very many small steps: written, opened, drawn from, kept small.

    tools/run python benchmarks/data/store_for_weeks.py --steps 10000000 --folder /tmp/weeks

Says, one line of JSON each, what it took at each size: rows a second, bytes of a row, time to open, memory of a
sampler and of what a replay node holds, time of a batch, whether draws are uniform, and what retention and a backup
cost. While retention runs, several processes draw from the store: with this code; with ``--before SRC`` also with the
packages in that folder, those of an earlier commit; and as a control from a store beside, which nobody touches. After
each draw a yardstick is timed, a gather from two megabytes that nobody shares: what the machine does to it, it does to
draws.

    tools/run python benchmarks/data/store_for_weeks.py --steps 40000 --write-images IMAGES
    tools/run python benchmarks/data/store_for_weeks.py --compress IMAGES

says the same of draws beside compression, and

    tools/run python benchmarks/data/store_for_weeks.py --memory STORE STORE --times 5

says what processes take that draw from stores, and that look after them, each opened several times, in turns; with
``--changes 8`` also what one that draws takes at its most while episodes come; with ``--before SRC`` also what those
of an earlier commit take.

    tools/run python benchmarks/data/store_for_weeks.py --write STORE --steps 2000000 --length 20
    tools/run python benchmarks/data/store_for_weeks.py --judge STORE

makes a store of very many short episodes, and has a column of rewards judge all their steps, as ``user reward relabel``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.command_line import Parser
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, Outcome, TrajectorySchema
from user_learner.edits import Edit, EditedEpisodes
from user_learner.edits.columns import VALUE, ColumnWriter, Provenance
from user_learner.replay import RetentionConfig, StoreConfig, StoreReader, StoreWriter
from user_learner.replay.config import CompressionConfig
from user_learner.replay.transfer import TransferReport, take
from user_learner.sampling.pool import give_back_free_memory
from user_learner.upkeep.apart import Apart
from user_learner.upkeep.backup import backup
from user_learner.upkeep.compression import compress
from user_learner.upkeep.retention import retain
from user_testing import systems

SPEC = RobotSpec(
    "arm", {"joint_position": ArraySpec((4,))}, ArraySpec((2,), low=-1.0, high=1.0),
    ActionKind.GENERIC, period_s=0.1,
)  # fmt: skip
SCHEMA = TrajectorySchema.of(SPEC)


def main() -> None:
    options = parser().parse_args()
    if options.watch:
        print(json.dumps(watch(Path(options.watch), options.seconds)))
        return
    if options.look:
        print(json.dumps(look(Path(options.look), options.batches)))
        return
    if options.hold:
        print(json.dumps(hold(Path(options.hold))))
        return
    if options.settle:
        print(json.dumps(settle(Path(options.settle), options.changes, Path(options.folder))))
        return
    if options.memory:
        compare_memory(
            [Path(store) for store in options.memory],
            options.times,
            options.changes,
            options.folder,
            options.before,
        )
        return
    if options.judge:
        judge(Path(options.judge))
        return
    if options.write_images:
        write_images(Path(options.write_images), options.steps, options.length)
        return
    if options.compress:
        beside_compression(Path(options.compress), Path(options.folder))
        return
    if options.write:
        stop = options.first + options.steps
        write(Path(options.write), options.first, stop, options.length)
        return
    folder = Path(options.folder)
    shutil.rmtree(folder, ignore_errors=True)
    if options.store:
        beside_retention(Path(options.store), folder, options.keep, options.before)
        shutil.rmtree(folder)
        return
    store = folder / "store"
    done = 0
    for share in (0.1, 0.3, 1.0):
        target = round(options.steps * share)
        started = time.perf_counter()
        write(store, done, target, options.length)
        seconds = time.perf_counter() - started
        tell("write", steps=target, rows_s=round((target - done) / seconds),
             mb=round(sum(f.stat().st_blocks for f in store.rglob("*") if f.is_file()) / 2048),
             index_mb=round((store / "index.sqlite").stat().st_size / 2**20, 1))  # fmt: skip
        done = target
        for code in filter(None, ("now", options.before)):
            words = [
                sys.executable,
                __file__,
                "--look",
                str(store),
                "--batches",
                str(options.batches),
            ]
            looked = systems.run_to_end(
                words, capture_output=True, text=True, check=True, env=environment(code)
            )
            tell("look", code=code, steps=target, **json.loads(looked.stdout.splitlines()[-1]))
        words = [sys.executable, __file__, "--hold", str(store)]
        held = systems.run_to_end(words, capture_output=True, text=True, check=True)
        tell("hold", steps=target, **json.loads(held.stdout.splitlines()[-1]))
    started = time.perf_counter()
    report = backup(store, folder / "copy")
    tell("backup", seconds=round(time.perf_counter() - started, 1), mb=round(report.nbytes / 2**20))
    started = time.perf_counter()
    again = backup(store, folder / "copy")
    tell(
        "backup again",
        seconds=round(time.perf_counter() - started, 2),
        mb=round(again.nbytes / 2**20),
    )
    tell("sample alone", **Watched(store, 5.0).end())
    beside_retention(store, folder, options.keep, options.before)
    shutil.rmtree(folder)


def beside_retention(whole: Path, folder: Path, keep: float, before: str) -> None:
    """Draw from a copy of a store while retention by rule goes on in it, and from another copy meanwhile."""
    store, control = folder / "kept", folder / "control"
    for copy in (store, control):
        shutil.copytree(whole, copy, copy_function=linked)
    beside = {"sample beside retain": Watched(store, 0.0)}
    if before:
        beside["sample beside retain, before"] = Watched(store, 0.0, before)
    beside["sample meanwhile, control"] = Watched(control, 0.0)
    with StoreWriter(store, config=StoreConfig()) as writer:
        with closing(StoreReader(store, with_extents=False)) as reader:
            rows = int(reader.tables.segments[:, 2].sum())
        started = time.perf_counter()
        policy = RetentionConfig(max_rows=round(keep * rows), keep=("successes",))
        with Apart() as apart:  # as a replay node does
            gone = retain(writer, policy, apart=apart)
        seconds = time.perf_counter() - started
    for name, watched in beside.items():
        tell(name, **watched.end())
    tell(
        "retain",
        seconds=round(seconds, 1),
        dropped=sum(one.rows for one in gone),
        segments=len(gone),
    )


def beside_compression(whole: Path, folder: Path) -> None:
    """Draw from a copy of a store while its images are compressed, and from another copy meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    store, control = folder / "compressed", folder / "control"
    for copy in (store, control):
        shutil.copytree(whole, copy, copy_function=linked)
    beside = {
        "sample beside compression": Watched(store, 0.0),
        "sample meanwhile, control": Watched(control, 0.0),
    }
    started = time.perf_counter()
    with Apart() as apart:  # as a replay node does
        report = apart.call(compress, store, CompressionConfig(raw_bytes=0), 0)
    seconds = time.perf_counter() - started
    for name, watched in beside.items():
        tell(name, **watched.end())
    tell("compress", seconds=round(seconds, 1), segments=report.segments,
         of_raw=round(report.nbytes / max(1, report.raw_nbytes), 3))  # fmt: skip
    shutil.rmtree(folder)


def parser() -> Parser:
    whole = Parser(description=__doc__)
    whole.add_argument("--steps", type=int, default=10_000_000)
    whole.add_argument("--length", type=int, default=500, help="steps of an episode")
    whole.add_argument("--batches", type=int, default=300)
    whole.add_argument("--folder", default="/tmp/store_for_weeks")
    whole.add_argument("--before", default="", help="src of an earlier commit, to compare with")
    whole.add_argument("--keep", type=float, default=0.6, help="share of the rows, by retention")
    whole.add_argument("--write", default="", help="write a store there, and nothing else")
    whole.add_argument("--judge", default="", help="judge all steps of that store, by a column")
    whole.add_argument("--write-images", default="", help="write a store with images there only")
    whole.add_argument(
        "--compress", default="", help="draw beside compression of a copy of it only"
    )
    whole.add_argument("--store", default="", help="draw beside retention in copies of it only")
    whole.add_argument("--memory", nargs="+", default=[], help="say only what these stores take")
    whole.add_argument("--times", type=int, default=5, help="how often each is opened for that")
    whole.add_argument(
        "--changes", type=int, default=0, help="how often episodes come to a copy of it meanwhile"
    )
    whole.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    whole.add_argument("--settle", default="", help=argparse.SUPPRESS)
    whole.add_argument("--hold", default="", help=argparse.SUPPRESS)
    whole.add_argument("--watch", default="", help=argparse.SUPPRESS)
    whole.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    whole.add_argument("--look", default="", help=argparse.SUPPRESS)
    return whole


class Watched:
    """A process that draws batches: for this long, or until it is asked for what it saw."""

    def __init__(self, store: Path, seconds: float, code: str = "now") -> None:
        words = [sys.executable, __file__, "--watch", str(store), "--seconds", str(seconds)]
        self._child = systems.start(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(code)
        )
        assert self._child.stdout is not None
        self._child.stdout.readline()  # it draws

    def end(self) -> dict[str, Any]:
        """How long batches took."""
        out, _ = self._child.communicate("end\n")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


def watch(store: Path, seconds: float) -> dict[str, Any]:
    """Draw 200 batches a second; how long each took, and what became of the time of those that took long."""
    import select

    from user_learner.sampling import ReplaySource, SamplerConfig

    times: list[float] = []
    ours: list[float] = []
    yards: list[float] = []
    slow: list[dict[str, float]] = []
    private, yardstick = 0.0, Yardstick()
    with ReplaySource(store, SamplerConfig(memory_bytes=256 * 2**20)) as source:
        for _ in range(50):
            source.sample(256)
        gc.collect()
        gc.freeze()  # as a learner does
        waits = Waits()
        print("draws", flush=True)
        end = time.perf_counter() + (seconds or 1e9)
        while time.perf_counter() < end:
            waits.begin()
            started = time.perf_counter()
            source.sample(256)
            times.append(time.perf_counter() - started)
            spent = waits.end(times[-1])
            ours.append(times[-1] - spent["cores"] - spent["stolen"])
            if times[-1] > 0.005:
                slow.append(spent)
            private = max(private, private_mb())
            yards.append(yardstick.measure())
            if not seconds and select.select([sys.stdin], [], [], 0)[0]:
                break
            time.sleep(0.005)
        kept = memory_mb()
    over = [t for t in times if t > 0.005]
    return {
        "batches": len(times), "over_5_ms": len(over), "p50_ms": round(1e3 * float(np.median(times)), 2),
        "p99_ms": round(1e3 * float(np.quantile(times, 0.99)), 2),
        "longest_ms": round(1e3 * max(times), 1),
        "over_5_ms_mostly": Counter(max(spent, key=spent.__getitem__) for spent in slow),
        "over_5_ms_but_for_machine": sum(t > 0.005 for t in ours),
        "longest_ms_but_for_machine": round(1e3 * max(ours), 1),
        "yardstick_p50_ms": round(1e3 * float(np.median(yards)), 2),
        "yardstick_over_5_ms": sum(t > 0.005 for t in yards),
        "yardstick_longest_ms": round(1e3 * max(yards), 1),
        **kept, "most_private_mb": round(private, 1),
    }  # fmt: skip


class Yardstick:
    """Work of about a draw's length that shares nothing with anybody: two megabytes, gathered from many times."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._rows = random.integers(0, 255, (16384, 128), dtype=np.uint8)
        self._which = random.integers(0, len(self._rows), 1024)
        self._out = np.empty((len(self._which), 128), np.uint8)

    def measure(self) -> float:
        """Seconds that it takes now."""
        started = time.perf_counter()
        for _ in range(16):
            np.take(self._rows, self._which, axis=0, out=self._out, mode="clip")
        return time.perf_counter() - started


class Waits:
    """What became of the time of a call, in seconds, as Linux counts it (``schedstat``, ``getrusage``):

    - ``cores``: a core was busy with others. Its thread was ready to run and did not; or it was asleep, waiting for
      another thread of its process, and that one was ready to run and did not.
    - ``stolen``: it never slept, and did not run: another machine had the core (a hypervisor's steal).
    - ``page_fault``: it slept, a page was missing, and no other thread of the process did anything: the kernel had the
      page.
    - ``own_threads``: it slept while other threads of its process ran, which had a lock that it wanted, or the
      interpreter.
    - ``work``: the rest; with ``own_threads`` it is what this program makes of it, however busy the machine is."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._me = str(threading.get_native_id())
        self._before: dict[str, tuple[int, int]] = {}
        self._usage: Any = None
        self._cpu = 0.0

    def begin(self) -> None:
        self._before, self._cpu = self._threads(), time.thread_time()
        self._usage = resource.getrusage(resource.RUSAGE_THREAD)

    def end(self, wall_s: float) -> dict[str, float]:
        """Where the seconds of a call went that took ``wall_s``."""
        usage, cpu_s, now = (
            resource.getrusage(resource.RUSAGE_THREAD), time.thread_time() - self._cpu, self._threads(),
        )  # fmt: skip
        grown = {
            thread: [1e-9 * (n - b) for n, b in zip(counts, self._before.get(thread, counts), strict=True)]
            for thread, counts in now.items()
        }  # fmt: skip
        _, own = grown.pop(self._me, (0.0, 0.0))
        rest = max(0.0, wall_s - cpu_s - own)
        slept = usage.ru_nvcsw > self._usage.ru_nvcsw
        faults = usage.ru_minflt + usage.ru_majflt > self._usage.ru_minflt + self._usage.ru_majflt
        others_ran = sum(ran for ran, _ in grown.values())
        cores, stolen, fault, others = own, 0.0, 0.0, 0.0
        if not slept:
            stolen = rest
        else:
            waited = min(rest, sum(waited for _, waited in grown.values()))
            cores += waited
            others = min(rest - waited, others_ran)
            if faults:
                fault = rest - waited - others
        cores = min(wall_s, cores)
        work = max(0.0, wall_s - cores - stolen - fault - others)
        return {
            "cores": cores, "stolen": stolen, "page_fault": fault, "own_threads": others,
            "work": work,
        }  # fmt: skip

    def _threads(self) -> dict[str, tuple[int, int]]:
        """Nanoseconds that each thread ran, and that it waited for a core."""
        found = {}
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has ended
                if thread not in self._files:
                    path = f"/proc/self/task/{thread}/schedstat"
                    self._files[thread] = os.open(path, os.O_RDONLY)
                ran, waited, _ = os.pread(self._files[thread], 99, 0).split()
                found[thread] = int(ran), int(waited)
        return found


def hold(store: Path) -> dict[str, Any]:
    """What a replay node holds of a store: the writer, and a reader that counts."""
    with StoreWriter(store, config=StoreConfig()) as writer:
        with closing(StoreReader(store, with_extents=False)) as reader:
            started = time.perf_counter()
            episodes = reader.count_episodes()
            count_ms = 1e3 * (time.perf_counter() - started)
            gone = retain(writer, RetentionConfig(max_rows=10**12, keep=("successes",)))
            gc.collect()
            give_back_free_memory()
            return {
                "settled_mb": round(dirty_mb(), 2),
                "episodes": episodes,
                "count_ms": round(count_ms, 1),
                "gone": len(gone),
                **memory_mb(),
            }


def compare_memory(
    stores: list[Path], times: int, changes: int, folder: str, before: str = ""
) -> None:
    """What a process takes that draws from each store, and one that holds what a replay node does; medians."""
    more = ["--changes", str(changes), "--folder", folder]
    ways = [("--settle", "now"), ("--hold", "now")]
    ways += [("--settle", before)] if before else []
    found: dict[tuple[Path, str, str], list[dict[str, Any]]] = {}
    for _ in range(times):
        for store in stores:
            for way, code in ways:
                words = [sys.executable, __file__, way, str(store), *more]
                ended = systems.run_to_end(
                    words, capture_output=True, text=True, check=True, env=environment(code)
                )
                row = json.loads(ended.stdout.splitlines()[-1])
                found.setdefault((store, way, code), []).append(row)
    for (store, way, code), rows in found.items():
        medians = {k: round(float(np.median([row[k] for row in rows])), 2) for k in rows[0]}
        ranges = {
            k: [min(row[k] for row in rows), max(row[k] for row in rows)]
            for k in ("settled_mb", "most_private_mb", "changing_mb")
            if k in rows[0]
        }
        what = "draws" if way == "--settle" else "holds"
        tell(what, store=str(store), code=code, **medians, from_to=ranges)


def settle(store: Path, changes: int, folder: Path) -> dict[str, Any]:
    """Draw until the cache is full and takes no more; memory before, at its most, and when it has settled. And, of a
    copy of the store, at its most while episodes come to it, when tables are made anew, and settled after that."""
    from user_learner.sampling import ReplaySource, SamplerConfig

    drawn_from = store
    if changes:
        shutil.rmtree(folder, ignore_errors=True)
        drawn_from = folder / "changing"
        shutil.copytree(store, drawn_from, copy_function=linked)
        last = max((drawn_from / "segments").iterdir())  # episodes that come go on there
        shutil.rmtree(last)
        shutil.copytree(store / "segments" / last.name, last)
    before, most = settled_mb(), 0.0
    with ReplaySource(drawn_from, SamplerConfig(memory_bytes=256 * 2**20)) as source:
        end, grown = time.perf_counter() + 180.0, time.perf_counter()
        while time.perf_counter() < min(end, grown + 6.0):  # a busy machine fills it slowly
            source.sample(256)
            if private_mb() > most + 0.5:
                most, grown = private_mb(), time.perf_counter()
            time.sleep(0.005)
        settled, times = settled_mb(), []
        for _ in range(2000):
            started = time.perf_counter()
            source.sample(256)
            times.append(1e3 * (time.perf_counter() - started))
        found = {
            "before_mb": before, "settled_mb": settled, "of_it_ours_mb": settled - before,
            "most_private_mb": most, "draw_ms": float(np.median(times)),
        }  # fmt: skip
        if changes:
            found["changing_mb"] = most_through_changes(source, drawn_from, changes)
            found["settled_after_mb"] = settled_mb()
    if changes:
        shutil.rmtree(folder)
    return {name: round(value, 2) for name, value in found.items()}


def settled_mb() -> float:
    gc.collect()
    give_back_free_memory()
    return dirty_mb()


def most_through_changes(source: Any, store: Path, changes: int) -> float:
    """The most memory of this process, looked at every two milliseconds, while ten episodes at a time come to a
    store."""
    most, over = 0.0, threading.Event()

    def look_on() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, private_mb())

    looking = threading.Thread(target=look_on)
    looking.start()
    try:
        for number in range(changes):
            there, first = len(source), 10**9 + 5_000 * number
            words = [sys.executable, __file__, "--write", str(store), "--steps", "5000"]
            child = systems.start([*words, "--first", str(first)])
            end = time.perf_counter() + 60.0
            while len(source) < there + 5_000 and time.perf_counter() < end:
                source.sample(256)
                time.sleep(0.005)
            end = time.perf_counter() + 3.0  # the cache goes on for a while
            while time.perf_counter() < end:
                source.sample(256)
                time.sleep(0.005)
            if child.wait() or len(source) < there + 5_000:
                raise SystemExit("what was written did not come")
    finally:
        over.set()
        looking.join()
    return most


def linked(source: str, target: str) -> None:
    """A copy, of segments by a link: they never change, but the last one, where episodes go on."""
    (os.link if source.endswith((".col", ".log")) else shutil.copy2)(source, target)


def environment(code: str) -> dict[str, str]:
    """Of a process that runs this code, or the packages in a folder."""
    if code == "now":
        return dict(os.environ)
    found = os.pathsep.join(str(p) for p in sorted(Path(code).iterdir()))
    return {**os.environ, "PYTHONPATH": found + os.pathsep + os.environ.get("PYTHONPATH", "")}


def tell(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def write(store: Path, start: int, stop: int, length: int) -> None:
    """Episodes of equal length; each step says its number in the whole."""
    rows = length + 1
    base = {n: np.zeros((rows, *s.shape), s.dtype) for n, s in SCHEMA.columns.items()}
    base["final"][-1] = True
    base["truncated"][-2] = True
    report = TransferReport()
    with StoreWriter(store, SCHEMA, StoreConfig(durability="kernel")) as writer:
        for number in range(start // length, stop // length):
            columns = dict(base)
            seen = np.zeros((rows, 4), np.float32)
            seen[:, 0] = number
            seen[:, 1] = np.arange(rows)
            columns["observation.joint_position"] = seen
            columns["stamp_ns"] = (number * rows + np.arange(rows, dtype=np.int64)) * 10**8
            key = EpisodeKey("weeks", 1, number)
            outcome = Outcome.SUCCESS if number % 4 == 0 else Outcome.TIMEOUT
            result = EpisodeResult(
                key, EpisodeSource.ONLINE, outcome, length, 0.0, interventions=0, start_ns=0,
                end_ns=1, reason="",
            )  # fmt: skip
            episode = RecordedEpisode(key, EpisodeSource.ONLINE, columns, result, "arm", "t")
            take(writer, episode, SCHEMA.hash, report)
    if report.skipped:
        raise SystemExit(report.skipped[0])


def judge(store: Path) -> None:
    """Have a column of rewards judge each step, 1 where the number of the episode is even, and use it."""
    with EditedEpisodes(store) as view, ColumnWriter(store, Provenance("judged", "task")) as column:
        for done, episode in enumerate(view.episodes()):
            values = np.zeros(episode.steps, VALUE)
            values["reward"] = episode.key.number % 2 == 0
            column.add(episode.key, 0, values)
            if done % 1000 == 0:
                column.commit()
        column.commit()
        view.append(Edit.rewards("judged"))


def write_images(store: Path, steps: int, length: int) -> None:
    """Episodes with an image of 64 x 64: a gradient that moves, and a little noise."""
    spec = RobotSpec(
        "arm", {"image": ArraySpec((64, 64, 3), "uint8")}, ArraySpec((2,), low=-1.0, high=1.0),
        ActionKind.GENERIC, period_s=0.1,
    )  # fmt: skip
    schema, report = TrajectorySchema.of(spec), TransferReport()
    random, rows = np.random.default_rng(0), length + 1
    noise = random.integers(0, 3, (rows, 64, 64, 3), np.uint8)
    place = np.add.outer(np.arange(64), np.arange(64))[..., None] + np.array([0, 40, 80])
    config = StoreConfig(durability="kernel", segment_bytes=16 * 2**20)  # many full ones
    with StoreWriter(store, schema, config) as writer:
        for number in range(steps // length):
            columns = {n: np.zeros((rows, *s.shape), s.dtype) for n, s in schema.columns.items()}
            columns["final"][-1] = columns["truncated"][-2] = True
            moved = place[None] + (np.arange(rows) + number)[:, None, None, None]
            columns["observation.image"] = moved.astype(np.uint8) + noise
            columns["stamp_ns"] = (number * rows + np.arange(rows, dtype=np.int64)) * 10**8
            key = EpisodeKey("weeks", 1, number)
            result = EpisodeResult(
                key, EpisodeSource.ONLINE, Outcome.TIMEOUT, length, 0.0, interventions=0,
                start_ns=0, end_ns=1, reason="",
            )  # fmt: skip
            episode = RecordedEpisode(key, EpisodeSource.ONLINE, columns, result, "arm", "t")
            take(writer, episode, schema.hash, report)
    if report.skipped:
        raise SystemExit(report.skipped[0])


def look(store: Path, batches: int) -> dict[str, Any]:
    """Open, draw; in a process of its own, so that its memory can be told."""
    from user_learner.sampling import ReplaySource, SamplerConfig

    before = rss_mb()
    started = time.perf_counter()
    with closing(StoreReader(store)) as reader:
        opened_s = time.perf_counter() - started
        reader_mb = rss_mb() - before
        episodes = len(reader.tables.extents)
    started = time.perf_counter()
    source = ReplaySource(store, SamplerConfig(memory_bytes=256 * 2**20))
    source_s = time.perf_counter() - started
    times, seen = [], []
    try:
        for _ in range(batches):
            started = time.perf_counter()
            batch = source.sample(256)
            times.append(time.perf_counter() - started)
            seen.append(np.array(batch.observation["joint_position"][:, 0]))
        kept = memory_mb()
    finally:
        source.close()
    drawn = np.concatenate(seen)
    bins = np.histogram(drawn, bins=20)[0]
    expected = len(drawn) / 20
    return {
        "open_s": round(opened_s, 3), "reader_mb": round(reader_mb, 1), "source_s": round(source_s, 3),
        **kept, "extents": episodes,
        "batch_ms_p50": round(1e3 * float(np.median(times)), 3),
        "batch_ms_p99": round(1e3 * float(np.quantile(times, 0.99)), 3),
        "chi2_of_19": round(float(((bins - expected) ** 2 / expected).sum()), 1),
    }  # fmt: skip


def memory_mb() -> dict[str, float]:
    """Resident now, and the most that it was."""
    import psutil

    return {
        "private_mb": round(private_mb(), 1),
        "now_mb": round(psutil.Process().memory_info().rss / 2**20, 1), "most_mb": round(rss_mb(), 1)
    }  # fmt: skip


def private_mb() -> float:
    """Resident memory of this process alone, anonymous and shared with nobody: pages of files, which the system drops
    when it wants to, are those of libraries here."""
    found = Path("/proc/self/status").read_text().split()
    return sum(int(found[found.index(n) + 1]) for n in ("RssAnon:", "RssShmem:")) / 1024


def dirty_mb() -> float:
    """Pages that this process alone has written to: what the system cannot take back."""
    found = Path("/proc/self/smaps_rollup").read_text().split()
    return int(found[found.index("Private_Dirty:") + 1]) / 1024


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
