"""A port of shared memory that others made anew is noticed, whatever FastDDS makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from user_core.runtime.dds.replaced_ports import OwnPorts


class Process:
    """A process as ``/proc`` shows it, with the clock by which it looks."""

    def __init__(self, folder: Path) -> None:
        self.shm, self.proc, self.now_s = folder / "shm", folder / "proc", 100.0
        (self.proc / "fd").mkdir(parents=True)
        self.shm.mkdir()
        self.mapped: list[str] = []
        (self.proc / "fd" / "0").symlink_to("/dev/null")
        (self.proc / "fd" / "7").symlink_to(self.shm / "fastdds_0a99_el")  # a segment, no port
        self.listen(7, "fastdds_port7009")
        self.map("fastdds_port7010")  # of somebody else, to send
        self.ports = OwnPorts(self.shm, self.proc, lambda: self.now_s)

    def listen(self, number: int, name: str) -> None:
        (self.proc / "fd" / f"{number}1").symlink_to(self.shm / f"{name}_el")
        self.map(name)

    def map(self, name: str) -> None:
        (self.shm / name).touch()
        inode = (self.shm / name).stat().st_ino
        self.mapped.append(
            f"7f0 rw-s 00000000 00:1a {inode}                    {self.shm / name}\n"
        )
        (self.proc / "maps").write_text("7f1 r-xp 0 00:00 0 \n" + "".join(self.mapped))

    def replace(self, name: str) -> None:
        (self.shm / f"{name}.other").touch()
        (self.shm / f"{name}.other").rename(self.shm / name)

    def looks(self, times: int) -> list[list[str]]:
        found = []
        for _ in range(times):
            found.append(self.ports.replaced())
            self.now_s += 2.0
        return found


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_ports_that_are_as_they_were_are_no_news(process: Process) -> None:
    assert process.looks(10) == [[]] * 10


@pytest.mark.parametrize("lock", ["_el", "_el (deleted)"])
def test_a_port_that_was_replaced_for_good_is_said_after_a_while(
    process: Process, lock: str
) -> None:
    process.looks(1)
    process.replace("fastdds_port7009")
    (process.proc / "fd" / "71").unlink()
    (process.proc / "fd" / "71").symlink_to(process.shm / f"fastdds_port7009{lock}")
    assert process.looks(5) == [[], [], [], ["fastdds_port7009"], ["fastdds_port7009"]]


def test_a_process_that_changes_over_in_time_hears(process: Process) -> None:
    process.looks(1)
    process.replace("fastdds_port7009")
    assert process.looks(2) == [[], []]
    process.map("fastdds_port7009")
    assert process.looks(5) == [[]] * 5


def test_ports_of_others_do_not_count(process: Process) -> None:
    process.looks(1)
    process.replace("fastdds_port7010")
    (process.shm / "fastdds_port7010").unlink()
    assert process.looks(6) == [[]] * 6


@pytest.mark.parametrize("looked_before", [0, 1])
def test_a_port_that_was_removed_is_said_after_a_while(
    process: Process, looked_before: int
) -> None:
    """Nobody makes it anew: who only sends finds none, and gives it up."""
    process.looks(looked_before)
    (process.shm / "fastdds_port7009").unlink()
    assert process.looks(5) == [[], [], [], ["fastdds_port7009"], ["fastdds_port7009"]]


def test_a_participant_that_ends_removes_its_port_and_is_not_missed(process: Process) -> None:
    process.looks(1)
    (process.shm / "fastdds_port7009").unlink()
    process.looks(2)
    (process.proc / "fd" / "71").unlink()
    assert process.looks(6) == [[]] * 6


def test_a_port_that_was_given_up_and_taken_by_another_process_does_not_count(
    process: Process,
) -> None:
    """A participant that a process had for a while; its number goes to the next that wants one."""
    process.looks(1)
    (process.proc / "fd" / "71").unlink()
    process.replace("fastdds_port7009")
    assert process.looks(6) == [[]] * 6


def test_a_kernel_that_does_not_tell_what_is_mapped_ends_nobody(process: Process) -> None:
    process.looks(1)
    (process.proc / "maps").write_text("")
    process.replace("fastdds_port7009")
    assert process.looks(6) == [[]] * 6


def test_who_was_suspended_gets_its_time_from_then_on(process: Process) -> None:
    process.looks(1)
    process.replace("fastdds_port7009")
    process.looks(2)
    process.now_s += 60.0
    assert process.looks(4) == [[], [], [], ["fastdds_port7009"]]


def test_a_process_without_shared_memory_has_no_ports(tmp_path: Path) -> None:
    nothing = OwnPorts(tmp_path / "shm", tmp_path / "proc", lambda: 0.0)
    assert nothing.replaced() == []
