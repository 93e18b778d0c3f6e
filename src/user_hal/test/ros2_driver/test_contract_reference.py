"""The reference page of the contract is that of the models, and what it shows is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import TypeAdapter

from user_core.config import MISSING, Config, ConfigField, config_fields, from_mapping
from user_hal.robots.ros2.contract import Ros2Config, reference

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "contract.md"
SECTIONS = list(reference._sections())
KEYS = [(config, field) for _, config in SECTIONS for field in config_fields(config)]


def test_the_page_is_current() -> None:
    if not (PAGE.parents[2] / "ARCHITECTURE.md").exists():
        pytest.skip("the package stands alone, without the repository's docs")
    assert PAGE.read_text(encoding="utf-8") == reference.markdown(), "run: make schemas"


def test_every_key_is_there_with_its_meaning() -> None:
    text = reference.markdown()
    for path, config in SECTIONS:
        assert f"## {f'`{path}`' if path else 'Top level'}\n" in text
        for field in config_fields(config):
            assert f"`{field.name}`" in text and field.setting.doc, (path, field.name)


@pytest.mark.parametrize(("config", "field"), KEYS, ids=[f"{c.__name__}.{f.name}" for c, f in KEYS])
def test_every_key_has_an_example_that_is_accepted(
    config: type[Config], field: ConfigField
) -> None:
    example = reference.example_of(config, field)
    if example is MISSING:
        shown_below = any(reference._inner(field.type))
        assert shown_below, "add one to EXAMPLES in contract/reference.py"
        return
    if "..." in str(example):  # leaves out what another key shows
        return
    info = config.model_fields[field.name]
    hint: Any = info.annotation
    for item in info.metadata:
        hint = Annotated[hint, item]
    TypeAdapter(hint).validate_python(example)


def test_the_contracts_that_it_shows_fit() -> None:
    for text in (reference.ONE_ARM, reference.TWO_ARMS):
        from_mapping(Ros2Config, yaml.safe_load(text))
