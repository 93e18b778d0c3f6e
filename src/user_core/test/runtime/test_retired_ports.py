"""Ports as FastDDS makes them, in a folder that it does not use."""

import fcntl
import os
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from user_core.runtime.dds.half_made_ports import mutex_of
from user_core.runtime.dds.retired_ports import (
    LOOKED_AT,
    SentPorts,
    port_flags,
    retire_ports_of_dead,
)

AT = 300
ALL = 0b111


def content(number, flags=ALL, wait_ms=333):
    words = struct.pack("=7I", number, 1, 1000, wait_ms, 512, 1, flags)
    return bytes(AT + 4 - len(words)) + words + bytes(2 * LOOKED_AT)


@pytest.fixture
def port(tmp_path):
    port = tmp_path / f"fastdds_port9{os.getpid()}"
    port.write_bytes(content(int(port.name[12:])))
    (tmp_path / f"{port.name}_el").touch()
    yield port
    Path(f"/dev/shm/sem.{port.name}_mutex").unlink(missing_ok=True)


def flags_of(port):
    return port_flags(port.read_bytes()[:LOOKED_AT], port.name)


def test_one_whose_listener_is_dead_is_marked_once(port):
    before = port.read_bytes()
    assert flags_of(port) == (AT, ALL)
    assert retire_ports_of_dead(port.parent) == [port.name]
    assert flags_of(port) == (AT, ALL & ~1)
    after = port.read_bytes()
    assert after[:AT] + after[AT + 1 :] == before[:AT] + before[AT + 1 :]
    assert retire_ports_of_dead(port.parent) == []


def test_one_whose_listener_lives_is_left(port):
    with port.with_name(f"{port.name}_el").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert retire_ports_of_dead(port.parent) == []
    assert retire_ports_of_dead(port.parent) == [port.name]


def test_what_only_senders_have_opened_is_left(port):
    port.with_name(f"{port.name}_el").unlink()
    assert retire_ports_of_dead(port.parent) == []
    port.write_bytes(content(int(port.name[12:]), flags=0b001))
    port.with_name(f"{port.name}_el").touch()
    assert retire_ports_of_dead(port.parent) == []


@pytest.mark.root
def test_a_user_marks_his_port_where_another_made_its_mutex(port):
    mutex = Path(f"/dev/shm/sem.{port.name}_mutex")
    with mutex_of(port.name, Path("/").stat()) as held:
        assert held
    mutex.chmod(0o666)
    with TemporaryDirectory(dir="/dev/shm") as folder:
        os.chown(folder, 12345, 12345)
        for file in (port, port.with_name(f"{port.name}_el")):
            os.chown(shutil.move(file, folder), 12345, 12345)
        os.seteuid(12345)
        try:
            assert retire_ports_of_dead(Path(folder)) == [port.name]
        finally:
            os.seteuid(0)
    assert mutex.stat().st_uid == 0


@pytest.mark.parametrize("change", [{"wait_ms": 500}, {"flags": 0x010101}], ids=str)
def test_what_looks_otherwise_than_known_is_left(port, change):
    data = content(int(port.name[12:]), **change)
    port.write_bytes(data)
    assert retire_ports_of_dead(port.parent) == [] and port.read_bytes() == data
    port.write_bytes(data[:100])
    assert retire_ports_of_dead(port.parent) == []


def test_a_removed_one_is_retired_in_this_process_at_the_second_look(port):
    import mmap

    with port.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    sent = SentPorts(folder=port.parent)
    assert sent.retire_removed() == sent.retire_removed() == []
    port.unlink()
    assert sent.retire_removed() == []
    assert sent.retire_removed([port.name]) == [], "its own, at which it listens"
    assert port_flags(memory[:LOOKED_AT], port.name) == (AT, ALL)
    assert sent.retire_removed() == [port.name]
    assert port_flags(memory[:LOOKED_AT], port.name) == (AT, ALL & ~1)
    assert sent.retire_removed() == []
    memory.close()


def test_where_nothing_tells_what_is_mapped_nothing_is_done(tmp_path):
    assert SentPorts(tmp_path / "none").retire_removed() == []
