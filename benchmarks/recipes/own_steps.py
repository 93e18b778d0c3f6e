"""What a policy's own episodes are worth, good and bad, and what corrections of them are: recipes on the same data.

    python benchmarks/recipes/recipes.py --only own_steps --seeds 0 --out own_steps.jsonl

A flow that was cloned from few demonstrations acts by itself, with chance, then is corrected by the scripted person of
``corrected.yaml``. All recipes learn from what was recorded then, offline. Part of ``recipes.py``, which runs the jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks import Job, Windows, cloned, demonstrated, evaluated, policy_of, robot
from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.config import from_mapping
from user_core.specs import RobotSpec
from user_core.types import ActedBy, Batch, FinalObservation, Outcome, Step
from user_hal.local import LocalHal
from user_testing.experiments import Ring

#: Episodes that the policy does alone, and that a person corrects; half a batch; steps after which an episode ends.
ALONE, CORRECTED, HALF, MOST_STEPS = 50, 30, 64, 100
LOOP = {"replan_every": 4, "max_episode_steps": MOST_STEPS}
#: What each recipe draws, in equal shares of each half, and whether it counts as shown.
WAYS: dict[str, tuple[list[str], list[str]]] = {
    "bc, demonstrations": (["demonstrated"], ["demonstrated"]),
    "bc, and all own episodes": (["demonstrated"], ["alone"]),
    "bc, and own successes": (["demonstrated"], ["won"]),
    "hg_dagger": (["demonstrated"], ["person"]),
    "advantage, own episodes": (["demonstrated"], ["alone"]),
    "advantage, own episodes and corrections": (["demonstrated", "person"], ["policy"]),
}
#: How far beyond what was good a policy that is told goes (advantage_weight).
WEIGHTS = (0.0, 1.0, 1.5, 3.0)


def jobs(seeds: list[int]) -> list[Job]:
    """One a seed."""
    return [
        {
            "kind": "own_steps", "task": "pick_place", "policy": "flow", "demonstrations": 20, "seed": seed, "updates": 3000,
            "cloning": {"weight_decay": 0.3},
        }
        for seed in seeds
    ]  # fmt: skip


def own_steps(job: Job, scale: float) -> Job:
    """Record, then let each recipe learn from it; ``result`` by recipe."""

    found: Job = {}
    episodes, updates = max(2, int(50 * scale)), int(job["updates"] * scale)
    with robot(job) as hal:
        shown, base = demonstrated(job, hal), policy_of(job, hal.spec)
        cloned(job, hal.spec, shown, updates, base)
        found["base"] = evaluated(hal, base, episodes, **LOOP)
        alone = recorded(hal, base, max(4, int(ALONE * scale)), 10_000_000 * (job["seed"] + 1))
        person = plugins.build("teleops", "expert", {"engage": "corrects", "seed": job["seed"]})
        person.connect(hal.spec)
        corrected = recorded(
            hal, base, max(4, int(CORRECTED * scale)), 20_000_000 * (job["seed"] + 1), person
        )
        rings = {
            "demonstrated": shown,
            "alone": ring_of(hal.spec, [rows for _, rows in alone]),
            "won": ring_of(hal.spec, [rows for won, rows in alone if won]),
            "person": ring_of(hal.spec, [stretches(rows, True) for _, rows in corrected]),
            "policy": ring_of(
                hal.spec, [rows for _, rows in alone] + [stretches(r, False) for _, r in corrected]
            ),
        }
        found["steps"] = {name: ring.steps for name, ring in rings.items()}
        found["alone"], found["corrected"] = (
            float(np.mean([won for won, _ in some])) for some in (alone, corrected)
        )
        for way, halves in WAYS.items():
            begin_s = time.monotonic()
            told = way.startswith("advantage")
            params = {**job.get("params", {}), **({"advantage_weight": 1.5} if told else {})}
            policy = policy_of(
                {**job, "params": params}, hal.spec, "advantage_flow" if told else ""
            )
            settings = {"learning_rate": 1e-3, **job["cloning"]}
            if told:
                settings["values"] = {"hidden": [128, 128], "learning_rate": 1e-3}
            algorithm: Any = plugins.build(
                "algorithms", "advantage_conditioned" if told else "bc", settings, hal.spec, policy
            )
            sources = [
                (Windows(rings[name], 8, job["seed"]), HALF // len(half), name not in OWN)
                for half in halves
                for name in half
                if rings[name].steps
            ]
            for _ in range(updates):
                algorithm.update(together([(w.sample(n), good) for w, n, good in sources]))
            learning_s = round(time.monotonic() - begin_s)
            for weight in WEIGHTS if told else (None,):
                if weight is not None:
                    policy = policy_of(
                        {**job, "params": {**params, "advantage_weight": weight}}, hal.spec, "advantage_flow"
                    )  # fmt: skip
                policy.load(algorithm.policy_arrays())
                name = way if weight is None else f"{way}, weight {weight:g}"
                result = evaluated(hal, policy, episodes, **LOOP)
                found[name] = {**result, "learning_s": learning_s}
    return found


#: What nobody showed.
OWN = ("alone", "won", "policy")


def recorded(
    hal: LocalHal, policy: Any, episodes: int, start: int, person: Any = None
) -> list[tuple[bool, list[Any]]]:
    """Whether episodes succeeded, and their rows: with chance alone, without where a person corrects."""
    words = dict(LOOP) if person is None else {
        **LOOP, "arbiter": {"hold_s": 0.0}, "exploration": {"deterministic": True},
    }  # fmt: skip
    sink, found = MemorySink("online"), list[tuple[bool, list[Any]]]()
    loop = EpisodeLoop(
        hal, policy, plugins.build("rewards", "task"), sink, from_mapping(ActorLoopConfig, words),
        teleop=None if person is None else LocalTeleop(person),
    )  # fmt: skip
    for number in range(episodes):
        if (result := loop.run(seed=start + number)) is not None:
            found.append((result.outcome is Outcome.SUCCESS, sink.rows.pop(result.key)))
    return found


def stretches(rows: Sequence[Any], of_person: bool) -> list[Any]:
    """What a person drove, or what the policy did, each time as an episode of its own."""
    found: list[Any] = []
    for row in rows:
        people = isinstance(row, Step) and row.acted_by in (ActedBy.HUMAN, ActedBy.SCRIPT)
        if isinstance(row, Step) and people == of_person:
            found.append(row)
        elif found and isinstance(found[-1], Step):
            found.append(FinalObservation(row.observation, row.stamp_ns))
    return found


def ring_of(spec: RobotSpec, episodes: Sequence[Sequence[Any]]) -> Ring:
    """Episodes that may be drawn from."""
    ring = Ring(spec, 60_000)
    for rows in episodes:
        for row in rows:
            ring.append(row)
    return ring


def together(parts: Sequence[tuple[Batch, bool]]) -> Batch:
    """One batch of several, each of which was shown or not."""

    def joined(get: Any) -> Any:
        return np.concatenate([get(part) for part, _ in parts])

    first = parts[0][0]
    seen, ahead = (
        {name: joined(lambda part, o=of, n=name: getattr(part, o)[n]) for name in first.observation}
        for of in ("observation", "next_observation")
    )
    action, reward, discount = (
        joined(lambda part, n=name: getattr(part, n)) for name in ("action", "reward", "discount")
    )
    shown = np.concatenate([np.full(len(part), good) for part, good in parts])
    mask, row = (joined(lambda part, n=name: part.extras[n]) for name in ("mask", "row"))
    extras = {"mask": mask, "demonstration": shown, "row": row}
    return Batch(seen, action, reward, discount, ahead, extras)


def table(lines: list[Job]) -> str:
    """Markdown: success, means over seeds (least to most)."""
    results = [line["result"] for line in lines if line["job"]["kind"] == "own_steps"]
    if not results:
        return ""
    text = ["", "| recipe, on the same data | seeds | success |", "|---|---|---|"]
    for name in results[0]:
        if name in ("steps", "alone", "corrected"):
            continue
        values = [100 * r[name]["success"] for r in results if name in r]
        text.append(
            f"| {name} | {len(values)} | {np.mean(values):.0f} % ({min(values):.0f} to {max(values):.0f}) |"
        )
    return "\n".join(text)
