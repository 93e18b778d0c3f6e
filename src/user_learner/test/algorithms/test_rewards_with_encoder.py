"""SAC and RLPD see through a frozen pretrained encoder: its features are kept beside the images, and resumed with."""

import numpy as np
import pytest

from user_core import plugins
from user_core.errors import ConfigError
from user_core.fakes import PolicyMailbox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeKey,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectorySchema,
)
from user_learner.learner import LearnerConfig, open_learner
from user_learner.replay import StoreWriter
from user_testing.small_encoder import write_weights
from user_testing.worlds.replay import QUICK, whole_episode

SPEC = RobotSpec(
    "r",
    {"x": ArraySpec((2,), low=-1, high=1), "image_front": ArraySpec((32, 48, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)
SMALL = {"hidden": [16], "image_embedding": 8}
CHUNKS = {"rows": 3, "steps": 2, "path_noise": 0.5, "embedding": 8, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "lite0.pth")


@pytest.fixture
def store(tmp_path):
    """Two episodes of each source, with images."""
    schema, rng = TrajectorySchema.of(SPEC), np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        for number in range(4):
            seen = [
                {name: item.sample(rng) for name, item in SPEC.observation.items()}
                for _ in range(9)
            ]
            steps = [
                Step(one, SPEC.action.sample(rng), SPEC.action.sample(rng), 1.0)
                for one in seen[:-1]
            ]
            columns = schema.rows([*steps, FinalObservation(seen[-1])])
            columns["truncated"][-2] = True
            source = EpisodeSource.DEMONSTRATION if number % 2 else EpisodeSource.ONLINE
            key = EpisodeKey("a", 1, number)
            writer.append(whole_episode(key, schema, columns, Outcome.SUCCESS, source, "r"))
        writer.commit()
    return tmp_path / "store"


def config(tmp_path, store, algorithm, weights, **encoder):
    encoder = {"backbone": "efficientnet_lite0", "weights": str(weights), **encoder}
    critics = {"critics": 2, "critic_hidden": [16]}
    policy, small, window = "tanh_gaussian", SMALL, {}
    if algorithm == "sac_flow":
        policy, small, window = "flow", CHUNKS, {"window": 3, "pad_windows": True}
        critics |= {"critic_updates": 1, "actor_learning_rate": 0.01}  # it begins with zeros
    return LearnerConfig(
        algorithm={"plugin": algorithm, "params": critics},
        policy={"plugin": policy, "params": {**small, "image_encoder": encoder}},
        store=store, directory=tmp_path / "learner", tensorboard=False,
        sampler={"strata": [{"sources": ["online"]}, {"sources": ["demonstration"]}], **window},
        training={
            "batch_size": 8, "max_updates": 4, "threads": 1, "publish_period_s": 0,
            "utd": {"target": None, "learning_starts": 0},
        },
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["sac", "rlpd", "sac_flow"])
def test_it_learns_from_kept_features_and_what_is_published_sees_pixels(
    tmp_path, store, weights, algorithm
):
    mailbox, made = PolicyMailbox(), config(tmp_path, store, algorithm, weights)
    with open_learner(made, SPEC, mailbox) as loop:
        loop.run()
        progress = loop.progress()
    assert progress.update >= 4 and all(np.isfinite(v) for v in progress.metrics.values())
    assert list(store.rglob("*.features")), "computed once, beside the images"
    version = mailbox.newest(0)
    acting = plugins.build("policies", made.policy.plugin, made.policy.params, SPEC)
    acting.load(version.arrays)
    seen = {name: item.sample(np.random.default_rng(1)) for name, item in SPEC.observation.items()}
    action = acting.act(seen, deterministic=True)
    seen["image_front"] = 255 - seen["image_front"]
    assert not np.allclose(action, acting.act(seen, deterministic=True)), "it looks at the image"
    with open_learner(made, SPEC, PolicyMailbox()) as again:
        assert again.progress().update == progress.update, "resumed"


@pytest.mark.parametrize("algorithm", ["sac", "rlpd"])
def test_an_encoder_that_should_be_trained_is_refused_in_words(tmp_path, store, weights, algorithm):
    with pytest.raises(ConfigError, match="frozen encoder in this policy"):
        with open_learner(
            config(tmp_path, store, algorithm, weights, trained=True), SPEC, PolicyMailbox()
        ):
            pass
