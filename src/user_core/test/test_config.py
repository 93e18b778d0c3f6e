from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
import yaml

from user_core.config import (
    MISSING,
    Config,
    ConfigErrors,
    config_fields,
    from_mapping,
    identity,
    json_schema,
    load_document,
    load_yaml,
    parse_parameters,
    setting,
    to_mapping,
    yaml_value,
)
from user_core.errors import ConfigError
from user_core.plugins import PluginChoice


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Wheel(Config):
    radius_m: float = setting(doc="Radius.", unit="m", gt=0, le=2)
    colour: Colour = setting(Colour.RED, doc="Colour.")


class Cart(Config):
    name: str = setting("cart", doc="Name.", min_length=1, max_length=8)
    wheels: tuple[Wheel, ...] = setting((), doc="Wheels.", max_length=3)
    speeds: tuple[float, float] = setting((0.0, 1.0), doc="Slow and fast.", unit="m/s", ge=0)
    mode: Literal["push", "pull"] = setting("push", doc="Way of moving.")
    load_kg: float | None = setting(None, doc="Load.", unit="kg", ge=0)
    steps: int = setting(3, doc="Steps.", ge=1)
    brake: bool = setting(False, doc="Brake.")
    log: Path = setting(Path("log"), doc="Log file.")
    extra: dict[str, int] = setting(factory=dict, doc="Anything.", lt=10)

    def validate(self) -> None:
        if self.speeds[0] > self.speeds[1]:
            raise ConfigError("speeds", got=self.speeds, expected="slow first")


def test_defaults_and_a_full_document():
    assert from_mapping(Cart, {}) == from_mapping(Cart, None) == Cart()
    cart = from_mapping(
        Cart,
        {
            "name": "big",
            "wheels": [{"radius_m": 1}, {"radius_m": "5e-1", "colour": "blue"}],
            "speeds": [1, 2],
            "mode": "pull",
            "load_kg": 3,
            "log": "x/y",
            "extra": {"a": 1},
        },
    )
    assert cart.wheels == (Wheel(radius_m=1.0), Wheel(radius_m=0.5, colour=Colour.BLUE))
    assert cart.log == Path("x/y")
    assert from_mapping(Cart, to_mapping(cart)) == cart


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"nmae": "x"}, ["'nmae'", "did you mean 'name'?", "wheels"]),
        (
            {"wheels": [{"radius_m": 1}, {"radius": 1}]},
            ["'wheels[1].radius'", "did you mean 'radius_m'?"],
        ),
        ({"wheels": [{}]}, ["missing key 'wheels[0].radius_m'", "number", "Radius."]),
        ({"wheels": [{"radius_m": -1}]}, ["wheels[0].radius_m", "got -1 ", "> 0 and <= 2 m"]),
        ({"wheels": [{"radius_m": float("nan")}]}, ["wheels[0].radius_m", "nan"]),
        ({"wheels": [{"radius_m": 1, "colour": "bleu"}]}, ["colour", "did you mean 'blue'?"]),
        ({"wheels": {"radius_m": 1}}, ["wheels", "a list"]),
        ({"wheels": [{"radius_m": 1}] * 4}, ["wheels", "at most 3 elements"]),
        ({"wheels": ["round"]}, ["wheels[0]", "'round' (str)", "a mapping"]),
        ({"speeds": [1, 2, 3]}, ["speeds", "2 values"]),
        ({"speeds": [1, -2]}, ["speeds[1]", "got -2 ", ">= 0 m/s"]),
        ({"speeds": [2, 1]}, ["speeds", "slow first"]),
        ({"mode": "shove"}, ["mode", "'shove'", "'push', 'pull'"]),
        ({"steps": 1.5}, ["steps", "1.5 (float)", "integer"]),
        ({"steps": True}, ["steps", "True (bool)", "integer"]),
        ({"steps": 0}, ["steps", ">= 1"]),
        ({"brake": "no"}, ["brake", "'no' (str)", "true or false"]),
        ({"load_kg": "heavy"}, ["load_kg", "'heavy'", "number"]),
        ({"load_kg": -1}, ["load_kg", ">= 0 kg"]),
        ({"name": ""}, ["name", "1 to 8"]),
        ({"extra": {"a": 12}}, ["extra.a", "12", "< 10"]),
        ([1], ["list"]),
    ],
)
def test_errors_name_the_path_what_came_and_what_is_allowed(data, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Cart, data)
    for word in words:
        assert word in str(caught.value)


def test_ranges_hold_also_without_yaml():
    with pytest.raises(ConfigError, match="radius_m"):
        Wheel(radius_m=0.0)
    with pytest.raises(ConfigError, match="steps"):
        Cart(steps="3")


def test_errors_below_a_path_keep_it():
    with pytest.raises(ConfigError, match="robot.cart.speeds"):
        from_mapping(Cart, {"speeds": [2, 1]}, "robot.cart")


def test_yaml(tmp_path):
    file = tmp_path / "cart.yaml"
    file.write_text("name: a\nspeeds: [1, 2]\n")
    assert from_mapping(Cart, load_yaml(file)).name == "a"
    file.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' occurs twice"):
        load_yaml(file)
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="a mapping"):
        load_yaml(file)
    file.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(file)
    file.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(file)
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "none.yaml")
    file.write_text("")
    assert load_yaml(file) == {}


@pytest.mark.parametrize(
    "key", ["0", "-1", "1.50", "1e3", "on", "No", "~", "null", "2026-11-29", "0x10", "=", "'7'"]
)
def test_a_key_is_the_text_that_was_written(tmp_path, key):
    file = tmp_path / "x.yaml"
    file.write_text(f"params:\n  {key}: 3\n  list: [{{{key}: on}}]\n")
    document = load_document(file)
    text = key.strip("'")
    assert document.data == {"params": {text: 3, "list": [{text: True}]}}
    assert document.lines["params", text] == 2
    assert yaml_value(f"{{{key}: 0}}") == {text: 0}
    assert parse_parameters([f"a.b:={{{key}: 0}}"]) == {"a": {"b": {text: 0}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{1: a, '1': b}", "'1' occurs twice"),
        ("{on: a, on: b}", "'on' occurs twice"),
        ("{[1, 2]: a}", "a key is a list or a mapping"),
        ("? {a: 1}\n: b", "a key is a list or a mapping"),
    ],
)
def test_a_key_that_is_no_name_or_occurs_twice_is_refused_with_its_place(tmp_path, text, words):
    file = tmp_path / "x.yaml"
    file.write_text(f"top:\n  {text.replace(chr(10), chr(10) + '  ')}\n")
    with pytest.raises(ConfigError, match=rf"(?s){words}.*line 2"):
        load_document(file)
    with pytest.raises(ConfigError, match=words):
        parse_parameters([f"a:={text}"])


def test_a_merged_mapping_and_an_alias_keep_their_keys(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("base: &base {1: a, on: b}\nnext: {<<: *base, on: c}\nsame: *base\n")
    data = load_document(file).data
    assert data["next"] == {"1": "a", "on": "c"}
    assert data["same"] == data["base"] == {"1": "a", "on": "b"}


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("{a: {b: &base {1: x}}, merged: {<<: *base, on: y}}", {"1": "x", "on": "y"}),
        ("{merged: {<<: {1: x, on: x}, '1': y}}", {"1": "y", "on": "x"}),
        ("{merged: {<<: [{1: x}, {1: y, 2: y}]}}", {"1": "x", "2": "y"}),
        ("{z: &z {x: 1}, a: {b: &base {<<: *z, x: 2}}, merged: {<<: *base}}", {"x": 2}),
    ],
)
def test_keys_that_are_merged_are_texts_too_and_are_not_there_twice(text, merged):
    assert yaml_value(text)["merged"] == merged


def test_all_faults_of_a_document_are_told_at_once():
    data = {"nmae": "x", "steps": 0, "wheels": [{}, {"radius_m": "flat"}], "extra": {"a": 12}}
    with pytest.raises(ConfigErrors) as caught:
        from_mapping(Cart, data, "cart")
    assert [error.key for error in caught.value.errors] == [
        ("cart", "wheels", 0, "radius_m"),
        ("cart", "wheels", 1, "radius_m"),
        ("cart", "steps"),
        ("cart", "extra", "a"),
        ("cart", "nmae"),
    ]
    text = str(caught.value)
    assert text.startswith("5 faults:\n  missing key 'cart.wheels[0].radius_m'")
    assert "cart.wheels[1].radius_m: got 'flat' (str), expected a number > 0 and <= 2 m" in text
    assert "did you mean 'name'?" in text


def test_a_fault_of_an_inner_configuration_as_a_whole_keeps_its_path():
    class Train(Config):
        carts: tuple[Cart, ...] = setting((), doc="Carts.")

    with pytest.raises(ConfigError) as caught:
        from_mapping(Train, {"carts": [{}, {"speeds": [3, 1]}]}, "train")
    assert str(caught.value).startswith(
        "train.carts[1].speeds: got (3.0, 1.0), expected slow first"
    )
    assert caught.value.key == ("train", "carts", 1, "speeds")


def test_scalars_are_not_turned_into_each_other():
    wrong = {"name": 3, "steps": "3", "brake": 1, "load_kg": True, "log": 3}
    with pytest.raises(ConfigErrors) as caught:
        from_mapping(Cart, wrong)
    assert {error.key[0] for error in caught.value.errors} == set(wrong)
    assert from_mapping(Cart, {"load_kg": "1e-3"}).load_kg == 1e-3


def test_a_replaced_value_is_checked():
    cart = Cart().replace(steps=7)
    assert (cart.steps, cart.name) == (7, "cart")
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        cart.replace(setps=1)
    with pytest.raises(ConfigError, match="slow first"):
        cart.replace(speeds=(2.0, 1.0))
    with pytest.raises(ValueError, match="frozen"):
        cart.steps = 8


def test_defaults_are_checked_like_what_is_given():
    class Wrong(Config):
        rate_hz: float = setting(0.0, doc="Rate.", unit="Hz", gt=0)

    with pytest.raises(ConfigError, match="rate_hz"):
        Wrong()


def test_fields_say_what_is_known_about_them():
    fields = {field.name: field for field in config_fields(Cart)}
    assert list(fields)[:2] == ["name", "wheels"]
    assert fields["load_kg"].setting.unit == "kg"
    assert fields["load_kg"].type == float | None
    assert fields["extra"].default == {}
    assert next(config_fields(Wheel)).default is MISSING


def test_a_schema_for_editors_has_purposes_units_and_ranges():
    schema = json_schema(Cart)
    wheel, fields = schema["$defs"]["Wheel"], schema["properties"]
    assert schema["additionalProperties"] is False
    assert wheel["required"] == ["radius_m"]
    radius = wheel["properties"]["radius_m"]
    assert (radius["exclusiveMinimum"], radius["maximum"], radius["unit"]) == (0, 2, "m")
    assert radius["description"] == "Radius."
    assert wheel["properties"]["colour"]["enum"] == ["red", "blue"]
    assert (fields["name"]["minLength"], fields["wheels"]["maxItems"]) == (1, 3)
    assert fields["mode"]["enum"] == ["push", "pull"]
    assert fields["speeds"]["prefixItems"][0]["minimum"] == 0
    assert fields["extra"]["additionalProperties"]["exclusiveMaximum"] == 10


def test_errors_of_a_document_name_file_and_line(tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text(
        "common: &common\n  steps: 2\n"
        "carts:\n  first:\n    <<: *common\n    steps: 0\n  second: {name: b, colour: red}\n"
    )
    document = load_document(file)
    assert document.place(("carts", "first", "steps")) == f"{file}:6"
    found = []
    for name, data in document.data["carts"].items():
        with pytest.raises(ConfigError) as caught:
            from_mapping(Cart, data, f"carts.{name}")
        found.append(str(document.located(caught.value)))
    assert found[0].startswith(f"{file}:6: carts.first.steps: got 0 (int)")
    assert found[1].startswith(f"{file}:7: unknown key 'carts.second.colour'")


class Robot(Config):
    wheel: Wheel = setting(Wheel(radius_m=0.5, colour=Colour.BLUE), doc="Wheel.")
    choice: PluginChoice = setting(PluginChoice(plugin="a", params={"x": 1}), doc="Plugin.")


def test_what_is_not_given_of_a_nested_configuration_keeps_the_default_of_its_field():
    assert from_mapping(Robot, {"wheel": {"radius_m": 0.1}}).wheel.colour is Colour.BLUE
    assert from_mapping(Robot, {"wheel": {"colour": "red"}}).wheel.radius_m == 0.5
    assert from_mapping(Robot, {"choice": {"plugin": "a"}}).choice.params == {"x": 1}
    assert from_mapping(Robot, {"choice": {"params": {}}}).choice == PluginChoice(plugin="a")
    assert from_mapping(Robot, {"choice": {"plugin": "b"}}).choice == PluginChoice(plugin="b")
    with pytest.raises(ConfigError, match=r"wheel\.radius_m"):
        from_mapping(Robot, {"wheel": {"radius_m": -1}})


def test_who_has_pydantic_1_is_told_what_to_do(tmp_path):
    (tmp_path / "pydantic").mkdir()
    (tmp_path / "pydantic/__init__.py").write_text("VERSION = '1.10.14'\n")
    (tmp_path / "pydantic/fields.py").write_text("class FieldInfo: ...\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", "import user_core.config"],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 1
    assert "USER needs pydantic 2" in run.stderr


class Engine(Config):
    power_w: float = setting(1.0, doc="Power.", unit="W", gt=0)


class Machine(Config):
    engine: Engine = setting(factory=lambda: Engine(power_w=5.0), doc="Engine.", formerly="motor")
    gears: int = setting(1, doc="Gears.", formerly="cogs")


class Hall(Config):
    machine: Machine = setting(factory=lambda: Machine(gears=4), doc="Machine.")


def test_a_key_that_was_renamed_is_taken_and_said_once(caplog):
    old = from_mapping(Machine, {"motor": {"power_w": 2}, "cogs": 3})
    assert old == Machine(engine=Engine(power_w=2.0), gears=3)
    assert to_mapping(old) == {"engine": {"power_w": 2.0}, "gears": 3}
    from_mapping(Machine, {"cogs": 5})
    assert sum("'cogs' is called 'gears' now" in line for line in caplog.messages) == 1
    within = from_mapping(Hall, {"machine": {"motor": {}}})  # other defaults are kept
    assert within.machine == Machine(engine=Engine(power_w=5.0), gears=4)


def test_weights_know_a_renamed_key_as_it_was():
    assert identity(Machine()) == {"motor": {"power_w": 5.0}, "cogs": 1}


def test_a_renamed_key_is_given_once():
    with pytest.raises(ConfigError, match="'cogs' and 'gears': got both"):
        from_mapping(Machine, {"cogs": 1, "gears": 2})
    with pytest.raises(ConfigError, match="engine.power_w"):
        from_mapping(Machine, {"motor": {"power_w": -1}})


# --- numbers in YAML whose field is text ---


class Base(Config):
    base_hash: str = setting("", doc="Hash.")
    folder: Path = setting(Path("."), doc="Folder.")
    versions: tuple[str, ...] = setting((), doc="Versions.")
    names: dict[str, str] = setting(factory=dict, doc="Names.")
    note: str | None = setting(None, doc="Note.")
    count: int = setting(0, doc="Count.")
    share: float = setting(0.0, doc="Share.", ge=0)


def test_a_number_in_yaml_is_the_text_that_was_written_where_a_text_is_wanted(tmp_path):
    words = [
        "base_hash:=00", "folder:=0x1f", "versions:=[1.10, 12:30, 007]", "names:={a: 1_000}",
        "note:=2026-11-30", "count:=007", "share:=1.10",
    ]  # fmt: skip
    wanted = Base(
        base_hash="00", folder=Path("0x1f"), versions=("1.10", "12:30", "007"),
        names={"a": "1_000"}, note="2026-11-30", count=7, share=1.1,
    )  # fmt: skip
    assert from_mapping(Base, parse_parameters(words)) == wanted
    file = tmp_path / "base.yaml"
    file.write_text("\n".join(word.replace(":=", ": ") for word in words))
    assert from_mapping(Base, load_yaml(file)) == wanted
    assert type(from_mapping(Base, load_yaml(file)).count) is int
    assert type(from_mapping(Base, load_yaml(file)).share) is float


def test_a_number_in_yaml_is_one_where_a_number_or_a_text_is_wanted(tmp_path):
    class Places(Config):
        select: tuple[int | str, ...] = setting((), doc="Places or names.")
        source: int | str = setting(0, doc="Number or path.")

    file = tmp_path / "places.yaml"
    file.write_text("select: [shoulder, 2, '3']\nsource: 1")
    found = from_mapping(Places, load_yaml(file))
    assert found.select == ("shoulder", 2, "3") and found.source == 1
    assert type(found.select[1]) is int and type(found.source) is int


def test_a_text_of_digits_reaches_the_plugin_that_wants_it_also_by_a_file_between(tmp_path):
    class Chosen(Config):
        policy: PluginChoice = setting(doc="Policy.")

    given = parse_parameters(["policy.plugin:=p", "policy.params.base.base_hash:=0012"])
    file = tmp_path / "chosen.yaml"
    for _ in range(2):  # as it came, and as it was written and read again
        params = from_mapping(Chosen, given).policy.params
        assert from_mapping(Base, params["base"]).base_hash == "0012"
        assert from_mapping(Base, copy.deepcopy(params)["base"]).base_hash == "0012"
        file.write_text(yaml.safe_dump(to_mapping(from_mapping(Chosen, given))))
        given = load_yaml(file)


def test_numbers_of_yaml_count_and_are_told_as_numbers():
    value = yaml_value("{a: 0012, b: 1.50, c: [1, 2]}")
    assert value == {"a": 10, "b": 1.5, "c": [1, 2]}  # YAML 1.1: octal
    assert json.loads(json.dumps(value)) == value
    with pytest.raises(ConfigError, match=r"count: got 1\.5 \(float\), expected an integer"):
        from_mapping(Base, {"count": value["b"]})
    with pytest.raises(ConfigError, match=r"share: got -3 \(int\)"):
        from_mapping(Base, yaml_value("{share: -3}"))


def test_a_truth_value_where_a_text_is_wanted_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"base_hash: got True \(bool\), expected text.*quotes"):
        from_mapping(Base, parse_parameters(["base_hash:=on"]))
    assert from_mapping(Base, parse_parameters(["base_hash:='on'"])).base_hash == "on"
