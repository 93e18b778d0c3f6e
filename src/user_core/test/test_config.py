from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from user_core.config import Config, from_mapping, load_yaml, setting, to_mapping
from user_core.errors import ConfigError


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
