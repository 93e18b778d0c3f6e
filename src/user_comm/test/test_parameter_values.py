"""Configurations as flat ROS parameters, and back, without ROS."""

from __future__ import annotations

import sys
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_comm.parameter_values import (
    MISSING,
    assemble,
    fields_with_keys,
    flatten,
    parameter_fields,
    plugin_config,
)
from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice


class Mode(str, Enum):
    FAST = "fast"
    SAFE = "safe"


class Place(IntEnum):
    HERE = 1
    THERE = 2


class Gate(Config):
    max_age_s: float = setting(0.2, doc="Age at which a command is stale.", unit="s", gt=0)
    box_m: tuple[float, float, float] = setting((1.0, 2.0, 3.0), doc="Box.", unit="m")


class Part(Config):
    name: str = setting(doc="Name.")


class Everything(Config):
    robot: str = setting(doc="Needed.")
    count: int = setting(3, doc="Count.", ge=0, le=10)
    rate_hz: float = setting(20, doc="Rate.", unit="Hz", gt=0)
    loud: bool = setting(False, doc="Loud.")
    mode: Mode = setting(Mode.SAFE, doc="Mode.")
    place: Place = setting(Place.HERE, doc="Place.")
    kind: Literal["a", "b"] = setting("a", doc="Kind.")
    path: Path = setting(Path("/tmp/x"), doc="Path.")
    gains: tuple[float, ...] = setting((), doc="Gains.", ge=0)
    names: list[str] = setting(factory=lambda: ["x"], doc="Names.")
    limit: float | None = setting(None, doc="Limit.")
    gate: Gate = setting(factory=Gate, doc="Gate.")
    other: Gate = setting(factory=lambda: Gate(max_age_s=0.5), doc="Another.")
    params: dict[str, Any] = setting(factory=dict, doc="Of the driver.")
    parts: tuple[Part, ...] = setting((Part(name="one"),), doc="Parts.")
    maybe: Part | None = setting(None, doc="Perhaps a part.")


FIELDS = {field.name: field for field in parameter_fields(Everything)}


def test_every_field_has_its_kind_and_nested_ones_a_dotted_name() -> None:
    assert {name: field.kind for name, field in FIELDS.items()} == {
        "robot": "str", "count": "int", "rate_hz": "float", "loud": "bool", "mode": "str",
        "place": "str", "kind": "str", "path": "str", "gains": "float[]", "names": "str[]",
        "limit": "float", "gate.max_age_s": "float", "gate.box_m": "float[]",
        "other.max_age_s": "float", "other.box_m": "float[]", "params": "mapping", "parts": "yaml",
        "maybe": "yaml",
    }  # fmt: skip


def test_defaults_are_what_ros_carries_also_of_a_nested_default() -> None:
    assert FIELDS["robot"].default is MISSING
    assert FIELDS["rate_hz"].default == 20.0 and isinstance(FIELDS["rate_hz"].default, float)
    assert FIELDS["place"].default == "here"
    assert FIELDS["other.max_age_s"].default == 0.5
    assert FIELDS["gate.max_age_s"].default == 0.2
    assert FIELDS["parts"].default == "[{name: one}]"
    assert FIELDS["limit"].default is None and FIELDS["limit"].optional


def test_constraints_are_spelled_out() -> None:
    assert FIELDS["mode"].constraints == "one of: fast, safe"
    assert FIELDS["gate.max_age_s"].constraints == "> 0"
    assert FIELDS["gains"].constraints == "each >= 0"
    assert "YAML" in FIELDS["parts"].constraints


def test_assembling_the_flattened_gives_the_same_configuration() -> None:
    config = Everything(
        robot="panda", mode=Mode.FAST, place=Place.THERE, gains=(1.0, 2.0), limit=3.0,
        gate=Gate(max_age_s=0.1, box_m=(0.0, 0.0, 1.0)), params={"arm": {"speed": 1.5}, "tags": ["a"]},
        parts=(Part(name="two"), Part(name="three")), maybe=Part(name="four"),
    )  # fmt: skip
    flat = flatten(config)
    assert all(isinstance(v, (str, bool, int, float, list)) for v in flat.values())
    assert assemble(Everything, flat) == config


@given(
    st.builds(
        Everything,
        robot=st.text(min_size=1, max_size=5),
        count=st.integers(0, 10),
        rate_hz=st.floats(0.001, 1e6),
        mode=st.sampled_from(Mode),
        place=st.sampled_from(Place),
        gains=st.lists(st.floats(0, 1e6), max_size=3).map(tuple),
        limit=st.none() | st.floats(-1e6, 1e6),
        params=st.dictionaries(
            st.from_regex(r"[a-z]{1,4}", fullmatch=True),
            st.integers() | st.booleans() | st.text(max_size=5) | st.lists(st.integers()),
            max_size=3,
        ),
        maybe=st.none() | st.builds(Part, name=st.text(max_size=5)),
    )
)
def test_flattening_loses_nothing(config: Everything) -> None:
    assert assemble(Everything, flatten(config)) == config


def test_mappings_stay_mappings_and_only_what_ros_cannot_carry_is_text() -> None:
    params = {
        "arm": {"speed": 1.5, "tags": ["a", "b"]}, "none": None, "empty": [], "nothing": {},
        "parts": [{"name": "x"}], "mixed": [1, "a"], "odd": {"a/b": 1}, "text": "!yaml 3",
    }  # fmt: skip
    flat = flatten(Everything(robot="r", params=params))
    assert {k: v for k, v in flat.items() if k.startswith("params")} == {
        "params.arm.speed": 1.5, "params.arm.tags": ["a", "b"], "params.none": "!yaml null",
        "params.empty": "!yaml []", "params.nothing": "!yaml {}",
        "params.parts": "!yaml [{name: x}]", "params.mixed": "!yaml [1, a]",
        "params.odd": "!yaml {a/b: 1}", "params.text": "!yaml '!yaml 3'",
    }  # fmt: skip
    assert assemble(Everything, flat).params == params


class Chooser(Config):
    robot: PluginChoice = setting(
        PluginChoice(plugin="fake", params={"episode_steps": 7}), doc="The robot."
    )
    devices: dict[str, PluginChoice] = setting(factory=dict, doc="Cameras.")


class Perhaps(Config):
    robot: PluginChoice | None = setting(None, doc="A robot, or none.")


def test_a_configuration_that_may_be_none_is_given_by_its_fields_too() -> None:
    assert [field.name for field in fields_with_keys(Perhaps, {})] == ["robot"]
    given = {"robot.plugin": "fake", "robot.params.episode_steps": 12}
    fields = {field.name: field for field in fields_with_keys(Perhaps, given)}
    assert fields["robot.params.episode_steps"].kind == "int"
    expected = PluginChoice(plugin="fake", params={"episode_steps": 12})
    assert assemble(Perhaps, given).robot == expected
    assert assemble(Perhaps, {"robot": "{plugin: x, params: {a: 1}}", **given}).robot == (
        expected.replace(params={"a": 1, "episode_steps": 12})
    )
    assert assemble(Perhaps, {}).robot is None
    with pytest.raises(ConfigError, match="plugn"):
        assemble(Perhaps, {"robot.plugn": "fake"})


def test_parameters_of_a_plugin_have_the_types_of_its_own_configuration() -> None:
    given = {
        "robot.params.episode_steps": 12,
        "robot.params.nonsense": 1,
        "devices.front.plugin": "x",
    }
    fields = {field.name: field for field in fields_with_keys(Chooser, given)}
    steps = fields["robot.params.episode_steps"]
    assert (steps.kind, steps.in_mapping) == ("int", True) and steps.setting.doc
    assert fields["robot.params.nonsense"].kind == "any"
    assert fields["devices.front.plugin"].kind == "str"
    assert fields["devices.front.params"].plugin_kind == "cameras"
    unknown = {f.name: f for f in fields_with_keys(Chooser, {**given, "robot.plugin": "nobody's"})}
    assert unknown["robot.params.episode_steps"].kind == "any"


def test_an_algorithm_is_not_imported_for_the_types_of_its_parameters() -> None:
    if "user_learner.algorithms.off_policy.sac" not in sys.modules:
        assert plugin_config("algorithms", "sac") is None
        assert "user_learner.algorithms.off_policy.sac" not in sys.modules
    assert plugin_config("algorithms", "there_is_none") is None


def test_keys_after_a_dot_join_a_mapping_and_win_over_its_yaml() -> None:
    config = assemble(
        Everything,
        {"robot": "r", "params": "{arm: ur5e, seed: 1}", "params.arm": "panda", "params.a.b": 2},
    )
    assert config.params == {"arm": "panda", "seed": 1, "a": {"b": 2}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["robot", "missing"]),
        ({"robot": "r", "count": 11}, ["count", "11", "<= 10"]),
        ({"robot": "r", "rate_hz": 0.0}, ["rate_hz", "> 0"]),
        ({"robot": "r", "mode": "slow"}, ["mode", "slow", "fast", "safe"]),
        ({"robot": "r", "gate.max_age_s": -1.0}, ["gate.max_age_s", "-1.0"]),
        ({"robot": "r", "gate.box_m": [1.0]}, ["gate.box_m", "3 values"]),
        ({"robot": "r", "parts": "[{nam: x}]"}, ["parts[0].nam", "name"]),
        ({"robot": "r", "parts": "[{"}, ["parts", "YAML"]),
        ({"robot": "r", "params": "3"}, ["params", "mapping"]),
        ({"robot": "r", "params": "{a: 1}", "params.a.b": 2}, ["params.a.b"]),
    ],
)
def test_what_is_wrong_is_named_with_its_path(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        assemble(Everything, values)
    for word in words:
        assert word in str(caught.value)
