"""Action groups: what a spec says of them, and one group as a robot of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from user_core.body.action_groups import group_view, group_views
from user_core.errors import SpecError
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec, common_kind, digest

J, E, B = ActionKind.JOINT_DELTA, ActionKind.EE_DELTA, ActionKind.BASE_TWIST
NAMES = ("l1", "l2", "l_grip", "r1", "r2", "r_grip")


def two_arms(**changes: object) -> RobotSpec:
    spec = RobotSpec(
        "two_arms",
        {
            "joint_position": ArraySpec((4,), low=(-1, -2, -3, -4), high=3, unit="rad"),
            "left.tcp_pose": ArraySpec((7,)),
            "right.tcp_pose": ArraySpec((7,)),
            "image_front": ArraySpec((4, 4, 3), "uint8"),
        },
        ArraySpec((6,), low=-0.1, high=(0.1, 0.2, 1.0, 0.3, 0.4, 1.0), names=NAMES),
        J,
        grippers=(2, 5),
        action_groups=(ActionGroup("left", J, 3), ActionGroup("right", J, 3)),
    )
    return replace(spec, **changes)


def test_a_spec_with_groups_survives_plain_data() -> None:
    spec = two_arms()
    assert RobotSpec.from_dict(spec.to_dict()) == spec
    assert spec.to_dict()["action_groups"][1] == {"name": "right", "kind": "joint_delta", "size": 3}


def test_a_spec_without_groups_keeps_the_hash_that_it_had() -> None:
    spec = RobotSpec("r", {"a": ArraySpec((2,))}, ArraySpec((1,), low=-1, high=1))
    assert "action_groups" not in spec.to_dict()
    assert digest(spec.to_dict()) == (
        "73df1bb1076b05af25fe24dac0bee8938956e9f3780eea00e1a17e21fb1d503b"
    )


def test_a_group_is_a_robot_of_its_own() -> None:
    left, right = group_views(two_arms())
    assert (left.part, right.part) == (slice(0, 3), slice(3, 6))
    assert right.spec.grippers == (2,) and right.spec.action.names == ("r1", "r2", "r_grip")
    assert right.spec.action.high == (0.3, 0.4, 1.0) and right.spec.action.low == -0.1
    assert list(right.spec.observation) == ["joint_position", "tcp_pose", "image_front"]
    assert right.spec.observation["joint_position"].low == (-3, -4)
    arrays = {
        "joint_position": np.arange(4.0),
        "left.tcp_pose": np.zeros(7),
        "right.tcp_pose": np.ones(7),
    }
    own = right.arrays(arrays)
    np.testing.assert_array_equal(own["joint_position"], [2, 3])
    np.testing.assert_array_equal(own["tcp_pose"], np.ones(7))


def test_joints_that_are_named_are_found_by_name() -> None:
    spec = two_arms(
        observation={
            "joint_position": ArraySpec((4,), names=("r2", "r1", "l1", "l2")),
            "right.joint_velocity": ArraySpec((2,)),
        }
    )
    right = group_view(spec, "right")
    own = right.arrays({"joint_position": np.arange(4.0), "right.joint_velocity": np.ones(2)})
    np.testing.assert_array_equal(own["joint_position"], [1, 0])
    assert (
        "joint_velocity" in own
        and "joint_velocity" not in group_view(spec, "left").spec.observation
    )


def test_what_is_measured_at_the_tool_is_the_arms_and_not_the_bases() -> None:
    spec = RobotSpec(
        "rover",
        {"tcp_pose": ArraySpec((7,)), "joint_position": ArraySpec((9,))},
        ArraySpec((9,)),
        ActionKind.MIXED,
        action_groups=(ActionGroup("base", B, 2), ActionGroup("arm", E, 7)),
    )
    base, arm = group_views(spec)
    assert "tcp_pose" in arm.spec.observation and "tcp_pose" not in base.arrays(
        {"tcp_pose": np.ones(7)}
    )
    assert "joint_position" not in arm.sources, "nobody says which joints are the arm's"


def test_elements_of_a_tool_are_called_alike_in_all_groups() -> None:
    spec = RobotSpec(
        "arms",
        {"x": ArraySpec((1,)), "gripper": ArraySpec((2,))},
        ArraySpec((4,), names=("l_dx", "l_gripper", "r.dx", "r.gripper")),
        E,
        grippers=(1, 3),
        action_groups=(ActionGroup("l", E, 2), ActionGroup("r", E, 2)),
    )
    left, right = group_views(spec)
    assert left.spec.action.names == right.spec.action.names == ("dx", "gripper")
    assert right.arrays({"gripper": np.array([0.25, 0.75])})["gripper"].tolist() == [0.75]


def test_a_robot_without_groups_is_its_own_view() -> None:
    spec = RobotSpec("r", {"a": ArraySpec((2,))}, ArraySpec((1,)))
    (view,) = group_views(spec)
    assert view.spec is spec and view.part == slice(0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_groups": (ActionGroup("left", J, 3),)}, "6 together"),
        ({"action_groups": (ActionGroup("a", J, 3), ActionGroup("a", J, 3))}, "each name once"),
        ({"action_groups": (ActionGroup("a", J, 3), ActionGroup("b", E, 3))}, "'mixed'"),
        ({"action_groups": (), "action_kind": ActionKind.MIXED}, "the kind is 'mixed'"),
    ],
)
def test_groups_that_contradict_the_spec_are_refused(changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        two_arms(**changes)


@pytest.mark.parametrize(
    "bad", [("", J, 1), ("a.b", J, 1), ("a", ActionKind.MIXED, 1), ("a", J, 0)]
)
def test_a_group_has_a_name_a_kind_and_elements(bad) -> None:
    with pytest.raises(SpecError):
        ActionGroup(*bad)


def test_groups_of_one_kind_have_it_in_common() -> None:
    assert common_kind([ActionGroup("a", J, 1), ActionGroup("b", J, 2)]) is J
    assert common_kind([ActionGroup("a", J, 1), ActionGroup("b", B, 2)]) is ActionKind.MIXED


def test_an_unknown_group_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="left"):
        group_view(two_arms(), "middle")
