"""Updates of a policy of LeRobot by our learner, and by LeRobot's own training step, in turns in one run.

Both train LeRobot's ACT (its own class, the same settings and batches): ours as the policy ``lerobot`` by ``bc`` from arrays
as a store's sampler gives them, theirs by ``lerobot_train.update_policy`` with its preset of AdamW and its preprocessor from tensors
as its loader gives them (floats with channels first, already converted: that part of the work is not counted for them). Batches
are made up beforehand; reading and decoding are left out on both sides.

    USER_EXTRA=lerobot tools/run python benchmarks/lerobot_training.py             # on the CPU, small
    USER_EXTRA=lerobot tools/run python benchmarks/lerobot_training.py --device cuda --size full --batch 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from user_core.command_line import Parser
from user_core.plugins import build
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "chunk_size": 16, "n_action_steps": 16, "dim_model": 128, "n_heads": 4, "dim_feedforward": 512,
        "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
    },
    "full": {"chunk_size": 100, "n_action_steps": 100},
}  # fmt: skip
_MADE = 4  # batches


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--image", type=int, default=96, help="height and width of both cameras, pixels"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--out", default="", help="JSON lines are appended to this file")
    arguments = parser.parse_args()
    image = ArraySpec((arguments.image, arguments.image, 3), "uint8")
    spec = RobotSpec(
        "two_cameras",
        {
            "joint_position": ArraySpec((7,), low=-3.0, high=3.0),
            "image_front": image,
            "image_wrist": image,
        },
        ArraySpec((7,), low=-1.0, high=1.0),
    )
    settings = {**SIZES[arguments.size], "pretrained_backbone_weights": None}
    rows, rng = settings["chunk_size"], np.random.default_rng(0)
    batches = [_batch(spec, arguments.batch, rows, rng) for _ in range(_MADE)]
    sides = {
        "ours": _ours(spec, settings, arguments.device, batches),
        "lerobot": _theirs(spec, settings, arguments.device, batches),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():  # whatever is done once
        for _ in range(3):
            step()
    for _ in range(arguments.turns):
        for name, step in sides.items():
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < arguments.seconds:
                step()
                count += 1
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            rates[name].append(count * arguments.batch / (time.perf_counter() - start))
            print(f"{name:8} {rates[name][-1]:9.1f} samples/s", flush=True)
    found = {
        **{f"{name}_samples_s": statistics.median(each) for name, each in rates.items()},
        "ratio": statistics.median(
            a / b for a, b in zip(rates["ours"], rates["lerobot"], strict=True)
        ),
        "ratios": [round(a / b, 3) for a, b in zip(rates["ours"], rates["lerobot"], strict=True)],
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
        **{
            name: getattr(arguments, name)
            for name in ("size", "batch", "image", "turns", "seconds")
        },
        "torch": torch.__version__,
    }
    print(json.dumps(found))
    if arguments.out:
        with open(arguments.out, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")


def _batch(spec: RobotSpec, size: int, rows: int, rng: np.random.Generator) -> Batch:
    seen = {
        name: np.stack([one.sample(rng) for _ in range(size)])
        for name, one in spec.observation.items()
    }
    action = rng.uniform(-1, 1, (size, rows, spec.action.size)).astype(np.float32)
    zeros = np.zeros((size, rows), np.float32)
    return Batch(seen, action, zeros, zeros, seen, {"mask": np.ones((size, rows), np.float32)})


def _ours(
    spec: RobotSpec, settings: dict[str, Any], device: str, batches: list[Batch]
) -> Callable[[], None]:
    policy = LeRobotPolicy(LeRobotConfig(type="act", config=settings), spec)
    params = {"device": device, "learning_rate": 1e-5, "image_shift": 0}
    algorithm = build("algorithms", "bc", params, spec, policy)
    turn = iter(range(10**9))
    return lambda: algorithm.update(batches[next(turn) % _MADE])


def _theirs(
    spec: RobotSpec, settings: dict[str, Any], device: str, batches: list[Batch]
) -> Callable[[], None]:
    from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]
    from lerobot.scripts import lerobot_train  # type: ignore[import-not-found,unused-ignore]
    from lerobot.utils.logging_utils import (  # type: ignore[import-not-found,unused-ignore]
        AverageMeter,
        MetricsTracker,
    )

    opened = LeRobotPolicy(LeRobotConfig(type="act", config=settings), spec)._network.to(
        torch.device(device)
    )
    policy, before = opened.policy, opened.before
    preset = policy.config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    accelerator = Accelerator(cpu=device == "cpu", step_scheduler_with_optimizer=False)
    policy, optimizer = accelerator.prepare(policy, optimizer)
    names = ("loss", "grad_norm", "lr", "update_s", "dataloading_s", "gpu_mem_gb")
    meters = {name: AverageMeter(name, ":.3f") for name in names}
    tracker = MetricsTracker(len(batches[0]), 10_000, 100, meters, accelerator=accelerator)
    tensors = [_as_loaded(batch) for batch in batches]
    turn = iter(range(10**9))
    opened._bind()

    def step() -> None:
        batch = before(dict(tensors[next(turn) % _MADE]))
        lerobot_train.update_policy(
            tracker, policy, batch, optimizer, preset.grad_clip_norm, accelerator=accelerator
        )

    return step


def _as_loaded(batch: Batch) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"observation.images.{name}": torch.from_numpy(batch.observation[name])
        .permute(0, 3, 1, 2)
        .float()
        / 255
        for name in ("image_front", "image_wrist")
    }
    found["observation.state"] = torch.from_numpy(batch.observation["joint_position"])
    found["action"] = torch.from_numpy(batch.action)
    found["action_is_pad"] = torch.zeros(batch.action.shape[:2], dtype=torch.bool)
    return found


if __name__ == "__main__":
    main()
