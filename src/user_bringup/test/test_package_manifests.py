"""What package.xml files promise: rosdep knows every key, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = sorted(file.parent for file in ROOT.glob("src/*/package.xml"))
PYTHON = [folder for folder in PACKAGES if (folder / "setup.py").is_file()]
KEYS = yaml.safe_load((Path(__file__).parent / "rosdep_keys.yaml").read_text(encoding="utf-8"))
SYSTEMS = ("noble", "bookworm", "resolute")
DISTRIBUTIONS = ("jazzy", "kilted", "lyrical")

#: Modules whose key is not their own name, nor python3-NAME.
KEY_OF = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "gymnasium": "python3-gymnasium-pip",
    "mujoco": "python3-mujoco-pip",
    "pydantic_core": "python3-pydantic",
    "referencing": "python3-jsonschema",  # its dependency
    "tensorboard": "python3-tensorboard-pip",
    "torch": "python3-pytorch-pip",
    "typing_extensions": "python3-typing-extensions",
}
#: No key: these come from requirements/base.txt into the virtual environment (README.md).
WITHOUT_KEY = {
    "zenoh": "eclipse-zenoh",
    "safetensors": "safetensors",
    "zstandard": "zstandard",
    "pynvml": "nvidia-ml-py",
}
#: Optional: who misses one is told what to install; who has a camera that sends video has its messages.
OPTIONAL = {
    "pyspacemouse",
    # extras, requirements/extra_*.txt
    "mcap",
    "rosbags",  # bags
    "nicegui",
    "fastapi",
    "starlette",
    "uvicorn",  # the console; the last three come with the first
    "playwright",
    "trimesh",  # meshes of robots in the console
    "wandb",
    "trackio",
    "foxglove",
    "mlflow",
    "rerun",  # sinks of metrics
    "pyarrow",
    "h5py",
    "minari",
    "submitit",
    "Box2D",
    "draccus",
    "lerobot",
    "transformers",  # the second brings the others
    "ur_dashboard_msgs",
    "ffmpeg_image_transport_msgs",
    "foxglove_msgs",
    "interbotix_xs_msgs",  # a proposed contract knows how its messages are filled
}
#: Of the repository; nobody installs them.
OF_THE_REPOSITORY = {"user_testing", "generated_reference"}
_INTERFACE = re.compile(r"\b([a-z][a-z0-9_]*)/(?:msg|srv|action)/[A-Z]\w+")
#: In messages and docstrings that say how a type is written.
_PLACEHOLDERS = {"package", "pkg"}


def _declared(folder: Path) -> dict[str, set[str]]:
    """Keys by the kind of dependency."""
    kinds: dict[str, set[str]] = {}
    for element in ElementTree.parse(folder / "package.xml").getroot():
        if element.tag.endswith("depend"):
            kinds.setdefault(element.tag, set()).add(str(element.text))
    return kinds


def _named(file: Path) -> Iterator[str]:
    """Modules that a file imports, and packages whose nodes it launches."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Node":
            for word in node.keywords:
                if word.arg == "package" and isinstance(word.value, ast.Constant):
                    yield str(word.value.value)


def _needed(folder: Path, parts: tuple[str, ...]) -> dict[str, str]:
    """Key to the file that needs it."""
    needs: dict[str, str] = {}
    for part in parts:
        for file in sorted((folder / part).rglob("*")):
            if file.suffix not in (".py", ".yaml") or not file.is_file():
                continue
            imported = set(_named(file)) if file.suffix == ".py" else set()
            written = set(_INTERFACE.findall(file.read_text(encoding="utf-8")))
            imported -= {*sys.stdlib_module_names, *WITHOUT_KEY, *OPTIONAL, *OF_THE_REPOSITORY}
            for name in (imported | written) - {folder.name, *_PLACEHOLDERS, *OPTIONAL}:
                python = f"python3-{name}"
                key = KEY_OF.get(name, python if python in KEYS else name)
                # Messages of a robot's own driver: who has the robot has them; tests have stand-ins.
                elsewhere = file.suffix == ".yaml" or part == "test"
                if name in imported or key in KEYS or not elsewhere:
                    needs.setdefault(key, str(file.relative_to(folder)))
    return needs


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_rosdep_knows_every_key(folder: Path) -> None:
    own = {package.name for package in PACKAGES}
    for key in set().union(*_declared(folder).values()) - own:
        assert key in KEYS, f"{key}: rosdep has no such key (or renew with tools/rosdep_keys.py)"
        if "ros" in KEYS[key]:
            assert set(KEYS[key]["ros"]) == set(DISTRIBUTIONS), f"{key}: not released everywhere"
        else:
            for system in SYSTEMS:
                assert KEYS[key][system], f"{key}: nothing on {system}"


@pytest.mark.parametrize("folder", PYTHON, ids=lambda folder: folder.name)
def test_what_is_imported_is_declared(folder: Path) -> None:
    kinds = _declared(folder)
    to_run = kinds.get("depend", set()) | kinds.get("exec_depend", set())
    needed = _needed(folder, (folder.name, "launch", "config"))
    missing = {key: file for key, file in needed.items() if key not in to_run}
    assert not missing, "exec_depend"
    to_test = to_run | kinds.get("test_depend", set())
    needed = _needed(folder, ("test",))
    missing = {key: file for key, file in needed.items() if key not in to_test}
    assert not missing, "test_depend"


def test_what_has_no_key_is_in_the_requirements() -> None:
    lines = (ROOT / "requirements/base.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split("[=<>~ ]", line)[0] for line in lines}
    assert set(WITHOUT_KEY.values()) <= required
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(name in readme for name in WITHOUT_KEY.values())


def test_what_is_pinned_works_with_the_oldest_python() -> None:
    """One release that needs a newer Python, and no environment can be made with the oldest that we support."""
    text = "\n".join(
        file.read_text(encoding="utf-8")
        for file in ROOT.glob("requirements/*.txt")
        if "lerobot" not in file.name
    )
    too_new: dict[str, str] = {}
    looked_at = 0
    for name, version in set(re.findall(r"(?m)^([\w.-]+)(?:\[.*?\])?==([^\s;]+)(?! *;)", text)):
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:  # of an extra, or of another distribution
            continue
        if found["Version"].partition("+")[0] != version:
            continue
        looked_at += 1
        needs = found.get("Requires-Python") or ""
        if any(int(minor) > 10 for minor in re.findall(r">=? *3\.(\d+)", needs)):
            too_new[f"{name}=={version}"] = needs
    assert looked_at > 100
    assert not too_new


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_who_made_it_and_where(folder: Path) -> None:
    manifest = ElementTree.parse(folder / "package.xml").getroot()
    tags = [element.tag for element in manifest]
    head = ["name", "version", "description", "maintainer", "license", "url", "author"]
    assert tags[: len(head)] == head, "in this order, by package_format3.xsd"
    assert (manifest.findtext("url") or "").startswith("https://")


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_changelog_by_rep_132(folder: Path) -> None:
    bar, title, below, blank, *rest = (folder / "CHANGELOG.rst").read_text().splitlines()
    assert title == f"Changelog for package {folder.name}"
    assert bar == below == "^" * len(title) and not blank
    heads = [line for line, under in pairwise(rest) if set(under) == {"-"}]
    version = ElementTree.parse(folder / "package.xml").getroot().findtext("version")
    assert heads and all(
        re.match(rf"Forthcoming|{version}|\d+\.\d+\.\d+ \(", head) for head in heads
    )


@pytest.mark.parametrize("folder", PYTHON, ids=lambda folder: folder.name)
def test_each_package_can_be_tested_alone(folder: Path) -> None:
    text = (folder / "test" / "conftest.py").read_text()
    assert "user_core.conformance.lone_tests" in text
