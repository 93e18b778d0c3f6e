"""A training of any algorithm on a small store, in a process of its own, which may kill itself in the middle.

Small configurations of every algorithm are here too, for tests that go through all of them.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from user_core import plugins
from user_core.codecs.states import flatten
from user_core.codecs.weights import content_hash, encode_version
from user_core.config import from_mapping
from user_core.fakes import PolicyMailbox
from user_core.policies import policy_config_hash
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import EpisodeSource, PolicyVersion, TrajectorySchema
from user_learner.learner import LearnerConfig, open_learner
from user_learner.replay import StoreWriter
from user_testing.worlds.replay import QUICK, Actor, Plan

SPEC = RobotSpec(
    "arm", {"place": ArraySpec((3,), "int32", low=0.0, high=20.0)},
    ArraySpec((2,), low=-1.0, high=20.0), period_s=0.1,
)  # fmt: skip
_FLOW = {"rows": 3, "hidden": [8], "steps": 2}
_CRITICS = {"critic_hidden": [8], "critics": 3, "critic_updates": 2}
_GAUSSIAN = {"hidden": [8], "normalization": "data", "normalization_calls": 5}
_ON_BASE = {**_CRITICS, "critic_only_updates": 10}
#: Algorithm, and behind it in brackets what is special: its parameters, its policy, the parameters of that, settings of
#: the sampler.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any], dict[str, Any]]] = {
    "advantage_conditioned": ({"values": {"hidden": [8]}}, "advantage_flow", _FLOW, {"window": 3}),
    "advantage_conditioned (any policy)": (
        {"values": {"hidden": [8]}}, "advantage", {"policy": {"plugin": "diffusion", "params": _FLOW}}, {"window": 3},
    ),
    "async_ppo": ({"values": {"hidden": [8]}}, "tanh_gaussian", _GAUSSIAN, {"n_step": 3}),
    "bc": ({}, "flow", _FLOW, {"window": 3}),
    "cal_ql": ({**_CRITICS, "reference": {"hidden": [8]}}, "tanh_gaussian", _GAUSSIAN, {"n_step": 3}),
    "dsrl": (_ON_BASE, "steered", _GAUSSIAN, {}),
    "q_chunking": (
        {"target_candidates": 3}, "best_of", {**_FLOW, "critic_hidden": [8], "candidates": 4},
        {"window": 3},
    ),
    "residual": (_ON_BASE, "residual", _GAUSSIAN, {}),
    "rlpd": (_CRITICS, "action_chunks", {**_GAUSSIAN, "rows": 3}, {"window": 3}),
    "sac": ({"critic_hidden": [8]}, "tanh_gaussian", _GAUSSIAN, {}),
    "sac_flow": (_ON_BASE, "flow", {**_FLOW, "velocity": "gated", "path_noise": 0.5}, {"window": 3}),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """A store with a few episodes, and a base for policies that need one."""
    actor = Actor(schema=TrajectorySchema.of(SPEC))
    with StoreWriter(folder / "replay", actor.schema, QUICK) as writer:
        for number in range(8):
            source = EpisodeSource.DEMONSTRATION if number % 2 else EpisodeSource.ONLINE
            for chunk in actor.chunks(Plan(steps=7, source=source, terminated=number % 3 == 0)):
                writer.append(chunk)
    base = plugins.build("policies", "flow", _FLOW, SPEC)
    made_for = policy_config_hash("flow", _FLOW, SPEC)
    version = PolicyVersion(1, base.arrays(), made_for, 1, 1, 0)
    (folder / "base.safetensors").write_bytes(encode_version(version))
    (folder / "base_hash").write_text(content_hash(version))


def config_of(name: str, folder: Path, run: str, updates: int) -> LearnerConfig:
    """How an algorithm learns here."""
    params, policy, policy_params, sampler = CASES[name]
    if policy in ("residual", "steered"):
        policy_params = {
            **policy_params, "base": {"plugin": "flow", "params": _FLOW},
            "base_file": str(folder / "base.safetensors"),
            "base_hash": (folder / "base_hash").read_text(),
        }  # fmt: skip
    return from_mapping(
        LearnerConfig,
        {
            "directory": str(folder / run), "store": str(folder / "replay"), "tensorboard": False,
            "algorithm": {"plugin": name.partition(" ")[0], "params": params},
            "policy": {"plugin": policy, "params": policy_params},
            "sampler": {
                "prefetch": 0, "prefetch_above_bytes": 0, "refresh_period_s": 0.0,
                **sampler, "pad_windows": bool(sampler.get("window")),
            },
            "training": {
                "batch_size": 8, "max_updates": updates, "threads": 1, "checkpoint_period_s": 0.0,
                "checkpoint_every_updates": 8, "publish_every_updates": 20,
                "utd": {"target": None, "learning_starts": 0},
            },
        },
    )  # fmt: skip


def run(name: str, folder: str, directory: str, updates: int, killed_at: int = 0) -> None:
    """Train until ``updates``, from wherever it was left, and write the state at the end; or be killed in
    the update with number ``killed_at``, once there is a checkpoint."""
    config = config_of(name, Path(folder), directory, updates)
    checkpoints = config.directory / "checkpoints"
    with open_learner(config, SPEC, PolicyMailbox()) as loop:
        algorithm, learn = loop.algorithm, loop.algorithm.update
        if loop.progress().update == 0:  # versions that the store's episodes are from
            for number in range(1, 7):
                algorithm.published(number, algorithm.policy_arrays())
        algorithm.published = lambda number, arrays: None  # type: ignore[method-assign]
        loop._publisher._on_version = algorithm.published
        calls = 0

        def update(batch: Any) -> Any:
            nonlocal calls
            calls += algorithm.updates_per_call
            found = learn(batch)
            if killed_at and calls >= killed_at and any(checkpoints.glob("*.safetensors")):
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        algorithm.update = update  # type: ignore[method-assign]
        loop.run()
        arrays, plain = flatten(algorithm.state())
    np.savez(config.directory / "end.npz", **arrays, plain=np.array(repr(sorted(plain.items()))))
    (config.directory / "begun_at").write_text(str(loop.progress().update - calls))
