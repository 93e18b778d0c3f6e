"""What a new policy version costs the control loop that goes on meanwhile.

The loop of an actor, at its rate, in turns without versions and with one twice a second: pulled
over Zenoh from another process, verified, applied to the spare policy, tried out and swapped in.
Lateness is that of the loop's own deadlines.

    tools/run python benchmarks/policy_swap.py [--rate 50] [--seconds 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from actor import Constant, Replayed, spec_of

from user_actor.loop import ActorLoopConfig, ControlLoop, PolicyHolder
from user_actor.loop.config import ExplorationConfig
from user_actor.loop.histogram import LatencyHistogram
from user_actor.outbox import Outbox, OutboxConfig
from user_comm.converters import PolicyAnnouncement
from user_comm.policy_blobs import PolicyPuller, PolicyServer, ZenohConfig, open_session
from user_core import plugins
from user_core.policies import policy_config_hash
from user_core.types import PolicyVersion, TrajectoryAck

ENDPOINT = "tcp/127.0.0.1:17483"


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


def run_loop(rate_hz: float, seconds: float, hidden: int, with_versions: bool) -> LatencyHistogram:
    spec = spec_of("state", 1 / rate_hz, lockstep=False)
    robot = Replayed(spec)
    connect = ZenohConfig(connect=(ENDPOINT,), shared_memory=False)
    learner = subprocess.Popen(
        [sys.executable, __file__, "--serve", "--hidden", str(hidden)], text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        with PolicyPuller(lambda end: open_session(connect, end)) as puller:
            holder = PolicyHolder(lambda: make_policy(spec, hidden), spec, puller)

            def hear() -> None:
                assert learner.stdout is not None
                for line in learner.stdout:
                    if with_versions:
                        puller.announced(PolicyAnnouncement(**json.loads(line)))

            threading.Thread(target=hear, daemon=True).start()
            config = ActorLoopConfig(
                max_episodes=1, max_episode_steps=int(seconds * rate_hz),
                exploration=ExplorationConfig(before_first_version="initial"),
            )  # fmt: skip
            with tempfile.TemporaryDirectory(dir=".") as folder:
                outbox = Outbox(OutboxConfig(directory=Path(folder)), "bench", spec)
                outbox.deliver_to(
                    lambda chunk: outbox.acknowledge(
                        TrajectoryAck("bench", chunk.id.incarnation, chunk.id.sequence, "store")
                    )
                )
                time.sleep(2.0)  # the learner's side is up
                holder.start()
                loop = ControlLoop(config, robot, holder, Constant(), outbox)
                loop.run()
                holder.close()
                outbox.close()
            print(f"# {holder.swaps} swaps, {puller.stats.deltas} deltas, "
                  f"{puller.stats.bytes / 1e6:.1f} MB")  # fmt: skip
            return loop.pacer.lateness
    finally:
        learner.kill()
        learner.wait()
        robot.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.hidden)
        return
    sys.setswitchinterval(0.0005)  # as the actor's process has it
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(arguments.rounds):
        for versions in (False, True):
            late = run_loop(arguments.rate, arguments.seconds, arguments.hidden, versions)
            found[versions].append([late.percentile_ns(p) * 1e-6 for p in (50, 99, 99.9)])
    for versions, label in ((False, "without versions"), (True, "two versions a second")):
        p50, p99, p999 = np.median(found[versions], axis=0)
        print(f"{label:22} lateness p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms")


if __name__ == "__main__":
    main()
