"""Exports that other packages open: bags of MCAP (mcap, rosbags), Minari data sets (minari)."""

import struct
from contextlib import closing

import numpy as np
import pytest

from user_core.errors import CodecError
from user_learner.data.exporting import export_mcap, export_minari
from user_learner.data.mcap import bags
from user_learner.data.mcap.messages import Messages
from user_learner.data.source import find_format, open_source
from user_testing.worlds.data_sets import SPEC, held, store, take
from user_testing.worlds.replay import joined, same_columns

pytest.importorskip("mcap")
rosbags = pytest.importorskip("rosbags.highlevel")


def test_a_store_comes_back_from_mcap_bit_by_bit(tmp_path):
    chunks = store(tmp_path / "store")
    assert export_mcap(tmp_path / "store", tmp_path / "bag").episodes == 4
    assert find_format(tmp_path / "bag").name == "mcap"
    report = take(tmp_path / "bag", tmp_path / "back")
    assert (report.episodes, report.skipped) == (4, [])
    before, wanted = held(tmp_path / "store"), joined(chunks)
    for key, (episode, columns) in held(tmp_path / "back").items():
        assert same_columns(columns, wanted[key]), key
        assert episode.result == before[key][0].result and episode.task == "reach"
    assert (take(tmp_path / "bag", tmp_path / "back")).unread == 4
    with pytest.raises(CodecError, match="a new"):
        export_mcap(tmp_path / "store", tmp_path / "bag")


def test_what_lies_behind_a_message_is_passed_over_and_what_is_missing_is_not(
    tmp_path, monkeypatch
):
    """As by ROS: ``rclpy`` writes some bytes more than a message has."""
    chunks = store(tmp_path / "store")
    encoded = Messages.encoded
    with monkeypatch.context() as patched:
        patched.setattr(Messages, "encoded", lambda *words: encoded(*words) + b"\x99" * 9)
        export_mcap(tmp_path / "store", tmp_path / "longer")
    wanted = joined(chunks)
    assert take(tmp_path / "longer", tmp_path / "back").skipped == []
    for key, (_, columns) in held(tmp_path / "back").items():
        assert same_columns(columns, wanted[key]), key
    messages = Messages()
    numbers = np.arange(5.0)
    kind = "std_msgs/msg/Float64MultiArray"
    data = messages.encoded(messages.array(numbers, kind), kind)
    assert np.array_equal(messages.decoded(data + bytes(40), kind).data, numbers)
    for short in (data[:-1], data[:9], data[:3], b"", b"\7\7" + data[2:]):
        with pytest.raises((ValueError, struct.error)):
            messages.decoded(short, kind)


def test_rosbags_and_mcap_read_the_standard_topics(tmp_path):
    from mcap.reader import make_reader

    chunks = store(tmp_path / "store")
    export_mcap(tmp_path / "store", tmp_path / "bag")
    wanted = next(iter(joined(chunks).values()))
    with rosbags.AnyReader([tmp_path / "bag"]) as reader:
        topics = {c.topic: c for c in reader.connections}
        assert {"/joint_states", "/camera/wrist/image_raw", "/user/action"} <= topics.keys()
        found = [
            reader.deserialize(raw, c.msgtype)
            for c, _, raw in reader.messages([topics["/joint_states"]])
        ]
        assert found[0].name == ["shoulder", "elbow"]
        seen = np.array([m.position for m in found[: len(wanted["reward"])]])
        assert np.array_equal(seen, wanted["observation.joint_position"].astype(np.float64))
        _, _, raw = next(reader.messages([topics["/camera/wrist/image_raw"]]))
        image = reader.deserialize(raw, "sensor_msgs/msg/Image")
        assert image.encoding == "rgb8" and image.height == 40 and image.step == 41 * 3
        assert np.array_equal(image.data.reshape(40, 41, 3), wanted["observation.image_wrist"][0])
    (file,) = (tmp_path / "bag").glob("*.mcap")
    with open(file, "rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary.statistics.message_count > 100 and summary.chunk_indexes


def test_a_bag_is_split_listed_and_repaired(tmp_path):
    channel = bags.Channel("/a", "std_msgs/msg/String", "string data\n")
    data = b"\0\1\0\0\4\0\0\0abc\0"
    writer = bags.BagWriter(tmp_path / "bag", "run", part_bytes=3000, chunk_bytes=500)
    for k in range(1100):
        writer.write(channel, k, data)
    writer.flush()
    writer.abandon()  # as a kill leaves it
    files = sorted((tmp_path / "bag").glob("*.mcap"))
    assert len(files) == 5
    whole = [bags.is_indexed(file) for file in files]
    assert whole == [True] * 4 + [False]
    left = files[-1].read_bytes()
    files[-1].write_bytes(left[: len(left) * 3 // 5])  # in the middle of a piece
    assert 0 < bags.repair(files[-1]) < 100
    assert bags.is_indexed(files[-1])
    again = bags.BagWriter(tmp_path / "bag", "run")
    again.write(channel, 2000, data)
    again.close()
    assert len(list((tmp_path / "bag").glob("*.mcap"))) == 6


def test_damage_of_an_export_is_named(tmp_path):
    store(tmp_path / "store")
    export_mcap(tmp_path / "store", tmp_path / "bag")
    (file,) = (tmp_path / "bag").glob("*.mcap")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    report = take(tmp_path / "bag", tmp_path / "back")
    assert len(report.skipped) >= 1 and "whole export" in report.skipped[0]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CodecError):
        open_source(tmp_path / "bag").__enter__()


def test_minari_opens_an_export_and_it_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    minari = pytest.importorskip("minari")
    chunks = store(tmp_path / "store")
    report = export_minari(tmp_path / "store", tmp_path / "minari" / "peg-v2")
    assert report.episodes == 4
    data = minari.load_dataset("peg-v2")
    wanted = list(joined(chunks).values())
    assert data.total_episodes == 4
    for episode, columns in zip(data.iterate_episodes(), wanted, strict=True):
        steps = len(episode.actions)
        assert np.array_equal(episode.actions, columns["action"][:steps])
        for name in SPEC.observation:
            seen, kept = episode.observations[name], columns[f"observation.{name}"]
            assert np.array_equal(np.asarray(seen), kept[: steps + 1]), name
        assert episode.terminations[-1] or episode.truncations[-1]
    back = take(tmp_path / "minari" / "peg-v2", tmp_path / "back")
    assert (back.episodes, back.skipped) == (4, [])
    ((_, columns), *_) = held(tmp_path / "back").values()
    assert columns["observation.observations_image_wrist"].shape[1:] == (40, 41, 3)


def test_pictures_of_minari_come_as_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    minari = pytest.importorskip("minari")
    spaces = pytest.importorskip("gymnasium").spaces
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, 36 * 40 * 3).astype(np.uint8).reshape(36, 40, 3)
    images = np.stack(
        [smooth + rng.integers(0, 9, smooth.shape).astype(np.uint8) for _ in range(5)]
    )
    minari.create_dataset_from_buffers(
        "lab/seen-v0", action_space=spaces.Box(-1, 1, (2,), np.float32),
        observation_space=spaces.Dict({"image": spaces.Box(0, 255, (36, 40, 3), np.uint8)}),
        buffer=[minari.data_collector.EpisodeBuffer(
            id=0, observations={"image": images}, actions=np.zeros((4, 2), np.float32),
            rewards=[0.0] * 4, terminations=[False] * 4, truncations=[False] * 3 + [True],
        )],
    )  # fmt: skip
    path = tmp_path / "minari/lab/seen-v0"
    with open_source(path) as source:
        (name,) = [n for n, f in source.describe().fields.items() if f.is_image]
        assert source.describe().fields[name].shape == (36, 40, 3)
    take(path, tmp_path / "store")
    ((_, columns),) = held(tmp_path / "store").values()
    (kept,) = [c for n, c in columns.items() if n.startswith("observation.")]
    (episode,) = minari.load_dataset("lab/seen-v0").iterate_episodes()
    assert np.array_equal(kept, episode.observations["image"])


def test_reading_needs_no_index_of_the_description(tmp_path):
    """The list of a bag may be lost."""
    store(tmp_path / "store")
    export_mcap(tmp_path / "store", tmp_path / "bag")
    (tmp_path / "bag" / bags.METADATA).unlink()
    with closing(find_format(tmp_path / "bag").open(tmp_path / "bag", {})) as source:
        assert len(source.episodes()) == 4
