"""Cameras and teleoperation devices that are plugged into this host, without opening any.

A device keeps its name when it is plugged in again: it is named by its serial number, and where
it has none, or shares it with another, by the socket that it is plugged into.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from user_fleet.resources.model import Resource, clean_name, uniquely_named

_USB_LEVELS = 6
#: What stands in the name of an input device, to what it is good for.
_TELEOPS = (
    (re.compile(r"3Dconnexion|SpaceMouse|SpaceNavigator|SpacePilot", re.I), "spacemouse"),
    (re.compile(r"-event-joystick$"), "gamepad"),
    (re.compile(r"-event-kbd$"), "keyboard"),
)
_DRIVER_OF = {"spacemouse": "spacemouse", "gamepad": "joy", "keyboard": "keyboard"}


@dataclass(frozen=True)
class _Camera:
    node: str
    label: str
    serial: str
    usb_id: str
    socket: str
    by_id: str
    by_path: str


def cameras(host: str, site: str = "", root: Path = Path("/")) -> list[Resource]:
    """V4L2 devices that capture.

    Args:
        host: Name of this host.
        site: Its place.
        root: Where ``dev`` and ``sys`` are.
    """
    found = list(_v4l2(root))
    serials = Counter((item.usb_id, item.serial) for item in found)
    made = []
    for item in found:
        alone = bool(item.serial) and serials[item.usb_id, item.serial] == 1
        label = clean_name(item.label, "camera")
        mark = item.serial if alone else item.socket or item.node
        source = item.by_id if alone and item.by_id else item.by_path or f"/dev/{item.node}"
        made.append(
            Resource(
                id=f"{host}/camera/{clean_name(f'{label[:60]}-{mark}')}",
                kind="camera",
                site=site,
                model=item.label[:256],
                serial=item.serial[:128],
                driver="opencv",
                params={"source": source},
                source=f"/dev/{item.node}",
            )
        )
    return uniquely_named(made)


def teleops(host: str, site: str = "", root: Path = Path("/")) -> list[Resource]:
    """Input devices a person could drive a robot with: 3D mice, gamepads, keyboards."""
    made = []
    for link in _entries(root / "dev/input/by-id"):
        if "-event-" not in link.name:
            continue  # the same device once more, as a mouse or an old joystick
        sort = next((kind for pattern, kind in _TELEOPS if pattern.search(link.name)), "")
        if not sort:
            continue
        label = re.sub(r"^usb-|-event-\w+$|-if\d+", "", link.name)
        made.append(
            Resource(
                id=f"{host}/teleop/{clean_name(label)}",
                kind="teleop",
                site=site,
                model=label.replace("_", " ")[:256],
                tags=(sort,),
                driver=_DRIVER_OF[sort],
                source=f"/dev/input/by-id/{link.name}"[:512],
            )
        )
    unique = {item.id: item for item in made}  # interfaces of one device
    return list(unique.values())


def _v4l2(root: Path) -> Iterator[_Camera]:
    by_id, by_path = (_links(root / "dev/v4l" / name) for name in ("by-id", "by-path"))
    for entry in _entries(root / "sys/class/video4linux"):
        try:
            if int((entry / "index").read_text()) != 0:
                continue  # further nodes of a device carry its metadata
            label = (entry / "name").read_text(encoding="utf-8", errors="replace").strip()
        except (OSError, ValueError):
            continue  # it has just been unplugged
        usb = _usb_device(entry / "device")
        socket = usb.name if usb is not None else ""
        yield _Camera(
            node=entry.name,
            label=label,
            serial=_line(usb / "serial") if usb is not None else "",
            usb_id=f"{_line(usb / 'idVendor')}:{_line(usb / 'idProduct')}" if usb else "",
            socket=socket,
            by_id=by_id.get(entry.name, ""),
            by_path=by_path.get(entry.name, ""),
        )


def _usb_device(interface: Path) -> Path | None:
    """The USB device that an interface is a part of: the nearest one above with a vendor."""
    try:
        folder = interface.resolve()
    except OSError:
        return None
    for _ in range(_USB_LEVELS):
        if (folder / "idVendor").is_file():
            return folder
        folder = folder.parent
    return None


def _links(folder: Path) -> dict[str, str]:
    """Name of a device node, to the link to it; those of its first interface win."""
    found: dict[str, str] = {}
    for link in _entries(folder):
        with contextlib.suppress(OSError):
            found.setdefault(link.readlink().name, f"/dev/v4l/{folder.name}/{link.name}")
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda entry: (len(entry.name), entry.name))
    except OSError:
        return []


def _line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
