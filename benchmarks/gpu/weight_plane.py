"""Policy versions from a learner to inference on the same host: how fast they come, and what answers notice of it.

Inference is a process with two sets of a transformer's weights on one GPU; it answers at 20 Hz (batch 1, a CUDA graph).
The learner is another process, on the same GPU (``--gpus 1``) or on another of the host (``--gpus 2``). Each version
has all its weights equal to its number: after every answer the weights it was computed with are looked at, so that half
a version would be seen. Compared in one run, in turns:

- ``idle``: nothing comes.
- ``updates``: a version a second, by :mod:`user_core.weight_plane`: mapped memory, pieces of 32 MB, between answers.
- ``without pause``: one version after the other.
- ``nccl`` (two GPUs): instead NCCL's broadcast into the second set, by its defaults, once a second.

Besides, without answers: bytes/s of the plane beside a bare copy of as many bytes, how long it takes from the snapshot
of a training until a version can be taken under its content hash (its file written beside that, as it is of large ones,
or before), and what is left when the learner is killed in the middle of a version.

With ``--variants`` only rates: other numbers of pieces that are launched at once, streams, copy engines and sums,
beside the plane as it is and a bare copy, in turns; and of each how long it took until the first copy was launched
(``start_ms``), how long the processor then waited for the GPU before it had launched all (``waited_ms``), and what was
left after that (``end_ms``).

    python benchmarks/gpu/weight_plane.py --gpus 1 --out plane.jsonl
    python benchmarks/gpu/weight_plane.py --gpus 2 --variants
    python benchmarks/gpu/weight_plane.py --tiny                        # anywhere, by memory: does it run?
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpu_sharing import SIZES, Bench, Model
from user_core.codecs.weights import content_hash
from user_core.command_line import Parser
from user_core.errors import SuiteError
from user_core.runtime.gpu_turns import FairWait
from user_core.types import PolicyVersion
from user_core.weight_plane import tensors as plane_tensors
from user_core.weight_plane.offers import Offers
from user_core.weight_plane.taking import Mappings, take
from user_core.weight_plane.wire import PIECE_BYTES
from user_learner.training import publishing
from user_testing import systems

#: Numbers up to 255 are exact in bfloat16, and so are these.
_UNIT = 2.0**-10
#: One in this many numbers of an array is looked at.
_LOOK_EVERY = 1 << 16
#: Versions before rates are measured: each snapshot's memory is mapped once.
_WARM = 3


def tensors_of(model: Model) -> dict[str, Tensor]:
    """Its weights, not copies."""
    return {name: p.data for name, p in model.named_parameters()}


def hash_of(owner: str, number: int) -> str:
    """In the place of a content hash, which takes seconds and is not measured here."""
    return hashlib.sha256(f"{owner} {number}".encode()).hexdigest()


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Of all."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def ways_on(device: str) -> list[str]:
    """How versions come to a device."""
    return ["gpu" if device == "cuda" else "memory"]


def set_up(args: argparse.Namespace) -> Bench:
    """The GPU of this process."""
    if args.device == "cuda":
        torch.cuda.set_device(args.gpu)
    bench = Bench(argparse.Namespace(**vars(args), way="alone", trace=False))
    sys.setswitchinterval(5e-5)
    return bench


def join_group(args: argparse.Namespace, rank: int) -> None:
    """For NCCL's broadcast."""
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{args.meeting}", rank=rank, world_size=2,
        device_id=torch.device("cuda", args.gpu),
    )  # fmt: skip


class Announcing:
    """A sink that hashes and offers versions, as the server of a learner does.

    Args:
        offers: Where.
    """

    def __init__(self, offers: Offers) -> None:
        self._offers, self.name, self.announced_s = offers, "", 0.0

    def publish(self, version: PolicyVersion) -> None:
        """Offer it under its content hash."""
        self.name = content_hash(version)
        self._offers.offer(version, self.name)
        self.announced_s = time.perf_counter()


def publish(arrays: Any, number: int, offers: Offers, beside: bool) -> dict[str, Any]:
    """A version on its way from a snapshot to where it can be taken, as a learner has it; how long that takes.

    Args:
        arrays: The snapshot.
        number: Of the version.
        offers: Where.
        beside: Whether its file is written meanwhile, whatever its size, or before.
    """
    publishing._LARGE_BYTES = 0 if beside else 1 << 62
    with tempfile.TemporaryDirectory() as folder:
        sink, counter = Announcing(offers), publishing.VersionCounter(Path(folder) / "number")
        counter.raise_to(number - 1)
        publisher = publishing.PolicyPublisher(
            publishing.PolicyFile(Path(folder), sink), counter, ""
        )
        begun_s = time.perf_counter()
        publisher.offer(publishing.Weights(arrays, 0, 0))
        publisher.close()
        all_s = time.perf_counter() - begun_s
    if publisher.error is not None:
        raise publisher.error
    return {"number": number, "hash": sink.name, "announced_s": sink.announced_s - begun_s, "published_s": all_s}  # fmt: skip


def learner(args: argparse.Namespace) -> None:
    """Makes a version for each line ``next``, ``publish`` or ``file first``, broadcasts for each line ``nccl``, until
    its input ends."""
    bench = set_up(args)
    assert bench.turns is not None
    model = Model(bench.size, bench.like).requires_grad_(False)
    tensors, number, pace = tensors_of(model), 0, FairWait(bench.turns)
    flat = torch.empty(bytes_of(tensors), dtype=torch.uint8, device=args.device)
    if args.nccl:
        join_group(args, 0)
    stream = torch.cuda.Stream() if bench.cuda else None
    with Offers() as offers, torch.cuda.stream(stream):
        offers.on_gpu, offers.pace = True, pace
        print(json.dumps({"bytes": bytes_of(tensors)}), flush=True)
        for line in sys.stdin:
            if line.strip() == "nccl":
                torch.distributed.broadcast(flat, 0)
                torch.cuda.synchronize()
                continue
            number = number % 255 + 1
            for tensor in tensors.values():
                pace()
                tensor.fill_(number * _UNIT)
                bench._synchronize()  # it stands for training, and that gives way
            begun_s = time.perf_counter()
            arrays: Any = offers.snapshot(tensors, pace=pace)
            copied_s = time.perf_counter() - begun_s
            if arrays is None:
                arrays = {name: t.numpy().copy() for name, t in tensors.items()}
            if line.strip() in ("publish", "file first"):
                said = publish(arrays, number, offers, line.strip() == "publish")
                print(json.dumps(said), flush=True)
                continue
            name = hash_of(args.owner, number)
            offers.offer(PolicyVersion(number, arrays), name)
            print(json.dumps({"number": number, "hash": name, "snapshot_s": copied_s}), flush=True)


class NoSums(plane_tensors._Sums):
    """Sums nothing up, and says what was offered."""

    expected: ClassVar[tuple[int, ...]] = ()

    def add(self, numbers: Tensor, left: Tensor) -> None:
        """Nothing."""

    def values(self) -> tuple[int, ...]:
        """What was offered; waits."""
        self._found.tolist()
        return self.expected


class SumsOfSmallNumbers(NoSums):
    """Sums up four bytes as one number, of which torch makes larger ones first, as the plane did; says what was
    offered."""

    def add(self, numbers: Tensor, left: Tensor) -> None:
        """The next one."""
        torch.sum(numbers.view(torch.int32), 0, dtype=torch.int64, out=self._places[self._count])
        self._count += 1


class SumsInGroups(plane_tensors._Sums):
    """Checksums of several pieces by one launch, a CUDA graph: the addresses of a network stay.

    Not for pieces in which several arrays travel together: these lie beside the network, in memory that is used again.
    """

    size = 8

    def __init__(self, count: int, device: torch.device) -> None:
        super().__init__(count, device)
        self._group, self._graphs = list[Tensor](), dict[int, Any]()

    def begin(self) -> None:
        """The next is the first one."""
        super().begin()
        self._group.clear()

    def add(self, numbers: Tensor, left: Tensor) -> None:
        """The next one."""
        self._group.append(numbers)
        if len(self._group) == self.size:
            self._launch()

    def values(self) -> tuple[int, ...]:
        """All of them; waits."""
        self._launch()
        return super().values()

    def _launch(self) -> None:
        group = list(zip(self._group, self._places[self._count :], strict=False))
        first, self._count = self._count, self._count + len(group)
        self._group.clear()

        def compute() -> None:
            for numbers, place in group:
                torch.sum(numbers, 0, out=place)

        if not self._found.is_cuda:
            compute()
            return
        if first not in self._graphs:
            compute()  # libraries choose their kernels
            torch.cuda.synchronize()
            self._graphs[first] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[first], capture_error_mode="thread_local"):
                compute()
        self._graphs[first].replay()


class ByOneEngine(plane_tensors.FromGpu):
    """All pieces are copied by the engines of one GPU."""

    which = 0

    def __init__(self, memories: Any, far: bool) -> None:
        super().__init__(memories, far)
        self.engines = (self.engines[self.which % len(self.engines)],) * len(self.engines)


class Sent(ByOneEngine):
    """By those of the GPU where they lie."""

    which = 1


#: Of what the plane does between two GPUs: pieces launched at once, streams, pieces under way, what sums up, who
#: copies; and whether what is known of a network is found out anew each time.
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a piece at once": {"at_once": 1},
    "4 pieces at once": {"at_once": 4},
    "4 streams": {"lanes": 4},
    "16 pieces under way": {"under_way": 16},
    "all launched, nothing waited for": {"under_way": 1 << 20},
    "fetched": {"source": ByOneEngine},
    "sent": {"source": Sent},
    "nothing known": {"anew": True},
    "sums of 8 in a graph": {"sums": SumsInGroups},
    "sums of numbers of four bytes": {"sums": SumsOfSmallNumbers},
    "no sums": {"sums": NoSums},
    "no sums, all launched": {"sums": NoSums, "under_way": 1 << 20},
}


class Times:
    """When in a fill something happens, on the clock of :func:`time.perf_counter`.

    Attributes:
        first_s: When the first pieces had been launched.
        waited_s: How long pieces under way were waited for.
        launched_s: When all had been launched.
    """

    def __init__(self) -> None:
        self.begin()
        ring: Any = plane_tensors._Ring
        limit, copied = ring.limit, ring.copied

        def waited(ring: Any) -> None:
            begun_s = time.perf_counter()
            limit(ring)
            self.launched_s = time.perf_counter()
            self.waited_s += self.launched_s - begun_s

        def launched(ring: Any, lane: Any, nbytes: int) -> None:
            self.first_s = self.first_s or time.perf_counter()
            copied(ring, lane, nbytes)

        ring.limit, ring.copied = waited, launched

    def begin(self) -> None:
        """The next fill begins."""
        self.first_s = self.waited_s = self.launched_s = 0.0


class Inference:
    """Answers, and takes versions meanwhile.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bench = args, set_up(args)
        bench = self.bench
        assert bench.turns is not None
        self.turns, self.between_answers = bench.turns, FairWait(bench.turns)
        self.models = [Model(bench.size, bench.like).requires_grad_(False) for _ in range(2)]
        self.sets = [tensors_of(model) for model in self.models]
        for tensors in self.sets:
            for tensor in tensors.values():
                tensor.zero_()
        self.stream = torch.cuda.Stream(priority=-1) if bench.cuda else None
        x = torch.randn(1, bench.size[3], bench.size[1], **bench.like)
        self.answers = [bench._graph(model, x, self.stream) for model in self.models]
        self.looks = [
            [t.view(-1)[::_LOOK_EVERY] for t in tensors.values()] for tensors in self.sets
        ]
        self.versions, self.current = [0, 0], 0
        self.offered: int | None = None  # version that waits in the other set
        self.wrong = self.answered = 0
        self.takes = list[dict[str, float]]()
        self.filled_s = 0.0  # when the last one was here
        self.flat: Tensor | None = None
        self.mappings = Mappings()
        words = [
            sys.executable, __file__, "--role", "learner", "--size", args.size, "--device", args.device, "--gpu", "0",
            "--turns", args.turns, "--owner", args.owner, "--meeting", args.meeting, *(["--nccl"] if args.nccl else []),
        ]  # fmt: skip
        self.free_before = self.free()
        process = systems.start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.learner = systems.InLines(process, "the learner")
        if args.nccl:
            join_group(args, 1)
        self.bytes = self.learner.answer()["bytes"]

    def free(self) -> int:
        """Bytes of this GPU that nobody has."""
        if not self.bench.cuda:
            return 0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])

    # --- a version

    def update(self, pace: Callable[[], object], ways: list[str] | None = None) -> None:
        """The next version into the set that does not act; then it is offered to the thread that answers."""
        self.learner.tell("next")
        made = self.learner.answer()
        begun_s = time.perf_counter()
        ways = ways or ways_on(self.args.device)
        taking = take(made["hash"], ways, mappings=self.mappings)
        if taking is None:
            raise RuntimeError("the learner does not offer it")
        with taking:
            asked_s = time.perf_counter()
            spare = 1 - self.current
            NoSums.expected = taking.offer.sums
            taking.fill(self.sets[spare], pace, self.mappings)
            self.filled_s = filled_s = time.perf_counter()
            taking.taken(self.mappings)
        self.takes.append({
            "snapshot_s": made["snapshot_s"], "ask_s": asked_s - begun_s, "fill_s": filled_s - asked_s,
            "all_s": time.perf_counter() - begun_s,
        })  # fmt: skip
        self.versions[spare], self.offered = made["number"], made["number"]

    def publish(self, how: str) -> dict[str, float]:
        """A version as a learner publishes it; it is taken, too."""
        self.learner.tell(how)
        made = self.learner.answer()
        taking = take(made["hash"], ways_on(self.args.device), mappings=self.mappings)
        if taking is None:
            raise RuntimeError("the learner does not offer it")
        spare = 1 - self.current
        with taking:
            taking.fill(self.sets[spare], mappings=self.mappings)
            taking.taken(self.mappings)
        self.versions[spare], self.offered = made["number"], made["number"]
        self.take_offer()
        self.look()
        return {"announced_s": made["announced_s"], "published_s": made["published_s"]}

    def broadcast(self) -> None:
        """What NCCL does instead; nothing is swapped."""
        if self.flat is None:
            self.flat = torch.empty(self.bytes, dtype=torch.uint8, device="cuda")
        self.learner.tell("nccl")
        side = torch.cuda.Stream()
        begun_s = time.perf_counter()
        with torch.cuda.stream(side):
            torch.distributed.broadcast(self.flat, 0)
        side.synchronize()
        self.takes.append({"all_s": time.perf_counter() - begun_s})

    def keep_updating(self, what: str, over: threading.Event, failed: list[str]) -> None:
        """In a thread: versions as a phase has them."""
        try:
            if self.bench.cuda:
                torch.cuda.set_device(self.args.gpu)
            while not over.is_set():
                begun_s = time.perf_counter()
                if what == "nccl":
                    self.broadcast()
                else:
                    self.update(self.between_answers)
                    while self.offered is not None and not over.is_set():
                        time.sleep(1e-3)
                if what != "without pause":
                    over.wait(max(0.0, self.args.period - (time.perf_counter() - begun_s)))
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}"[:500])

    # --- phases

    def phase(self, what: str, seconds: float, rng: random.Random) -> dict[str, Any]:
        """Answers at the given rate while versions come as the phase says."""
        self.takes, found, over, failed = [], list[float](), threading.Event(), list[str]()
        thread = threading.Thread(target=self.keep_updating, args=(what, over, failed))
        if what != "idle":
            thread.start()
        period_s, swaps = 1 / self.args.hz, 0
        due_s = time.perf_counter() + period_s
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            while (left_s := due_s - time.perf_counter()) > 3e-4:
                time.sleep(min(left_s, 2e-4))
            while time.perf_counter() < due_s:
                pass
            self.turns.take(0.05)
            swaps += self.take_offer()
            start_s = time.perf_counter()
            self.answers[self.current]()
            if self.stream is not None:
                self.stream.synchronize()
            found.append(1e3 * (time.perf_counter() - start_s))
            self.turns.give_back()
            self.look()
            due_s = max(due_s, time.perf_counter()) + period_s * rng.uniform(0.8, 1.2)
        over.set()
        if what != "idle":
            thread.join()
        self.take_offer()
        if failed:
            raise RuntimeError(failed[0])
        return {"ms": found, "swaps": swaps, "takes": list(self.takes)}

    def take_offer(self) -> bool:
        """Swap the sets if a version waits; in the thread that answers."""
        if self.offered is None:
            return False
        self.current, self.offered = 1 - self.current, None
        return True

    def look(self) -> None:
        """Whether the weights that answered are all of the version that they are said to be."""
        self.answered += 1
        self.wrong += self.numbers_in(self.current) != [self.versions[self.current]]

    def numbers_in(self, which: int) -> list[float]:
        """Numbers of versions of which a set has weights."""
        with torch.cuda.stream(self.stream):
            some = torch.cat(self.looks[which])
            ends: list[float] = torch.stack([some.min(), some.max()]).tolist()
        return sorted({end / _UNIT for end in ends})

    def rates(self, tries: int) -> dict[str, Any]:
        """Without answers: the plane beside a bare copy, in turns."""
        bare, nccl = list[float](), list[float]()
        self.takes = []
        device = self.args.device
        source = torch.empty(self.bytes, dtype=torch.uint8, device="cuda:0" if device == "cuda" else "cpu")  # fmt: skip
        target = torch.empty(self.bytes, dtype=torch.uint8, device=device)
        for _ in range(tries):
            self.update(lambda: None)
            self.take_offer()
            self.look()
            begun_s = time.perf_counter()
            target.copy_(source)
            if self.bench.cuda:
                torch.cuda.synchronize()
            bare.append(time.perf_counter() - begun_s)
        plane, self.takes = self.takes, []
        for _ in range(2):
            self.update(lambda: None, ["memory"])
            self.take_offer()
            self.look()
        by_memory = self.takes
        if self.args.nccl:
            self.takes = []
            for _ in range(tries):
                self.broadcast()
            nccl = [one["all_s"] for one in self.takes]
        first = plane[0]["fill_s"]
        median = {k: statistics.median(one[k] for one in plane[_WARM:]) for k in plane[0]}
        rate = self.bytes / median["fill_s"]
        bare_rate = self.bytes / statistics.median(bare[_WARM:])
        return {
            "bytes": self.bytes, **median, "first_fill_s": first, "plane_gb_s": 1e-9 * rate, "whole_gb_s": 1e-9 * self.bytes / median["all_s"],
            "bare_gb_s": 1e-9 * bare_rate, "plane_of_bare": rate / bare_rate,
            "whole_of_bare": self.bytes / median["all_s"] / bare_rate,
            "by_memory_ask_s": by_memory[-1]["ask_s"], "by_memory_gb_s": 1e-9 * self.bytes / by_memory[-1]["fill_s"],
            **({"nccl_gb_s": 1e-9 * self.bytes / statistics.median(nccl[_WARM:])} if nccl else {}),
        }  # fmt: skip

    def variants(self, tries: int) -> list[dict[str, Any]]:
        """Without answers: ways to fetch pieces beside a bare copy, in turns."""
        plane: Any = plane_tensors
        names = ("_Sums", "FromGpu", "_AFAR", "_LANES", "_UNDER_WAY")
        shipped = {name: getattr(plane, name) for name in names}
        times, found = Times(), {name: list[tuple[float, ...]]() for name in VARIANTS}
        known: dict[str, Any] = {name: {} for name in VARIANTS}
        cuda, bare = self.bench.cuda, list[float]()
        source = torch.empty(self.bytes, dtype=torch.uint8, device="cuda:0" if cuda else "cpu")
        target = torch.empty(self.bytes, dtype=torch.uint8, device=self.args.device)
        for _ in range(tries + _WARM):
            for name, how in VARIANTS.items():
                plane._Sums = how.get("sums", shipped["_Sums"])
                plane.FromGpu = how.get("source", shipped["FromGpu"])
                plane._LANES = how.get("lanes", shipped["_LANES"])
                for constant, of in (("_AFAR", "at_once"), ("_UNDER_WAY", "under_way")):
                    setattr(plane, constant, how[of] * PIECE_BYTES if of in how else shipped[constant])  # fmt: skip
                if "anew" in how:
                    known[name].clear()
                self.mappings._known = known[name]
                times.begin()
                self.update(lambda: None)
                fill_s = self.takes[-1]["fill_s"]
                start_s = times.first_s - (self.filled_s - fill_s)
                end_s = self.filled_s - times.launched_s
                found[name].append((fill_s, start_s, times.waited_s, end_s))
                self.take_offer()
                self.look()
            begun_s = time.perf_counter()
            target.copy_(source)
            if cuda:
                torch.cuda.synchronize()
            bare.append(time.perf_counter() - begun_s)
        for name, one in shipped.items():
            setattr(plane, name, one)
        bare_s = statistics.median(bare[_WARM:])
        rows: list[dict[str, Any]] = [{"what": "bare copy", "gb_s": 1e-9 * self.bytes / bare_s}]
        for name, some in found.items():
            fill_s, *parts = (statistics.median(one) for one in zip(*some[_WARM:], strict=True))
            parts_ms = dict(zip(("start_ms", "waited_ms", "end_ms"), (1e3 * part for part in parts), strict=True))  # fmt: skip
            rows.append({
                "what": name, "of_bare": bare_s / fill_s, "gb_s": 1e-9 * self.bytes / fill_s, "fill_ms": 1e3 * fill_s,
                **parts_ms, "of_bare_least": bare_s / max(one[0] for one in some[_WARM:]),
            })  # fmt: skip
        return [*rows, {"what": "versions", "answers": self.answered, "wrong": self.wrong}]

    def kill(self) -> dict[str, Any]:
        """The learner is killed when half of a version is here."""
        pieces = 0

        def pace() -> None:
            nonlocal pieces
            pieces += 1
            if pieces == 6:
                self.learner.close()

        before, said = self.versions[self.current], ""
        try:
            self.update(pace)
        except SuiteError as error:
            said = str(error)
        self.look()
        nobody = take(hash_of(self.args.owner, before % 255 + 1), ways_on(self.args.device)) is None
        return {
            "said": said, "offered": self.offered, "acts": self.versions[self.current], "acted": before,
            "nobody_offers": nobody, "wrong": self.wrong, "other_set": self.numbers_in(1 - self.current),
            "gpu_bytes_not_back": self.free_before - self.free() if self.args.gpus == 1 else 0,
        }  # fmt: skip


def percentile(found: list[float], share: float) -> float:
    """Of sorted numbers."""
    return found[min(len(found) - 1, int(share * len(found)))]


def infer(args: argparse.Namespace) -> None:
    """The whole measurement, in the process that answers."""
    inference = Inference(args)

    def say(row: dict[str, Any]) -> None:
        print(json.dumps({"gpus": args.gpus, "size": args.size, **row}), flush=True)

    try:
        if args.variants:
            for row in inference.variants(args.tries):
                say(row)
            return
        say({"what": "rates", **inference.rates(args.tries)})
        for how in ("file first", "publish"):
            say({"what": how, **inference.publish(how)})
        ways = ["idle", "updates", "without pause", *(["nccl"] if args.nccl else [])]
        rng, all_of = random.Random(0), {way: list[dict[str, Any]]() for way in ways}
        inference.phase("idle", 1.0, rng)
        for _ in range(args.rounds):
            for way in ways:
                all_of[way].append(inference.phase(way, args.seconds, rng))
        idle: list[float] = []
        for way, phases in all_of.items():
            ms = sorted(one for phase in phases for one in phase["ms"])
            idle = idle or ms
            takes = [one["all_s"] for phase in phases for one in phase["takes"]]
            say({
                "what": way, "answers": len(ms), "p50_ms": percentile(ms, 0.5), "p99_ms": percentile(ms, 0.99),
                "max_ms": ms[-1], "p50_of_idle": percentile(ms, 0.5) / percentile(idle, 0.5),
                "p99_of_idle": percentile(ms, 0.99) / percentile(idle, 0.99),
                "p99_of_rounds": [percentile(sorted(phase["ms"]), 0.99) for phase in phases],
                "updates": len(takes), "swaps": sum(phase["swaps"] for phase in phases),
                "take_s": statistics.median(takes) if takes else 0.0,
            })  # fmt: skip
        say({"what": "versions", "answers": inference.answered, "wrong": inference.wrong})
        say({"what": "killed in the middle", **inference.kill()})
    finally:
        inference.learner.close()
    if args.nccl:
        os._exit(0)  # a process group of which one has been killed need not end


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpus", type=int, choices=[1, 2], default=1)
    parser.add_argument("--size", choices=list(SIZES), default="1.2G")
    parser.add_argument("--tiny", action="store_true", help="a small network, on the CPU, for a moment")  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tries", type=int, default=12)
    parser.add_argument("--hz", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=1.0, help="between two versions, s")
    parser.add_argument("--out", type=Path, default=None)
    for name in ("role", "turns", "owner", "meeting"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--gpu", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--nccl", action="store_true", help="NCCL's broadcast beside it, with two GPUs")  # fmt: skip
    parser.add_argument("--variants", action="store_true", help="only rates, of other ways to fetch pieces too")  # fmt: skip
    args = parser.parse_args()
    if args.role:
        (learner if args.role == "learner" else infer)(args)
        return
    if args.tiny:
        args.size, args.device, args.seconds, args.tries, args.period = "tiny", "cpu", 0.6, 4, 0.1
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable, __file__, "--role", "infer", "--gpus", str(args.gpus), "--size", args.size, "--device", args.device,
            "--seconds", str(args.seconds), "--rounds", str(args.rounds), "--tries", str(args.tries), "--hz", str(args.hz),
            "--period", str(args.period), "--turns", f"{folder}/turns", "--owner", folder, "--meeting", f"{folder}/meeting",
            "--gpu", str(args.gpus - 1 if args.device == "cuda" else 0), *(["--nccl"] if args.nccl else []), *(["--variants"] if args.variants else []),
        ]  # fmt: skip
        process = systems.start(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                if args.out is not None:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)  # fmt: skip
            if process.wait():
                sys.exit(process.returncode)
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
