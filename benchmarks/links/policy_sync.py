"""What policy versions cost on the wire and on the processor, on a real training trace.

The trace is the demo's own training: the peg insertion of ``make demo`` with 20 demonstrations,
a version every 20 updates. Bytes are shares of the full tensors (float32, or two bytes a number
where bfloat16 is published), processor time is that of the one thread that codes, beside that
of SHA-256 of the same bytes.

    python benchmarks/links/policy_sync.py                    # the trace, then a model of 100 M
    python benchmarks/links/policy_sync.py --versions 400 --big 10000000
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from user_core.codecs.policy_blob import decode_blob, encode_delta, encode_keyframe, to_bfloat16
from user_core.codecs.weights import content_hash
from user_core.command_line import Parser
from user_core.specs import Array
from user_core.types import PolicyVersion
from user_testing.experiments import Experiment, read_config

UPDATES = 20


def trace(versions: int) -> list[dict[str, Array]]:
    """Weights of the policy every 20 updates of the demo's training."""
    arguments = argparse.Namespace(
        config="rlpd_cpu.yaml", robot="mujoco", param=["task=peg_insertion"], set=[], seed=0,
        steps=200 + versions * UPDATES // 4 + 10, every=10**9, episodes=1, demonstrations=20,
        noise=0.3, real_time=False, speed=1.0, reward="task", reward_param=[],
    )  # fmt: skip
    kept: list[dict[str, Array]] = []
    with tempfile.TemporaryDirectory() as directory:

        def keep() -> None:
            if experiment.loop.progress().update // UPDATES > len(kept):
                arrays = experiment.algorithm.policy_arrays()
                kept.append({name: array.copy() for name, array in arrays.items()})

        experiment = Experiment(arguments, read_config(arguments), Path(directory), keep)
        experiment.run()
    return kept[:versions]


def load_trace(path: Path) -> list[dict[str, Array]]:
    """The trace of an earlier run."""
    with np.load(path, allow_pickle=False) as file:
        count = 1 + max(int(key.partition("|")[0]) for key in file)
        versions: list[dict[str, Array]] = [{} for _ in range(count)]
        for key in file:
            number, _, name = key.partition("|")
            versions[int(number)][name] = file[key]
    return versions


def shares(versions: list[dict[str, Array]], bytes_a_float: int) -> tuple[list[float], list[float]]:
    """Deltas to the version before, and keyframes, as shares of the full tensors."""
    deltas, keyframes = [], []
    for before, after in itertools.pairwise(versions):
        base, new = PolicyVersion(1, before), PolicyVersion(2, after)
        full = sum(a.size * (bytes_a_float if a.dtype == np.float32 else a.itemsize)
                   for a in after.values())  # fmt: skip
        delta = encode_delta(new, base)
        assert delta is not None
        came = decode_blob(delta, base=base).arrays
        assert all(came[n].tobytes() == a.tobytes() for n, a in after.items())
        deltas.append(len(delta) / full)
        keyframes.append(len(encode_keyframe(new)) / full)
    return deltas, keyframes


def cpu_s(work: Callable[[], object], least_s: float = 0.3) -> float:
    """Processor time of one call, the shortest of several."""
    best, spent = float("inf"), 0.0
    while spent < least_s:
        start = time.thread_time()
        work()
        took = time.thread_time() - start
        best, spent = min(best, took), spent + took
    return best


def speeds(label: str, before: dict[str, Array], after: dict[str, Array]) -> None:
    """MB of full tensors per second of processor time."""
    base, new = PolicyVersion(1, before), PolicyVersion(2, after)
    base_name, name = content_hash(base), content_hash(new)
    total = sum(a.nbytes for a in after.values())
    delta = encode_delta(new, base, name, base_name)
    key = encode_keyframe(new, name)
    assert delta is not None
    joined = np.concatenate([a.reshape(-1).view(np.uint8) for a in after.values()])
    times = {
        "SHA-256": cpu_s(lambda: hashlib.sha256(joined.data)),
        "encode delta": cpu_s(lambda: encode_delta(new, base, name, base_name)),
        "decode delta": cpu_s(lambda: decode_blob(delta, base=base, base_name=base_name)),
        "encode keyframe": cpu_s(lambda: encode_keyframe(new, name)),
        "decode keyframe": cpu_s(lambda: decode_blob(key)),
    }
    print(f"{label}: {total / 1e6:.1f} MB; delta {len(delta) / total:.4f}, "
          f"keyframe {len(key) / total:.4f} of full")  # fmt: skip
    for what, seconds in times.items():
        print(f"    {what:16s} {total / 1e6 / seconds:7.0f} MB/s")


def bits16(array: Array) -> Array:
    """A bfloat16 model as other frameworks hand it over: two bytes a number."""
    return (to_bfloat16(array).view(np.uint32) >> 16).astype(np.uint16)


def big_model(count: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Layers of normal weights, of which one in a hundred changes by a few percent."""
    rng, side = np.random.default_rng(0), 2048
    before, after = {}, {}
    for i in range(max(1, count // side**2)):
        weights = rng.standard_normal((side, side), np.float32) * np.float32(0.02)
        changed = np.where(
            rng.random(weights.shape, np.float32) < 0.01, weights * np.float32(1.05), weights
        )
        before[f"layer{i:03d}"], after[f"layer{i:03d}"] = bits16(weights), bits16(changed)
    return before, after


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=150)
    parser.add_argument("--big", type=int, default=100_000_000, help="parameters; 0: leave out")
    parser.add_argument("--trace", type=Path, help="file to keep the trace in, or to take it from")
    arguments = parser.parse_args()
    if arguments.trace is not None and arguments.trace.exists():
        versions = load_trace(arguments.trace)
    else:
        versions = trace(arguments.versions)
        if arguments.trace is not None:
            np.savez(arguments.trace, **{f"{i}|{n}": a for i, v in enumerate(versions)
                                         for n, a in v.items()})  # fmt: skip
    rounded = [{n: to_bfloat16(a) for n, a in v.items()} for v in versions]
    size = sum(a.nbytes for a in versions[0].values())
    print(f"{len(versions)} versions of {size} bytes, {UPDATES} updates apart; share of full:")
    for label, trained, width in (("float32", versions, 4), ("bfloat16", rounded, 2)):
        deltas, keyframes = shares(trained, width)
        print(f"    {label:9s} delta mean {np.mean(deltas):.3f} (first {deltas[0]:.3f}, last "
              f"{deltas[-1]:.3f}, worst {max(deltas):.3f}); keyframe {np.mean(keyframes):.3f}, "
              f"worst {max(keyframes):.3f}")  # fmt: skip
    speeds("one step of the trace, float32", versions[-2], versions[-1])
    for label, trained in (("float32", versions), ("bfloat16 in float32", rounded)):
        steps = list(itertools.pairwise(trained[-41:]))  # different ones: no two are alike
        many = [
            {f"{i}.{n}": a for i, step in enumerate(steps) for n, a in step[end].items()}
            for end in (0, 1)
        ]
        speeds(f"forty such policies in one, {label}", *many)
    if arguments.big:
        before, after = big_model(arguments.big)
        speeds("large bfloat16 model, 1 % changed", before, after)


if __name__ == "__main__":
    main()
