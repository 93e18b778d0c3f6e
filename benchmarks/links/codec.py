"""Observation to CDR bytes and back, beside a plain copy of the same bytes, in one run.

    tools/run python benchmarks/links/codec.py

One core, one thread. *encode* is arrays to CDR bytes (converter and ``serialize_message``),
*decode* is CDR bytes to arrays (our reader and converter): what a publisher and a checked
subscription do per message, without DDS. The last lines show what the middleware's deserialiser
would cost instead. Times are of the processor, for other processes disturb them less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from user_msgs.msg import Observation as ObservationMessage

from user_comm.cdr import CdrLimits, read_cdr
from user_comm.converters import observation_from_message, observation_to_message
from user_comm.subscriptions import decode_bytes
from user_core.command_line import Parser
from user_core.types import AppliedAction, Observation

TARGET_MB_S = 500.0


def observation(images: int, numbers: int, vectors: int) -> Observation:
    rng = np.random.default_rng(0)
    arrays = {
        f"image_{i}": rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for i in range(images)
    }
    for i in range(vectors):
        arrays[f"vector_{i}"] = rng.standard_normal(numbers // vectors).astype(np.float32)
    applied = AppliedAction(np.zeros(7, np.float32), 1)
    return Observation(arrays, time.time_ns(), applied=applied)


def in_turns(
    works: Mapping[str, Callable[[], object]], duration_s: float, rounds: int = 20
) -> dict[str, list[float]]:
    """Processor times of single calls, sorted; a busy moment of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            work()
            end_s = time.perf_counter() + duration_s / rounds
            while time.perf_counter() < end_s:
                began_s = time.thread_time()
                work()
                found[name].append(time.thread_time() - began_s)
    return {name: sorted(times) for name, times in found.items()}


def measure(name: str, value: Observation, duration_s: float) -> None:
    nbytes = sum(array.nbytes for array in value.arrays.values())
    targets = [np.empty_like(array) for array in value.arrays.values()]
    message = observation_to_message(value)
    data = serialize_message(message)
    fields = read_cdr(data, ObservationMessage, CdrLimits())

    def copy() -> None:
        for target, array in zip(targets, value.arrays.values(), strict=True):
            np.copyto(target, array)

    works: dict[str, Callable[[], object]] = {
        "plain copy": copy,
        "encode": lambda: serialize_message(observation_to_message(value)),
        "  converter": partial(observation_to_message, value),
        "  serialize_message": partial(serialize_message, message),
        "decode": lambda: decode_bytes(
            data, ObservationMessage, observation_from_message, CdrLimits()
        ),
        "  read_cdr": partial(read_cdr, data, ObservationMessage, CdrLimits()),
        "  converter ": partial(observation_from_message, fields),
        "deserialize + converter": lambda: observation_from_message(
            deserialize_message(data, ObservationMessage)
        ),
        "  deserialize_message": partial(deserialize_message, data, ObservationMessage),
    }
    print(f"\n{name}: {nbytes} bytes in {len(value.arrays)} arrays")
    print(
        f"{'':23s} {'p50 us':>8s} {'p10 us':>8s} {'MB/s p50':>9s} {'MB/s p10':>9s} {'/ copy':>7s}"
    )
    base_s = 0.0
    for label, found in in_turns(works, duration_s).items():
        p50_s, p10_s = found[len(found) // 2], found[len(found) // 10]
        base_s = base_s or p50_s
        verdict = ""
        if label in ("encode", "decode") and nbytes > 1000:
            verdict = "  ok" if nbytes / p50_s / 1e6 >= TARGET_MB_S else "  BELOW TARGET"
        print(
            f"{label:23s} {1e6 * p50_s:8.1f} {1e6 * p10_s:8.1f} {nbytes / p50_s / 1e6:9.0f} "
            f"{nbytes / p10_s / 1e6:9.0f} {p50_s / base_s:7.1f}{verdict}"
        )


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    measure("two 128x128x3 images, 32 floats", observation(2, 32, 1), options.seconds)
    measure("the same, 32 floats in 8 arrays", observation(2, 32, 8), options.seconds)
    measure("32 floats in 8 arrays, no image", observation(0, 32, 8), options.seconds)


if __name__ == "__main__":
    main()
