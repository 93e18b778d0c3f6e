"""Numbers out of messages."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.errors import ConfigError, DeviceFault
from user_hal.fakes import local_topics as m
from user_hal.robots.ros2.field_paths import FieldPath, NotSelected
from user_hal.robots.ros2.messages import LAYOUTS, Extractor


def joints(names: list[str], **fields: Any) -> m.JointState:
    return m.JointState(name=names, **fields)


def take(field: str, size: int, **rest: Any) -> Extractor:
    layout = LAYOUTS[rest.pop("layout", "vector")]
    names_field = FieldPath("name") if "names" in rest else None
    return Extractor(FieldPath(field), layout, size, names_field=names_field, **rest)


def test_elements_by_name_in_the_robots_order_whatever_the_messages() -> None:
    extract = take("position", 2, names=("elbow", "shoulder"))
    for names, position in (
        (["shoulder", "elbow", "finger"], [1.0, 2.0, 3.0]),
        (["shoulder", "elbow", "finger"], array.array("d", [1.0, 2.0, 3.0])),
        (["finger", "elbow", "shoulder"], [3.0, 2.0, 1.0]),
    ):
        values = extract(joints(names, position=position))
        assert values is not None
        np.testing.assert_array_equal(values, [2.0, 1.0])


def test_messages_about_other_joints_are_none_of_our_business() -> None:
    extract = take("position", 1, names=("elbow",))
    assert extract(joints(["finger"], position=[1.0])) is None
    assert extract(joints([], position=[])) is None


def test_a_message_that_leaves_its_numbers_empty_says_nothing() -> None:
    extract = take("velocity", 1, names=("elbow",))
    assert extract(joints(["elbow"], position=[1.0])) is None
    assert extract.left_empty
    extract(joints(["elbow"], velocity=[1.0]))
    assert not extract.left_empty


def test_scale_offset_and_indices() -> None:
    message = m.Float64MultiArray(data=[10.0, 20.0, 30.0])
    extract = take("data", 2, indices=(2, 0), scale=(0.1, 2.0), offset=(-1.0,))
    np.testing.assert_allclose(extract(message), [2.0, 19.0])
    np.testing.assert_allclose(take("data[1]", 1)(message), [20.0])
    with pytest.raises(DeviceFault, match="got 3 numbers, expected at least 6"):
        take("data", 1, indices=(5,))(message)
    with pytest.raises(DeviceFault, match="got 3 numbers, expected 2"):
        take("data", 2)(message)
    with pytest.raises(DeviceFault, match=r"'data\[7\]'"):
        take("data[7]", 1)(message)


def test_groups_of_numbers() -> None:
    pose = m.PoseStamped(pose=m.Pose(m.Vector3(1.0, 2.0, 3.0), m.Quaternion(0.0, 0.0, 0.0, 2.0)))
    np.testing.assert_array_equal(take("pose", 7, layout="pose")(pose), [1, 2, 3, 0, 0, 0, 1])
    wrench = m.WrenchStamped(wrench=m.Wrench(m.Vector3(1.0, 2.0, 3.0), m.Vector3(4.0, 5.0, 6.0)))
    np.testing.assert_array_equal(take("wrench", 6, layout="wrench")(wrench), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(take("pose.position", 3, layout="vector3")(pose), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(take("data", 1, layout="scalar")(m.Float64(4.0)), [4.0])
    with pytest.raises(DeviceFault, match="length of a quaternion: got 0 of"):
        take("pose", 7, layout="pose")(m.PoseStamped(pose=m.Pose(m.Vector3(), m.Quaternion(w=0.0))))
    with pytest.raises(DeviceFault, match="linear"):
        take("pose", 6, layout="twist")(pose)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_told_with_their_joint(bad: float) -> None:
    extract = take("position", 2, names=("a", "b"))
    with pytest.raises(DeviceFault, match=r"'position': b: got -?(nan|inf)"):
        extract(joints(["a", "b"], position=[0.0, bad]))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("positions", r"JointState has no 'positions'.*'position'.*did you mean 'position'"),
        ("header.stamp.secs", r"JointState.header.stamp has no 'secs', expected .*'sec'"),
        ("header.stamp.sec.x", "nothing below"),
    ],
)
def test_a_field_that_is_not_there_lists_those_that_are(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldPath(path).check(m.JointState, "sensor_msgs/msg/JointState")


@pytest.mark.parametrize("path", ["", "a..b", "a[b]", "a b", "[0]", "a[0]b", "a[b=]", "a[=b]"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(ConfigError, match="path of a field"):
        FieldPath(path)


def test_an_element_by_its_name() -> None:
    """diagnostic_msgs/DiagnosticArray: who it is about says each status itself."""

    def status(name: str, level: int) -> Any:
        return SimpleNamespace(name=name, level=level)

    path = FieldPath("status[name=ur: Robot mode, 1.2].level")
    message = SimpleNamespace(status=[status("other", 2), status("ur: Robot mode, 1.2", 1)])
    assert path.get(message) == 1 and path.selects
    message.status.pop()
    with pytest.raises(NotSelected, match="no element with name = 'ur: Robot mode, 1.2'"):
        path.get(message)
    extract = Extractor(FieldPath("status[name=x].level"), LAYOUTS["scalar"], 1)
    assert extract(message) is None
    message.status.append(status("x", 3))
    np.testing.assert_array_equal(extract(message), [3.0])
    both = FieldPath("status[name=a,b].level, status[0].level")
    message.status.append(status("a,b", 7))
    assert both.get(message) == [7, 2] and both.selects and not FieldPath("a[0].b").selects


def test_several_ways_give_a_vector() -> None:
    extract = take("position.x, position.z, orientation.w", 3)
    pose = m.Pose(m.Vector3(1.0, 2.0, 3.0), m.Quaternion(0.0, 0.0, 0.6, 0.8))
    values = extract(pose)
    assert values is not None
    np.testing.assert_array_equal(values, [1.0, 3.0, 0.8])
    with pytest.raises(ConfigError, match="no 'rx'"):
        FieldPath("position.x, rx").check(m.Pose, "geometry_msgs/msg/Pose")


def test_of_a_name_that_comes_twice_the_first_is_meant() -> None:
    extract = take("position", 2, names=("elbow", "shoulder"))
    names = ["shoulder", "elbow", "shoulder", "elbow"]
    for position in ([1.0, 2.0], [1.0, 2.0, 1.0, 2.0]):
        values = extract(joints(names, position=position))
        assert values is not None
        np.testing.assert_array_equal(values, [2.0, 1.0])
    with pytest.raises(DeviceFault, match="'elbow' twice, with 2 and 3, expected each name once"):
        extract(joints(names, position=[1.0, 2.0, 1.0, 3.0]))


def test_more_numbers_than_names_belong_to_nobody() -> None:
    extract = take("position", 2, names=("elbow", "shoulder"))
    with pytest.raises(DeviceFault, match="3 numbers for 2 names.*indices"):
        extract(joints(["shoulder", "elbow"], position=[9.0, 1.0, 2.0]))


def test_a_number_that_float32_cannot_hold_is_told() -> None:
    with pytest.raises(DeviceFault, match=r"element 0: got 1e\+300, expected finite numbers"):
        take("data", 1)(m.Float64MultiArray(data=[1e300]))
