"""Chunk policies that see: cloned from images, with convolutions of their own or a frozen pretrained encoder.

    python benchmarks/recipes/images.py --processes 8 --device cuda --seconds 500 --out images.jsonl
    python benchmarks/recipes/images.py --table --out images.jsonl --picture docs/pictures/chunks_from_images.png

The policy gets two images of the simulated arm and the pose of its tool, and nothing that says where objects are. Each
job is one training with evaluations on its way, one JSON line at each; jobs whose last line is there are not
made again. Features of a frozen encoder are computed once for all images, as a learner does.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import pick_cube
from tasks import Job, Windows, evaluated, in_processes, read
from user_core import plugins
from user_core.command_line import Parser
from user_hal.local import LocalHal
from user_testing.experiments import Ring, demonstrate

GYM_HIL = "gym_hil"
#: Of weights, where a round of corrections is few updates: an average over 1,000 would act as before it.
AVERAGE = 0.99
#: What would tell where things are.
HIDDEN = [
    "joint_position", "joint_velocity", "tcp_velocity", "wrench", "goal_position", "object_pose", "tool_to_object",
    "object_to_goal", "peg_to_hole",
]  # fmt: skip
LITE0 = {"backbone": "efficientnet_lite0"}
WAYS: dict[str, Job] = {
    "flow": {"policy": "flow"},
    "flow, frozen encoder": {"policy": "flow", "params": {"image_encoder": LITE0}},
    "flow, trained encoder": {
        "policy": "flow",
        "params": {"image_encoder": {**LITE0, "trained": True}},
    },
    "flow, frozen encoder, 8 px": {
        "policy": "flow",
        "params": {"image_encoder": {**LITE0, "stride": 8}},
    },
    "flow, frozen encoder, gripper as a number": {
        "policy": "flow",
        "params": {"image_encoder": LITE0},
        "choices": False,
    },
    "flow, frozen encoder, slow average": {
        "policy": "flow",
        "params": {"image_encoder": LITE0},
        "average": 0.999,
    },
    "act": {"policy": "act"},
    "act, frozen encoder": {"policy": "act", "params": {"image_encoder": LITE0}},
}


def jobs(seeds: list[int], demonstrations: int, updates: int) -> list[Job]:
    """All of them, those that matter most first."""
    return [
        {"task": task, "way": way, "demonstrations": demonstrations, "seed": seed, "updates": updates}
        for seed in seeds
        for task, ways in (
            ("peg_insertion", ["flow, frozen encoder", "flow", "act, frozen encoder", "act"]),
            ("pick_place", ["flow, frozen encoder", "flow"]),
            (GYM_HIL, [
                "flow, frozen encoder", "flow", "flow, frozen encoder, 8 px",
                "flow, frozen encoder, gripper as a number", "flow, frozen encoder, slow average",
            ]),
        )
        for way in ways
    ]  # fmt: skip


def with_features(ring: Ring, encoder: Any, device: str) -> None:
    """Put features in the place of images."""
    import torch

    for name, images in list(ring.observation.items()):
        if images.ndim == 4:
            parts = [
                encoder(torch.from_numpy(images[i : min(i + 256, ring.rows)]).to(device))
                .cpu()
                .numpy()
                for i in range(0, ring.rows, 256)
            ]
            ring.observation[name] = np.concatenate(parts)


def resident(ring: Ring, device: str) -> Ring:
    """The same steps with images, or features, where they are learned from: no batch of them is copied there."""
    import torch

    there = copy.copy(ring)
    there.observation = {
        name: torch.from_numpy(array[: ring.rows]).to(device) if array.ndim > 2 else array
        for name, array in ring.observation.items()
    }
    return there


def robot(task: str, size: int, choices: bool = True) -> LocalHal:
    """The simulated task of a job, which shows two images."""
    if task == GYM_HIL:
        return pick_cube.robot(size, choices)
    params = {"cameras": ["front", "wrist"], "image_height": size, "image_width": size}
    return LocalHal(plugins.build("robots", "mujoco", {"task": task, **params}))


def train(job: Job, arguments: argparse.Namespace, tell: Any) -> None:
    """One training; ``tell`` is called with what was measured."""
    way, scale = WAYS[job["way"]], arguments.scale
    params = dict(way.get("params", {}))
    if arguments.encoder_weights and "image_encoder" in params:
        params["image_encoder"] = {**params["image_encoder"], "weights": arguments.encoder_weights}
    in_rounds = job["task"] == GYM_HIL
    with robot(job["task"], arguments.size, way.get("choices", True)) as hal:
        reward = plugins.build("rewards", "task")
        begin_s = time.monotonic()
        rows = 150 * job["demonstrations"]
        count = max(2, int(job["demonstrations"] * scale))
        person = pick_cube.Person(0.3, job["seed"]) if in_rounds else None
        ring = demonstrate(hal, count, 0.3, job["seed"], rows, reward, person)
        policy = plugins.build(
            "policies", way["policy"],
            {
                "rows": 8, "seed": job["seed"], "ignored_observations": HIDDEN, "embedding": 128,
                "device": arguments.device, **({"deterministic_noise": 0.0} if in_rounds else {}), **params,
            },
            hal.spec,
        )  # fmt: skip
        shown_s = time.monotonic() - begin_s
        algorithm = plugins.build(
            "algorithms",
            "bc",
            {
                "learning_rate": 3e-4,
                "device": arguments.device,
                "average": way.get("average", AVERAGE if in_rounds else 0.999),
            },
            hal.spec,
            policy,
        )
        encoder = getattr(algorithm.network, "frozen_encoder", None)
        if encoder is not None:
            with_features(ring, encoder, arguments.device)
        windows = Windows(resident(ring, arguments.device), 8, job["seed"])
        done, learning_s = 0, 0.0
        updates, is_last = max(2, int(job["updates"] * scale)), not in_rounds
        for goal in [updates // 2**i for i in reversed(range(arguments.looks))]:
            begin_s = time.monotonic()
            while done < goal:
                metrics = algorithm.update(windows.sample(128))
                done += 1
            policy.load(algorithm.policy_arrays())
            learning_s += time.monotonic() - begin_s
            begin_s = time.monotonic()
            last = goal == updates and is_last
            episodes = max(2, int((arguments.episodes if last else 20) * scale))
            if in_rounds:
                pick_cube.Reproducible.ended()
            result = evaluated(hal, policy, episodes, replan_every=4)
            if in_rounds:
                result["ends"] = pick_cube.Reproducible.ended()
            tell({
                "updates": done, **result, "loss": round(metrics["loss"], 4), "demonstrated": ring.steps,
                "demonstrating_s": round(shown_s), "learning_s": round(learning_s, 1),
                "evaluating_s": round(time.monotonic() - begin_s, 1), "last": last,
            })  # fmt: skip
        if not is_last:

            def learned_from(more: Ring) -> Ring:
                seen = copy.copy(more)
                seen.observation = dict(more.observation)
                if encoder is not None:
                    with_features(seen, encoder, arguments.device)
                return resident(seen, arguments.device)

            settings = {
                "seed": job["seed"], "rows": 8, "updates": max(2, int(arguments.round_updates * scale)),
                "episodes": max(2, int(arguments.episodes * scale)), "end_s": arguments.end_s,
            }  # fmt: skip
            pick_cube.corrected(
                hal, policy, algorithm, windows, learned_from, settings,
                lambda result: tell({"updates": done + result["more_updates"], **result}),
            )  # fmt: skip


def _run(work: tuple[Job, argparse.Namespace, float]) -> None:
    job, arguments, end_s = work
    if time.time() > end_s:
        return
    import torch

    torch.set_num_threads(1)

    def tell(result: Job) -> None:
        line = json.dumps({"job": job, "scale": arguments.scale, "result": result})
        with arguments.out.open("a") as file:
            file.write(line + "\n")
        print(line[:400], flush=True)

    try:
        train(job, arguments, tell)
    except Exception:  # one job does not end the others
        tell({"error": traceback.format_exc()[-1500:]})


def curves(lines: list[Job]) -> dict[tuple[str, str], dict[int, list[float]]]:
    """Success over seeds, by task and way, and by updates."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for line in lines:
        job, result = line["job"], line["result"]
        points = found.setdefault((job["task"], job["way"]), {})
        points.setdefault(result["updates"], []).append(result["success"])
    return dict(sorted(found.items()))


def lasting(lines: list[Job]) -> list[Job]:
    """The same, with what a training that ended because it could do the task reached at the later looks of others, too:
    else the mean falls when the best are done."""
    more = []
    for line in lines:
        job, result = line["job"], line["result"]
        if result["last"] and job["task"] == GYM_HIL and result["success"] >= pick_cube.WANTED:
            later = {
                other["result"]["updates"]
                for other in lines
                if other["job"]["way"] == job["way"] and other["job"]["task"] == job["task"]
            }
            more += [
                {**line, "result": {**result, "updates": updates}}
                for updates in later
                if updates > result["updates"]
            ]
    return lines + more


def table(lines: list[Job]) -> str:
    """Markdown: means over seeds, with the least and the most."""
    text = ["| task | policy | updates | seeds | success |", "|---|---|---|---|---|"]
    for (task, way), points in curves(lines).items():
        for updates, values in sorted(points.items()):
            mean, low, high = (100 * f(values) for f in (np.mean, min, max))
            text.append(
                f"| `{task}` | `{way}` | {updates} | {len(values)} | {mean:.0f} % ({low:.0f} to {high:.0f}) |"
            )
    return "\n".join(text)


def picture(lines: list[Job], path: Path) -> None:
    """Success over updates, one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = curves(lasting(lines))
    tasks = sorted({task for task, _ in found})
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(3.6 * len(tasks), 2.8), sharey=True, squeeze=False
    )
    for panel, task in zip(panels[0], tasks, strict=True):
        for (of, way), points in found.items():
            if of == task:
                x = sorted(points)
                middle = np.array([np.mean(points[u]) for u in x])
                ends = np.array([[min(points[u]), max(points[u])] for u in x]).T
                colour = f"C{list(WAYS).index(way)}"
                panel.plot(x, middle, marker="o", ms=3, label=way, color=colour)
                panel.fill_between(x, *ends, alpha=0.15, color=colour)
        panel.set(title=task, xlabel="updates", ylim=(-0.02, 1.02))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("success")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("images.jsonl"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="no job begins after this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=96, help="height and width of images, pixels")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--demonstrations", type=int, default=50)
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--ways", nargs="*", help="ways; with --only, both must hold")
    parser.add_argument(
        "--looks", type=int, default=4, help="evaluations; each at twice the updates"
    )
    parser.add_argument("--episodes", type=int, default=50, help="of the last one; else 20")
    parser.add_argument(
        "--round-updates", type=int, default=500, help="gym_hil: after 10 episodes with corrections"
    )
    parser.add_argument(
        "--encoder-weights", default="", help="file, where the package is not there"
    )
    parser.add_argument("--only", nargs="*", help="ways, or tasks")
    parser.add_argument("--scale", type=float, default=1.0, help="of everything, to try it")
    parser.add_argument(
        "--table", action="store_true", help="print what there is, and make nothing"
    )
    parser.add_argument("--picture", type=Path, help="draw the curves")
    arguments = parser.parse_args()
    if not arguments.table:
        done = [line["job"] for line in read(arguments.out) if line["result"]["last"]]
        end_s = arguments.end_s = time.time() + arguments.seconds
        every = jobs(arguments.seeds, arguments.demonstrations, arguments.updates)
        work = [
            (job, arguments, end_s)
            for job in every
            if job not in done
            and (not arguments.only or {job["task"], job["way"]} & {*arguments.only})
            and (job["task"] != GYM_HIL or GYM_HIL in (arguments.only or []))
            and (not arguments.ways or job["way"] in arguments.ways)
        ]
        in_processes(_run, work, arguments.processes)
    lines = read(arguments.out)
    print(table(lines))
    if arguments.picture:
        picture(lines, arguments.picture)


if __name__ == "__main__":
    main()
