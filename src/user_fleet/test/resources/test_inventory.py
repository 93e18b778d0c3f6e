"""An inventory is kept true while things are plugged in and out."""

from pathlib import Path

from user_fleet.resources.inventory import HostConfig, Inventory


def _plug(root: Path, node: str, serial: str) -> Path:
    usb = root / "sys/devices" / serial
    entry = usb / "1-1:1.0/video4linux" / node
    entry.mkdir(parents=True)
    (usb / "idVendor").write_text("046d")
    (usb / "serial").write_text(serial)
    (entry / "name").write_text("C270")
    (entry / "index").write_text("0")
    (entry / "device").symlink_to(usb / "1-1:1.0")
    link = root / "sys/class/video4linux" / node
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(entry)
    return link


def test_what_is_unplugged_is_absent_until_it_is_back(tmp_path: Path) -> None:
    inventory = Inventory(HostConfig(host="h1", site="hall", drivers=()), root=tmp_path)

    def camera() -> dict[str, str]:
        report = inventory.report(ask=False)
        return {item.name: item.health for item in report.resources if item.kind == "camera"}

    assert camera() == {}
    link = _plug(tmp_path, "video0", "AAA")
    assert camera() == {"C270-AAA": "ready"}
    target = link.readlink()
    link.unlink()
    assert camera() == {"C270-AAA": "absent"}
    assert camera() == {"C270-AAA": "absent"}
    (tmp_path / "sys/class/video4linux/video4").symlink_to(target)
    assert camera() == {"C270-AAA": "ready"}


def test_reports_of_one_life_count_up_and_another_life_is_another(tmp_path: Path) -> None:
    config = HostConfig(host="h1", drivers=())
    first, second = (Inventory(config, root=tmp_path) for _ in range(2))
    reports = [first.report(ask=False), first.report(ask=False), second.report(ask=False)]
    assert [report.sequence for report in reports] == [1, 2, 1]
    assert reports[0].life == reports[1].life != reports[2].life
