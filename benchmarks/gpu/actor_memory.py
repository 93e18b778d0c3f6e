"""Memory of an actor whose plans come from an inference server, where the policy is LeRobot's.

It needs one number of LeRobot, how many observations the policy sees at once. Once it imports LeRobot for that itself,
once another process does, which ends. No robot is there: the actor waits for one.

    USER_EXTRA=lerobot tools/run python benchmarks/gpu/actor_memory.py [--type diffusion] [--seconds 60]

With ``--at-once N`` only that: the processor time of N processes that need the number at the same moment, where there
is no place to keep it, where nobody has looked it up yet, and where somebody has.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from user_comm import topics
from user_comm.converters import RobotDescription
from user_core.command_line import Parser
from user_core.specs import ArraySpec, RobotSpec
from user_testing import systems
from user_testing.ports import claim_domain, free_endpoint
from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((6,), low=-2.0, high=2.0),
        "image": ArraySpec((96, 96, 3), "uint8"),
    },
    ArraySpec((6,), low=-1.0, high=1.0),
)
ITSELF = "from user_core.policies.lerobot import history; history._known = history._here; "

ASKS = """
import json, sys
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.history import history_of
from user_core.specs import RobotSpec

history_of(LeRobotConfig(type=sys.argv[1]), RobotSpec.from_dict(json.loads(sys.argv[2])))
"""


def measured(kind: str, itself: bool, seconds: float, folder: Path) -> dict[str, Any]:
    """Of an actor, and of what it has started, after a while."""
    params = {
        "policy": {"plugin": "lerobot", "params": {"type": kind}},
        "remote": {"enabled": True},
        "outbox": {"directory": str(folder / "outbox")},
        "zenoh": {"connect": [free_endpoint()], "shared_memory": False},
    }
    node, probe = NodeProcess("user_actor.nodes.actor", params, folder), GraphProbe()
    if itself:
        at = node.words.index("-c") + 1
        node.words[at] = ITSELF + node.words[at]
    most, end_s = 0, time.monotonic() + seconds
    try:
        node.start()
        probe.speaker(topics.ROBOT_SPEC)(RobotDescription(SPEC, "task", "base", stamp_ns=1))
        actor = psutil.Process(node.pid)
        while time.monotonic() < end_s:
            time.sleep(0.5)
            most = max([most, *(child.memory_info().rss for child in actor.children())])
        taken = actor.memory_full_info()
        return {"resident": taken.rss, "its own": taken.uss, "another process, at most": most}
    finally:
        node.close()
        probe.close()


def at_once_s(kind: str, count: int, cache: Path) -> float:
    """Processor time of this many processes that look the number up, and of those that they ask, seconds."""
    words = [sys.executable, "-c", ASKS, kind, json.dumps(SPEC.to_dict())]
    before = os.times()
    asking = [
        systems.start(words, env={**os.environ, "XDG_CACHE_HOME": str(cache)}) for _ in range(count)
    ]
    ended = [process.wait() for process in asking]
    if any(ended):
        raise RuntimeError("the number of observations was not found out")
    after = os.times()
    user_s, system_s = (after[i] - before[i] for i in (2, 3))  # of children that have ended
    return user_s + system_s


def main() -> None:
    """Print a table."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="diffusion", help="LeRobot's name of the policy")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each; the import takes up to 45 on busy cores")  # fmt: skip
    parser.add_argument(
        "--at-once", type=int, default=0, metavar="N", help="only the time of this many"
    )
    given = parser.parse_args()
    if given.at_once:
        with tempfile.TemporaryDirectory() as name:
            for said, cache in (
                ("no place", "/proc/nowhere"),
                ("an empty one", name),
                ("known", name),
            ):
                print(
                    f"{said}: {at_once_s(given.type, given.at_once, Path(cache)):.0f} s of processor time",
                    flush=True,
                )
        return
    with claim_domain() as domain, tempfile.TemporaryDirectory() as name:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        for said, itself in (("imports LeRobot itself", True), ("asks another process", False)):
            folder = Path(name) / said.split()[0]
            folder.mkdir()
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # nobody has looked it up before
            found = measured(given.type, itself, given.seconds, folder)
            print(said, ", ".join(f"{k} {v / 1e6:.0f} MB" for k, v in found.items()), sep=": ")


if __name__ == "__main__":
    main()
