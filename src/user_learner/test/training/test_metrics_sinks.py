"""Where numbers of a training go: each sink is read back by what its makers read it with, and none ends a training."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, PluginError
from user_core.metrics import MetricsSink
from user_core.plugins import available, build, load
from user_learner.learner import LearnerConfig
from user_learner.metrics import writer as writers
from user_learner.metrics.writer import SinkWriter
from user_learner.training.progress import LearnerState, Progress
from user_testing.ports import free_port
from user_testing.waiting import wait_until


def progress(update):
    return Progress(LearnerState.TRAINING, update, 5, metrics={"loss": update / 100})


class Odd(MetricsSink):
    """A sink that does what a test wants."""

    def __init__(self, does=lambda sink: None):
        self.does, self.opened, self.written, self.closed = does, 0, [], 0

    def open(self, directory, run):
        self.opened += 1

    def write(self, update, scalars):
        self.does(self)
        self.written.append((update, scalars["algorithm/loss"]))

    def close(self):
        self.closed += 1


def test_a_sink_gets_all_points_in_order_and_is_closed(tmp_path):
    sink = Odd()
    writer = SinkWriter("odd", lambda: sink, tmp_path)
    for update in range(50):
        writer(progress(update))
    writer.close()
    writer.close()
    assert [update for update, _ in sink.written] == list(range(50))
    assert (sink.opened, sink.closed, writer.dropped) == (1, 1, 0)


@pytest.mark.parametrize(
    "error", [OSError("disk full"), ValueError("bug"), SystemExit(3), KeyboardInterrupt()]
)
def test_a_sink_that_fails_is_opened_anew_and_nobody_else_notices(
    tmp_path, monkeypatch, error, caplog
):
    monkeypatch.setattr(writers, "_RETRY_S", 0.05)

    def fails_once(sink):
        if sink.opened == 1:
            raise error

    sink = Odd(fails_once)
    writer = SinkWriter("odd", lambda: sink, tmp_path)
    writer(progress(1))
    wait_until(lambda: writer.dropped == 1)
    time.sleep(0.06)
    writer(progress(2))
    wait_until(lambda: sink.written)
    writer.close()
    assert sink.written == [(2, 0.02)]
    assert (sink.opened, sink.closed) == (2, 2)
    assert "do not go to odd for now" in caplog.text


def test_a_sink_that_hangs_holds_up_neither_updates_nor_the_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writers, "_CLOSE_S", 0.2)
    monkeypatch.setattr(writers, "_WAITING", 10)
    sink = Odd(lambda sink: time.sleep(3600))
    writer = SinkWriter("odd", lambda: sink, tmp_path)
    began_s = time.monotonic()
    for update in range(500):
        writer(progress(update))
    writer.close()
    assert time.monotonic() - began_s < 30.0
    assert writer._points.qsize() <= 12
    assert writer.dropped >= 480
    assert "does not end" in caplog.text


def test_a_library_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    for name in ("wandb", "trackio", "mlflow", "rerun"):
        monkeypatch.setitem(sys.modules, name, None)
        sink = build("metrics_sinks", name)
        with pytest.raises(PluginError, match="rerun-sdk" if name == "rerun" else "extra_metrics"):
            sink.open(tmp_path, "run")
        writer = SinkWriter(name, lambda sink=sink: sink, tmp_path)
        writer(progress(1))
        writer.close()
        assert f"do not go to {name}: " in caplog.text


def test_sinks_are_plugins_that_a_configuration_names():
    assert {"tensorboard", "trackio", "wandb"} <= set(available("metrics_sinks"))
    config = from_mapping(
        LearnerConfig,
        {
            "directory": "d",
            "store": "s",
            "sinks": {"lab": {"plugin": "wandb", "params": {"project": "arm"}}},
        },
    )
    assert config.sinks["lab"].params == {"project": "arm"}
    with pytest.raises(PluginError, match="did you mean 'wandb'"):
        load("metrics_sinks", "wand")


def run(program, folder, *words):
    """In a process of its own: these libraries leave threads, processes and hooks behind."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


_WRITES = """
import sys
from pathlib import Path
from user_core.plugins import build
from user_learner.metrics.writer import SinkWriter
from user_learner.training.progress import LearnerState, Progress
folder, name, run = Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or ["first"])[0]
params = {"directory": str(folder / "trackio")} if name == "trackio" else {}
for updates in ((10, 20), (15, 30)):  # killed after 20, and gone on from a checkpoint of 10
    writer = SinkWriter(name, lambda: build("metrics_sinks", name, params), folder / name, run)
    for update in updates:
        writer(Progress(LearnerState.TRAINING, update, 5, metrics={"loss": update / 100, "odd": float("nan")}))
    writer.close()
    assert writer.dropped == 0
"""


_READS_TRACKIO = """
import json
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([SQLiteStorage.get_runs("user"), SQLiteStorage.get_logs("user", "first")]))
"""


def test_trackio_reads_what_was_written_also_after_a_restart(tmp_path):
    pytest.importorskip("trackio")
    text = run(_WRITES + _READS_TRACKIO, tmp_path, "trackio")
    runs, logs = json.loads(text.splitlines()[-1])
    assert runs == ["first"]
    points = [(row["step"], row["algorithm/loss"]) for row in logs]
    assert points == [(10, 0.1), (20, 0.2), (15, 0.15), (30, 0.3)]


_READS_FOXGLOVE = """
import json
from mcap.reader import make_reader
found = []
for file in sorted((folder / "foxglove").glob("first_*.mcap")):
    with open(file, "rb") as stream:
        found += [(channel.topic, json.loads(m.data)) for _, channel, m in make_reader(stream).iter_messages()]
print(json.dumps(found))
"""


def test_foxglove_reads_what_was_written_also_after_a_restart(tmp_path):
    pytest.importorskip("foxglove")
    pytest.importorskip("mcap")
    text = run(_WRITES + _READS_FOXGLOVE, tmp_path, "foxglove")
    points = json.loads(text.splitlines()[-1])
    assert {topic for topic, _ in points} == {"/metrics"}
    assert [(p["update"], p["algorithm"]) for _, p in points] == [
        (10, {"loss": 0.1}), (20, {"loss": 0.2}), (15, {"loss": 0.15}), (30, {"loss": 0.3}),
    ]  # fmt: skip


_READS_MLFLOW = """
import json
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
runs = client.search_runs([client.get_experiment_by_name("user").experiment_id])
points = client.get_metric_history(runs[0].info.run_id, "algorithm/loss")
print(json.dumps([[(run.info.run_name, run.info.status) for run in runs], [(p.step, p.value) for p in points]]))
"""


@pytest.mark.parametrize("name", ["first", """O'Brien's "arm", 100%"""])
def test_mlflow_reads_what_was_written_also_after_a_restart(tmp_path, name):
    pytest.importorskip("mlflow")
    text = run(_WRITES + _READS_MLFLOW, tmp_path, "mlflow", name)
    runs, points = json.loads(text.splitlines()[-1])
    assert runs == [[name, "FINISHED"]]
    assert points == [[10, 0.1], [20, 0.2], [15, 0.15], [30, 0.3]]


_READS_RERUN = """
import json
from rerun.chunk import RrdReader
found = []
for file in sorted((folder / "rerun").glob("first_*.rrd")):
    for chunk in RrdReader(file).stream():
        rows = chunk.to_record_batch()
        name = next((column for column in rows.schema.names if column.endswith("Scalars:scalars")), None)
        if name is not None and chunk.entity_path == "/algorithm/loss":
            steps, values = (rows.column(column).to_pylist() for column in ("update", name))
            found += [(step, value) for step, (value,) in zip(steps, values)]
print(json.dumps(found))
"""


def test_rerun_reads_what_was_written_also_after_a_restart(tmp_path):
    pytest.importorskip("rerun")
    points = json.loads(run(_WRITES + _READS_RERUN, tmp_path, "rerun").splitlines()[-1])
    assert points == [[10, 0.1], [20, 0.2], [15, 0.15], [30, 0.3]]


def test_foxglove_without_file_and_port_is_refused_by_the_name_of_what_is_missing():
    with pytest.raises(ConfigError, match=r"^port: got 0 and no file"):
        build("metrics_sinks", "foxglove", {"file": False})


_AGAIN_FOXGLOVE = """
import json, socket, sys
from pathlib import Path
from user_core.plugins import build
from mcap.reader import make_reader

folder, port = Path(sys.argv[1]), int(sys.argv[2])
other = socket.create_server(("127.0.0.1", port))
for _ in range(2):
    try:
        build("metrics_sinks", "foxglove", {"port": port}).open(folder, "one")
    except Exception as error:
        assert "in use" in str(error), error
    else:
        sys.exit("the port is taken, and it was opened")
assert not list(folder.glob("*.mcap"))
other.close()
sink = build("metrics_sinks", "foxglove", {"port": port})
sink.open(folder, "one")
sink.write(1, {"a/loss": 1.0, "a/loss/more": 2.0, "b/c/d": 3.0, "b/c": 4.0})
sink.close()
(file,) = folder.glob("*.mcap")
with open(file, "rb") as stream:
    print(json.dumps([json.loads(m.data) for *_, m in make_reader(stream).iter_messages()]))
"""


def test_foxglove_leaves_no_file_where_its_port_is_taken_and_takes_any_names(tmp_path):
    pytest.importorskip("foxglove")
    pytest.importorskip("mcap")
    text = run(_AGAIN_FOXGLOVE, tmp_path, str(free_port()))
    assert json.loads(text.splitlines()[-1]) == [
        {"update": 1, "a": {"loss": 1.0}, "a/loss/more": 2.0, "b": {"c": {"d": 3.0}}, "b/c": 4.0}
    ]


_SERVES_FOXGLOVE = """
import asyncio, json, sys
from pathlib import Path
from user_core.plugins import build
from websockets.asyncio.client import connect

sink = build("metrics_sinks", "foxglove", {"file": False, "port": int(sys.argv[2])})
sink.open(Path(sys.argv[1]), "first")

async def listen():
    async with connect(f"ws://127.0.0.1:{sys.argv[2]}", subprotocols=["foxglove.sdk.v1"]) as socket:
        while (said := json.loads(await socket.recv()))["op"] != "advertise":
            pass
        channel = said["channels"][0]
        subscriptions = [{"id": 7, "channelId": channel["id"]}]
        await socket.send(json.dumps({"op": "subscribe", "subscriptions": subscriptions}))
        while True:
            sink.write(3, {"learner/rate": 2.5})
            try:
                data = await asyncio.wait_for(socket.recv(), 0.2)
            except TimeoutError:
                continue
            if isinstance(data, bytes) and data[0] == 1:  # opcode, subscription, time, payload
                return channel["topic"], json.loads(data[13:])

print(json.dumps(asyncio.run(asyncio.wait_for(listen(), 60))))
sink.close()
"""


def test_foxglove_is_served_the_points_while_they_come(tmp_path):
    pytest.importorskip("foxglove")
    pytest.importorskip("websockets")
    text = run(_SERVES_FOXGLOVE, tmp_path, str(free_port()))
    assert json.loads(text.splitlines()[-1]) == [
        "/metrics",
        {"update": 3, "learner": {"rate": 2.5}},
    ]


def test_wandb_reads_what_was_written_without_a_network(tmp_path):
    pytest.importorskip("wandb")
    run(_WRITES, tmp_path, "wandb")
    files = sorted((tmp_path / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1, "a learner that was restarted began another run"
    points = [point for file in files for point in _history(file)]
    assert [(int(p["update"]), p["algorithm/loss"]) for p in points] == [
        (10, 0.1),
        (20, 0.2),
        (15, 0.15),
        (30, 0.3),
    ]


def _history(file: Path):
    """The points of a `.wandb` file: records of W&B's own protobuf in the framing of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record = (b"" if kind in (1, 2) else record) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            found = wandb_internal_pb2.Record()
            found.ParseFromString(record)
            if found.WhichOneof("record_type") == "history":
                yield {
                    (item.key or "/".join(item.nested_key)): json.loads(
                        item.value_json.replace("NaN", "null")
                    )
                    for item in found.history.item
                }
