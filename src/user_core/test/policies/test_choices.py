"""Actions of which some elements, or all, are choices: specs, meaning, the shipped policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from user_core.body.action_groups import group_views
from user_core.conformance import check_policy
from user_core.errors import SpecError
from user_core.meaning import meaning_differences
from user_core.policies.action_chunks import ActionChunksPolicy
from user_core.policies.choices import MixedActions
from user_core.policies.features import ActionScale
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.policies.torch_policy import TorchPolicy, TorchPolicyConfig
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec, digest

STATE = {"x": ArraySpec((3,), low=-1.0, high=1.0)}
ONE = ArraySpec((1,), "int64", 2, 4, categorical=(0,))
SEVERAL = ArraySpec((2,), "int64", 0, (1, 4), categorical=(0, 1))
HYBRID = ArraySpec((4,), low=(-1.0, 0.0, -0.5, 0.0), high=(1.0, 2.0, 0.5, 1.0), categorical=(1, 3))
DISCRETE = RobotSpec("r", STATE, ONE, ActionKind.DISCRETE)
MIXED = RobotSpec("r", STATE, HYBRID)
SPECS = {
    "one": DISCRETE,
    "several": RobotSpec("r", STATE, SEVERAL, ActionKind.DISCRETE),
    "hybrid": MIXED,
    "image": RobotSpec("r", {"image": ArraySpec((16, 16, 3), "uint8")}, HYBRID),
}


def policy_for(spec, cls=TanhGaussianPolicy, **settings):
    config = {"hidden": (16,), "image_channels": (4,), "image_embedding": 4, **settings}
    return cls(cls.Config(**config), spec)


def test_a_spec_without_choices_is_written_and_hashed_as_before():
    spec = RobotSpec("r", STATE, ArraySpec((2,), low=-1.0, high=1.0))
    assert set(spec.action.to_dict()) == {"shape", "dtype", "low", "high"}
    assert digest(spec.to_dict()) == (
        "d4e5bc9806e0a73f8ded6ac4a799a38656dd9d752af54e2a45fda277a3b0e8d2"
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_with_choices_comes_back_from_plain_data(spec):
    spec = replace(
        spec, hold_choices=tuple(int(spec.action.low_array[i]) for i in spec.action.categorical)
    )
    assert RobotSpec.from_dict(spec.to_dict()) == spec


def test_counts_are_what_lies_between_the_bounds():
    assert ONE.counts == (3,) and SEVERAL.counts == (2, 5) and HYBRID.counts == (3, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"categorical": (4,)}, "elements of a vector"),
        ({"categorical": (1, 1)}, "each once"),
        ({"categorical": (3, 1)}, "in their order"),
        ({"categorical": (0,), "low": (-1.5, 0, 0, 0)}, "whole numbers"),
        ({"low": None}, "whole numbers, its first and its last choice"),
        ({"high": (1.0, 5000.0, 1.0, 1.0)}, "at most 1024"),
    ],
)
def test_choices_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(SpecError, match=words):
        replace(HYBRID, **changes)


def test_kind_and_hold_choices_fit_the_elements():
    with pytest.raises(SpecError, match="'discrete'"):
        RobotSpec("r", STATE, HYBRID, ActionKind.DISCRETE)
    assert replace(MIXED, hold_choices=(1, 0)).hold_choices == (1, 0)
    for wrong in ((1,), (3, 0), (1, -1)):
        with pytest.raises(SpecError, match="hold_choices"):
            replace(MIXED, hold_choices=wrong)


def test_an_element_that_is_none_of_its_choices_is_told_by_its_name():
    spec = replace(HYBRID, names=("dx", "gripper", "dy", "light"))
    good = np.array([0.3, 2, 0, 1], np.float32)
    spec.check(good)
    assert spec.fits(good)
    for bad in (0.5, 3.0, -1.0):
        wrong = good.copy()
        wrong[1] = bad
        assert not spec.fits(wrong)
        with pytest.raises(SpecError, match=r"gripper: got .*choices, 0 to 2"):
            spec.check(wrong, "action")


def test_samples_choose_evenly():
    rng = np.random.default_rng(0)
    drawn = np.stack([HYBRID.sample(rng) for _ in range(900)])
    assert np.bincount(drawn[:, 1].astype(int)).tolist() == pytest.approx([300] * 3, abs=60)
    assert set(np.unique(drawn[:, 3])) == {0.0, 1.0} and len(np.unique(drawn[:, 0])) > 800
    assert set(np.unique([ONE.sample(rng) for _ in range(50)])) == {2, 3, 4}


def test_a_group_has_its_own_choices():
    groups = (
        ActionGroup("arm", ActionKind.JOINT_DELTA, 3),
        ActionGroup("hand", ActionKind.DISCRETE, 1),
    )
    spec = replace(MIXED, action_kind=ActionKind.MIXED, action_groups=groups, hold_choices=(1, 0))
    arm, hand = group_views(spec)
    assert arm.spec.action.categorical == (1,) and arm.spec.hold_choices == (1,)
    assert hand.spec.action.categorical == (0,) and hand.spec.action_kind is ActionKind.DISCRETE
    with pytest.raises(SpecError, match="'discrete'"):
        replace(spec, action_groups=(replace(groups[0], kind=ActionKind.DISCRETE), groups[1]))


def test_choices_are_part_of_the_meaning():
    other = replace(MIXED, action=replace(HYBRID, categorical=(1,)))
    (difference,) = meaning_differences(MIXED, other)
    assert difference.key == "choices" and "element 3: 2 choices" in difference.got
    before = RobotSpec("r", STATE, replace(ONE, categorical=()))  # integers, of earlier stores
    assert meaning_differences(before, DISCRETE) == [] == meaning_differences(DISCRETE, before)


@pytest.mark.parametrize("cls", [TanhGaussianPolicy, ActionChunksPolicy])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_shipped_policies_keep_their_promises(spec, cls):
    policy = policy_for(spec, cls, **({"rows": 3} if cls is ActionChunksPolicy else {}))
    report = check_policy(policy, spec)
    others = [check.promise for check in report.checks if not check.passed]
    # numpy's arrays are not torch's: these policies take weights by load alone, which they may
    assert others == ["in_place gives what arrays gives, where load leaves it"], str(report)
    assert report.passed, str(report)


def test_an_actor_samples_as_the_network_says():
    policy = policy_for(MIXED)
    rng = np.random.default_rng(1)
    head = policy.arrays()
    head["head.bias"] = np.array(rng.normal(size=head["head.bias"].shape), np.float32)
    policy.load(head)
    seen = {"x": np.array([0.1, -0.4, 0.7], np.float32)}
    network = policy.network()
    found = network.distribution(network.encode(network.inputs({"x": seen["x"][None]})))
    acted = np.concatenate([policy.act(seen) for _ in range(3000)])
    for element, log_probs in zip((1, 3), found.choice_log_probs, strict=True):
        wanted = log_probs[0].exp().detach().numpy()
        shares = np.bincount(acted[:, element].astype(int), minlength=len(wanted)) / len(acted)
        np.testing.assert_allclose(shares, wanted, atol=0.03)
    likeliest = [float(one[0].argmax()) for one in found.choice_log_probs]
    assert policy.act(seen, deterministic=True)[0, [1, 3]].tolist() == likeliest


def test_the_probability_of_an_action_is_the_product_over_its_elements():
    scale = ActionScale(RobotSpec("r", STATE, SEVERAL, ActionKind.DISCRETE), choices=True)
    first, second = (
        torch.tensor([[0.2, 0.8]]).log(),
        torch.tensor([[0.1, 0.2, 0.3, 0.3, 0.1]]).log(),
    )
    found = MixedActions(scale, [first, second])
    assert found.log_prob(torch.tensor([[1.0, 2.0]])).exp().item() == pytest.approx(0.8 * 0.3)
    assert found.mode[0, 0].item() == 1.0
    weight = torch.tensor([[0.0, 1.0]])
    assert found.log_prob(torch.tensor([[1.0, 2.0]]), weight).exp().item() == pytest.approx(0.3)
    action, log_prob = found.sample(torch.Generator().manual_seed(0))
    assert torch.equal(log_prob, found.log_prob(action))
    assert found.sample_continuous(torch.Generator())[0].shape == (1, 0)


def test_a_policy_that_knows_no_choices_refuses_a_robot_that_has_some():
    class Plain(TorchPolicy):
        def make_network(self):
            raise AssertionError("it is refused before")

    with pytest.raises(SpecError, match="1 of 1 elements are categorical.*discrete:=argmax"):
        Plain(TorchPolicyConfig(), DISCRETE)
    integers = RobotSpec("r", STATE, ArraySpec((1,), "int32", 0, 10**6))
    with pytest.raises(SpecError, match="integers that are no choices"):
        TanhGaussianPolicy(TanhGaussianConfig(), integers)
