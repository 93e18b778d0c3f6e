import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_core.errors import SpecError
from user_core.policies.fingerprint import policy_config_hash
from user_core.policies.tanh_gaussian import TanhGaussianConfig
from user_core.specs import (
    DTYPES,
    ActionKind,
    ArraySpec,
    RobotSpec,
    check_arrays,
    difference,
    digest,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@given(shapes, st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
def test_a_sample_always_fits_its_spec(shape, dtype, seed):
    spec = ArraySpec(shape, dtype)
    spec.check(spec.sample(np.random.default_rng(seed)))
    spec.check(spec.zeros())
    assert spec.zeros().nbytes == spec.nbytes


@given(shapes, st.sampled_from(DTYPES))
def test_a_spec_survives_json(shape, dtype):
    names = tuple(f"n{i}" for i in range(shape[0])) if len(shape) == 1 else ()
    spec = ArraySpec(shape, dtype, 0, 1.0, "m", "base", names)
    assert ArraySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(2, "float32"), ["float32[2]", "float32[3]"]),
        (np.zeros(3, "float64"), ["float64[3]", "float32[3]"]),
        (np.array([0, np.nan, np.inf], "float32"), ["2 of 3", "j2", "nan"]),
        ([0, 0, 0], ["list", "numpy array"]),
    ],
)
def test_what_does_not_fit_is_named(array, words):
    with pytest.raises(SpecError) as caught:
        ArraySpec((3,), names=("j1", "j2", "j3")).check(array, "joint_position")
    for word in ["joint_position", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (-1,)},
        {"shape": (True,)},
        {"shape": (1,) * 9},
        {"shape": (2,), "dtype": "object"},
        {"shape": (2,), "low": (0.0,)},
        {"shape": (2,), "low": 1.0, "high": 0.0},
        {"shape": (2,), "names": ("a",)},
    ],
)
def test_impossible_specs_are_refused(arguments):
    with pytest.raises(SpecError):
        ArraySpec(**arguments)


@pytest.mark.parametrize(
    "data",
    [{}, {"shape": "abc"}, {"shape": [1], "color": 1}, {"shape": [1], "low": "x"}, {"shape": 3}],
)
def test_rubbish_is_no_spec(data):
    with pytest.raises(SpecError):
        ArraySpec.from_dict(data)


def test_bounds_are_per_element_or_for_all():
    spec = ArraySpec((2,), "float32", (-1.0, -2.0), 3.0)
    assert spec.low_array.tolist() == [-1, -2]
    assert spec.high_array.tolist() == [3, 3]
    samples = np.stack([spec.sample(np.random.default_rng(i)) for i in range(100)])
    assert (samples >= [-1, -2]).all()
    assert (samples <= 3).all()


def test_missing_and_unknown_arrays_are_named():
    with pytest.raises(SpecError, match=r"missing \['b'\], unknown \['c'\]"):
        check_arrays(
            {"a": np.zeros(1), "c": np.zeros(1)}, {"a": ArraySpec((1,)), "b": ArraySpec((1,))}
        )


def robot_spec(**changes):
    values = {
        "robot": "arm",
        "observation": {"joint_position": ArraySpec((2,), unit="rad")},
        "action": ArraySpec((2,), low=-1.0, high=1.0),
        "action_kind": ActionKind.JOINT_DELTA,
    }
    return RobotSpec(**{**values, **changes})


def test_a_robot_spec_survives_json():
    spec = robot_spec()
    assert RobotSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_grippers_are_marked_and_hashes_of_before_stay():
    before, marked = robot_spec(), robot_spec(grippers=(1,))
    assert "grippers" not in before.to_dict()  # as it was written before there was a mark
    assert RobotSpec.from_dict(json.loads(json.dumps(marked.to_dict()))) == marked
    name, config = "tanh_gaussian", TanhGaussianConfig()
    assert policy_config_hash(name, config, before) == policy_config_hash(name, config, marked)
    for wrong in ((2,), (-1,), (1, 1)):
        with pytest.raises(SpecError, match="grippers"):
            robot_spec(grippers=wrong)


@pytest.mark.parametrize(
    "changes",
    [{"observation": {}}, {"action": ArraySpec(())}, {"period_s": 0}, {"period_s": float("nan")}],
)
def test_impossible_robots_are_refused(changes):
    with pytest.raises(SpecError):
        robot_spec(**changes)


@pytest.mark.parametrize("data", [{}, {"robot": "x", "observation": 3, "action": {}}])
def test_rubbish_is_no_robot(data):
    with pytest.raises(SpecError):
        RobotSpec.from_dict(data)


def test_equal_data_has_equal_digests_whatever_the_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_difference_is_spelled_out():
    old = {"image": {"shape": [64, 64, 3], "dtype": "uint8"}, "goal": {"shape": [2]}}
    new = {"image": {"shape": [128, 128, 3], "dtype": "uint8"}, "wrench": {"shape": [6]}}
    lines = difference(old, new)
    assert "image.shape: [64, 64, 3] became [128, 128, 3]" in lines
    assert any(line.startswith("goal: only in the first") for line in lines)
    assert any(line.startswith("wrench: only in the second") for line in lines)
    assert difference(old, old) == []
    lines = difference(old, new, sides=("here", "there"))
    assert "image.shape: [64, 64, 3] here, [128, 128, 3] there" in lines
    assert "wrench: only there ({'shape': [6]})" in lines
