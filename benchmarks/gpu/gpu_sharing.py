"""What training on a GPU does to inference on the same GPU, and ways to keep it from doing so.

A transformer answers requests of a robot at 20 Hz (batch 1, a CUDA graph) while one of the same
size is trained (batch 8, forward and backward). Each way is measured in processes of its own, all in
one run: latency of the answers, and training steps a second compared with training alone.

- ``processes``: two processes; the driver gives them the GPU in turn. What happens when nothing is done.
- ``priorities``: two threads of one process, the stream of answers with the higher priority.
- ``mps80``: two processes under MPS, training held to 80 % of the SMs.
- ``green80``: two threads, training in a green context of 80 % of the SMs.
- ``yield...``: training is launched in pieces of half a layer, at most ``--depth`` of them ahead of the GPU, and
  launches nothing while an answer is due (:class:`user_core.runtime.gpu_turns.GpuTurns`); in one process or
  two, eager or as short CUDA graphs. ``announced``: the turn is taken ``--lead-ms`` before the request comes,
  since a robot asks in fixed periods.
- ``+updates``: once a second all weights of inference are replaced, in pieces of 32 MB on a side stream into a second
  set, which is then swapped in; ``+copy``: by one copy of everything, on the stream of answers.

    python benchmarks/gpu/gpu_sharing.py --out sharing.jsonl          # on a GPU
    python benchmarks/gpu/gpu_sharing.py --tiny                       # anywhere: does it run?

Written with torch 2.4 to 2.13 in mind; ``green80`` needs 2.10.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from user_core.command_line import Parser
from user_core.runtime.gpu_turns import GpuTurns
from user_learner.training.gpu_pace import GpuPace
from user_testing import systems

#: Layers, width, units of the gated layer, tokens, heads, batch of training.
SIZES = {
    "1.2G": (18, 2048, 8192, 300, 16, 8),
    "3.3G": (24, 2560, 14336, 300, 20, 8),
    "tiny": (3, 64, 128, 24, 4, 8),
}
PIECE = 16 << 20  # elements of a piece of an update, 32 MB in bf16
_SIDE_BY_SIDE = (
    "processes", "mps80", "yield2", "yield2_announced", "yield2_eager", "yield2_eager_announced", "yield_mps",
)  # fmt: skip
#: Part of a measurement of which every piece of work is noted, seconds.
_TRACED = (0.85, 1.45)
WAYS = (
    "alone", "alone+copy", "alone+updates", "processes", "priorities", "mps80", "green80",
    "yield_eager", "yield2_eager_announced", "yield", "yield_announced", "yield2", "yield2_announced", "yield_mps",
    "yield_announced+updates", "yield2_announced+updates", "processes+updates",
)  # fmt: skip


class Half(nn.Module):
    """Half a layer: attention, or the gated feed-forward network."""

    def __init__(self, size: tuple[int, ...], attends: bool, like: dict[str, Any]) -> None:
        super().__init__()
        _, width, gated, self.tokens, self.heads, _ = size
        self.attends, self.width = attends, width
        shapes = ((width, 3 * width), (width, width)) if attends else (
            (width, gated), (width, gated), (gated, width)
        )  # fmt: skip
        self.weights = nn.ParameterList(0.02 * torch.randn(*shape, **like) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.rms_norm(x, (self.width,))
        if not self.attends:
            a, b, c = self.weights
            return x + (F.silu(h @ a) * (h @ b)) @ c
        qkv, out = self.weights
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (h @ qkv).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + seen @ out


class Model(nn.Module):
    """Layers, with a place between their halves where training may wait."""

    def __init__(self, size: tuple[int, ...], like: dict[str, Any]) -> None:
        super().__init__()
        self.halves = nn.ModuleList(Half(size, i % 2 == 0, like) for i in range(2 * size[0]))
        self.between: Callable[[], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        for half in self.halves:
            if self.between is not None:
                self.between()
                x = _Place.apply(x, self.between)  # type: ignore[no-untyped-call]
            x = half(x)
        return x


class _Place(torch.autograd.Function):
    """Nothing; on the way back training may wait here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, between: Callable[[], None]) -> Tensor:
        ctx.between = between
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.between()
        return gradients[0], None


class Bench:
    """What one process of a measurement does.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.size = args, SIZES[args.size]
        self.cuda = args.device == "cuda"
        dtype = torch.bfloat16 if self.cuda else torch.float32
        self.like = {"device": args.device, "dtype": dtype}
        self.turns = GpuTurns(args.turns) if args.turns else None
        self.way, _, self.extra = args.way.partition("+")
        self.trace: list[tuple[str, float, float]] = []
        self._trace: list[tuple[str, Any, Any]] | None = None
        if not self.cuda:
            torch.set_num_threads(1)

    @contextlib.contextmanager
    def traced(self, kind: str, stream: Any = None) -> Iterator[None]:
        """Note when the GPU does what is launched in the block, while that is asked for."""
        trace = self._trace
        if trace is None or not self.cuda:
            yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(stream or torch.cuda.current_stream())
        yield
        end.record(stream or torch.cuda.current_stream())
        trace.append((kind, begin, end))

    # --- training

    def train(self, ready: Callable[[], None], stop: Callable[[], bool]) -> list[float]:
        """Train until ``stop``; call ``ready`` when it is under way. When each step was done, on the clock of
        the host."""
        green: Any = None
        if self.way == "green80":
            from torch.cuda.green_contexts import GreenContext

            sms = torch.cuda.get_device_properties(0).multi_processor_count
            green = GreenContext.create(num_sms=int(0.8 * sms) // 8 * 8, device_id=0)
            green.set_context()
        model = Model(self.size, self.like)
        x = torch.randn(self.size[5], self.size[3], self.size[1], **self.like).requires_grad_()
        stream = torch.cuda.Stream(priority=0) if self.cuda and green is None else None
        done = list[float]()
        with torch.cuda.stream(stream), torch.autograd.set_multithreading_enabled(green is None):
            step = self._step(model, x, green is not None)
            for _ in range(3):
                step()
            self._synchronize()
            ready()
            while not stop():
                step()
                self._synchronize()
                done.append(time.monotonic())
        if green is not None:
            green.pop_context()
        return done

    def _step(self, model: Model, x: Tensor, eager: bool) -> Callable[[], None]:
        def step() -> None:
            model(x).float().square().mean().backward()
            model.zero_grad(set_to_none=True)
            x.grad = None

        if self.way.startswith("yield"):
            assert self.turns is not None
            pace = GpuPace(self.turns, self.args.depth if self.cuda else None)
            if self.cuda and "eager" not in self.way:
                return _in_short_graphs(model, x, pace, self.traced)
            model.between = pace
            return step
        if eager or not self.cuda or self.way == "eager":
            return step
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            model(x).float().square().mean().backward()
        self._kept = graph
        return graph.replay

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.current_stream().synchronize()

    # --- inference

    def prepare(self) -> Callable[[], dict[str, Any]]:
        """Make the models; what then answers at the given rate and tells milliseconds."""
        sets = [Model(self.size, self.like) for _ in range(2 if self.extra == "updates" else 1)]
        newest = Model(self.size, self.like) if self.extra else None
        for model in (*sets, newest):
            if model is not None:
                model.requires_grad_(False)
        x = torch.randn(1, self.size[3], self.size[1], **self.like)
        stream = torch.cuda.Stream(priority=-1) if self.cuda else None
        answers = [self._graph(model, x, stream) for model in sets]
        return lambda: self._infer(sets, newest, answers, stream)

    def _infer(
        self, sets: list[Model], newest: Model | None, answers: list[Callable[[], Any]], stream: Any
    ) -> dict[str, Any]:
        turn = self.turns if self.way.startswith("yield") else None
        lead_s = 1e-3 * self.args.lead_ms if "announced" in self.way else 0.0
        side = torch.cuda.Stream(priority=0) if self.cuda else None
        pieces: deque[tuple[Tensor, Tensor]] = deque()
        rng, found, number, current, updates = random.Random(0), list[float](), 0, 0, 0
        period_s, end_s = 1 / self.args.hz, time.perf_counter() + self.args.seconds
        begun_s = time.monotonic()
        base: Any = None
        noted = list[tuple[str, Any, Any]]()
        due_s = time.perf_counter() + period_s
        while time.perf_counter() < end_s:
            if self.args.trace and self.cuda and number == int(_TRACED[0] * self.args.hz):
                base = torch.cuda.Event(enable_timing=True)
                base.record(stream)
                self._trace = []
            if self._trace is not None and number == int(_TRACED[1] * self.args.hz):
                noted, self._trace = self._trace, None
            due_s += period_s * rng.uniform(0.8, 1.2)  # so that every phase of training is met
            while (left_s := due_s - lead_s - time.perf_counter()) > 0:
                if pieces and left_s > 2e-3:
                    with self.traced("update", side):
                        self._copy(*pieces.popleft(), side)
                    if not pieces:  # all are there: the next answer is the new version's
                        if side is not None:
                            side.synchronize()
                        current, updates = 1 - current, updates + 1
                else:
                    time.sleep(min(left_s, 2e-4))
            if turn is not None:
                turn.take(lead_s + 0.02)
            while time.perf_counter() < due_s:
                pass
            start_s = time.perf_counter()
            if self.extra == "copy" and number % int(self.args.hz) == 0 and newest is not None:
                for there, new in zip(sets[0].parameters(), newest.parameters(), strict=True):
                    self._copy(there, new, stream)
                updates += 1
            with self.traced("answer", stream):
                answers[current]()
            if stream is not None:
                stream.synchronize()
            found.append(1e3 * (time.perf_counter() - start_s))
            if turn is not None:
                turn.give_back()
            number += 1
            if self.extra == "updates" and number % int(self.args.hz) == 0 and newest is not None:
                for there, new in zip(
                    sets[1 - current].parameters(), newest.parameters(), strict=True
                ):
                    flat, other = there.data.view(-1), new.data.view(-1)
                    for start in range(0, len(flat), PIECE):
                        pieces.append((flat[start : start + PIECE], other[start : start + PIECE]))
        if base is not None:
            torch.cuda.synchronize()
            times = [(k, base.elapsed_time(b), base.elapsed_time(e)) for k, b, e in noted]
            self.trace = [(k, round(b, 3), round(e, 3)) for k, b, e in times]
        found.sort()
        at = {
            f"p{q:g}_ms": found[min(len(found) - 1, int(q / 100 * len(found)))]
            for q in (50, 90, 99)
        }
        parameters = sum(p.numel() for p in sets[0].parameters())
        return {
            **at,
            "window": [begun_s, time.monotonic()],
            "max_ms": found[-1],
            "answers": len(found),
            "updates": updates,
            "parameters": parameters,
        }

    def _graph(self, model: Model, x: Tensor, stream: Any) -> Callable[[], Any]:
        if stream is None:

            def plain() -> None:
                with torch.no_grad():
                    model(x)

            return plain
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):
                model(x)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                model(x)

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return replay

    @staticmethod
    def _copy(there: Tensor, new: Tensor, stream: Any) -> None:
        with torch.cuda.stream(stream), torch.no_grad():
            there.copy_(new, non_blocking=True)


def _in_short_graphs(
    model: Model, x: Tensor, between: Callable[[], None], traced: Callable[..., Any]
) -> Callable[[], None]:
    """A step as one CUDA graph for each half of a layer, forward, and one backward."""
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    for _ in range(3):
        model(x).float().square().mean().backward()
        model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    graphs, inputs, outputs, kept = list[Any](), [x], list[Tensor](), list[Any]()

    def captured(work: Callable[[], Any]) -> Any:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            found = work()
        graphs.append(graph)
        kept.append(found)
        return found

    for half in model.halves:
        seen = inputs[-1]
        outputs.append(captured(lambda half=half, seen=seen: half(seen)))  # type: ignore[misc]
        inputs.append(outputs[-1].detach().requires_grad_())
    last = inputs[-1]
    (gradient,) = captured(lambda: torch.autograd.grad(last.float().square().mean(), last))
    for number in range(len(outputs) - 1, -1, -1):
        wanted = (inputs[number], *model.halves[number].parameters())
        gradient = captured(
            lambda n=number, w=wanted, g=gradient: torch.autograd.grad(outputs[n], w, g)  # type: ignore[misc]
        )[0]

    def step() -> None:
        for number, graph in enumerate(graphs):
            between()
            with traced("forward" if number < len(outputs) else "backward"):
                graph.replay()

    step.kept = kept  # type: ignore[attr-defined]
    return step


def one_process(bench: Bench, trains: bool, infers: bool, out: dict[str, Any]) -> None:
    """Both in threads; or one of them alone."""
    sys.setswitchinterval(5e-5)
    ready, over, result = threading.Event(), threading.Event(), dict[str, Any]()

    def train() -> None:
        try:
            result["done"] = bench.train(ready.set, over.is_set)
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"[:300]
            ready.set()

    infer = bench.prepare() if infers else None
    thread = threading.Thread(target=train)
    if trains:
        thread.start()
        ready.wait()
    if "error" not in result:
        if infer is not None:
            out |= infer()
        else:
            begun_s = time.monotonic()
            time.sleep(bench.args.seconds)
            out["window"] = [begun_s, time.monotonic()]
    over.set()
    if trains:
        thread.join()
    out |= result


def trainer_process(bench: Bench) -> None:
    """Training until a line comes on the standard input."""
    over = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    done = bench.train(lambda: print("ready", flush=True), over.is_set)
    print(json.dumps({"done": done}), flush=True)


def measure(way: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One way, in processes of its own."""
    name = way.partition("+")[0]
    turns = folder / f"turns_{way}"
    common = [
        sys.executable, __file__, "--way", way, "--size", args.size, "--device", args.device, "--seconds",
        str(args.seconds), "--hz", str(args.hz), "--lead-ms", str(args.lead_ms), "--depth", str(args.depth), "--turns", str(turns),
        *(["--trace"] if args.trace else []),
    ]  # fmt: skip
    mps = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    plain = dict(os.environ)
    if name not in _SIDE_BY_SIDE:
        run = systems.run_to_end(
            [*common, "--role", "one"], capture_output=True, text=True, timeout=120
        )
        return _last(run.stdout, run.stderr)
    under_mps = "mps" in name
    shared = {**plain, **mps} if under_mps else plain
    trains = dict(shared)
    if name == "mps80":
        trains["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "80"
    if under_mps and args.device == "cuda":
        systems.run_to_end(["nvidia-cuda-mps-control", "-d"], env=shared, check=True, timeout=30)
    trainer = systems.start(
        [*common, "--role", "train"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=trains
    )  # fmt: skip
    try:
        assert trainer.stdout is not None
        if trainer.stdout.readline().strip() != "ready":
            return {"error": "training does not start"}
        run = systems.run_to_end(
            [*common, "--role", "infer"], capture_output=True, text=True, timeout=120, env=shared
        )
        found = _last(run.stdout, run.stderr)
        rest, _ = trainer.communicate("\n", timeout=60)
        return {**found, **_last(rest, "")}
    finally:
        trainer.kill()
        trainer.wait()
        if under_mps and args.device == "cuda":
            systems.run_to_end(
                ["nvidia-cuda-mps-control"], input="quit\n", env=shared, text=True, timeout=30, check=False
            )  # fmt: skip


def _last(output: str, errors: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return found
    except (IndexError, ValueError):
        return {"error": errors[-300:]}


def draw(file: Path, picture: Path) -> None:
    """A timeline of what the GPU did around a weight update, from a measurement with ``--trace``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    row = next(row for row in rows if any(kind == "update" for kind, *_ in row.get("trace", ())))
    middle = min(begin for kind, begin, _ in row["trace"] if kind == "update")
    lanes = {"answer": "#c0392b", "backward": "#2c6fab", "forward": "#7fb2dd", "update": "#e08e0b"}
    names = {
        "answer": "answers to the robot", "backward": "training, backward", "forward": "training, forward",
        "update": "new weights, 32 MB each",
    }  # fmt: skip
    figure, axes = pyplot.subplots(2, 1, figsize=(9, 4.2), height_ratios=(1, 1))
    answer = min((b for k, b, _ in row["trace"] if k == "answer" and b > middle), default=middle)
    for axis, (low, high) in zip(
        axes, ((middle - 60, middle + 110), (answer - 6, answer + 10)), strict=True
    ):
        for lane, (kind, colour) in enumerate(lanes.items()):
            bars = [
                (b, max(e - b, 1e-3))
                for k, b, e in row["trace"]
                if k == kind and e > low and b < high
            ]
            axis.broken_barh(
                [(b - middle, width) for b, width in bars],
                (3 - lane, 0.8),
                color=colour,
                linewidth=0,
            )
        axis.set_yticks([3.4 - lane for lane in range(4)], [names[kind] for kind in lanes])
        axis.set_xlim(low - middle, high - middle)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(
        "One GPU: answers at 20 Hz, training of 1.2 G parameters, and an update of all weights",
        fontsize=10,
    )
    axes[1].set_xlabel("ms since the first piece of the update; below: around one answer")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1.2G")
    parser.add_argument(
        "--tiny", action="store_true", help="a small network, on the CPU, for a moment"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--limit", type=float, default=1e9, help="begin nothing after this many seconds"
    )
    parser.add_argument("--hz", type=float, default=20.0)
    parser.add_argument("--lead-ms", type=float, default=1.0)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--trace", action="store_true", help="note when the GPU does what (one process)"
    )
    parser.add_argument(
        "--draw",
        nargs=2,
        type=Path,
        metavar=("TRACE", "PICTURE"),
        help="draw what --trace has noted",
    )
    parser.add_argument("--role", choices=["one", "train", "infer"], default=None)
    parser.add_argument("--way", default="")
    parser.add_argument("--turns", default="")
    args = parser.parse_args()
    if args.draw is not None:
        draw(*args.draw)
        return
    if args.role is not None:
        bench, out = Bench(args), dict[str, Any]()
        if args.role == "train":
            trainer_process(bench)
            return
        if args.role == "infer":
            out = bench.prepare()()
        else:
            bench.way = "eager" if args.way == "train_eager" else bench.way
            one_process(
                bench, not args.way.startswith("alone"), not args.way.startswith("train"), out
            )
        print(json.dumps({**out, "trace": bench.trace} if args.trace else out), flush=True)
        return
    if args.tiny:
        args.size, args.device, args.seconds = "tiny", "cpu", min(args.seconds, 1.0)
        args.ways = [w for w in args.ways if "mps" not in w and "green" not in w]
    begun_s, base = time.monotonic(), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        for way in ["train", "train_eager", *args.ways]:
            if time.monotonic() - begun_s > args.limit:
                break
            try:
                found = measure(way, args, Path(folder))
            except (subprocess.SubprocessError, OSError) as error:
                found = {"error": f"{type(error).__name__}: {error}"[:300]}
            window, done = found.pop("window", None), found.pop("done", None)
            if window and done:  # only what was trained while answers were measured
                within = sum(window[0] < at <= window[1] for at in done)
                found["steps_per_s"] = within / (window[1] - window[0])
            if way in ("train", "alone"):
                base |= {way: found.get("steps_per_s", found.get("p99_ms", float("nan")))}
            row = {
                "way": way,
                "size": args.size,
                "depth": args.depth,
                "lead_ms": args.lead_ms,
                **found,
            }
            if "steps_per_s" in row and "train" in base:
                row["training_share"] = row["steps_per_s"] / base["train"]
            if "p99_ms" in row and "alone" in base:
                row["p99_of_alone"] = row["p99_ms"] / base["alone"]
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            row.pop("trace", None)
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
