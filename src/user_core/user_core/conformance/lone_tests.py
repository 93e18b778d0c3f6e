"""Tests of one package without the repository around it, as a build farm runs them.

Each package's ``test/conftest.py`` takes these hooks. Within the repository they do nothing. Without it, tests
that need its test kit (``user_testing``), its fixtures or its other files are left out, and the others run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: What a test file says that needs the repository: the kit, fixtures of its root, files beside the packages.
_OF_THE_REPOSITORY = (
    "user_testing", "ros_domain", "start_process", "parents[3]", "parents[4]", "config_folder()",
)  # fmt: skip
_MARKERS = ("unit", "ros", "system", "root", "gpu", "slow", "timeout")


def is_alone() -> bool:
    """Whether the repository's test kit is not there."""
    return find_spec("user_testing") is None


def pytest_configure(config: Any) -> None:
    """As the repository configures pytest, as far as single packages need it."""
    if is_alone():
        config.option.importmode = "importlib"  # files in several folders have the same name
        for marker in _MARKERS:
            config.addinivalue_line("markers", f"{marker}: see pyproject.toml of the repository")


def pytest_ignore_collect(collection_path: Path, config: Any) -> bool | None:
    """Leave out what needs the repository."""
    if not is_alone():
        return None
    if collection_path.name in ("ros", "system"):  # they need ROS domains of their own
        return True
    if collection_path.suffix == ".py" and collection_path.name.startswith("test_"):
        text = collection_path.read_text(encoding="utf-8")
        return True if any(word in text for word in _OF_THE_REPOSITORY) else None
    return None
