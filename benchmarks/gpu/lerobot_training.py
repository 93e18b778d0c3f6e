"""Updates of a policy of LeRobot by our learner, and by LeRobot's own training step, in turns in one run.

Both train LeRobot's own class with the same settings and batches: ours as the policy ``lerobot`` by ``bc`` from arrays
as a store's sampler gives them, theirs by ``lerobot_train.update_policy`` with its preset of AdamW and its preprocessor
from tensors as its loader gives them (floats with channels first, already converted: that part of the work is not
counted for them). On a GPU batches lie in page-locked memory on both sides, both may multiply in TF32, and theirs looks
for the fastest convolutions, as its loop does. Batches are made up beforehand; reading and decoding are left out on
both sides.

Weights are random, and nothing comes from a hub: SmolVLA's vision-language model is made from its sizes, and both sides
have the same tokenizer of a few words (the table of embeddings is as large as ever).

    USER_EXTRA=lerobot tools/run python benchmarks/gpu/lerobot_training.py             # on the CPU, small
    USER_EXTRA=lerobot tools/run python benchmarks/gpu/lerobot_training.py --device cuda --size full --batch 64 --image 224
    ... --policy smolvla --device cuda --size full --precision bfloat16 --batch 64
    ... --policy pi0 --device cuda --size full --precision bfloat16 --batch 8 --average 0 [--adapter 16] [--recompute]

With ``--adapter`` ours are those of the policy's parameters, and theirs those that LeRobot makes with peft, of the same
layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from user_core.command_line import Parser
from user_core.plugins import build
from user_core.policies.lerobot.adapters import adapt
from user_core.policies.lerobot.config import AdapterConfig, LeRobotConfig
from user_core.policies.lerobot.policy import LeRobotPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.torch_tools import use_tensor_cores
from user_testing.small_vlm import make_small_vlm, make_tokenizer, two_layers_of_pi0

_WORDS = "reach the target"
_MADE = 4  # batches
_WARM = 8  # updates that are not counted
#: SmolVLM2-500M, which SmolVLA begins with.
_SMOLVLM: dict[str, Any] = {
    "text": {
        "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280, "max_position_embeddings": 8192,
    },
    "sight": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    },
    "scale_factor": 4,
}  # fmt: skip
#: Layers that get adapters.
_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SMALL_PI0 = {"chunk_size": 8, "n_action_steps": 8}


def settings_of(policy: str, size: str, folder: Path, bfloat16: bool) -> dict[str, Any]:
    """Parameters of the policy ``lerobot``: ``config`` and ``processors``."""
    if policy == "act":
        small = {
            "chunk_size": 16, "n_action_steps": 16, "dim_model": 128, "n_heads": 4, "dim_feedforward": 512,
            "n_encoder_layers": 2, "n_vae_encoder_layers": 2,
        }  # fmt: skip
        own = small if size == "small" else {}
        return {"config": {**own, "pretrained_backbone_weights": None, "use_amp": bfloat16}}
    if policy == "smolvla":
        small = make_small_vlm(folder, **({} if size == "small" else _SMOLVLM))
        own = {"load_vlm_weights": False, "vlm_model_name": str(folder), "use_amp": bfloat16}
        return {"config": {**small, **own} if size == "small" else own}
    make_tokenizer(folder)
    own = {"dtype": "bfloat16" if bfloat16 else "float32"}
    return {
        "config": {**(_SMALL_PI0 if size == "small" else {}), **own},
        "processors": {"tokenizer_processor": {"tokenizer_name": str(folder)}},
    }


def lerobot_policy(
    params: dict[str, Any], spec: RobotSpec, device: str, adapter: int = 0, small: bool = False
) -> LeRobotPolicy:
    """A new one with weights at random, drawn on its device; with adapters of a rank as if these weights were its base.
    A small pi0 has two layers."""
    smaller = two_layers_of_pi0 if small else nullcontext
    with torch.device(device) if device != "cpu" else nullcontext(), smaller():
        policy = LeRobotPolicy(LeRobotConfig(**params), spec)
    if adapter:
        network = policy._network
        network.base_hash = "0" * 64
        adapt(network.policy, AdapterConfig(rank=adapter, targets=_ADAPTED), network.base_hash, 0)
        network.policy.to(device)
        network._kept = network._names_of_versions()
    return policy


class Bench:
    """What both sides have in common.

    Args:
        given: The command line.
        folder: For tokenizers and first weights.
    """

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.cuda = given, given.device != "cpu"
        self.algorithm: Any = None
        image = ArraySpec((given.image, given.image, 3), "uint8")
        self.spec = RobotSpec(
            "two_cameras",
            {
                "joint_position": ArraySpec((7,), low=-3.0, high=3.0),
                "image_front": image,
                "image_wrist": image,
            },
            ArraySpec((7,), low=-1.0, high=1.0),
        )
        half = given.precision == "bfloat16"
        params = settings_of(given.policy, given.size, folder / "words", half)
        if given.recompute:
            params["config"] |= {"gradient_checkpointing": True}
        self.params = {
            "type": given.policy, "device": given.device, "instruction": _WORDS, **params,
        }  # fmt: skip
        rng = np.random.default_rng(0)
        self.rows = self.policy_rows()
        self.batches = [self._batch(rng) for _ in range(_MADE)]

    def policy(self, adapted: bool = True) -> LeRobotPolicy:
        """A new one; its first weights are drawn where it shall be, since a host takes minutes for 3 G of them."""
        return lerobot_policy(
            self.params, self.spec, self.given.device, self.given.adapter if adapted else 0,
            small=(self.given.policy, self.given.size) == ("pi0", "small"),
        )  # fmt: skip

    def policy_rows(self) -> int:
        """Actions of a chunk."""
        from user_core.policies.lerobot.opening import their_config

        found = their_config(LeRobotConfig(**self.params), self.spec)
        return len(found.action_delta_indices)

    def _batch(self, rng: np.random.Generator) -> Batch:
        size, rows = self.given.batch, self.rows
        seen = {
            name: self._ready(np.stack([one.sample(rng) for _ in range(size)]))
            for name, one in self.spec.observation.items()
        }
        action = rng.uniform(-1, 1, (size, rows, self.spec.action.size)).astype(np.float32)
        zeros = np.zeros((size, rows), np.float32)
        mask = {"mask": np.ones((size, rows), np.float32)}
        return Batch(seen, self._ready(action), zeros, zeros, seen, mask)

    def _ready(self, array: np.ndarray) -> np.ndarray:
        return torch.from_numpy(array).pin_memory().numpy() if self.cuda else array

    def ours(self) -> Callable[[], None]:
        """Our update."""
        given = self.given
        params: dict[str, Any] = {
            "device": given.device, "learning_rate": 1e-5, "image_shift": 0, "average": given.average,
            "precision": given.precision,
        }  # fmt: skip
        params |= {"cuda_graphs": not given.no_graphs, "activation_checkpointing": given.recompute}
        self.algorithm = algorithm = build("algorithms", "bc", params, self.spec, self.policy())
        gc.collect()
        turn = iter(range(10**9))

        def step() -> None:
            algorithm.update(self.batches[next(turn) % _MADE])

        return step

    def theirs(self) -> Callable[[], None]:
        """LeRobot's."""
        from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]
        from accelerate.state import AcceleratorState  # type: ignore[import-not-found,unused-ignore]
        from lerobot.scripts import lerobot_train  # type: ignore[import-not-found,unused-ignore]
        from lerobot.utils.logging_utils import (  # type: ignore[import-not-found,unused-ignore]
            AverageMeter,
            MetricsTracker,
        )

        opened = self.policy(adapted=False)._network
        policy, before = opened.policy, opened.before
        if self.given.adapter:
            import peft  # type: ignore[import-not-found,unused-ignore]

            policy.config.pretrained_path = "random"  # it wants adapters of something
            policy = policy.wrap_with_peft(
                peft.LoraConfig(r=self.given.adapter, target_modules=list(_ADAPTED))
            )
        preset = policy.config.get_optimizer_preset()
        optimizer = preset.build(policy.get_optim_params())
        AcceleratorState._reset_state(reset_partial_state=True)  # of a measurement before
        accelerator = Accelerator(
            cpu=not self.cuda, step_scheduler_with_optimizer=False,
            mixed_precision="bf16" if self.given.precision == "bfloat16" else "no",
        )  # fmt: skip
        policy, optimizer = accelerator.prepare(policy, optimizer)
        names = ("loss", "grad_norm", "lr", "update_s", "dataloading_s", "gpu_mem_gb")
        meters = {name: AverageMeter(name, ":.3f") for name in names}
        tracker = MetricsTracker(self.given.batch, 10_000, 100, meters, accelerator=accelerator)
        tensors = [self._as_loaded(batch) for batch in self.batches]
        turn = iter(range(10**9))
        opened._bind()

        def step() -> None:
            torch.backends.cudnn.benchmark = True  # as its loop has it; ours does without
            batch = before(dict(tensors[next(turn) % _MADE]))
            lerobot_train.update_policy(
                tracker, policy, batch, optimizer, preset.grad_clip_norm, accelerator=accelerator
            )
            torch.backends.cudnn.benchmark = False

        return step

    def _as_loaded(self, batch: Batch) -> dict[str, Any]:
        found: dict[str, Any] = {
            f"observation.images.{name}": torch.from_numpy(batch.observation[name])
            .permute(0, 3, 1, 2)
            .float()
            .div(255)
            .contiguous()
            for name in ("image_front", "image_wrist")
        }
        found["observation.state"] = torch.from_numpy(batch.observation["joint_position"])
        found["action"] = torch.from_numpy(batch.action)
        found["action_is_pad"] = torch.zeros(batch.action.shape[:2], dtype=torch.bool)
        if self.cuda:
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
        return {**found, "task": [_WORDS] * len(batch)}

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.cuda:
            torch.cuda.synchronize()

    def turn(self, step: Callable[[], None]) -> float:
        """Samples a second for a while."""
        self.synchronize()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < self.given.seconds:
            step()
            count += 1
        self.synchronize()
        return count * self.given.batch / (time.perf_counter() - start)


def main() -> None:
    """Entry point."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--policy", choices=("act", "smolvla", "pi0"), default="act")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--adapter", type=int, default=0, help="rank of adapters; 0: all weights")
    parser.add_argument(
        "--average", type=float, default=0.999, help="decay of ours; LeRobot keeps none"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--image", type=int, default=96, help="height and width of both cameras, pixels"
    )
    parser.add_argument("--recompute", action="store_true", help="gradient_checkpointing of pi0")
    parser.add_argument("--no-graphs", action="store_true", help="ours launches each operation")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--sides", nargs="+", default=["ours", "lerobot"])
    parser.add_argument(
        "--profile", default="", help="tables of what ran on the GPU go to this file"
    )
    parser.add_argument("--out", default="", help="JSON lines are appended to this file")
    given = parser.parse_args()
    use_tensor_cores(given.device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, Path(folder))
        makers = {"ours": bench.ours, "lerobot": bench.theirs}
        sides: dict[str, Callable[[], None]] = {}
        held: dict[str, Any] = {}
        for name in given.sides:
            before = torch.cuda.memory_allocated() if bench.cuda else 0
            sides[name] = makers[name]()
            if bench.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            for _ in range(_WARM):
                sides[name]()
            if bench.cuda:
                held[f"{name}_peak_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
            if name == "ours":
                graphed = bench.algorithm._graphed
                held |= {
                    "graphs": graphed.pieces, "graphs_gb": graphed.bytes * 1e-9, "why_no_graphs": graphed.why_not,
                }  # fmt: skip
            print(f"{name} after {time.perf_counter() - began:.0f} s {held}", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.turns):
        for name, step in sides.items():
            rates[name].append(bench.turn(step))
            print(f"{name:8} {rates[name][-1]:9.1f} samples/s", flush=True)
    found: dict[str, Any] = {
        f"{name}_samples_s": statistics.median(each) for name, each in rates.items()
    }
    if len(rates) == 2:
        ratios = [a / b for a, b in zip(rates["ours"], rates["lerobot"], strict=True)]
        found |= {
            "ratio": statistics.median(ratios),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    found |= held
    found["device_name"] = torch.cuda.get_device_name() if bench.cuda else "cpu"
    found |= {name: value for name, value in vars(given).items() if name not in ("out", "profile")}
    found["torch"] = torch.__version__
    print(json.dumps(found), flush=True)
    if given.out:
        with open(given.out, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")
    if given.profile:
        _profile(given, sides)
    sides.clear()
    bench.algorithm = step = None
    gc.collect()


def _profile(given: argparse.Namespace, sides: dict[str, Callable[[], None]]) -> None:
    """What each side has the GPU do in three updates."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if given.device != "cpu" else [])]
    for name, step in sides.items():
        with profile(activities=kinds) as found:
            for _ in range(3):
                step()
        by = "self_cuda_time_total" if given.device != "cpu" else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=70)
        with open(given.profile, "a", encoding="utf-8") as stream:
            stream.write(
                f"==== {given.policy} {given.precision} batch {given.batch}: {name}\n{table}\n"
            )


if __name__ == "__main__":
    main()
