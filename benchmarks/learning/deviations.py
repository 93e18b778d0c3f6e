"""Where our SAC and RLPD deviate from their references: each deviation beside the reference's way.

References: Haarnoja et al. 2018 (as in Stable-Baselines3 and CleanRL) and Ball et al. 2023 with its
code (github.com/ikostrikov/rlpd). The variants are put in here and nowhere else; everything
but them is the product, in the synchronous loop of ``learning_curves.py``. One JSON line per
evaluation goes to ``--out``; ``--table`` reads it.

    python benchmarks/learning/deviations.py --processes 16 --seeds 0 1 2 3 --out deviations.jsonl
    python benchmarks/learning/deviations.py --table deviations.jsonl

=====================  ==========================================================================
``ours``               the product
``inputs_as_they_are``  inputs neither scaled nor limited, by the policy and by the critics
``mean_loss``          critic loss averaged over the ensemble instead of summed (SB3: half the sum)
``log_std_min_20``     smallest logarithm of the standard deviation -20 instead of -10
``affine_layer_norm``  linear with bias, then layer normalisation with gain and bias (flax's)
``features_again``     the actor sees features of the encoder after the critics' step
=====================  ==========================================================================
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from user_core.command_line import Parser
from user_testing import systems
from user_testing.experiments import AlgorithmFile, Experiment, read_config


@dataclass(frozen=True)
class Job:
    """What is learned, by which arguments of ``learning_curves.py``, and which variants apply."""

    config: str
    words: tuple[str, ...]
    variants: tuple[str, ...]
    settings: tuple[str, ...] = ()


_SHORT = ("ours", "inputs_as_they_are", "log_std_min_20")
_SAC = (*_SHORT, "mean_loss")
_LONG = ("--steps", "12000", "--every", "4000", "--episodes", "10")
_CHEETAH = ("--param", "env_id=HalfCheetah-v5", *_LONG)
_HOPPER = ("--param", "env_id=Hopper-v5", *_LONG)
_PENDULUM = ("--param", "env_id=Pendulum-v1", "--steps", "5000", "--every", "1000")
_PEG = (
    "--robot", "mujoco", "--param", "task=peg_insertion", "--demonstrations", "20", "--steps", "1500",
    "--every", "250",
)  # fmt: skip
_NORM = ("algorithm.params.layer_norm=true",)
TASKS = {
    "HalfCheetah": Job("sac_small.yaml", _CHEETAH, _SHORT),
    "Pendulum": Job("sac_small.yaml", _PENDULUM, _SAC),
    "Hopper": Job("sac_small.yaml", _HOPPER, _SHORT),
    "peg": Job("rlpd_cpu.yaml", _PEG, (*_SHORT, "affine_layer_norm")),
    "HalfCheetah, layer norm": Job(
        "sac_small.yaml", _CHEETAH, ("ours", "affine_layer_norm"), _NORM
    ),
    "Pendulum, layer norm": Job(
        "sac_small.yaml", _PENDULUM, ("ours", "affine_layer_norm"), _NORM
    ),
    "Hopper, layer norm": Job("sac_small.yaml", _HOPPER, ("ours", "affine_layer_norm"), _NORM),
    "reach from images": Job(
        "rlpd_images.yaml",
        ("--robot", "mujoco", "--param", "task=reach", "cameras=[front]", "--demonstrations", "10",
         "--steps", "4000", "--every", "1000"),
        ("ours", "features_again"),
    ),
}  # fmt: skip


def apply(variant: str) -> list[str]:
    """Change this process; return settings that belong to the variant."""
    import torch

    from user_core.policies import features, tanh_gaussian, tanh_gaussian_network
    from user_learner.algorithms.off_policy import sac

    if variant == "inputs_as_they_are":
        init = features.FeatureLayout.__init__

        def as_they_are(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.offset, self.scale = np.zeros_like(self.offset), np.ones_like(self.scale)

        features.FeatureLayout.__init__ = as_they_are  # type: ignore[method-assign]
        tanh_gaussian.soft_limit = lambda x: x
        tanh_gaussian_network.soft_limit_batch = lambda x: x
        return ["policy.params.normalization=bounds"]
    if variant == "log_std_min_20":
        return ["policy.params.log_std_min=-20.0"]
    if variant == "mean_loss":

        def update_critics(self: Any, features: Any, action: Any, target: Any) -> dict[str, Any]:
            networks = self.networks
            values = networks.values(networks.critics.named, features, action)
            loss = (values - target).square().mean()
            networks.critics.zero_grad()
            loss.backward()
            self._optimizers["critics"].step()
            networks.target.approach(networks.critics, self.config.target_rate)
            return {
                "critic_loss": loss.detach(),
                "value": values.detach().mean(),
                "target": target.mean(),
            }

        sac.SAC._update_critics = update_critics  # type: ignore[method-assign]
    elif variant == "affine_layer_norm":
        arrays = sac.ensemble_arrays

        def with_gains(members: int, inputs: int, hidden: Any, *rest: Any) -> dict[str, Any]:
            found = arrays(members, inputs, hidden, *rest)
            for i, units in enumerate(hidden):
                found[f"layer{i}.gain"] = np.ones((members, 1, units), np.float32)
                found[f"layer{i}.shift"] = np.zeros((members, 1, units), np.float32)
            return found

        def evaluate(
            parameters: Mapping[str, Any],
            x: Any,
            layer_norm: bool,
            members: Any = None,
            dtype: Any = None,
        ) -> Any:
            def of(name: str) -> Any:
                found = parameters[name]
                return found if members is None else found.index_select(0, members)

            last = (
                sum(name.endswith(".weight") and name.startswith("layer") for name in parameters)
                - 1
            )
            x = x.expand(len(of("layer0.weight")), *x.shape)
            for i in range(last):
                x = torch.baddbmm(of(f"layer{i}.bias"), x, of(f"layer{i}.weight"))
                x = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
                x = torch.relu(x * of(f"layer{i}.gain") + of(f"layer{i}.shift"))
            x = torch.baddbmm(of(f"layer{last}.bias"), x, of(f"layer{last}.weight"))
            return x.squeeze(-1)

        sac.ensemble_arrays, sac.evaluate = with_gains, evaluate
    elif variant == "features_again":
        update_actor, features_of = sac.SAC._update_actor, sac.ActorCriticNetworks.features

        def remember(self: Any, inputs: Any, generator: Any) -> Any:
            self._seen = inputs
            return features_of(self, inputs, generator)

        def again(self: Any, features: Any, temperature: Any) -> Any:
            with torch.no_grad():  # of the minibatch that the critics saw last
                features = features_of(self.networks, self.networks._seen, self.generator)
            return update_actor(self, features, temperature)

        sac.ActorCriticNetworks.features = remember  # type: ignore[method-assign]
        sac.SAC._update_actor = again  # type: ignore[method-assign]
    elif variant != "ours":
        raise ValueError(variant)
    return []


def one_run(
    task: str, variant: str, seed: int, deadline_s: float, out: Path | None, more: list[str]
) -> None:
    """Learn once, in a process of its own."""
    from user_testing import experiments

    job = TASKS[task]
    settings = [*job.settings, *apply(variant)]
    parser = experiments.make_parser()
    words = [job.config, *job.words, *more, "--seed", str(seed)]
    arguments = parser.parse_args([*words, *(["--set", *settings] if settings else [])])
    config: AlgorithmFile = read_config(arguments)
    if time.time() > deadline_s:
        return

    class Timed(Experiment):
        def report(self, steps: int, start_s: float) -> dict[str, Any]:
            line = super().report(steps, start_s) | {"task": task, "variant": variant}
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            if time.time() > deadline_s:
                raise TimeoutError
            return line

    with tempfile.TemporaryDirectory() as folder:
        try:
            Timed(arguments, config, Path(folder)).run()
        except TimeoutError:
            print(f"# no time left: {task}, {variant}, seed {seed}", flush=True)


def table(file: Path) -> None:
    """Means with standard errors over the seeds that all variants of a task finished."""
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    found: dict[str, dict[str, dict[int, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for line in lines:
        found[line["task"]][line["variant"]].setdefault(line["seed"], []).append(line)
    for task, variants in found.items():
        steps = int(TASKS[task].words[TASKS[task].words.index("--steps") + 1])
        whole = {
            variant: {s: runs for s, runs in by_seed.items() if runs[-1]["steps"] >= steps}
            for variant, by_seed in variants.items()
        }
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in whole.values())))
        print(f"\n{task}, {steps} steps, seeds {seeds}")
        print("| variant | return at the end | successes of 20 | mean return on the way |")
        print("|---|---|---|---|")
        for variant, by_seed in whole.items():
            last = [by_seed[s][-1] for s in seeds]
            area = [np.mean([line["return"] for line in by_seed[s]]) for s in seeds]
            print(
                f"| {variant} | {_mean([x['return'] for x in last])} | "
                f"{_mean([x['successes'] for x in last])} | {_mean(area)} |"
            )


def _mean(values: Any) -> str:
    if not len(values):
        return "-"
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} ± {error:.1f}"


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS)[:-1], choices=list(TASKS))
    parser.add_argument("--variants", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--more", nargs="*", default=[], help="arguments of learning_curves.py, steps=100"
    )
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="at most this long, all together"
    )
    parser.add_argument("--out", type=Path, help="file to append the lines to")
    parser.add_argument("--table", type=Path, help="show such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.table)
        return
    more = [word for pair in arguments.more for word in ("--" + pair).split("=", 1)]
    deadline_s = time.time() + arguments.seconds
    jobs = [
        (task, variant, seed, deadline_s, arguments.out, more)
        for seed in arguments.seeds
        for task in arguments.tasks
        for variant in TASKS[task].variants
        if not arguments.variants or variant in arguments.variants
    ]
    for _ in systems.each_in_its_own_process(one_run, jobs, arguments.processes):
        pass


if __name__ == "__main__":
    main()
