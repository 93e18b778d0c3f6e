"""What a new policy version costs the control loop that goes on meanwhile.

The loop of an actor, at its rate, by turns of 2.5 s without versions and with one twice a second:
pulled over Zenoh from another process, verified, applied to the spare policy, tried out and
swapped in. The learner's side makes versions all the time. A round is four turns of each kind, and
its figure the difference of their 99th percentiles of lateness.

The host of a virtual machine that takes its processors away makes any loop late. So twice as many
turns are taken, and of each kind that half counts in which it took least (``steal`` of
/proc/stat, printed).

    tools/run python benchmarks/control/policy_swap.py [--rate 50] [--rounds 5] [--busy 0] [--plain]

``--busy``: this many processes compute all the time beside it. ``--plain``: threads as the system
schedules them, without what the actor's process asks for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actor import Constant, Replayed, spec_of
from user_actor.loop import ActorLoop, ActorLoopConfig, EpisodeLoop, PolicyHolder
from user_actor.loop.config import ExplorationConfig
from user_actor.outbox import Outbox, OutboxConfig
from user_comm.converters import PolicyAnnouncement
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_comm.policy_blobs.server import PolicyServer
from user_core import plugins
from user_core.command_line import Parser
from user_core.policies import policy_config_hash
from user_core.runtime.scheduling import make_process_prompt, urgent_thread
from user_core.specs import RobotSpec
from user_core.types import PolicyVersion, TrajectoryAck
from user_testing import systems

ENDPOINT = "tcp/127.0.0.1:17483"
TURN_S = 2.5
#: Turns of each kind in a round.
TURNS = 4


def make_policy(spec, hidden):  # type: ignore[no-untyped-def]
    params = {"observations": ["state"], "hidden": [hidden, hidden]}
    return plugins.build("policies", "tanh_gaussian", params, spec)


def serve(hidden: int) -> None:
    """The learner's side: a version twice a second, for as long as standard input is open."""
    spec = spec_of("state", 0.02, lockstep=False)
    arrays = {name: array.copy() for name, array in make_policy(spec, hidden).arrays().items()}
    rng = np.random.default_rng(0)
    config = ZenohConfig(mode="router", listen=(ENDPOINT,), shared_memory=False)
    made_for = config_hash(hidden)

    def say(made: PolicyAnnouncement) -> None:
        print(json.dumps({**made.__dict__, "kind": int(made.kind)}), flush=True)

    with open_session(config) as session, PolicyServer(session, "p", say) as server:
        number = 0
        while True:
            number += 1
            arrays = {
                n: a + (1e-4 * rng.standard_normal(a.shape)).astype(a.dtype)
                for n, a in arrays.items()
            }
            server.publish(PolicyVersion(number, arrays, made_for, created_ns=time.time_ns()))
            time.sleep(0.5)


def config_hash(hidden: int) -> str:
    params = {"observations": ["state"], "hidden": [hidden, hidden]}
    return policy_config_hash("tanh_gaussian", params, spec_of("state", 0.02, lockstep=False))


class Learner:
    """The learner's process, for as long as the context lasts; one puller at a time hears it.

    Attributes:
        puller: Is told of each version; None: nobody is.
    """

    def __init__(self, hidden: int) -> None:
        self.puller: PolicyPuller | None = None
        self._process = systems.start(
            [sys.executable, __file__, "--serve", "--hidden", str(hidden)], text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Learner:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            puller = self.puller
            if puller is not None:
                puller.announced(PolicyAnnouncement(**json.loads(line)))


@dataclass(eq=False)
class Turn:
    """Some seconds of the loop.

    Attributes:
        versions: Whether there were versions.
        begin_ns: When it began, monotonic nanoseconds.
        steal: Part of the processors' time that the host took.
        lateness_ms: Of each deadline.
    """

    versions: bool
    begin_ns: int
    steal: float = 0.0
    lateness_ms: list[float] = field(default_factory=list)


def run_loop(arguments: argparse.Namespace, learner: Learner) -> list[Turn]:
    """Let the loop run until each round has its turns."""
    spec = spec_of("state", 1 / arguments.rate, lockstep=False)
    robot = Replayed(spec)
    connect = ZenohConfig(connect=(ENDPOINT,), shared_memory=False)
    config = ActorLoopConfig(exploration=ExplorationConfig(before_first_version="initial"))
    with (
        contextlib.closing(robot),
        PolicyPuller(lambda end: open_session(connect, end)) as puller,
        opened_outbox(spec) as outbox,
    ):
        holder = PolicyHolder(
            lambda: make_policy(spec, arguments.hidden), spec, puller, on_free=puller.call_again
        )
        puller.on_version = holder.load_newest
        puller.call_again()
        learner.puller = puller
        while holder.swaps == 0:  # the session is open; what follows are deltas
            holder.current()
            time.sleep(0.1)
        loop = ActorLoop(EpisodeLoop(robot, holder, Constant(), outbox, config))
        late = record_lateness(loop)

        def act() -> None:
            with contextlib.nullcontext() if arguments.plain else urgent_thread():
                loop.run()

        thread = threading.Thread(target=act)
        thread.start()
        turns = take_turns(learner, puller, 2 * TURNS * arguments.rounds)
        loop.stop()
        thread.join()
    print(f"# {holder.swaps} swaps, {puller.stats.deltas} deltas, "
          f"{puller.stats.bytes / 1e6:.1f} MB")  # fmt: skip
    for due_ns, late_ms in late:
        turn = next((t for t in reversed(turns) if t.begin_ns <= due_ns), None)
        if turn is not None:
            turn.lateness_ms.append(late_ms)
    return turns


def record_lateness(loop: ActorLoop) -> list[tuple[int, float]]:
    """Deadlines, monotonic nanoseconds, and how late they were met, milliseconds, as they come."""
    found: list[tuple[int, float]] = []
    pacer, met = loop.pacer, loop.pacer.met

    def recorded(now_ns: int) -> None:
        found.append((pacer.due_ns, max(0, now_ns - pacer.due_ns) * 1e-6))
        met(now_ns)

    pacer.met = recorded  # type: ignore[method-assign]
    return found


def take_turns(learner: Learner, puller: PolicyPuller, count: int) -> list[Turn]:
    """Switch versions on and off; this many turns of each kind."""
    turns: list[Turn] = []
    for _ in range(count):
        for versions in (False, True):
            turn = Turn(versions, time.monotonic_ns())
            before_s = stolen_s()
            learner.puller = puller if versions else None
            time.sleep(TURN_S)
            turn.steal = (stolen_s() - before_s) / (TURN_S * (os.cpu_count() or 1))
            turns.append(turn)
    learner.puller = None
    return turns


@contextlib.contextmanager
def opened_outbox(spec: RobotSpec) -> Iterator[Outbox]:
    """An outbox on the disk of this folder, with a store that takes everything."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        outbox = Outbox(OutboxConfig(directory=Path(folder)), "bench", spec)
        outbox.deliver_to(
            lambda chunk: outbox.acknowledge(
                TrajectoryAck("bench", chunk.id.incarnation, chunk.id.sequence, "store")
            )
        )
        try:
            yield outbox
        finally:
            outbox.close()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that have something to do all the time."""
    code = "while True: pass"
    processes = [systems.start([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def stolen_s() -> float:
    """Time that the host of this virtual machine kept its processors busy otherwise, seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.hidden)
        return
    with Learner(arguments.hidden) as learner, busy_processes(arguments.busy):
        # they are there already: they must not inherit what follows
        if arguments.plain:
            sys.setswitchinterval(0.0005)
        else:
            make_process_prompt()
        turns = run_loop(arguments, learner)
    report(turns, arguments.rounds)


def report(turns: list[Turn], rounds: int) -> None:
    percents = (50, 99, 99.9)
    found: dict[bool, np.ndarray] = {}
    for versions, label in ((False, "without versions"), (True, "two versions a second")):
        quiet = quieter_half([turn for turn in turns if turn.versions == versions])
        late = [
            np.concatenate([turn.lateness_ms for turn in quiet[i * TURNS : (i + 1) * TURNS]])
            for i in range(rounds)
        ]
        found[versions] = np.array([np.percentile(round_, percents) for round_ in late])
        p50, p99, p999 = np.median(found[versions], axis=0)
        steal = np.mean([turn.steal for turn in quiet])
        print(f"{label:22} lateness p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms, "
              f"{sum(map(len, late))} deadlines, steal {100 * steal:.2f} %")  # fmt: skip
    added = found[True] - found[False]
    p50, p99, _ = np.median(added, axis=0)
    print(f"added by versions: p50 {p50:+.2f} ms, p99 {p99:+.2f} ms (rounds: "
          f"{', '.join(f'{x:+.2f}' for x in added[:, 1])}); steal of all turns "
          f"{100 * np.mean([turn.steal for turn in turns]):.2f} %")  # fmt: skip


def quieter_half(turns: list[Turn]) -> list[Turn]:
    """Those in which the host took least, in their order."""
    quiet = sorted(turns, key=lambda turn: turn.steal)[: len(turns) // 2]
    return [turn for turn in turns if turn in quiet]


if __name__ == "__main__":
    main()
