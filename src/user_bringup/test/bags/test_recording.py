"""Recording beside the store: split, indexed, whole after a kill, ended by a full disk with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from user_bringup.bags.reading import Bag
from user_bringup.recording.config import RecorderConfig
from user_bringup.recording.recorder import Recorder
from user_bringup.running.prepare import fragment_folders
from user_core.errors import ConfigError
from user_core.reasons import DISK_FULL, NOT_RECORDED
from user_fleet.deployment.compose import compose
from user_fleet.deployment.faults import Faults
from user_fleet.deployment.model import Deployment
from user_learner.data.mcap.bags import Channel, is_indexed
from user_testing.waiting import wait_until

pytest.importorskip("mcap")
highlevel = pytest.importorskip("rosbags.highlevel")

CHATTER = Channel("/chatter", "std_msgs/msg/String", "string data\n")
SPEC = Channel("/robot_spec", "std_msgs/msg/String", "string data\n", latched=True)


def text(words: str) -> bytes:
    data = words.encode() + b"\0"
    return b"\0\1\0\0" + len(data).to_bytes(4, "little") + data


def heard(folder: Path) -> list[str]:
    with highlevel.AnyReader([folder]) as reader:
        return [
            reader.deserialize(raw, c.msgtype).data
            for c, _, raw in reader.messages()
            if c.topic == "/chatter"
        ]


def fill(recorder: Recorder, count: int, start: int = 0) -> None:
    for k in range(start, start + count):
        recorder.put(CHATTER, 10**9 + k * 10**6, text(f"message {k}"))


def test_files_are_split_indexed_and_each_has_what_is_kept(tmp_path: Path) -> None:
    recorder = Recorder(RecorderConfig(folder=str(tmp_path), part_mb=0.005, keep_free_mb=0))
    recorder.put(SPEC, 10**9, text("a robot"))
    fill(recorder, 1000)
    recorder.close()
    files = sorted(tmp_path.glob("*.mcap"))
    assert len(files) >= 4 and all(is_indexed(file) for file in files)
    assert heard(tmp_path) == [f"message {k}" for k in range(1000)]
    with highlevel.AnyReader([files[-1]]) as reader:  # understood by itself
        assert any(c.topic == "/robot_spec" for c in reader.connections)
    assert (recorder.state.messages, recorder.state.left_out) == (1001, 0)


def test_the_oldest_files_go_where_the_bag_may_not_grow(tmp_path: Path) -> None:
    config = RecorderConfig(folder=str(tmp_path), part_mb=0.01, most_mb=0.05, keep_free_mb=0)
    recorder = Recorder(config)
    for k in range(40):
        fill(recorder, 200, k * 200)
        wait_until(lambda k=k: recorder.state.messages >= (k + 1) * 200)
    recorder.close()
    sizes = [file.stat().st_size for file in tmp_path.glob("*.mcap")]
    assert sum(sizes) < 0.1 * 2**20 and len(sizes) > 1
    assert not (tmp_path / "run_0.mcap").exists()


_KILLED = """
import sys, time
from test_recording import CHATTER, Recorder, RecorderConfig, text
recorder = Recorder(RecorderConfig(folder=sys.argv[1], flush_s=0.05, keep_free_mb=0))
k = 0
while True:
    recorder.put(CHATTER, 10**9 + k * 10**6, text(f"message {k}"))
    k += 1
    time.sleep(0.001)
"""


def test_what_is_on_disk_opens_after_a_kill_and_the_next_recorder_indexes_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bag"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    child = subprocess.Popen([sys.executable, "-c", _KILLED, str(folder)], env=environment)
    file = folder / "run_0.mcap"
    try:
        wait_until(lambda: file.exists() and file.stat().st_size > 3000, timeout_s=60)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not is_indexed(file)
    bag = Bag(folder)
    before = [bag.decode(m).data for m in bag.messages(["/chatter"])]
    assert len(before) > 20 and before == [f"message {k}" for k in range(len(before))]
    recorder = Recorder(RecorderConfig(folder=str(folder), keep_free_mb=0))
    assert is_indexed(file)
    recorder.put(CHATTER, 10**12, text("after"))
    recorder.close()
    assert heard(folder)[-1] == "after"
    with highlevel.AnyReader([file]) as reader:
        assert reader.message_count == len(before)


def test_with_little_room_recording_stops_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("user_bringup.recording.recorder._LOOK_S", 0.05)
    free = [10**12]
    config = RecorderConfig(folder=str(tmp_path), flush_s=0.01)
    recorder = Recorder(config, free_bytes=lambda path: free[0])
    fill(recorder, 10)
    wait_until(lambda: recorder.state.messages == 10)
    free[0] = 10**9
    wait_until(lambda: bool(recorder.state.reason))
    assert (
        recorder.state.reason.code == DISK_FULL
        and "kept for the store" in recorder.state.reason.text
    )
    fill(recorder, 10, 10)
    assert recorder.state.left_out == 10
    free[0] = 10**12
    wait_until(lambda: not recorder.state.reason)
    fill(recorder, 10, 20)
    recorder.close()
    assert heard(tmp_path) == [f"message {k}" for k in (*range(10), *range(20, 30))]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), DISK_FULL),
        (OSError(5, "Input/output error"), NOT_RECORDED),
        (ValueError("a fault of the writer"), NOT_RECORDED),
    ],
)
def test_what_cannot_be_written_ends_nothing_but_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    recorder = Recorder(RecorderConfig(folder=str(tmp_path), flush_s=0.01, keep_free_mb=0))
    fill(recorder, 10)
    wait_until(lambda: recorder.state.messages == 10)

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(recorder._bag, "write", full)
    fill(recorder, 1, 10)
    wait_until(lambda: bool(recorder.state.reason))
    assert recorder.state.reason.code == code
    assert str(error) in recorder.state.reason.text
    assert (recorder.state.messages, recorder.state.left_out) == (10, 1)
    started_s = time.monotonic()
    fill(recorder, 1000)
    assert time.monotonic() - started_s < 10.0 and recorder.state.left_out >= 1000
    recorder.close()


def test_what_a_slow_disk_cannot_take_is_left_out_and_counted(tmp_path: Path) -> None:
    recorder = Recorder(RecorderConfig(folder=str(tmp_path), queue_mb=0.001, keep_free_mb=0))
    for k in range(2000):
        recorder.put(CHATTER, k, text("x" * 400))
    recorder.close()
    assert recorder.state.left_out > 0
    assert recorder.state.left_out + recorder.state.messages == 2000


@pytest.mark.parametrize("key", ["topics", "leave_out"])
def test_what_is_no_regular_expression_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="a regular expression"):
        RecorderConfig(**{key: ("/lidar/[",)})


@pytest.mark.parametrize("said", ["key", "parameters", "argument", "hosts"])
def test_a_deployment_records(tmp_path: Path, said: str) -> None:
    roles = "name: d\nrobots: {robot0: {roles: simulated_arm}}\nhosts: {here: {roles: [replay, learner]}}\n"
    if said == "hosts":
        roles = roles.replace("simulated_arm", "simulated_arm, host: there")
        roles = roles.replace("hosts: {", "hosts: {there: {domain: 5}, ")
    more = {"key": "record: true\n", "parameters": "record: {images: true}\n"}.get(said, "")
    file = tmp_path / "d.yaml"
    file.write_text(roles + more)
    overrides = {} if more else {"record": True}
    deployment = _composed(file, tmp_path, overrides)
    found = [p for p in deployment.processes if p.executable == "record_node"]
    assert len(found) == (2 if said == "hosts" else 1)
    folders = {str(p.parameters["folder"]) for p in found}
    assert len(folders) == len(found) and all(f.startswith(f"{tmp_path}/record") for f in folders)
    if said == "parameters":
        assert found[0].parameters["images"] is True
    assert not any(p.executable == "record_node" for p in _without(file, tmp_path))


def _without(file: Path, folder: Path) -> list[object]:
    file.write_text(file.read_text().partition("record:")[0])
    return list(_composed(file, folder, {}).processes)


def _composed(file: Path, folder: Path, overrides: dict[str, object]) -> Deployment:
    faults = Faults()
    found = compose(file, overrides, {"run_dir": str(folder)}, fragment_folders(), faults=faults)
    assert not faults.found, faults.found
    return found.deployment
