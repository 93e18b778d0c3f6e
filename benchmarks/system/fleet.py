"""How long a plan takes for fleets of 10 to 1,000 hosts, beside first fit, which knows no preferences.

Each host has a robot, one or two GPUs, cores and a camera, 5 resources in the largest fleet. Three
experiments: one that fits now, one that must wait since everything is held, and one that never fits. Planner and first
fit take turns in one process; medians. First fit takes for each role the first that fits: what it
costs more by the experiment's preferences is the last column.

    python benchmarks/system/fleet.py [--rounds 5]
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from user_core.command_line import Parser
from user_core.reasons import Reason
from user_fleet.resources.model import Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.plan import Situation, cost_of, plan

HELD = Reason("lease", "held by another")
ARMS = {"kind": "robot", "count": 4, "joints": [6, 7], "cameras": ["wrist"], "tags": ["cell-a"]}
LEARNER = {
    "first_of": [
        {"kind": "gpu", "count": 2, "memory_gb": 40},
        {"kind": "gpu", "memory_gb": 40},
        {"kind": "cpu", "cores": 4},
    ]
}
SIZES = ((10, 3), (30, 3), (100, 3), (300, 3), (1000, 3), (1000, 5))


def fleet(hosts: int, each: int) -> list[Resource]:
    """Hosts at sites of 12, every third robot in another cell, every second GPU small."""
    made: list[Resource] = []
    for number in range(hosts):
        host, site = f"h{number:04}", f"s{number // 12}"
        tags = ("cell-a",) if number % 3 else ()
        memory = {"memory_bytes": (24 if number % 2 else 80) * 2.0**30}
        items = [
            Resource(
                id=f"{host}/robot/r", kind="robot", site=site, joints=6 + number % 2, tags=tags,
                cameras=("image_wrist",),
            ),
            Resource(id=f"{host}/gpu/0", kind="gpu", site=site, amounts=memory),
            Resource(id=f"{host}/cpu/cpu", kind="cpu", site=site, amounts={"cores": 8}),
            Resource(id=f"{host}/gpu/1", kind="gpu", site=site, amounts=memory),
            Resource(id=f"{host}/camera/c", kind="camera", site=site),
        ]  # fmt: skip
        made += items[:each]
    random.Random(0).shuffle(made)
    return made


def first_fit(experiment: Experiment, situation: Situation) -> int | None:
    """Cost of taking for each role what fits first; None where that finds nothing."""
    roles, options, used = {}, {}, set[str]()
    for name, role in experiment.roles.items():
        for number, requirement in enumerate(role.first_of):
            groups: dict[str, list[str]] = {}
            for item in situation.resources:
                if (
                    item.id in used
                    or requirement.lacks(item)
                    or situation.why_not_now(item, role.share)
                ):
                    continue
                key = item.host if requirement.on_one_host else ""
                groups.setdefault(key, []).append(item.id)
                if len(groups[key]) == requirement.count:
                    roles[name], options[name] = groups[key], number
                    break
            if name in roles:
                used.update(roles[name])
                break
        if name not in roles:
            return None
    return cost_of(experiment, situation, roles, options)


def milliseconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1e3


def main() -> None:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    roles = {"robots": ARMS, "learner": LEARNER, "store": {"kind": "cpu", "cores": 4}}
    fits = Experiment(name="fits", roles=roles)
    never = Experiment(name="never", roles={**roles, "robots": {**ARMS, "joints": [5]}})
    print(
        f"{'hosts':>6} {'resources':>9} {'now':>9} {'later':>9} {'never':>9} {'first fit':>9}  dearer by"
    )
    for hosts, each in SIZES:
        free = Situation(fleet(hosts, each))
        held = Situation(free.resources, blocked={item.id: HELD for item in free.resources})
        cases = {
            "now": lambda s=free: plan(fits, s),
            "later": lambda s=held: plan(fits, s),
            "never": lambda s=free: plan(never, s),
            "first fit": lambda s=free: first_fit(fits, s),
        }
        took: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, call in cases.items():
                took[name].append(milliseconds(call))
        best, other = plan(fits, free), first_fit(fits, free)
        assert best.verdict == "now" and plan(fits, held).verdict == "later"
        assert plan(never, free).verdict == "never"
        ms = " ".join(f"{statistics.median(times):6.1f} ms" for times in took.values())
        dearer = "not found" if other is None else f"{other - best.cost}"
        print(f"{hosts:>6} {len(free.resources):>9} {ms}  {dearer}")


if __name__ == "__main__":
    main()
