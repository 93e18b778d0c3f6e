"""Cal-QL: what is not in the data is worth less, but not less than those who made them got; then RLPD."""

import numpy as np
import pytest
import torch

from user_core import plugins
from user_core.codecs.states import flatten
from user_core.conformance import check_algorithm
from user_core.fakes import PolicyMailbox
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from user_learner.learner import open_learner
from user_testing.programs import training_run
from user_testing.worlds.batches import random_batch

SPEC = RobotSpec(
    "r", {"x": ArraySpec((1,), low=-1.0, high=1.0)}, ArraySpec((1,), low=-1.0, high=1.0)
)
EYES = RobotSpec(
    "r", {"x": SPEC.observation["x"], "image_front": ArraySpec((16, 16, 3), "uint8")}, SPEC.action
)
SMALL = {"critic_hidden": [16], "critics": 2, "reference": {"hidden": [16], "learning_rate": 1e-2}}


def policy_for(spec=SPEC, **params):
    params = {"hidden": [16], "image_channels": [2], "image_embedding": 3, **params}
    return plugins.build("policies", "tanh_gaussian", params, spec)


def make(spec=SPEC, **settings):
    return plugins.build("algorithms", "cal_ql", {**SMALL, **settings}, spec, policy_for(spec))


@pytest.mark.parametrize("spec", [SPEC, EYES], ids=["numbers", "eyes"])
def test_the_promises_are_kept(spec):
    check_algorithm(make(spec), make(spec), policy_for(spec), spec, batch_size=8).require()


def taught(**settings):
    """From one state; in the data all act near 0.5 and get 1, and nothing follows."""
    rng = np.random.default_rng(0)
    rates = dict.fromkeys(
        ("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate"), 3e-3
    )
    algorithm = make(initial_temperature=0.1, **rates, **settings)
    here = {"x": np.full((64, 1), 0.5, np.float32)}
    for _ in range(250):
        action = np.clip(rng.normal(0.5, 0.05, (64, 1)), -1, 1).astype(np.float32)
        one, none = np.ones(64, np.float32), np.zeros(64, np.float32)
        algorithm.update(Batch(here, action, one, none, here))
    networks = algorithm.networks
    with torch.no_grad():
        features = networks.policy.encode(networks.policy.inputs({"x": np.full((41, 1), 0.5)}))
        tried = torch.linspace(-1, 1, 41)[:, None]
        values = networks.values(networks.critics.frozen, features, tried).mean(0).numpy()
    return algorithm, tried[:, 0].numpy(), values


def test_what_data_do_not_show_is_worth_less_than_what_they_do():
    _, action, values = taught(conservative_weight=1.0)
    shown, other = np.abs(action - 0.5) < 0.1, np.abs(action + 0.5) < 0.1
    _, _, free = taught(conservative_weight=0.0)
    less = [found[shown].mean() - found[other].mean() for found in (values, free)]
    assert less[0] > 0.3 + less[1]  # it is the pessimism that does it


def test_the_reference_is_what_the_data_brought():
    algorithm, _, _ = taught()
    seen = algorithm.networks.policy.encode({"state": torch.full((1, 1), 0.5)})
    assert float(algorithm.reference(seen)) == pytest.approx(1.0, abs=0.1)


def test_without_pessimism_it_is_rlpd():
    settings = {"critic_hidden": (16,), "critics": 2, "critic_updates": 1}
    plain = RLPD(RLPDConfig(**settings), SPEC, policy_for())
    mine, rng = make(conservative_weight=0.0), np.random.default_rng(0)
    for _ in range(4):
        batch = random_batch(SPEC, 12, rng)
        assert mine.update(batch) == plain.update(batch)


def test_a_training_on_old_data_goes_on_without_pessimism():
    """As wsrl does: what differs may change between two runs."""
    offline, rng = make(conservative_weight=1.0), np.random.default_rng(0)
    for _ in range(3):
        offline.update(random_batch(SPEC, 12, rng))
    online = make(conservative_weight=0.0)
    online.load_state(offline.state())
    for name, array in offline.policy_arrays().items():
        np.testing.assert_array_equal(array, online.policy_arrays()[name])
    assert "conservative_gap" not in online.update(random_batch(SPEC, 12, rng))


def test_a_run_without_pessimism_begins_with_what_one_with_it_has_learned(tmp_path):
    """``user train`` with cal_ql, then a run with wsrl and ``start_from``."""
    training_run.prepare(tmp_path)
    training_run.run("cal_ql", str(tmp_path), "offline", 10)
    config = training_run.config_of("cal_ql", tmp_path, "online", 0)
    params = {**config.algorithm.params, "conservative_weight": 0.0}
    config = config.replace(
        start_from=str(tmp_path / "offline"), algorithm=config.algorithm.replace(params=params)
    )
    with open_learner(config, training_run.SPEC, PolicyMailbox()) as loop:
        assert loop.progress().update == 10
        arrays, _ = flatten(loop.algorithm.state())
        loop.abandon()
    learned = np.load(tmp_path / "offline/end.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, learned[name])
