"""Inference beside training on one GPU, by the objects that ship: what learner_node trains with, and what answers in
inference_node.

Two processes share a GPU. One trains ``flow`` with ``bc`` as the learner does: bfloat16, weights and Adam in float32,
the average that is published. The other answers a robot as ``inference_node`` does with ``precision: bfloat16`` and
``shares_gpu: true``: observations come in a fixed period, are read, and are answered by the policy; an answer's time is
that from the arrival of an observation until its chunk is sent. Both processes stay while the ways take turns:

- ``alone``: no training; with CUDA graphs in inference, and without.
- ``plain``: training as it is without ``training.gives_way``.
- ``pieces``: it gives way, and launches one operation after the other between the blocks of its network.
- ``graphs``: it gives way, in short CUDA graphs (as it ships).
- ``train``, ``train_graphs``: training alone, likewise.

With ``--size pi0`` (or ``pi0_adapters``, ``smolvla``) both have LeRobot's policy of that name instead, from its own
configuration, with two cameras of 224x224 and weights at random: all of pi0 is trained in batches of 8, an answer is
ten steps of denoising. It plans 50 actions at once and is asked a few times a second: ``--period 0.25``.

    python benchmarks/gpu/gpu_sharing_shipped.py --out shipped.jsonl      # on a GPU
    python benchmarks/gpu/gpu_sharing_shipped.py --size pi0 --period 0.25 # on a GPU, with LeRobot
    python benchmarks/gpu/gpu_sharing_shipped.py --tiny                   # anywhere: does it run?
    python benchmarks/gpu/gpu_sharing_shipped.py --tiny --size smolvla_small
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from user_actor.inference import Client, InferenceServer
from user_actor.inference.config import BatchingConfig
from user_actor.inference.graphs import CallGraphs
from user_actor.loop import PolicyHolder
from user_core.codecs.images import encode_observation
from user_core.command_line import Parser
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy
from user_core.plugins import build
from user_core.policies.torch_policy import in_precision
from user_core.runtime.gpu_turns import GpuTurns
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Observation, Task
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.training.gpu_pace import GpuPace
from user_testing import systems
from user_testing.worlds.batches import random_batch

#: Layers, width, heads, rows of a chunk, channels of the convolutions, size of the image, batch of training.
SIZES: dict[str, tuple[int, int, int, int, tuple[int, ...], int, int]] = {
    "1.2G": (18, 2048, 16, 48, (32, 64, 128), 128, 32),
    "3.3G": (31, 2560, 20, 48, (32, 64, 128), 128, 32),
    "tiny": (2, 32, 2, 8, (8, 8), 16, 8),
}
#: LeRobot's: its name, size, rank of adapters, size of both images, batch of training.
LEROBOT: dict[str, tuple[str, str, int, int, int]] = {
    "pi0": ("pi0", "full", 0, 224, 8),
    "pi0_adapters": ("pi0", "full", 16, 224, 16),
    "smolvla": ("smolvla", "full", 0, 224, 32),
    "smolvla_small": ("smolvla", "small", 0, 64, 4),
}
PERIOD_S = 0.05
#: Requests after which their period is known.
_EXPECTED = 8
WAYS = ("train", "alone", "alone_launched", "plain", "pieces", "train_graphs", "graphs")
#: Which way trains in which mode.
_MODES = {"plain": "plain", "pieces": "pieces", "graphs": "graphs", "train": "plain", "train_graphs": "graphs"}  # fmt: skip


def spec_of(size: str) -> RobotSpec:
    """A robot with joints and a camera, or two."""
    if size in LEROBOT:
        image = ArraySpec((LEROBOT[size][3], LEROBOT[size][3], 3), "uint8")
        return RobotSpec(
            "arm",
            {
                "joint_position": ArraySpec((7,), low=-3.0, high=3.0),
                "image_front": image, "image_wrist": image,
            },
            ArraySpec((7,), low=-1.0, high=1.0),
        )  # fmt: skip
    pixels = SIZES[size][5]
    return RobotSpec(
        "arm",
        {"joint_position": ArraySpec((14,), low=-3.0, high=3.0), "camera": ArraySpec((pixels, pixels, 3), "uint8")},
        ArraySpec((14,), low=-1.0, high=1.0),
        period_s=PERIOD_S,
    )  # fmt: skip


def policy_of(size: str, device: str, seed: int = 0) -> Policy:
    """A flow of a transformer, of which an answer is one pass; or LeRobot's."""
    if size in LEROBOT:
        return lerobot_of(size, device)
    layers, width, heads, rows, channels, _, _ = SIZES[size]
    params = {
        "backbone": "transformer", "layers": layers, "embedding": width, "heads": heads, "rows": rows,
        "image_channels": channels, "steps": 1, "device": device, "seed": seed,
    }  # fmt: skip
    with _quick_first_weights():
        policy: Policy = build("policies", "flow", params, spec_of(size))
    return policy


def lerobot_of(size: str, device: str) -> Policy:
    """A policy of LeRobot with weights at random, drawn where it acts."""
    from lerobot_training import lerobot_policy, settings_of

    kind, full, adapter, _, _ = LEROBOT[size]
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(kind, full, Path(folder) / "words", device != "cpu")
        params = {"type": kind, "device": device, "instruction": "reach the target", **settings}
        found: Policy = lerobot_policy(params, spec_of(size), device, adapter)
    return found


@contextmanager
def _quick_first_weights() -> Iterator[None]:
    """Numbers that repeat: those of torch take a minute for a few thousand millions."""
    some = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02

    def fill(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        flat = tensor.data.view(-1)
        whole = len(flat) // len(some) * len(some)
        flat[:whole].view(-1, len(some)).copy_(some)
        flat[whole:].copy_(some[: len(flat) - whole])
        return tensor

    kept = nn.init.kaiming_uniform_
    nn.init.kaiming_uniform_ = fill
    try:
        yield
    finally:
        nn.init.kaiming_uniform_ = kept


# --- training


class Trainer:
    """Trains as the learner does, in one mode after the other, as lines on the standard input say."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.spec = args, spec_of(args.size)
        self.cuda = args.device == "cuda"
        config = BCConfig(
            device=args.device, precision="bfloat16" if self.cuda else "float32", image_shift=4,
            average=0.0 if args.size.startswith("pi0") else 0.999,
        )  # fmt: skip
        theirs = args.size in LEROBOT
        policy = policy_of(args.size, args.device if theirs else "cpu")
        self.algorithm = BC(config, self.spec, policy)
        del policy
        turns = GpuTurns(args.turns)
        self.pace = GpuPace(turns) if self.cuda else GpuPace(turns, ahead=None)
        rng = np.random.default_rng(0)
        rows = self.algorithm.network.rows
        batch = LEROBOT[args.size][4] if theirs else SIZES[args.size][6]
        self.batches = [random_batch(self.spec, batch, rng, window=rows) for _ in range(4)]
        self.gives_way = False
        self.mode = "idle"
        self._lines = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        for line in sys.stdin:
            self.mode = line.strip()
        self.mode = "end"

    def run(self) -> None:
        """Until the end is said."""
        say({"parameters": sum(p.numel() for p in self.algorithm.network.parameters())})
        self._lines.start()
        while self.mode != "end":
            if self.mode == "idle":
                time.sleep(0.01)
            else:
                self._train(self.mode)

    def _train(self, mode: str) -> None:
        """In one mode until another is said; then when each update was done."""
        graphed, before = self.algorithm._graphed, lambda: None  # type: Any, Callable[[], None]
        if mode != "plain":
            before = self.pace.begin
            if not self.gives_way:
                self.pace.give_way(self.algorithm)
                self.gives_way = True
        graphed.forget()
        graphed.enabled = mode == "graphs" and self.cuda and not graphed.why_not
        self.pace.measure_anew()
        done, warm, number = list[float](), 22 if mode == "graphs" else 6, 0
        while self.mode == mode:
            before()
            metrics = self.algorithm.update(self.batches[number % len(self.batches)])
            done.append(time.monotonic())
            number += 1
            if number == warm:
                say({"ready": mode, "loss": metrics["loss"]})
        self.pace.close()
        say({
            "done": done, "graphs": graphed.pieces, "graphs_gb": graphed.bytes * 1e-9, "why_not": graphed.why_not,
            "longest_piece_ms": 1e3 * self.pace.pieces.longest_s,
            "memory_gb": torch.cuda.max_memory_reserved() * 1e-9 if self.cuda else 0.0,
        })  # fmt: skip


def say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


# --- inference


class Answers:
    """Answers as inference_node does."""

    def __init__(self, args: argparse.Namespace, turns: GpuTurns) -> None:
        self.args, self.spec = args, spec_of(args.size)
        cuda = args.device == "cuda"
        batching, task = BatchingConfig(most=1), Task("t")

        def pass_in(policy: Policy) -> Any:
            return in_precision("bfloat16", args.device) if cuda else nullcontext()

        self.graphs = CallGraphs(batching.most, self.spec, task, pass_in, True)
        # No version comes here, so that nothing is loaded into the second policy.
        made: Iterator[Any] = iter([policy_of(args.size, args.device), object()])
        self.holder = PolicyHolder(
            lambda: next(made), self.spec, PolicyMailbox(),
            pass_in=self.graphs.pass_in, prepare=self.graphs.warm,
        )  # fmt: skip
        self.turns = turns
        arrays = self.spec.sample_observation(np.random.default_rng(0))
        self.seen = encode_observation(arrays, "", deterministic=True)

    @contextmanager
    def launched(self) -> Iterator[None]:
        """Without graphs, one operation after the other."""
        kept, self.graphs.why_not = self.graphs.why_not, "left out"
        try:
            yield
        finally:
            self.graphs.why_not = kept

    def measure(self, seconds: float, shares: bool, jitter_s: float) -> dict[str, Any]:
        """Milliseconds of answers, of requests in a fixed period, for this long."""
        sent = threading.Event()
        took = list[float]()
        server = InferenceServer(
            BatchingConfig(most=1), turns=self.turns if shares else None,
            size=self.graphs.size,
        )  # fmt: skip
        errors = list[str]()
        server.add(Client("r", self.spec, self.holder, lambda chunk: sent.set(), errors.append))
        thread = threading.Thread(target=server.run)
        thread.start()
        rng, number = random.Random(0), 0
        begun_s = time.monotonic()
        due_s = time.perf_counter() + 0.1
        try:
            while time.monotonic() - begun_s < seconds:
                due_s += self.args.period
                at_s = due_s + rng.uniform(-jitter_s, jitter_s)
                while (left_s := at_s - time.perf_counter()) > 0:
                    time.sleep(max(0.0, left_s - 3e-4) or 1e-5)
                number += 1
                sent.clear()
                start_s = time.perf_counter()
                server.offer("r", Observation(self.seen, stamp_ns=number, sequence=number, episode=1))  # fmt: skip
                if not sent.wait(2.0):
                    raise RuntimeError(f"no answer: {errors[-1:]}")
                if number > _EXPECTED:  # by then they are expected
                    took.append(1e3 * (time.perf_counter() - start_s))
        finally:
            server.stop()
            thread.join()
        took = sorted(took) or [float("nan")]
        at = {f"p{q:g}_ms": took[min(len(took) - 1, int(q / 100 * len(took)))] for q in (50, 90, 99)}  # fmt: skip
        return {
            **at, "max_ms": took[-1], "answers": len(took), "window": [begun_s, time.monotonic()],
            "inference_graphs": self.graphs.count, "inference_why_not": self.graphs.why_not,
            "unwarmed": self.graphs.unwarmed,
        }  # fmt: skip


class TrainerProcess(systems.InLines):
    """The other process."""

    def __init__(self, args: argparse.Namespace) -> None:
        process = systems.start(
            [sys.executable, __file__, "--role", "train", "--size", args.size, "--device", args.device,
             "--turns", args.turns],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        super().__init__(process, "training")


def measure(args: argparse.Namespace) -> None:
    """All ways, in turns."""
    begun_s = time.monotonic()
    trainer = TrainerProcess(args)  # it makes its network while this process makes its own
    base = dict[str, float]()
    try:
        turns = GpuTurns(args.turns)
        answers = Answers(args, turns)
        size = trainer.answer()
        print(f"both are there after {time.monotonic() - begun_s:.0f} s", flush=True)
        while args.begin_when is not None and not args.begin_when.exists():
            time.sleep(0.1)
        for way in args.ways:
            if time.monotonic() - begun_s > args.limit:
                print(f"{way} was left out: no time", flush=True)
                continue
            found: dict[str, Any] = {"way": way, "size": args.size, **size}
            mode = _MODES.get(way)
            if mode is not None:
                trainer.tell(mode)
                found |= trainer.answer()
            if way.startswith("train"):
                start_s = time.monotonic()
                time.sleep(args.seconds)
                found["window"] = [start_s, time.monotonic()]
            elif way == "alone_launched":
                with answers.launched():
                    found |= answers.measure(args.seconds / 2, False, args.jitter_s)
            else:
                found |= answers.measure(args.seconds, way in ("pieces", "graphs"), args.jitter_s)
                found["lead_ms"] = 1e3 * turns.tail_s
            if mode is not None:
                trainer.tell("idle")
                found |= trainer.answer()
                window = found["window"]
                within = sum(window[0] < at <= window[1] for at in found.pop("done"))
                found["updates_per_s"] = within / (window[1] - window[0])
            found.pop("window", None)
            base.setdefault(
                way, found.get("updates_per_s" if way.startswith("train") else "p99_ms", 0)
            )
            if "alone" in base and "p99_ms" in found:
                found["p99_of_alone"] = found["p99_ms"] / base["alone"]
            if "train" in base and "updates_per_s" in found:
                found["of_train"] = found["updates_per_s"] / base["train"]
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
            print(f"{time.monotonic() - begun_s:5.1f} s {json.dumps(shown)}", flush=True)
    finally:
        trainer.close()


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=[*SIZES, *LEROBOT], default="1.2G")
    parser.add_argument("--period", type=float, default=PERIOD_S, help="of requests, seconds")
    parser.add_argument("--tiny", action="store_true", help="a small network, on the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--limit", type=float, default=1e9, help="begin nothing after this long")
    parser.add_argument(
        "--jitter-s",
        type=float,
        default=2e-4,
        help="requests are so far from their period, at most",
    )
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--begin-when", type=Path, default=None, help="measure once this file is there"
    )
    parser.add_argument("--role", choices=["train"], default=None)
    parser.add_argument("--turns", default="")
    args = parser.parse_args()
    if args.tiny:
        if args.size not in LEROBOT:
            args.size = "tiny"
        args.device, args.seconds = "cpu", min(args.seconds, 1.5)
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.role == "train":
        Trainer(args).run()
        return
    sys.setswitchinterval(5e-5)
    with tempfile.TemporaryDirectory() as folder:
        args.turns = str(Path(folder) / "turns")
        measure(args)


if __name__ == "__main__":
    main()
