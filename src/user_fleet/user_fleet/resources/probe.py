"""Program: asks one driver what it finds, or one robot file what its robot is like.

Run by :mod:`user_fleet.resources.probing` in a process of its own, since a driver may hang, crash or
print. It writes one JSON object a line, as soon as it knows something, to the file descriptor
that it is given: first ``found`` or ``error``, then one ``spec`` for each robot that was found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from user_core.config import from_mapping, load_yaml
from user_core.errors import PluginError, SuiteError
from user_core.interfaces import Discovered
from user_core.plugins import PluginChoice, build, load
from user_core.reasons import Reason
from user_fleet.resources.model import to_json

#: More than this from one driver is no discovery but a mistake.
MAX_FOUND = 200
#: Largest spec that is carried about with a resource.
MAX_SPEC_BYTES = 2**16


def main(argv: Sequence[str] | None = None) -> int:
    """``probe DESCRIPTOR driver KIND NAME`` or ``probe DESCRIPTOR file PATH``."""
    descriptor, task, *words = list(sys.argv[1:] if argv is None else argv)
    with os.fdopen(int(descriptor), "wb", buffering=0) as out:

        def say(**data: Any) -> None:
            out.write(to_json(data) + b"\n")

        try:
            if task == "driver":
                _ask_driver(words[0], words[1], say)
            else:
                _ask_file(words[0], say)
        except Exception as error:  # of whatever the driver does
            reason = Reason.of(error)
            say(error=[reason.code, reason.text[:2000]])
    return 0


def _ask_driver(kind: str, name: str, say: Any) -> None:
    cls = load(kind, name)
    found = _checked(cls.discover(), name)
    say(
        found=[[item.name, dict(item.params), item.detail] for item in found],
        simulated=bool(getattr(cls, "simulated", False)),
    )
    if kind != "robots":
        return
    for number, item in enumerate(found):
        _say_spec(say, number, lambda item=item: build(kind, name, item.params))


def _ask_file(path: str, say: Any) -> None:
    data = load_yaml(path)
    choice = from_mapping(PluginChoice, data.get("robot"), "robot")
    cls = load("robots", choice.plugin)
    say(
        found=[[choice.plugin, choice.params, ""]],
        simulated=bool(getattr(cls, "simulated", False)),
        cameras=_cameras(data),
    )
    _say_spec(say, 0, lambda: choice.build("robots", path="robot"))


def _cameras(data: Mapping[str, Any]) -> list[str]:
    """Names of the cameras that a robot file adds to what the driver shows."""
    cameras = data.get("cameras")
    devices = cameras.get("devices") if isinstance(cameras, Mapping) else None
    return [str(name) for name in devices] if isinstance(devices, Mapping) else []


def _say_spec(say: Any, number: int, make: Any) -> None:
    """Make the robot, without connecting it, and say what it is like."""
    try:
        robot = make()
        try:
            spec = robot.spec.to_dict()
        finally:
            robot.close()
        if len(to_json(spec)) > MAX_SPEC_BYTES:
            raise PluginError(f"spec of {spec['robot']!r}", expected=f"{MAX_SPEC_BYTES} bytes")
        say(spec=[number, spec])
    except Exception as error:
        reason = Reason.of(error)
        say(refused=[number, reason.code, reason.text[:2000]])


def _checked(found: Any, name: str) -> list[Discovered]:
    """What ``discover`` returned, if that is what it promises; raises PluginError."""

    def wrong(got: str) -> PluginError:
        return PluginError(
            f"discover of {name!r}",
            got=got,
            expected="a sequence of user_core.interfaces.Discovered",
        )

    if isinstance(found, (str, bytes, Mapping)) or not isinstance(found, Sequence):
        raise wrong(type(found).__name__)
    if len(found) > MAX_FOUND:
        raise wrong(f"{len(found)} devices")
    for item in found:
        if not isinstance(item, Discovered):
            raise wrong(f"an element {type(item).__name__}")
        if not isinstance(item.name, str) or not item.name or not isinstance(item.detail, str):
            raise wrong(f"an element with name {item.name!r}, detail {item.detail!r}"[:200])
        if not isinstance(item.params, Mapping):
            raise wrong(f"params of type {type(item.params).__name__} for {item.name!r}")
        try:
            to_json(dict(item.params))
        except (TypeError, ValueError) as error:
            raise wrong(f"params of {item.name!r} that are no plain data ({error})") from error
    names = [item.name for item in found]
    if twice := {item for item in names if names.count(item) > 1}:
        raise wrong(f"{sorted(twice)[0]!r} twice")
    return list(found)


if __name__ == "__main__":
    try:
        code = main()
    except SuiteError as error:
        print(error, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    os._exit(code)  # a driver's threads must not keep it
