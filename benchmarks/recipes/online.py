"""Recipes that learn from rewards, side by side: curves over environment steps from the same demonstrations.

    python benchmarks/recipes/recipes.py --only online --processes 6 --seconds 400 --out online.jsonl
    python benchmarks/recipes/recipes.py --only online --table --out online.jsonl --curves docs/pictures/recipes_online.png

Each job is a file of config/algorithms with few changes, for one seed. Synchronous: one environment step, then as many updates as
the file's ratio allows. A point at step 0 is what demonstrations alone gave. Part of ``recipes.py``, which runs the jobs.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks import IGNORED as TASKS
from tasks import Job, Windows, evaluated, robot
from user_actor.loop import PolicyHolder
from user_core import plugins
from user_core.codecs.weights import content_hash, encode_version
from user_core.interfaces import Policy
from user_core.policies import policy_config_hash
from user_core.specs import Arrays
from user_core.types import EpisodeSource, PolicyVersion
from user_learner.training.loop import GO, configure_torch
from user_testing.experiments import (
    AlgorithmFile,
    Experiment,
    demonstrate,
    make_parser,
    read_config,
)

#: Kind of jobs whose robot's gripper is closed, held or opened, in place of a share of its opening.
CHOICES = "choices"
#: Kinds of jobs of this module.
KINDS = ("online", "from_half", CHOICES)
#: The base of residual and dsrl: the bc_flow recipe, smaller.
BASE = {"rows": 8, "steps": 4, "hidden": [128, 128, 128]}
BASE_UPDATES, SLOW_S = 4000, 190.0
#: A base that does half of it: how often is looked, in updates of its cloning, and what is half.
LOOK_EVERY, HALF = 25, (0.4, 0.6)


class TimeIsOver(Exception):
    """A job took as long as it may: what there is of its curve counts."""


class Recipe(Experiment):
    """An experiment that ends in time, and acts at random only where there is nothing better."""

    end_s = 0.0

    def __init__(self, *parts: Any, first: Arrays | None = None) -> None:
        self.first = first  # weights to begin with
        super().__init__(*parts)

    def make_policy(self) -> Policy:
        policy = super().make_policy()
        if self.first is not None:
            policy.load(self.first)
        return policy

    @property
    def random_steps(self) -> int:
        return 200 if self.config.algorithm.plugin in ("rlpd", "sac") else 0

    def synchronous(self) -> None:
        """Asynchronous PPO must know which version acted: its actor takes those that are published."""
        if self.config.algorithm.plugin != "async_ppo":
            super().synchronous()
            return

        def learn(steps: int) -> None:
            while self.loop.step() == GO:
                pass
            holder.load_newest()

        configure_torch(self.config.training.threads)
        holder = PolicyHolder(self.make_policy, self.robot.spec, self.mailbox)
        self.policies = holder
        self.collect(learn)

    def in_time(self) -> None:
        """Raise TimeIsOver once it is."""
        if time.monotonic() > self.end_s:
            raise TimeIsOver


def online(job: Job, scale: float) -> Job:
    """One recipe's curve, for one seed."""
    begin_s = time.monotonic()
    steps, every = int(job["steps"] * scale), max(1, int(job["every"] * scale))
    words = [
        job["recipe"], "--robot", job.get("robot", "mujoco"),
        "--param", *job["param"], "--seed", str(job["seed"]), "--steps", str(steps),
        "--every", str(every), "--episodes", str(max(2, int(job.get("episodes", 20) * scale))),
        "--demonstrations", str(job.get("demonstrations", 0)), "--set", *job.get("set", []),
        *(["--gripper-choices"] if job["kind"] == CHOICES else []),
    ]  # fmt: skip
    found: Job = {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = make_parser().parse_args(words)
        config = scaled(read_config(arguments), scale)
        first = None
        if config.algorithm.plugin in ("residual", "dsrl"):
            base = based(job, arguments, found, scale, job.get("base", {}))
            config = on_base(config, base, Path(folder))
        elif job.get("from_base"):
            first = based(job, arguments, found, scale, dict(config.policy.params)).arrays
        if job.get("after"):
            earlier = make_parser().parse_args([job["after"], *words[1:]])
            offline(Recipe(earlier, scaled(read_config(earlier), scale), Path(folder)))
        recipe = Recipe(arguments, config, Path(folder), first=first)
        recipe.on_step, recipe.end_s = recipe.in_time, begin_s + job.get("most_s", SLOW_S)
        if job.get("after"):
            recipe.loop.restore()
        with recipe.robot, recipe.judge:
            recipe.demonstrate()
            if recipe.rings.keys() != {EpisodeSource.ONLINE}:
                while recipe.loop.step() == GO:  # what is due on demonstrations alone
                    pass
                recipe.judged.load(recipe.algorithm.policy_arrays())
                recipe.policies = type(recipe.policies)(recipe.judged)
                recipe.lines.append(recipe.report(0, begin_s))
            try:
                recipe.synchronous()
            except TimeIsOver:
                found["stopped_at"] = len(recipe.finished)
        keep = ("steps", "updates", "successes", "return", "length", "training_success", "cpu_s")
        found["curve"] = [{name: line[name] for name in keep} for line in recipe.lines]
        found["episodes"] = arguments.episodes
    return found


def scaled(config: AlgorithmFile, scale: float) -> AlgorithmFile:
    """The same with less to do before robots act."""
    if scale == 1:
        return config
    training = config.training
    changes: Job = {
        "utd": training.utd.replace(initial_updates=int(scale * training.utd.initial_updates))
    }
    if training.max_updates is not None:
        changes["max_updates"] = int(scale * training.max_updates)
    return config.replace(training=training.replace(**changes))


def offline(recipe: Recipe) -> None:
    """Train on demonstrations alone, and leave a checkpoint."""
    with recipe.robot, recipe.judge:
        recipe.demonstrate()
    recipe.loop.run()


@dataclass(frozen=True)
class Base:
    """A flow that was cloned from the demonstrations of a job.

    Attributes:
        arrays: Its weights.
        params: Of the policy.
        made_for: Hash of its configuration.
    """

    arrays: Arrays
    params: Job
    made_for: str


def based(job: Job, arguments: Any, found: Job, scale: float, changes: Job) -> Base:
    """A base from the same demonstrations; ``found`` says what it reaches alone."""

    task = dict(word.split("=", 1) for word in arguments.param)["task"]
    params = {**BASE, "ignored_observations": TASKS[task], "seed": arguments.seed, **changes}
    with robot({"task": task, "name": job["kind"]}) as hal:
        ring = demonstrate(
            hal, arguments.demonstrations, arguments.noise, arguments.seed, 60_000,
            plugins.build("rewards", "task"),
        )  # fmt: skip
        policy = plugins.build("policies", "flow", params, hal.spec)
        cloning = plugins.build("algorithms", "bc", {"learning_rate": 1e-3}, hal.spec, policy)
        windows = Windows(ring, params["rows"], arguments.seed)
        asked, nearest = job.get("half_asked_every", 0), 1.0
        arrays = policy.arrays()
        for update in range(1, int(job.get("base_updates", BASE_UPDATES) * scale) + 1):
            cloning.update(windows.sample(128))
            if not asked or update % LOOK_EVERY:
                continue
            policy.load(cloning.policy_arrays())
            reached = evaluated(hal, policy, arguments.episodes, replan_every=asked)["success"]
            if abs(reached - 0.5) < nearest:
                nearest, arrays, found["base_updates"] = abs(reached - 0.5), policy.arrays(), update
            if HALF[0] <= reached <= HALF[1]:
                break
        policy.load(arrays if asked else cloning.policy_arrays())
        for rows in (1, 4):
            result = evaluated(hal, policy, arguments.episodes, replan_every=rows)
            found[f"base_every_{rows}"] = result["success"]
        return Base(policy.arrays(), params, policy_config_hash("flow", params, hal.spec))


def on_base(config: AlgorithmFile, base: Base, folder: Path) -> AlgorithmFile:
    """The recipe with a frozen base."""
    version = PolicyVersion(1, base.arrays, base.made_for, BASE_UPDATES, 0, 0)
    path = folder / "base.safetensors"
    path.write_bytes(encode_version(version))
    changes = {
        "base": {"plugin": "flow", "params": base.params}, "base_file": str(path),
        "base_hash": content_hash(version),
    }  # fmt: skip
    return config.replace(policy=config.policy.replace(params={**config.policy.params, **changes}))


IGNORED = "policy.params.ignored_observations=[joint_position, joint_velocity, goal_position]"
KEPT = "sampler.strata=[{sources: [online]}, {sources: [demonstration]}]"
UTD_1 = "training.utd.target=1"
#: Recipe, what is changed in it, and what else the job says.
PICK: dict[str, tuple[str, list[str], Job]] = {
    "rlpd, n_step 3": ("rlpd_cpu.yaml", [UTD_1], {}),
    "rlpd, n_step 1": ("rlpd_cpu.yaml", [UTD_1, "sampler.n_step=1"], {}),
    "q_chunking": ("q_chunking.yaml", [], {}),
    "advantage_conditioned": ("advantage_conditioned.yaml", [], {}),
    "residual": ("residual.yaml", [], {}),
    "dsrl": ("dsrl.yaml", ["policy.params.shared_noise=true"], {}),
    "wsrl after cal_ql": ("wsrl.yaml", [], {"after": "cal_ql.yaml"}),
    "residual, base without noise": ("residual.yaml", [], {"base": {"deterministic_noise": 0.0}}),
    "dsrl, base without noise": ("dsrl.yaml", [], {"base": {"deterministic_noise": 0.0}}),
    "wsrl after cal_ql, old data kept": ("wsrl.yaml", [KEPT], {"after": "cal_ql.yaml"}),
}  # fmt: skip
#: Where 6,000 steps are not enough to see.
LONGER: dict[str, tuple[str, list[str], Job]] = {
    "q_chunking, longer": ("q_chunking.yaml", [], {}),
    "rlpd, n_step 3, ratio 4": ("rlpd_cpu.yaml", [], {}),
}
PEG_IGNORED = (
    "policy.params.ignored_observations=[joint_position, joint_velocity, tcp_pose, goal_position]"
)
CHUNKS = [
    "policy.params.rows=4",
    "sampler.window=4",
    "sampler.pad_windows=true",
    "sampler.n_step=1",
]
#: sac_flow that begins with a base instead of cloning for itself.
FROM_BASE = ["training.utd.initial_updates=0", "algorithm.params.critic_only_updates=1000"]
_ROWS: Job = {"base": {"rows": 4}}
#: Cloning of the base stops where it does half of it, asked each time after as many steps as in the recipe.
_HALF_OF_CHUNKS: Job = {"half_asked_every": 4, "steps": 5000}
_HALF_OF_STEPS: Job = {"half_asked_every": 1, "steps": 5000}
#: From a base that solves half of it, cloned from two demonstrations.
PEG: dict[str, tuple[str, list[str], Job]] = {
    "sac_flow, gated": ("sac_flow.yaml", FROM_BASE, {"from_base": True}),
    "dsrl, whole chunks": ("dsrl.yaml", CHUNKS, _ROWS),
    "residual": ("residual.yaml", [], _ROWS),
    "rlpd": ("rlpd_cpu.yaml", [UTD_1], {}),
    "residual, from half": ("residual.yaml", [], {**_ROWS, **_HALF_OF_STEPS}),
    "dsrl, asked in every step, from half": ("dsrl.yaml", [], {**_ROWS, **_HALF_OF_STEPS}),
    "dsrl, whole chunks, from half": ("dsrl.yaml", CHUNKS, {**_ROWS, **_HALF_OF_CHUNKS}),
    "dsrl, asked in every step": ("dsrl.yaml", [], _ROWS),
    "q_chunking": ("q_chunking.yaml", ["policy.params.rows=4", "sampler.window=4", "training.utd.initial_updates=1000"], {}),
    "sac_flow, plain": ("sac_flow.yaml", [*FROM_BASE, "policy.params.velocity=plain"], {"from_base": True}),
    "sac_flow, transformer": (
        "sac_flow.yaml",
        [*FROM_BASE, "policy.params={rows: 4, steps: 4, backbone: transformer, embedding: 64, layers: 2, path_noise: 0.5}"],
        {"from_base": True},
    ),
    "sac_flow, without cloning": ("sac_flow.yaml", [*FROM_BASE, "algorithm.params.cloning_weight=0"], {"from_base": True}),
}  # fmt: skip
#: With a gripper of three choices beside what moves.
GRIPPER: dict[str, tuple[str, list[str], Job]] = {
    "residual": ("residual.yaml", [], {"base": {"deterministic_noise": 0.0}}),
    "dsrl": ("dsrl.yaml", ["policy.params.shared_noise=true"], {}),
    "wsrl after cal_ql, old data kept": ("wsrl.yaml", [KEPT], {"after": "cal_ql.yaml"}),
    "rlpd, n_step 3": ("rlpd_cpu.yaml", [UTD_1], {}),
}
#: Without demonstrations: on-policy beside off-policy.
CARTPOLE: dict[str, tuple[str, list[str], Job]] = {
    "sac_choices": ("sac_choices.yaml", [], {}),
    "async_ppo": ("async_ppo.yaml", ["training.publish_period_s=0"], {}),
}


def jobs(seeds: list[int]) -> list[Job]:
    """All of them; seed by seed, so that what there is in the end is of whole rounds."""

    def job(name: str, recipe: str, seed: int, changes: list[str], more: Job) -> Job:
        return {
            "kind": "online", "name": name, "recipe": recipe, "after": "", "seed": seed,
            "set": changes, **more,
        }  # fmt: skip

    pick = {"param": ["task=pick_place"], "demonstrations": 30, "steps": 6000, "every": 1000}
    cart = {
        "robot": "gymnasium", "param": ["env_id=CartPole-v1"], "steps": 20000, "every": 4000,
        "episodes": 10,
    }  # fmt: skip
    peg = {
        "kind": "from_half", "param": ["task=peg_insertion"], "demonstrations": 2, "base_updates": 1000, "steps": 6000, "every": 1000,
        "most_s": 1800,
    }  # fmt: skip
    gripper = pick | {"kind": CHOICES}
    longer = pick | {"steps": 10000, "every": 2000, "most_s": 205}
    found = []
    for recipes, common, ignored in (
        (PEG, peg, [PEG_IGNORED]),
        (PICK, pick, [IGNORED]),
        (GRIPPER, gripper, [IGNORED]),
        (CARTPOLE, cart, []),
        (LONGER, longer, [IGNORED]),
    ):
        for seed in seeds:
            for name, (recipe, changes, more) in recipes.items():
                found.append(job(name, recipe, seed, [*changes, *ignored], {**common, **more}))
    return found


def curves(lines: list[Job]) -> dict[tuple[str, str], list[Job]]:
    """Results by task and name."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for line in lines:
        if line["job"]["kind"] in KINDS:
            task = line["job"]["param"][0].partition("=")[2]
            if line["job"]["kind"] == CHOICES:
                task += ", a gripper of three choices"
            key = task, line["job"]["name"]
            groups.setdefault(key, []).append(line["result"])
    return groups


def table(lines: list[Job]) -> str:
    """Markdown: success in percent (of CartPole the return) over steps, means over seeds (least to most)."""
    groups, text = curves(lines), list[str]()
    for task in sorted({task for task, _ in groups}):
        results = {name: found for (of, name), found in groups.items() if of == task}
        steps = sorted(
            {p["steps"] for found in results.values() for r in found for p in r["curve"]}
        )
        name, _, how = task.partition(", ")
        text += ["", f"`{name}`" + (f", {how}" if how else ""), ""]
        text.append("| recipe | seeds | " + " | ".join(map(str, steps)) + " | CPU s |")
        text.append("|---" * (len(steps) + 3) + "|")
        for name, found in results.items():
            cells = []
            for step in steps:
                reached = [_reached(r, task).get(step) for r in found]
                there = [value for value in reached if value is not None]
                cells.append(
                    f"{np.mean(there):.0f} ({min(there):.0f} to {max(there):.0f})" if there else ""
                )
            seconds = np.mean([r["curve"][-1]["cpu_s"] for r in found if r["curve"]] or [0])
            text.append(f"| {name} | {len(found)} | " + " | ".join(cells) + f" | {seconds:.0f} |")
            for rows, how in ((1, "asked in every step"), (4, "every 4 steps")):
                bases = [r[f"base_every_{rows}"] for r in found if f"base_every_{rows}" in r]
                if bases:
                    text.append(
                        f"| its base alone, {how} | {len(bases)} | {100 * np.mean(bases):.0f} |"
                    )
    return "\n".join(text)


def _reached(result: Job, task: str) -> dict[int, float]:
    """Success in percent over steps; returns of an environment that knows none."""
    if task == "CartPole-v1":
        return {p["steps"]: p["return"] for p in result["curve"]}
    return {p["steps"]: 100 * p["successes"] / result["episodes"] for p in result["curve"]}


def draw(lines: list[Job], path: Path) -> None:
    """Success over steps, one line a recipe, with the spread over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = curves(lines)
    tasks = sorted({task for task, _ in groups})
    figure, panels = plt.subplots(1, len(tasks), figsize=(7.2 * len(tasks), 3.4), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        for (of, name), found in groups.items():
            if of != task:
                continue
            reached = [_reached(r, task) for r in found]
            end = min(max(one) for one in reached)
            steps = sorted(step for step in set().union(*reached) if step <= end)
            values = np.array([np.interp(steps, list(one), list(one.values())) for one in reached])
            (drawn,) = panel.plot(steps, values.mean(0), lw=1.5, label=name)
            panel.fill_between(
                steps, values.min(0), values.max(0), alpha=0.1, color=drawn.get_color()
            )
        kind = "return" if task == "CartPole-v1" else "success, %"
        panel.set(title=task, xlabel="environment steps", ylabel=kind)
        panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
