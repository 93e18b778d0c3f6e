"""Meanings that differ are told apart, in words; what nobody says differs from nothing."""

from dataclasses import replace

import numpy as np
import pytest

from user_core.errors import ConfigError, SchemaMismatch
from user_core.meaning import MEANINGS, meaning_differences, outside_bounds, require_same_meaning
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec

JOINTS = ("shoulder", "elbow")


def spec(action=None, **changes):
    action = {"low": -0.05, "high": 0.05, "unit": "rad", "names": JOINTS, **(action or {})}
    values = {
        "robot": "arm",
        "observation": {"tcp_pose": ArraySpec((7,), unit="m", frame="base")},
        "action": ArraySpec((2,), **action),
        "action_kind": ActionKind.JOINT_DELTA,
        "period_s": 0.1,
    }
    return RobotSpec(**{**values, **changes})


ARM = spec()
OTHERS = {
    "action_kind": spec(action_kind=ActionKind.JOINT_POSITION),
    "period": spec(period_s=1 / 30),
    "bounds": spec({"low": -3.14, "high": 3.14}),
    "units": spec({"unit": "deg"}),
    "names": spec({"names": JOINTS[::-1]}),
    "frames": spec(observation={"tcp_pose": ArraySpec((7,), unit="m", frame="world")}),
}


def test_bounds_of_an_observation_tell_its_unit_where_nobody_says_it():
    def shows(bound, **more):
        joints = ArraySpec((2,), low=-bound, high=bound, **more)
        return spec(observation={"joint_position": joints})

    [found] = meaning_differences(shows(180.0), shows(3.14))
    assert found.key == "observation_bounds" and "-180 to 180" in found.got
    for one, other in (
        (shows(2.9), shows(3.14)),  # a limit that was set anew
        (shows(180.0, unit="rad"), shows(3.14, unit="rad")),
        (shows(3.4e38), shows(3.14)),
        (spec(observation={"joint_position": ArraySpec((2,))}), shows(3.14)),
    ):
        assert meaning_differences(one, other) == []
    by_unit = meaning_differences(shows(180.0, unit="deg"), shows(3.14, unit="rad"))
    assert [one.key for one in by_unit] == ["units"]


@pytest.mark.parametrize("key", OTHERS)
def test_each_difference_has_its_name_and_can_be_accepted_by_it(key):
    assert [one.key for one in meaning_differences(OTHERS[key], ARM)] == [key]
    with pytest.raises(SchemaMismatch, match=key):
        require_same_meaning(OTHERS[key], ARM, "data")
    assert require_same_meaning(OTHERS[key], ARM, "data", [key])
    assert key in MEANINGS


def test_the_case_of_degrees_at_30_hz_is_told_in_words():
    demonstrations = spec(
        {"low": -180.0, "high": 180.0, "unit": "deg"},
        action_kind=ActionKind.JOINT_POSITION, period_s=1 / 30,
    )  # fmt: skip
    with pytest.raises(SchemaMismatch) as caught:
        require_same_meaning(
            demonstrations, ARM, "store demos", ["units"], "data.accept_differences: "
        )
    text = str(caught.value)
    for words in (
        "action kind joint_position; period 30 Hz; bounds -180 to 180",
        "action kind joint_delta; period 10 Hz; bounds -0.05 to 0.05",
        "data.accept_differences: [action_kind, period, bounds]",
    ):
        assert words in text


def test_what_one_side_does_not_say_and_what_is_written_otherwise_is_no_difference():
    for same in (
        ARM,
        replace(ARM, robot="another arm", lockstep=True, grippers=(1,)),
        spec({"unit": "", "names": ()}),
        spec({"low": (-0.05, -0.05), "high": (0.05, 0.05)}),
        spec(period_s=0.1001),
        RobotSpec.from_dict(ARM.to_dict()),
    ):
        assert meaning_differences(same, ARM) == meaning_differences(ARM, same) == []


def test_groups_in_another_order_differ():
    groups = (
        ActionGroup("left", ActionKind.JOINT_DELTA, 1),
        ActionGroup("base", ActionKind.BASE_TWIST, 1),
    )
    both = {"action_kind": ActionKind.MIXED}
    one, other = (spec(action_groups=g, **both) for g in (groups, groups[::-1]))
    assert [d.key for d in meaning_differences(one, other)] == ["action_groups"]


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="kind_of_action"):
        require_same_meaning(ARM, ARM, "data", ["kind_of_action"])


def test_actions_outside_the_bounds_are_found_by_row():
    action = np.float32([[0.05, -0.05], [0.0, 0.06], [-117.0, 0.0]])
    assert outside_bounds(action, ARM.action).tolist() == [False, True, True]
    assert not outside_bounds(action, ArraySpec((2,))).any()
