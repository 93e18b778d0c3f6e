"""Corrections by a scripted person beside as many further demonstrations, from the same cloned policy.

    python benchmarks/recipes/recipes.py --only hg_dagger --seeds 0 1 2 --out corrections.jsonl --corrections docs/pictures/corrections.png

Part of ``recipes.py``, which runs the jobs.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tasks import Job, Windows, cloned, demonstrated, evaluated, policy_of, robot
from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.config import from_mapping
from user_core.types import ActedBy, Batch, EpisodeSource, FinalObservation, Outcome, Step
from user_testing.experiments import Ring, demonstrate


def jobs(seeds: list[int]) -> list[Job]:
    """From 20 demonstrations; with a gripper that opens by any share, with one that is closed, held or opened, and with weights
    that are averaged over fewer updates than a round has."""
    return [
        {
            "kind": "hg_dagger", "task": "pick_place", "policy": "flow", "demonstrations": 20, "seed": seed,
            "updates": 2000, "rounds": 12, "episodes": 10, "evaluated": 20, **more,
        }
        for more in (
            {}, {"name": "choices"}, {"name": "average 0.99", "cloning": {"average": 0.99}},
        )
        for seed in seeds
    ]  # fmt: skip


def hg_dagger(job: Job, scale: float) -> Job:
    """Rounds of episodes that the scripted person corrects, each followed by more cloning; and beside it, from the same
    beginning, plain cloning with as many further demonstrated steps.

    The person is the one of ``corrected.yaml``: the teleoperation plugin ``expert``, which sees no more than a robot
    shows. What he did is half of each batch, as in the recipe.
    """

    with robot(job) as hal:
        reward = plugins.build("rewards", "task")
        ring = demonstrated(job, hal)
        policy, plain = policy_of(job, hal.spec), policy_of(job, hal.spec)
        updates = int(job["updates"] * scale)
        algorithm = cloned(job, hal.spec, ring, updates, policy)
        beside = cloned(job, hal.spec, ring, updates, plain)
        episodes = max(2, int(job["evaluated"] * scale))
        first = evaluated(hal, policy, episodes, replan_every=4)["success"]
        curve: list[Job] = [{"steps": 0, "success": first, "more": 0, "success_plain": first}]
        person = plugins.build("teleops", "expert", {"engage": "corrects", "seed": job["seed"]})
        person.connect(hal.spec)
        words = {
            "replan_every": 4, "arbiter": {"hold_s": 0.0}, "max_episode_steps": 200,
            "exploration": {"deterministic": not job.get("chance")},
        }  # fmt: skip
        without = {name: word for name, word in words.items() if name != "arbiter"}
        alone = EpisodeLoop(
            hal, policy, reward, MemorySink("alone"), from_mapping(ActorLoopConfig, without)
        )
        config, trials = from_mapping(ActorLoopConfig, words), MemorySink("online")
        loop = EpisodeLoop(hal, policy, reward, trials, config, teleop=LocalTeleop(person))
        corrections, further = Ring(hal.spec, 60_000), Ring(hal.spec, 60_000)
        start, shown = 10_000_000 * (job["seed"] + 1), 0
        for _ in range(job["rounds"]):
            results, corrected, needless, before = [], 0, 0, dict(person.causes)
            for _ in range(job["episodes"]):
                start += 1
                if (result := loop.run(seed=start)) is not None:
                    results.append(result)
                    for row in of_person(trials.rows.pop(result.key)):
                        corrections.append(row)
                    if result.takeovers:  # what it would have done without him
                        by_itself = alone.run(EpisodeSource.EVALUATION, start)
                        corrected += 1
                        needless += by_itself is not None and by_itself.outcome is Outcome.SUCCESS
            while further.steps < corrections.steps:  # as many, demonstrated from the beginning
                shown += 1
                _join(
                    further, demonstrate(hal, 1, 0.3, 1000 * (job["seed"] + 1) + shown, 400, reward)
                )
            for learner, acting, more in (
                (algorithm, policy, corrections),
                (beside, plain, further),
            ):
                mixed = [Windows(one, 8, len(curve)) for one in (ring, more) if one.steps]
                for _ in range(updates // 4):
                    parts = [one.sample(256 // len(mixed)) for one in mixed]
                    learner.update(concatenated(parts))
                acting.load(learner.policy_arrays())
            curve.append({
                "steps": corrections.steps, "more": further.steps,
                "interventions": round(float(np.mean([r.takeovers for r in results])), 2),
                "corrected": corrected, "needless": needless,
                "causes": {name: n - before.get(name, 0) for name, n in person.causes.items()},
                "by_person": round(
                    sum(r.interventions for r in results) / max(1, sum(r.length for r in results)), 3
                ),
                "helped": round(float(np.mean([r.outcome is Outcome.SUCCESS for r in results])), 3),
                "success": evaluated(hal, policy, episodes, replan_every=4)["success"],
                "success_plain": evaluated(hal, plain, episodes, replan_every=4)["success"],
            })  # fmt: skip
    return {"curve": curve}


def of_person(rows: list[Any]) -> list[Any]:
    """Stretches that a person drove, each as an episode of its own."""
    found: list[Any] = []
    for row in rows:
        drove = isinstance(row, Step) and row.acted_by in (ActedBy.HUMAN, ActedBy.SCRIPT)
        if drove:
            found.append(row)
        elif found and isinstance(found[-1], Step):
            found.append(FinalObservation(row.observation, row.stamp_ns))
    return found


def _join(ring: Ring, more: Ring) -> None:
    for row in range(more.rows):
        seen = {name: array[row] for name, array in more.observation.items()}
        if more.last[row]:
            ring.append(FinalObservation(seen))
        else:
            ring.append(Step(seen, more.action[row], more.action[row], 0.0))


def concatenated(parts: list[Batch]) -> Batch:
    """One batch of several, whose images may be tensors on the device that learns."""
    seen = {n: _joined([p.observation[n] for p in parts]) for n in parts[0].observation}
    action, reward, discount = (
        np.concatenate([getattr(p, n) for p in parts]) for n in ("action", "reward", "discount")
    )
    mask = np.concatenate([p.extras["mask"] for p in parts])
    return Batch(seen, action, 0 * reward, discount, seen, {"mask": mask})


def _joined(arrays: list[Any]) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch

    return torch.cat(arrays)


def table(lines: list[Job]) -> str:
    """Markdown: means over seeds, and sums of what corrections were for."""
    names = {line["job"].get("name", "") for line in lines if line["job"]["kind"] == "hg_dagger"}
    return "\n".join(_table(_curves(lines, name), name) for name in sorted(names))


def _curves(lines: list[Job], name: str = "") -> list[list[Job]]:
    return [
        line["result"]["curve"]
        for line in lines
        if line["job"]["kind"] == "hg_dagger" and line["job"].get("name", "") == name
    ]


def _table(curves: list[list[Job]], name: str) -> str:
    text = [
        "",
        *([{"choices": "A gripper that is a choice"}.get(name, name), ""] if name else []),
        "| round | corrected steps | interventions an episode | steps by the person | success | "
        "demonstrated steps | success of plain cloning | episodes corrected, that would have gone well | for |",
        "|---" * 9 + "|",
    ]
    for number, points in enumerate(zip(*curves, strict=False)):
        cells = []
        for name, form in (
            ("steps", "{:.0f}"), ("interventions", "{:.2f}"), ("by_person", "{:.0%}"),
            ("success", "{:.0%}"), ("more", "{:.0f}"), ("success_plain", "{:.0%}"),
        ):  # fmt: skip
            values = [point[name] for point in points if name in point]
            cells.append(form.format(np.mean(values)) if values else "")
        if all("causes" in point for point in points):
            sums = [sum(point[name] for point in points) for name in ("corrected", "needless")]
            causes = sum((Counter(point["causes"]) for point in points), Counter())
            cells.append(f"{sums[0]}, {sums[1]}")
            cells.append(", ".join(f"{name} {n}" for name, n in causes.most_common() if n))
        text.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(text)


def draw(lines: list[Job], path: Path) -> None:
    """Success by further steps, and interventions by rounds; a thin line a seed, a thick one the mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = _curves(lines)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6))
    for number, curve in enumerate(curves):
        for name, steps, label, colour in (
            ("success", "steps", "corrected", "tab:blue"),
            ("success_plain", "more", "demonstrated", "tab:orange"),
        ):
            left.plot(
                [point[steps] for point in curve], [100 * point[name] for point in curve],
                marker=".", lw=1.2, color=colour, label=None if number else label,
            )  # fmt: skip
        right.plot(
            range(1, len(curve)), [point["interventions"] for point in curve[1:]],
            lw=0.8, alpha=0.5, color="tab:blue",
        )  # fmt: skip
    rounds = min(len(curve) for curve in curves)
    right.plot(
        range(1, rounds),
        [sum(curve[n]["interventions"] for curve in curves) / len(curves) for n in range(1, rounds)],
        marker=".", lw=2, color="tab:blue",
    )  # fmt: skip
    left.axhline(90, color="0.7", lw=0.8, ls="--")
    left.set(xlabel="further steps by the person", ylabel="success, %", ylim=(0, 103))
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="round of 10 episodes", ylabel="interventions an episode", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=90)
