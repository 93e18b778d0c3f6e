"""Cameras and teleoperation devices keep their names, from trees as the kernel and udev make them."""

from pathlib import Path

import pytest

from user_fleet.resources.devices import cameras, teleops


class Host:
    """A ``dev`` and a ``sys`` with USB devices in them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def plug(self, socket: str, nodes: list[str], label: str, serial: str = "") -> None:
        usb = self.root / "sys/devices/pci0/usb1" / socket
        interface = usb / f"{socket}:1.0"
        interface.mkdir(parents=True)
        (usb / "idVendor").write_text("046d\n")
        (usb / "idProduct").write_text("0825\n")
        if serial:
            (usb / "serial").write_text(f"{serial}\n")
        for index, node in enumerate(nodes):
            entry = interface / "video4linux" / node
            entry.mkdir(parents=True)
            (entry / "name").write_text(f"{label}\n")
            (entry / "index").write_text(f"{index}\n")
            (entry / "device").symlink_to(interface)
            self._link(self.root / "sys/class/video4linux" / node, entry)
            self._link(
                self.root / f"dev/v4l/by-path/pci-usb-0:{socket}-video-index{index}",
                Path("../..") / node,
            )
            word = f"usb-{label.replace(' ', '_')}{'_' + serial if serial else ''}"
            self._link(self.root / f"dev/v4l/by-id/{word}-video-index{index}", Path("../..") / node)

    def _link(self, link: Path, target: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # as udev: the last of equal devices has the link by id
        link.symlink_to(target)


def _by_name(root: Path) -> dict[str, str]:
    return {item.name: item.params["source"] for item in cameras("h1", root=root)}


def test_cameras_with_serial_numbers_keep_their_names_wherever_they_are_plugged_in(tmp_path):
    before, after = Host(tmp_path / "a"), Host(tmp_path / "b")
    before.plug("1-1", ["video0", "video1"], "C270", "AAA")
    before.plug("1-2", ["video2", "video3"], "C270", "BBB")
    after.plug("1-2", ["video0", "video1"], "C270", "AAA")
    after.plug("1-1", ["video4", "video5"], "C270", "BBB")
    assert _by_name(before.root) == _by_name(after.root)
    assert _by_name(before.root) == {
        "C270-AAA": "/dev/v4l/by-id/usb-C270_AAA-video-index0",
        "C270-BBB": "/dev/v4l/by-id/usb-C270_BBB-video-index0",
    }


@pytest.mark.parametrize("serial", ["", "SN0001"])
def test_equal_cameras_are_told_apart_by_their_sockets(tmp_path, serial):
    before, after = Host(tmp_path / "a"), Host(tmp_path / "b")
    before.plug("1-1", ["video0"], "C270", serial)
    before.plug("1-2", ["video1"], "C270", serial)
    after.plug("1-2", ["video0"], "C270", serial)  # they were found in another order
    after.plug("1-1", ["video1"], "C270", serial)
    assert _by_name(before.root) == _by_name(after.root)
    assert _by_name(before.root) == {
        "C270-1-1": "/dev/v4l/by-path/pci-usb-0:1-1-video-index0",
        "C270-1-2": "/dev/v4l/by-path/pci-usb-0:1-2-video-index0",
    }


def test_a_host_without_devices_has_none(tmp_path):
    assert cameras("h1", root=tmp_path) == []
    assert teleops("h1", root=tmp_path) == []


def test_input_devices_are_told_by_what_they_are_good_for(tmp_path):
    folder = tmp_path / "dev/input/by-id"
    folder.mkdir(parents=True)
    for name in (
        "usb-Sony_Wireless_Controller-event-joystick",
        "usb-Sony_Wireless_Controller-joystick",
        "usb-Sony_Wireless_Controller-event-mouse",
        "usb-3Dconnexion_SpaceMouse_Compact-event-mouse",
        "usb-Logitech_Keyboard-event-kbd",
        "usb-Logitech_Keyboard-if01-event-kbd",
        "usb-Logitech_Mouse-event-mouse",
    ):
        (folder / name).touch()
    found = {item.name: (item.tags, item.driver) for item in teleops("h1", root=tmp_path)}
    assert found == {
        "Sony_Wireless_Controller": (("gamepad",), "joy"),
        "3Dconnexion_SpaceMouse_Compact": (("spacemouse",), "spacemouse"),
        "Logitech_Keyboard": (("keyboard",), "keyboard"),
    }
