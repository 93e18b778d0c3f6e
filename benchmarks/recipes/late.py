"""A part of ``recipes.py``: plans of a slow policy that go on from the plan before, with guidance of several weights.

python benchmarks/recipes/recipes.py --only guided --processes 12 --seconds 500 --out late.jsonl
python benchmarks/recipes/recipes.py --only guided --names far --out far.jsonl
python benchmarks/recipes/recipes.py --only delays --names "corrected, 3 late" --seeds 0 --out corrected.jsonl
"""

from __future__ import annotations

from typing import Any

import numpy as np

from corrections import concatenated
from tasks import Job, Windows, cloned, demonstrated, evaluated, policy_of, robot
from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.config import from_mapping
from user_core.specs import RobotSpec
from user_core.types import ActedBy, Batch, Step
from user_testing.experiments import Ring

#: Steps of 0.1 s from asking to taking over, and weights of guidance.
DELAYS, WEIGHTS = (0, 1, 3, 6), (0.5, 1.0, 2.0, 5.0)


def guided(job: Job, scale: float) -> Job:
    """One cloned flow, carried out in all ways; one that was trained to go on where the job has ``prefix_rows``."""

    found: Job = {}
    with robot(job) as hal:
        policy = policy_of(job, hal.spec)
        cloned(job, hal.spec, demonstrated(job, hal), int(job["updates"] * scale), policy)
        ways = [("trained for it", "real_time", policy)]
        if not job.get("params"):
            ways = [("`sequential`", "sequential", policy), ("`ensemble`", "ensemble", policy)]
            for weight in job.get("weights", WEIGHTS):
                told = policy_of({**job, "params": {"guidance": weight}}, hal.spec)
                told.load(policy.arrays())
                ways.append((f"`guidance: {weight:g}`", "real_time", told))
        for delay in job.get("delays", DELAYS):
            for name, execution, acting in ways:
                found[f"{name}_{delay}"] = evaluated(
                    hal, acting, max(2, int(40 * scale)), replan_every=max(4, delay),
                    chunks={"execution": execution, "delay_steps": delay},
                )  # fmt: skip
    return found


def jobs(seeds: list[int]) -> list[Job]:
    """Two tasks; networks that know nothing of given rows, and such that were trained for them."""
    return [
        {
            "kind": "guided", "task": task, "policy": "flow", "demonstrations": 200, "seed": seed,
            "updates": 6000, "rows": 16, "cloning": {"after_end": "fade"},
            **({"params": {"prefix_rows": prefix}} if prefix else {}),
        }
        for seed in seeds
        for task in ("pick_place", "peg_insertion")
        for prefix in (0, 6)
    ] + [
        {
            "kind": "guided", "name": "far", "task": "peg_insertion", "policy": "flow", "demonstrations": 200, "seed": seed,
            "updates": 6000, "rows": 20, "delays": [0, 3, 6, 9], "weights": [1.0, 5.0], "cloning": {"after_end": "fade"},
            **({"params": {"prefix_rows": prefix}} if prefix else {}),
        }
        for seed in seeds
        for prefix in (0, 10)
    ]  # fmt: skip


#: Delay, and steps between two plans that are asked for: as a policy of that time allows.
PAIRS = ((0, 4), (3, 3), (3, 4), (6, 6), (9, 9))
_FORMS, _DECAYS, _NOISES = ((16, 6), (20, 9)), (0.1, 1.0), (0.0, 0.2)
_AFTER_END = ("nothing", "hold", "fade")


def delays(job: Job, scale: float) -> Job:
    """One flow that was trained to go on from the plan before, with several delays, and with noise of two sizes."""

    if "rounds" in job:
        return _corrected(job, scale)
    found: Job = {}
    with robot(job) as hal:
        policy = policy_of(job, hal.spec)
        cloned(job, hal.spec, demonstrated(job, hal), int(job["updates"] * scale), policy)
        for noise in _NOISES:
            params = {**job["params"], "deterministic_noise": noise}
            acting = policy_of({**job, "params": params}, hal.spec)
            acting.load(policy.arrays())
            for delay, every in PAIRS:
                if delay + every > job["rows"]:
                    continue  # a plan would be over before the next one takes over, and one be made at once
                found[f"{noise:g}_{delay}_{every}"] = evaluated(
                    hal, acting, max(2, int(40 * scale)), replan_every=every,
                    chunks={"execution": "real_time", "delay_steps": delay},
                )  # fmt: skip
    return found


class _Corrections:
    """Windows of episodes in which a person took over from late plans.

    What counts is what the person did. Windows begin also before that, by up to ``before`` rows (as many as a prefix may
    have), so that the network sees a plan that waits as given rows and learns that it does not go on waiting.
    """

    def __init__(self, spec: RobotSpec, rows: int, before: int, seed: int) -> None:
        self.ring, self.steps, self.windows = Ring(spec, 60_000), 0, 0
        self._rows, self._before, self._rng = rows, before, np.random.default_rng(seed)

    def take(self, rows: list[Any]) -> None:
        """An episode; the reward says who drove."""
        drove = np.array(
            [r.acted_by in (ActedBy.HUMAN, ActedBy.SCRIPT) for r in rows if isinstance(r, Step)]
        )
        ahead = np.lib.stride_tricks.sliding_window_view(
            np.pad(drove, (0, self._before)), self._before + 1
        )
        self.windows += int(ahead.any(1).sum())
        for row in rows:
            if isinstance(row, Step):
                drove = row.acted_by in (ActedBy.HUMAN, ActedBy.SCRIPT)
                self.steps += drove
                row = Step(row.observation, row.action, row.action, float(drove))
            self.ring.append(row)

    def sample(self, size: int) -> Batch:
        """A batch whose mask says what the person did."""
        found: list[list[Any]] = []
        while sum(len(some[1]) for some in found) < size:
            drawn = self.ring.windows(self._rng, 4 * size, self._rows, 0.97)
            drove = drawn[5]["mask"] & (drawn[2] > 0)
            use = drove[:, : self._before + 1].any(1)
            seen, behind = ({n: a[use] for n, a in drawn[i].items()} for i in (0, 4))
            one = [part[use] for part in drawn[1:4]]
            found.append([seen, *one, behind, drove[use]])
        seen = {n: np.concatenate([f[0][n] for f in found])[:size] for n in found[0][0]}
        action, reward, discount, mask = (
            np.concatenate([f[i] for f in found])[:size] for i in (1, 2, 3, 5)
        )
        return Batch(seen, action, reward, discount, seen, {"mask": mask})


def _corrected(job: Job, scale: float) -> Job:
    """Rounds of episodes in which plans come late and the scripted person corrects what comes of it, each followed by
    more cloning; then the same network with these delays and without.

    A job with ``delays`` goes through them from episode to episode; one with ``delay`` has that one only. With
    ``demonstrations_only`` as many updates learn from nothing but the demonstrations, with ``before`` windows of corrections
    begin no earlier than that. Half of each batch are corrections; with ``alike`` (as ``hg_dagger_late`` has it) each of
    their windows is drawn as often as one of the demonstrations.
    """

    late = job.get("delays") or [job["delay"]]
    episodes = max(2, int(40 * scale))
    with robot(job) as hal:
        ring, policy = demonstrated(job, hal), policy_of(job, hal.spec)
        algorithm = cloned(job, hal.spec, ring, int(job["updates"] * scale), policy)
        who = {"engage": "corrects", "seed": job["seed"], **job.get("person", {})}
        person = plugins.build("teleops", "expert", who)
        person.connect(hal.spec)
        trials, reward = MemorySink("online"), plugins.build("rewards", "task")
        loops = [
            EpisodeLoop(hal, policy, reward, trials, from_mapping(ActorLoopConfig, {
                **_way("real_time", delay), "arbiter": {"hold_s": 0.0}, "max_episode_steps": 200,
                "exploration": {"deterministic": True},
            }), teleop=LocalTeleop(person))
            for delay in late
        ]  # fmt: skip
        shown = Windows(ring, job["rows"], 1 + job["seed"])
        before = job.get("before", job["params"]["prefix_rows"])
        corrections = _Corrections(hal.spec, job["rows"], before, job["seed"])
        start = 10_000_000 * (job["seed"] + 1)
        curve: list[Job] = []
        for number in range(job["rounds"] + 1):
            last = number in (0, job["rounds"])
            point: Job = {"steps": corrections.steps}
            if last or number % 3 == 0:
                wins = [
                    evaluated(hal, policy, episodes if last else episodes // 2, **_way("real_time", delay))["success"]
                    for delay in late
                ]  # fmt: skip
                point["success"] = wins if "delays" in job else wins[0]
                print(job["seed"], late, number, point, flush=True)
            curve.append(point)
            further = number < job["rounds"]
            for at in range(10 if further and not job.get("demonstrations_only") else 0):
                start += 1
                result = loops[at % len(loops)].run(seed=start)
                if result is not None and result.takeovers:
                    corrections.take(trials.rows.pop(result.key))
            size = 128
            if job.get("alike"):
                size = round(256 * corrections.windows / (corrections.windows + ring.steps))
            for _ in range(int(scale * job["round_updates"]) if further else 0):
                parts = (
                    [shown.sample(256 - size), corrections.sample(size)]
                    if corrections.steps and size
                    else [shown.sample(256)]
                )
                algorithm.update(concatenated(parts))
            policy.load(algorithm.policy_arrays())
        found: Job = {"curve": curve}
        if "delays" not in job:
            for name, delay in (
                ("real_time", late[0]),
                ("none", 0),
                ("sequential", late[0]),
                ("ensemble", late[0]),
            ):
                way = _way("real_time" if name == "none" else name, delay)
                found[name] = evaluated(hal, policy, episodes, each=True, **way)
            return found
        free, smooth = (
            policy_of({**job, "params": {**job["params"], **params}}, hal.spec)
            for params in ({"guidance": 0.0}, {"smoothing": 0.5})
        )
        for other in (free, smooth):
            other.load(policy.arrays())
        ways = (
            ("real_time", "real_time", policy), (_SMOOTH, "real_time", smooth), (_FREE, "real_time", free),
            ("sequential", "sequential", policy), ("ensemble", "ensemble", policy),
        )  # fmt: skip
        for delay in (0, 3, 6, 9):
            for name, execution, acting in ways:
                found[f"{name}_{delay}"] = evaluated(
                    hal, acting, episodes, each=True, **_way(execution, delay)
                )
    return found


#: Real-time chunking that holds on to nothing after the rows that are carried out in any case.
_FREE = "real_time, guidance 0"
#: Its rows moved half of the way to the mean of their neighbours.
_SMOOTH = "real_time, smoothing 0.5"


def _way(execution: str, delay: int) -> Job:
    """Settings of an episode loop: a plan is asked for as rarely as a policy of this delay allows, without one every 4."""
    return {
        "replan_every": max(3, delay) if delay else 4,
        "chunks": {"execution": execution, "delay_steps": delay},
    }


def delay_jobs(seeds: list[int]) -> list[Job]:
    """Chunks of two lengths, by how much weights decay while they are learned."""
    return [
        {
            "kind": "delays", "name": "demonstrated", "task": "pick_place", "policy": "flow", "demonstrations": 200, "seed": seed,
            "updates": 6000, "rows": rows, "params": {"prefix_rows": prefix},
            "cloning": {"weight_decay": decay, "after_end": after_end},
        }
        for seed in seeds for decay in _DECAYS for rows, prefix in _FORMS for after_end in _AFTER_END
    ] + [
        {
            "kind": "delays", "name": f"corrected, {delay} late", "task": "pick_place", "policy": "flow", "demonstrations": 200,
            "seed": seed, "updates": 4000, "rows": 20 if delay > 6 else 16, "delay": delay, "rounds": 6, "round_updates": 400,
            "params": {"prefix_rows": max(6, delay), "deterministic_noise": 0.0},
            "cloning": {"weight_decay": 0.1, "after_end": "fade"},
        }
        for seed in seeds for delay in (3, 6, 9)
    ] + [
        {
            "kind": "delays", "name": name, "task": "pick_place", "policy": "flow", "demonstrations": 200, "seed": seed,
            "updates": 4000, "rows": 20, "delays": [0, 3, 6, 9], "rounds": 15, "round_updates": 400,
            "params": {"prefix_rows": 9, "prefix_weights": "own", "deterministic_noise": 0.0},
            "cloning": {"weight_decay": 0.1, "after_end": "fade", "waits": 0.1},
            **more,
        }
        for seed in seeds
        for name, more in (
            ("corrected, any", {}),
            ("not corrected, any", {"demonstrations_only": True}),
            ("corrected, any, from the takeover on", {"before": 0}),
            ("corrected at once, any", {"person": {"patience": 1}, "rounds": 24}),
            ("corrected at once, shortly, any", {"person": {"patience": 1}, "rounds": 6}),
            ("corrected at once, shortly, alike", {"person": {"patience": 1}, "rounds": 6, "alike": True}),
            ("not corrected, shortly", {"rounds": 6, "demonstrations_only": True}),
            (
                "corrected at once, any, ends not learned",
                {"person": {"patience": 1}, "rounds": 24, "cloning": {"weight_decay": 0.1}},
            ),
        )
    ]  # fmt: skip


def delays_table(lines: list[Job]) -> str:
    """Markdown: success and jerk, means over seeds (least to most); then what corrections bring."""
    chosen = [
        line for line in lines if line["job"]["kind"] == "delays" and "rounds" not in line["job"]
    ]
    if not chosen:
        return corrected_table(lines)
    heads = " | ".join(f"delay {delay}, asked every {every}" for delay, every in PAIRS)
    text = [
        "",
        f"| rows, `prefix_rows` | `weight_decay` | `after_end` | noise | seeds | {heads} |",
    ]
    text.append("|---" * (5 + len(PAIRS)) + "|")
    for rows, prefix in _FORMS:
        for cloning in [{"weight_decay": d, "after_end": a} for d in _DECAYS for a in _AFTER_END]:
            decay, after_end = cloning.values()
            of = [
                line["result"] for line in chosen
                if (line["job"]["rows"], line["job"]["cloning"]) == (rows, cloning)
            ]  # fmt: skip
            for noise in _NOISES if of else ():
                cells = []
                for delay, every in PAIRS:
                    if delay + every > rows:
                        cells.append("")
                        continue
                    points = [found[f"{noise:g}_{delay}_{every}"] for found in of]
                    wins = [100 * point["success"] for point in points]
                    jerk = np.mean([point["jerk"] for point in points])
                    cells.append(
                        f"{np.mean(wins):.0f} % ({min(wins):.0f} to {max(wins):.0f}), {jerk:.2f}"
                    )
                text.append(
                    f"| {rows}, {prefix} | {decay:g} | {after_end} | {noise:g} | {len(of)} | {' | '.join(cells)} |"
                )
    return "\n".join(text) + "\n" + corrected_table(lines)


def corrected_table(lines: list[Job]) -> str:
    """Markdown: one network before and after corrections under a delay, a row a seed."""
    chosen = [line for line in lines if "rounds" in line["job"] and "delay" in line["job"]]
    if not chosen:
        return several_delays_table(lines)
    text = [
        "",
        "| delay | seed | late, before corrections | corrected steps | late, after | no delay | `sequential`, late | `ensemble`, late |",
    ]
    text.append("|---" * 8 + "|")
    for line in chosen:
        job, found = line["job"], line["result"]
        first, last = found["curve"][0], found["curve"][-1]
        cells = [
            f"{100 * found[name]['success']:.0f} %, {found[name]['jerk']:.3f}"
            for name in ("real_time", "none", "sequential", "ensemble")
        ]
        text.append(
            f"| {job['delay']} | {job['seed']} | {100 * first['success']:.1f} % | {last['steps']} | {' | '.join(cells)} |"
        )
    return "\n".join(text) + "\n" + several_delays_table(lines)


def several_delays_table(lines: list[Job]) -> str:
    """Markdown: networks that are corrected under several delays. How success grew; then what each execution makes of them.

    Jerk is the mean over the starts from which all executions with that delay succeeded: of all elements of actions, of
    those that are no gripper's, and of these where plans change.
    """
    by_name: dict[str, list[Job]] = {}
    for line in lines:
        if line["job"]["kind"] == "delays" and "delays" in line["job"]:
            by_name.setdefault(line["job"]["name"], []).append(line)
    text: list[str] = []
    for name, of in by_name.items():
        late = of[0]["job"]["delays"]
        heads = " | ".join(f"{delay} late" for delay in late)
        text += [
            "",
            f"{name}, {len(of)} seeds",
            "",
            f"| round | corrected steps | {heads} |",
            "|---" * (2 + len(late)) + "|",
        ]
        curves = [line["result"]["curve"] for line in of]
        for number, points in enumerate(zip(*curves, strict=True)):
            if "success" in points[0]:
                wins = 100 * np.mean([point["success"] for point in points], axis=0)
                cells = " | ".join(f"{win:.0f} %" for win in wins)
                text.append(
                    f"| {number} | {np.mean([point['steps'] for point in points]):.0f} | {cells} |"
                )
        text += [
            "",
            "| delay | carried out | success | starts | jerk, all | without grippers | where plans change |",
            "|---" * 7 + "|",
        ]
        for delay in sorted(
            {int(way.rpartition("_")[2]) for way in of[0]["result"] if way != "curve"}
        ):
            ways = [way for way in of[0]["result"] if way.endswith(f"_{delay}")]
            parts: dict[str, list[Job]] = {way: [] for way in ways}
            for line in of:
                for starts in zip(*(line["result"][way]["episodes"] for way in ways), strict=True):
                    if all(start["won"] for start in starts):
                        for way, start in zip(ways, starts, strict=True):
                            parts[way].append(start)
            for way in ways:
                wins = [100 * line["result"][way]["success"] for line in of]
                means = [
                    np.mean([part[key] for part in parts[way] if key in part] or [np.nan])
                    for key in ("jerk", "arm", "joins")
                ]
                cells = " | ".join(f"{mean:.3f}" for mean in means)
                text.append(
                    f"| {delay} | `{way.rpartition('_')[0]}` | {np.mean(wins):.0f} % ({min(wins):.0f} to {max(wins):.0f}) "
                    f"| {len(parts[way])} | {cells} |"
                )
    return "\n".join(text)


def table(lines: list[Job]) -> str:
    """Markdown: success and jerk by task, way and delay; means over seeds."""
    found: dict[tuple[str, int, str], dict[int, list[Job]]] = {}
    for line in lines:
        if line["job"]["kind"] == "guided":
            for name, result in line["result"].items():
                how, _, delay = name.rpartition("_")
                key = (line["job"]["task"], line["job"]["rows"], how)
                found.setdefault(key, {}).setdefault(int(delay), []).append(result)
    if not found:
        return ""
    all_delays = sorted({delay for by_delay in found.values() for delay in by_delay})
    heads = " | ".join(f"delay {delay}" for delay in all_delays)
    text = [
        "",
        f"| task | rows | going on by | seeds | {heads} |",
        "|---" * (4 + len(all_delays)) + "|",
    ]
    for (task, rows, how), by_delay in sorted(found.items()):
        cells = []
        for delay in all_delays:
            results = by_delay.get(delay, [])
            wins, jerk = ([r[key] for r in results] for key in ("success", "jerk"))
            cells.append(f"{100 * np.mean(wins):.0f} %, {np.mean(jerk):.2f}" if wins else "")
        text.append(f"| `{task}` | {rows} | {how} | {len(by_delay[0])} | {' | '.join(cells)} |")
    return "\n".join(text)
