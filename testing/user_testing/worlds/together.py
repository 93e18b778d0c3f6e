"""What several learner processes train on in tests: a little store, and a learner of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from user_core.codecs.weights import read_version
from user_core.config import from_mapping, to_mapping
from user_core.fakes import PolicyMailbox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ActedBy,
    ChunkId,
    EpisodeKey,
    EpisodeSource,
    FinalObservation,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks import Ranks
from user_learner.replay import StoreWriter
from user_testing.worlds.replay import QUICK

SPEC = RobotSpec(
    "arm",
    {"x": ArraySpec((3,), low=-1.0, high=1.0), "image": ArraySpec((20, 20, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)


def little_store(parent: Path) -> Path:
    """Ten episodes of twenty steps, half of them demonstrations; in the others a person drives from the tenth step
    on."""
    schema, folder = TrajectorySchema.of(SPEC), parent / "replay"
    writer = StoreWriter(folder, schema, QUICK)
    for number in range(10):
        rng = np.random.default_rng(number)
        steps: list[Any] = []
        for row in range(20):
            seen = {
                "x": rng.uniform(-1, 1, 3).astype(np.float32),
                "image": rng.integers(0, 255, (20, 20, 3), np.uint8),
            }
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            corrects = row >= 10 and number % 2 == 0
            by = ActedBy.HUMAN if corrects else ActedBy.POLICY
            steps.append(Step(seen, action, action, 0.1 * row, acted_by=by))
        steps.append(FinalObservation(steps[-1].observation))
        source = EpisodeSource.DEMONSTRATION if number % 2 else EpisodeSource.ONLINE
        chunk = TrajectoryChunk(
            ChunkId("actor", 1, number + 1), EpisodeKey("actor", 1, number), source, 0,
            schema.rows(steps), schema.hash, robot="arm", task="t",
        )  # fmt: skip
        assert writer.append(chunk).status == "staged"
    writer.commit()
    writer.close()
    return folder


def learner_config(folder: Path, store: Path, **more: Any) -> LearnerConfig:
    """One of 30 updates with batches of 16, by what ``more`` says."""
    values = {
        "directory": str(folder),
        "store": str(store),
        "sampler": {"n_step": 1},
        "tensorboard": False,
    }
    training = {
        "batch_size": 16, "max_updates": 30, "threads": 1,
        "utd": {"target": None, "learning_starts": 0}, "checkpoint_period_s": 1e6,
    }  # fmt: skip
    training |= more.pop("training", {})
    return from_mapping(LearnerConfig, {**values, "training": training, **more})


def train(settings: LearnerConfig, told: LearnerConfig | None = None) -> None:
    """Train to the end, with as many processes as it says. ``told``: what all but the first are told."""
    ranks = Ranks(settings, SPEC, lambda error: None)
    ranks._asked = told or settings
    with ranks, open_learner(ranks.config, SPEC, PolicyMailbox()) as loop:
        loop.run()


def last_weights(settings: LearnerConfig) -> dict[str, Any]:
    """Of the version of its last update."""
    version = read_version(settings.directory / "policy.safetensors")
    assert version.update == settings.training.max_updates
    return dict(version.arrays)


def argument_files(folder: Path, settings: LearnerConfig) -> list[str]:
    """What :mod:`user_testing.programs.ranks` is started with, written into a folder."""
    files = [folder / "config.json", folder / "spec.json"]
    for file, values in zip(files, (to_mapping(settings), SPEC.to_dict()), strict=True):
        file.write_text(json.dumps(values))
    return [str(file) for file in files]


def assert_alike(
    one: Mapping[str, Any], two: Mapping[str, Any], rtol: float = 2e-3, atol: float = 2e-5
) -> None:
    """Weights of two trainings, to what adding up in another order makes of them."""
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=rtol, atol=atol, err_msg=name)
