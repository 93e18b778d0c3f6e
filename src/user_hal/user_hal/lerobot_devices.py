"""Robots, cameras and teleoperators of LeRobot, made from its own configuration and told apart by what it says of them.

Its own packages and those that others install (``lerobot_robot_*``, ``lerobot_camera_*``, ``lerobot_teleoperator_*``)
register their types; a device is named by such a type and the settings of its class, as LeRobot's commands take them
(``--robot.type=so101_follower --robot.port=/dev/ttyACM0`` is ``device: {type: so101_follower, port: /dev/ttyACM0}``).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from user_core.errors import ConfigError, DeviceError, DeviceNotConnected, PluginError, SuiteError
from user_core.interfaces import Discovered
from user_core.runtime.lerobot import INSTALL, lerobot, register_others

Kind = Literal["robot", "camera", "teleoperator"]
_FOLDER = {"robot": "robots", "camera": "cameras", "teleoperator": "teleoperators"}
#: Classes whose folder of calibrations is not named by a type: the newest of their types.
_TYPES = {"so_follower": "so101_follower", "so_leader": "so101_leader"}
_BASE = {
    "robot": ("robots.config", "RobotConfig"),
    "camera": ("cameras.configs", "CameraConfig"),
    "teleoperator": ("teleoperators.config", "TeleoperatorConfig"),
}


def their_config(kind: Kind, device: Mapping[str, Any], modules: Sequence[str] = ()) -> Any:
    """LeRobot's configuration of a device. Nothing is opened.

    Raises:
        PluginError: LeRobot is not installed.
        ConfigError: It has no such type, or the type no such setting.
    """
    base = _registry(kind, modules)
    name = str(device.get("type", ""))
    known = sorted(base.get_known_choices())
    if name not in known:
        near = get_close_matches(name, known, 1)
        raise ConfigError(
            f"type of a LeRobot {kind}", got=name or "nothing", expected=f"one of {known}",
            hint=(f"Perhaps {near[0]}. " if near else "")
            + f"Other people's are installed as lerobot_{kind}_..., or named: modules: [...]",
        )  # fmt: skip
    cls = base.get_choice_class(name)
    settings = {key: value for key, value in device.items() if key != "type"}
    try:
        allowed = {field.name for field in fields(cls)}
    except TypeError:
        allowed = set(settings)
    if unknown := sorted(set(settings) - allowed):
        near = get_close_matches(unknown[0], sorted(allowed), 1)
        raise ConfigError(
            f"settings of LeRobot's {name}", got=unknown, expected=f"of {sorted(allowed)}",
            hint=f"Perhaps {near[0]}" if near else "",
        )  # fmt: skip
    decode = importlib.import_module("draccus").decode
    try:
        return decode(cls, settings)
    except Exception as error:
        raise ConfigError(
            f"settings of LeRobot's {name}",
            got=f"{type(error).__name__}: {error}",
            expected="what it accepts",
        ) from error


def make_device(kind: Kind, config: Any) -> Any:
    """The device of a configuration of LeRobot, not connected.

    Raises:
        PluginError: A package that it needs is missing, or its class cannot be made.
    """
    name = str(config.type)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if kind == "camera":
                return lerobot("cameras.utils").make_cameras_from_configs({name: config})[name]
            if kind == "robot":
                return lerobot("robots.utils").make_robot_from_config(config)
            return lerobot("teleoperators.utils").make_teleoperator_from_config(config)
    except SuiteError:
        raise
    except ImportError as error:
        raise PluginError(
            f"LeRobot's {kind} {name}", got=str(error), expected="the packages that it needs",
            hint=f"pip install 'lerobot[EXTRA]', where LeRobot's page of the device says which ({INSTALL})",
        ) from error  # fmt: skip
    except Exception as error:
        raise PluginError(
            f"LeRobot's {kind} {name}",
            got=f"{type(error).__name__}: {error}",
            expected="a device that can be made",
        ) from error


def connect_device(kind: Kind, name: str, device: Any, hint: str) -> None:
    """Connect a device that has been calibrated; nobody is asked to move it now.

    Args:
        kind: What it is.
        name: Its type.
        device: LeRobot's.
        hint: What to look at when it cannot be reached.

    Raises:
        DeviceNotConnected: It cannot be reached.
        DeviceError: It has not been calibrated.
    """
    with errors_of(f"LeRobot's {kind} {name}", hint):
        device.connect(calibrate=False)
    if not device.is_calibrated:
        with contextlib.suppress(Exception):
            device.disconnect()
        word = "teleop" if kind == "teleoperator" else kind
        raise DeviceError(
            f"calibration of LeRobot's {kind} {name}", got="none that its motors agree with",
            expected=f"the file {device.calibration_fpath}",
            hint=f"Run lerobot-calibrate --{word}.type={name} --{word}.id={device.id} with the same port",
        )  # fmt: skip


@contextlib.contextmanager
def errors_of(what: str, hint: str = "") -> Iterator[None]:
    """Whatever a device raises is a DeviceError."""
    try:
        yield
    except SuiteError:
        raise
    except Exception as error:
        lost = "NotConnected" in type(error).__name__ or isinstance(
            error, ConnectionError | OSError
        )
        kind = DeviceNotConnected if lost else DeviceError
        raise kind(what, got=f"{type(error).__name__}: {error}", hint=hint) from error


def discovered(kind: Kind) -> list[Discovered]:
    """What can be told without opening anything: devices that were calibrated on this machine, with the serial
    port where there is only one. Nothing where LeRobot is not installed."""
    try:
        folder = Path(lerobot("utils.constants").HF_LEROBOT_CALIBRATION)
    except PluginError:
        return []
    ports = serial_ports()
    found = []
    for file in sorted((folder / _FOLDER[kind]).glob("*/*.json")):
        kind_name = _TYPES.get(file.parent.name, file.parent.name)
        device: dict[str, Any] = {"type": kind_name, "id": file.stem}
        if len(ports) == 1:
            device["port"] = ports[0]
        where = f"; serial ports: {', '.join(ports)}" if ports else "; no serial port is there"
        found.append(
            Discovered(file.stem, {"device": device}, f"LeRobot {kind_name}, calibrated{where}")
        )
    return found


def serial_ports() -> list[str]:
    """Serial ports of this machine that something is plugged into."""
    return sorted(str(path) for name in ("ttyACM*", "ttyUSB*") for path in Path("/dev").glob(name))


def _registry(kind: Kind, modules: Sequence[str]) -> Any:
    """The class that knows all types of a kind, after everybody's have been registered."""
    root = lerobot(_FOLDER[kind], f"a LeRobot {kind}")
    for one in pkgutil.iter_modules(root.__path__):
        if not one.ispkg:
            continue
        package = f"{root.__name__}.{one.name}"
        folder = Path(root.__path__[0]) / one.name
        for file in [*folder.glob("config_*.py"), *folder.glob("configuration_*.py")]:
            with contextlib.suppress(ImportError):  # what it needs is said when it is asked for
                importlib.import_module(f"{package}.{file.stem}")
    register_others(modules)
    module, name = _BASE[kind]
    return getattr(lerobot(module), name)
