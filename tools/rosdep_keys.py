#!/usr/bin/env python3
"""Renew the copy of the rosdep keys that our packages use, from a checkout of ros/rosdistro.

    git clone --depth 1 https://github.com/ros/rosdistro /tmp/rosdistro
    tools/run python tools/rosdep_keys.py /tmp/rosdistro

Writes src/user_bringup/test/rosdep_keys.yaml: for each key of a package.xml what it resolves to on
each system, or for which ROS distributions a package of that name is released. A key that has
neither gets no entry, and a test of user_bringup says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "src/user_bringup/test/rosdep_keys.yaml"
SYSTEMS = {"noble": "ubuntu", "resolute": "ubuntu", "bookworm": "debian"}
DISTRIBUTIONS = ("jazzy", "kilted", "lyrical")
_HEAD = """\
# What the keys of our package.xml files resolve to, by rosdep/base.yaml, rosdep/python.yaml and
# */distribution.yaml of ros/rosdistro at commit {commit} of {date}.
# Do not edit; renew it with tools/rosdep_keys.py, whose docstring says how.
"""


def keys() -> set[str]:
    """Every dependency of every package, without our own packages."""
    manifests = [ElementTree.parse(file).getroot() for file in ROOT.glob("src/*/package.xml")]
    own = {manifest.findtext("name") for manifest in manifests}
    named = {
        str(element.text)
        for manifest in manifests
        for element in manifest
        if element.tag.endswith("depend")
    }
    return {key for key in named if key not in own}


def resolve(rule: Any, system: str) -> Any:
    """What one key means on one system; None where it has no package there."""
    found = rule.get(SYSTEMS[system], rule.get("*"))
    if isinstance(found, dict) and not {"pip", "packages"} & set(found):
        found = found.get(system, found.get("*"))
    if isinstance(found, dict) and "pip" in found:
        return {"pip": found["pip"]["packages"]}
    return found["packages"] if isinstance(found, dict) else found


def main(checkout: Path) -> None:
    """Write the copy."""

    def read(name: str) -> Any:
        return yaml.load((checkout / name).read_text(encoding="utf-8"), yaml.CSafeLoader)

    rules = {**read("rosdep/base.yaml"), **read("rosdep/python.yaml")}
    released = {
        name: {
            package
            for repository, entry in read(f"{name}/distribution.yaml")["repositories"].items()
            for package in entry.get("release", {}).get("packages", [repository])
            if "release" in entry
        }
        for name in DISTRIBUTIONS
    }
    copy: dict[str, Any] = {}
    for key in sorted(keys()):
        if key in rules:
            copy[key] = {system: resolve(rules[key], system) for system in SYSTEMS}
        elif ros := [name for name in DISTRIBUTIONS if key in released[name]]:
            copy[key] = {"ros": ros}
    commit, date = subprocess.run(
        ["git", "-C", str(checkout), "log", "-1", "--format=%h %cs"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    copy = json.loads(json.dumps(copy))  # no anchors
    text = yaml.safe_dump(copy, sort_keys=True, default_flow_style=None, width=100)
    COPY.write_text(_HEAD.format(commit=commit, date=date) + text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
