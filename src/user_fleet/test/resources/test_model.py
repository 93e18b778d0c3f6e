"""Reports as they travel: what is said comes back; what nobody may say is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from user_core.errors import CodecError, ConfigError
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.reasons import DEVICE, Reason
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_fleet.resources.model import (
    MAX_REPORT_BYTES,
    MAX_RESOURCES,
    HostReport,
    Resource,
    clean_name,
    joints_of,
    uniquely_named,
)


def _resource(name: str = "arm", **changes) -> Resource:
    return Resource(**{"id": f"h1/robot/{name}", "kind": "robot", **changes})


def _said(**changes) -> bytes:
    report = HostReport(host="h1", life="a", resources=(_resource(),))
    return json.dumps({**json.loads(report.to_json()), **changes}).encode()


def test_a_report_comes_back_as_it_was():
    spec = FakeRobot(FakeRobotConfig(image_size=8)).spec
    robot = _resource(site="hall", tags=("cell-a",), amounts={"memory_bytes": 1e9}).with_spec(spec)
    broken = _resource("other", site="hall").unwell("faulty", Reason(DEVICE, "no bus"))
    report = HostReport(host="h1", site="hall", life="x", sequence=3, resources=(robot, broken))
    again = HostReport.from_json(report.to_json())
    assert again == report
    assert again.resources[0].cameras == ("image_front",)
    assert RobotSpec.from_dict(again.resources[0].spec) == spec
    assert again.resources[1].because() == Reason(DEVICE, "no bus")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff\xfe", "JSON"),
        (b"[]", "mapping"),
        (b'{"host": "h1", "host": "h2"}', "twice"),
        (b'{"host": NaN}', "NaN"),
        (b"[" * 100_000, "deep"),
        (b'{"host": "h1", "resources": ' + b'{"a":' * 50 + b"1" + b"}" * 51, "deep"),
        (b" " * (MAX_REPORT_BYTES + 1), "at most"),
        (b'{"host": "h1", "wall_ns": ' + b"9" * 5000 + b"}", "report"),
        (_said(host="h/2"), "host"),
        (_said(host="h2"), "those of host 'h2' only"),
        (_said(site="elsewhere"), "another site"),
        (_said(nonsense=1), "nonsense"),
        (_said(sequence=-1), "sequence"),
        (_said(resources=[{"id": "h1/robot/a", "kind": "gpu"}]), "HOST/gpu/NAME"),
        (_said(resources=[{"id": "h1/robot/a", "kind": "tank"}]), "kind"),
        (_said(resources=[{"id": "h1/robot/a", "kind": "robot"}] * 2), "twice"),
        (
            _said(
                resources=[
                    {"id": f"h1/robot/a{i}", "kind": "robot"} for i in range(MAX_RESOURCES + 1)
                ]
            ),
            "resources",
        ),
        (
            _said(resources=[{"id": "h1/robot/a", "kind": "robot", "amounts": {"cores": 1e999}}]),
            "Infinity",
        ),
        (
            _said(resources=[{"id": "h1/robot/a", "kind": "robot", "amounts": {"cores": -1}}]),
            "cores",
        ),
        (_said(resources=[{"id": "h1/robot/a", "kind": "robot", "health": "faulty"}]), "reason"),
    ],
)
def test_what_nobody_may_say_is_refused_by_name(data, word):
    with pytest.raises(CodecError, match=word):
        HostReport.from_json(data)


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data):
    with pytest.raises(CodecError):
        HostReport.from_json(data)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_no_document_does_more_than_be_refused(data):
    with pytest.raises(CodecError):
        HostReport.from_json(json.dumps({"host": 3, "resources": data}).encode())


def test_a_report_that_is_too_large_is_not_sent():
    many = [_resource(f"a{i}", params={"x": "y" * 6000}) for i in range(200)]
    with pytest.raises(CodecError, match="at most"):
        HostReport(host="h1", resources=tuple(many)).to_json()


def test_a_resource_is_ready_or_says_why_not():
    with pytest.raises(ConfigError, match="reason"):
        _resource(health="busy")
    with pytest.raises(ConfigError, match="reason"):
        _resource(reason="but why")


@given(st.text())
def test_any_text_becomes_a_part_of_an_id(text):
    name = clean_name(text)
    assert _resource(name).name == name


def test_names_of_any_length_make_a_resource():
    spec = _spec({"x" * 300: 3}, 2, ActionKind.GENERIC)
    spec = RobotSpec("r", {"y" * 300: ArraySpec((8, 8, 3), "uint8")}, spec.action)
    host = "h" * 128
    item = Resource(id=f"{host}/robot/{clean_name('n' * 500)}", kind="robot").with_spec(spec)
    assert len(uniquely_named([item, item])[1].id) <= 288
    assert item.cameras == ("y" * 64,)


def test_equal_ids_are_numbered():
    made = uniquely_named([_resource("a"), _resource("a"), _resource("a_2"), _resource("a")])
    assert [item.name for item in made] == ["a", "a_2", "a_2_2", "a_3"]


def _spec(observation: dict[str, int], action: int, kind: ActionKind, grippers=()) -> RobotSpec:
    arrays = {name: ArraySpec((size,)) for name, size in observation.items()}
    action_spec = ArraySpec((action,), low=-1.0, high=1.0)
    return RobotSpec("r", arrays, action_spec, kind, grippers=grippers)


@pytest.mark.parametrize(
    ("spec", "joints"),
    [
        (_spec({"joint_position": 7, "tcp_pose": 7}, 4, ActionKind.EE_DELTA), 7),
        (_spec({"left.joint_position": 6, "right.joint_position": 6}, 3, ActionKind.EE_DELTA), 12),
        (_spec({"position": 2}, 7, ActionKind.JOINT_DELTA, grippers=(6,)), 6),
        (_spec({"position": 2}, 2, ActionKind.GENERIC), 0),
    ],
)
def test_degrees_of_freedom_are_those_of_the_arm(spec, joints):
    assert joints_of(spec) == joints
