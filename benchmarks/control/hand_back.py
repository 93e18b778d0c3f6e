"""What a policy on another host is asked while a person drives, and what he hands back to.

In virtual time: the control loop and its plans as they are, 50 Hz, chunks of 50 rows, `replan_every` 12; in place of the
link one whose way takes 3 ms each way, with three observations under way, and in place of the host a policy that makes
one pass at a time for the newest that came. A person drives for 0.6 to 0.88 s, to all phases of a pass. The two
columns of each figure: each step is asked about (`replan_every: 0`), and a slow policy rests (`replan_every: 12`).

    python benchmarks/control/hand_back.py [--passes 10,25,60,126]
"""

from __future__ import annotations

import statistics
from typing import Any

from user_actor.loop.acting.remote import Answer
from user_actor.loop.ports import NOBODY
from user_core.command_line import Parser
from user_core.types import ActedBy
from user_testing.worlds.actor_loop import MS, Elsewhere, build, drives

PERIOD_MS, WAY_MS, IN_FLIGHT, ROWS = 20, 3, 3, 50
DRIVES_FROM, LETS_GO = 30, range(60, 75)


class Host(Elsewhere):
    """One pass at a time, of the newest observation that came."""

    def __init__(self, world: Any, spec: Any, holder: Any, pass_ms: int) -> None:
        super().__init__(world, spec, holder, 2 * WAY_MS * MS)
        self.pass_ns, self.passes, self.busy = pass_ms * MS, 0, False
        self.under_way: set[int] = set()
        self.slot: tuple[Any, int, int] | None = None
        self.came: tuple[Any, int, int] | None = None

    def ask(self, observation: Any, step: int, **_: Any) -> None:
        self._waits_since_ns = self._waits_since_ns or self.world.now_ns
        self.slot = observation, step, self._epoch
        self.send()

    def send(self) -> None:
        if self.slot is None or len(self.under_way) >= IN_FLIGHT:
            return
        sent, self.slot = self.slot, None
        self.under_way.add(sent[1])

        def arrive() -> None:
            self.came = sent
            self.act()

        self.world.after(WAY_MS * MS, arrive)

    def act(self) -> None:
        if self.busy or self.came is None:
            return
        (observation, step, epoch), self.came = self.came, None
        self.busy, self.passes = True, self.passes + 1

        def answer() -> None:
            self.under_way = {one for one in self.under_way if one > step}
            self._heard_ns, self.version = self.world.now_ns, 1
            self._waits_since_ns = self._heard_ns if self.under_way else 0
            if epoch == self._epoch and step >= 0:
                rows_ta = self.holder.current().policy.act(observation.arrays)
                self._newest = Answer(rows_ta, step, 1)
            self.send()

        def done() -> None:
            self.busy = False
            self.act()
            self.world.after(WAY_MS * MS, answer)

        self.world.after(self.pass_ns, done)


def driven(pass_ms: int, replan_every: int, lets_go: int) -> tuple[float, float, float, float]:
    """Passes a second while he drives, ms until the robot is driven again beyond a period, ms since the observation that
    it is driven by, and the share of his steps of which it is known what the policy would have done."""
    made: list[Host] = []

    def make(world: Any, spec: Any, holder: Any) -> Host:
        made.append(Host(world, spec, holder, pass_ms))
        return made[0]

    config = {
        "max_episode_steps": lets_go + 30,
        "arbiter": {"hold_s": 0.0},
        "replan_every": replan_every,
    }
    setup, passes = build(config, ROWS, inference=make), {}

    def script(step: int) -> Any:
        if step in (DRIVES_FROM, lets_go):
            passes.setdefault(step, made[0].passes)
        return drives(0.25) if DRIVES_FROM <= step < lets_go else NOBODY

    setup.person.script = script
    setup.run()
    steps = setup.steps()
    his = [i for i, step in enumerate(steps) if step.acted_by is ActedBy.HUMAN]
    last, after = steps[his[-1]], steps[his[-1] + 1]
    return (
        (passes[lets_go] - passes[DRIVES_FROM]) / (len(his) * PERIOD_MS * 1e-3),
        (after.stamp_ns - last.stamp_ns) / MS - PERIOD_MS,
        after.plan_row * PERIOD_MS,
        statistics.mean(steps[i].policy_version > 0 for i in his),
    )


def main() -> None:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--passes", default="10,25,60,126", help="what a pass takes, ms")
    given = parser.parse_args()
    print("| a pass | passes a second while he drives | stands still after it, mean, most | observation before, mean, most | steps with what it would do |")  # fmt: skip
    print("|---|---|---|---|---|")
    for pass_ms in map(int, given.passes.split(",")):
        ways = [[driven(pass_ms, every, end) for end in LETS_GO] for every in (0, 12)]
        cells = []
        for number, text in enumerate(
            ("{:.1f}", "{:.0f}, {:.0f} ms", "{:.0f}, {:.0f} ms", "{:.0%}")
        ):
            found = [[one[number] for one in way] for way in ways]
            cells.append("; ".join(text.format(statistics.mean(f), max(f)) for f in found))
        print(f"| {pass_ms} ms | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
