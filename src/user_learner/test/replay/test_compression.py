"""Images at rest: smaller, read by everybody as before, and never lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from unittest.mock import patch

import numpy as np
import pytest

from user_core.errors import ConfigError, StoreCorrupt, StoreError, StoreFull
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import EpisodeKey, Outcome, TrajectorySchema
from user_learner.cli.data import main
from user_learner.cli.replay import main as replay_main
from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay import packed as packed_module
from user_learner.replay.config import CompressionConfig
from user_learner.replay.index import INDEX_NAME, connect
from user_learner.replay.layout import RowLayout, column_file
from user_learner.replay.maintenance import verify
from user_learner.replay.packed import PackedColumn, pack_file, unpack_file, unpack_into
from user_learner.replay.recovery import set_index_aside
from user_learner.replay.segments import read_rows, segment_directory
from user_learner.sampling import ReplaySource
from user_learner.upkeep import compression
from user_learner.upkeep.backup import backup, restore
from user_learner.upkeep.compression import compress, saved_bytes, upkeep_lock, waits
from user_learner.upkeep.retention import retain
from user_learner.upkeep.tiering import bring_back, move_old
from user_testing.worlds.replay import (
    IMAGE_SCHEMA,
    QUICK,
    STILL,
    Actor,
    Plan,
    assert_holds,
    assert_same,
    blank_episode,
    contents,
    fill,
    whole_episode,
)

SMALL = QUICK.replace(segment_bytes=1)  # 1024 rows
NOW = CompressionConfig(raw_bytes=0)
WRIST = RowLayout(IMAGE_SCHEMA).files[1]


def make(path, episodes=30, rows=100, actor=None):
    actor = actor or Actor(1, schema=IMAGE_SCHEMA, chunk_rows=100)
    with StoreWriter(path, config=SMALL) as writer:
        return fill(writer, actor, [Plan(rows)] * episodes)


def version(path):
    with closing(connect(path, writable=False)) as index:
        return index.execute("SELECT value FROM meta WHERE key='format_version'").fetchone()[0]


def files(path, ending):
    return sorted(path.rglob(f"*.{ending}"))


def photo(rng, rows, height=48, width=64):
    """Images as a camera gives them: smooth shapes that move, and noise."""
    y, x = np.mgrid[0:height, 0:width]
    moved = np.arange(rows)[:, None, None]
    shade = 120 + 60 * np.sin((x + moved) / 9) + 40 * np.cos(y / 7)
    image = np.stack([shade, shade * 0.8, 255 - shade], axis=3)
    return (image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


def column(shape, dtype="uint8"):
    return column_file("observation.x", {"observation.x": ArraySpec(shape, dtype)})


# --- the files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((40, 41, 3), "uint8"), ((64, 70), "uint8"), ((48, 48), "uint16"), ((2000,), "float32"),
     ((24, 48, 4), "float32"), ((8, 9, 9, 9), "bool"), ((5000,), "uint8")],
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, 16, 45])
def test_any_rows_of_any_large_column_are_as_they_were(tmp_path, shape, dtype, rows):
    rng, file = np.random.default_rng(3), column(shape, dtype)
    raw = np.zeros((rows, file.stride), np.uint8)
    raw[:, : file.dtype[0].itemsize] = rng.integers(0, 255, (rows, file.dtype[0].itemsize))
    raw[rows // 2 :, :99] = 7
    (tmp_path / file.filename).write_bytes(raw.tobytes())
    header = pack_file(tmp_path, file, rows, "zstd")
    assert header.rows == rows and not (tmp_path / file.filename).exists()
    for start, count in [(0, rows), (rows - 1, 1), (rows // 3, rows - rows // 3), (0, 1)]:
        assert np.array_equal(read_rows(tmp_path, file, start, count), raw[start : start + count])
    out = np.ones_like(raw)
    unpack_into(tmp_path / file.packed_filename, file, out)
    assert np.array_equal(out, raw)
    unpack_file(tmp_path, file, rows + 5)
    data = (tmp_path / file.filename).read_bytes()
    assert data[: raw.nbytes] == raw.tobytes() and len(data) == (rows + 5) * file.stride
    assert files(tmp_path, "packed") == []


@pytest.mark.parametrize("kind", ["still", "moving", "noise", "flat"])
def test_every_way_of_predicting_gives_the_images_back(tmp_path, kind):
    rng, file = np.random.default_rng(5), column((48, 64, 3))
    images = {
        "still": np.repeat(photo(rng, 1), 40, axis=0), "moving": photo(rng, 40),
        "noise": rng.integers(0, 256, (40, 48, 64, 3), np.uint8), "flat": np.full((40, 48, 64, 3), 9, np.uint8),
    }[kind]  # fmt: skip
    (tmp_path / file.filename).write_bytes(images.tobytes())
    header = pack_file(tmp_path, file, 40, "zstd")
    assert np.array_equal(read_rows(tmp_path, file, 0, 40).reshape(images.shape), images)
    assert (
        header.nbytes
        < images.nbytes * {"still": 0.1, "moving": 0.75, "noise": 1.01, "flat": 0.02}[kind]
    )


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 96), (48, 96, 1)])
@pytest.mark.parametrize("coding", ["jpeg90", "webp90"])
def test_with_loss_images_are_as_good_as_the_file_says(tmp_path, coding, shape):
    file, rng = column(shape), np.random.default_rng(1)
    images = photo(rng, 21, 48, 96)[..., :1] if shape[-1] != 3 else photo(rng, 21)
    (tmp_path / file.filename).write_bytes(images.tobytes())
    header = pack_file(tmp_path, file, 21, coding)
    found = read_rows(tmp_path, file, 0, 21).reshape(images.shape).astype(float)
    square = np.mean((found - images) ** 2, axis=(1, 2, 3))
    worst, mean = header.psnr_db
    assert worst == pytest.approx(10 * np.log10(255**2 / square.max()), abs=0.02) and worst > 30
    assert mean == pytest.approx(10 * np.log10(255**2 / square.mean()), abs=0.02)
    assert np.array_equal(
        read_rows(tmp_path, file, 17, 3).reshape(3, -1), found[17:20].reshape(3, -1)
    )
    assert header.nbytes < images.nbytes / 3


def test_colours_are_those_that_another_program_sees(tmp_path):
    from io import BytesIO

    from PIL import Image

    file = column((48, 64, 3))
    images = np.zeros((2, 48, 64, 3), np.uint8)
    images[:] = 200, 40, 10
    (tmp_path / file.filename).write_bytes(images.tobytes())
    pack_file(tmp_path, file, 2, "jpeg95")
    with PackedColumn(tmp_path / file.packed_filename, file) as packed:
        seen = np.array(Image.open(BytesIO(packed.images(1, 1)[0])))
    assert np.abs(seen.astype(int) - images[1]).max() < 4


def test_a_file_that_is_cut_short_or_of_another_column_is_told(tmp_path):
    file = column((40, 41, 3))
    (tmp_path / file.filename).write_bytes(bytes(file.stride * 20))
    pack_file(tmp_path, file, 20, "zstd")
    path = tmp_path / file.packed_filename
    with pytest.raises(StoreCorrupt, match="rows of"):
        PackedColumn(path, column((41, 40, 3)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreCorrupt, match="bytes instead of"):
        PackedColumn(path, file)
    for data in (b"", b"nothing of the kind" * 40, whole[:300]):
        path.write_bytes(data)
        with pytest.raises(StoreCorrupt):
            PackedColumn(path, file)
    path.write_bytes(whole)
    with PackedColumn(path, file) as packed, pytest.raises(StoreCorrupt, match="are committed"):
        packed.read(10, np.empty((11, file.stride), np.uint8))
    path.write_bytes(whole[:512] + b"\xff" * 16 + whole[528:])  # where the first group is
    with PackedColumn(path, file) as packed, pytest.raises(StoreCorrupt, match="behind the end"):
        packed.read(0, np.empty((1, file.stride), np.uint8))
    for said, instead in (
        (b'"group_rows": 16', b'"group_rows":  0'),
        (b'"rows": 20', b'"rows": -1'),
    ):
        assert said in whole
        path.write_bytes(whole.replace(said, instead, 1))
        with pytest.raises(StoreCorrupt, match="header"):
            PackedColumn(path, file)


# --- a store -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    """A store of 3030 rows in three segments, of which two are full."""
    chunks = make(tmp_path / "store")
    return tmp_path / "store", chunks


def test_everybody_reads_a_compressed_store_and_writes_on(store):
    path, chunks = store
    before = contents(path)
    assert waits(path, NOW)
    report = compress(path, NOW)
    assert not waits(path, NOW)
    assert report.segments == 2 and report.notes == [] and report.nbytes < report.raw_nbytes / 10
    assert len(files(path, "packed")) == 2 and len(files(path, "new")) == 0
    assert len([f for f in files(path, "col") if f.name == WRIST.filename]) == 1
    assert_same(before, contents(path))
    assert verify(path).ok
    assert compress(path, NOW).segments == 0  # done already
    with closing(StoreReader(path)) as reader:
        assert saved_bytes(reader) == report.raw_nbytes - report.nbytes
        known = {}
        assert saved_bytes(reader, known) == saved_bytes(reader)
        opened = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                compression, "PackedColumn",
                lambda *words: (opened.append(words), PackedColumn(*words))[1],
            )  # fmt: skip
            assert saved_bytes(reader, known) == saved_bytes(reader, dict(known))
            assert not opened and len(known) > 1, "what has not changed is not opened again"
            os.utime(next(iter(known)))
            assert saved_bytes(reader, known) == report.raw_nbytes - report.nbytes
        assert len(opened) == 1
    with StoreWriter(path, config=SMALL) as writer:
        assert writer.warnings == []
        chunks = [*chunks, *fill(writer, Actor(2, schema=IMAGE_SCHEMA), [Plan(30)] * 3)]
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)


def test_the_newest_rows_stay_raw(store):
    path, _ = store
    row = RowLayout(IMAGE_SCHEMA).row_nbytes
    assert not waits(path, CompressionConfig())
    assert compress(path, CompressionConfig()).segments == 0
    some = NOW.replace(raw_bytes=1500 * row)
    assert waits(path, some)
    assert compress(path, some).segments == 1
    assert not waits(path, some) and waits(path, NOW)
    assert (segment_directory(path, 1) / WRIST.packed_filename).exists()


def test_what_is_not_wanted_stays_raw_and_what_cannot_be_is_told(store):
    path, _ = store
    for wanted in ({"images": "raw"}, {"cameras": {"image_wrist": "raw"}}):
        assert not waits(path, NOW.replace(**wanted))
        assert compress(path, NOW.replace(**wanted)).segments == 0
    for call in (compress, waits):
        with pytest.raises(ConfigError, match="image_front"):
            call(path, NOW.replace(cameras={"image_front": "zstd"}))
    with pytest.raises(ConfigError, match="coding"):
        CompressionConfig(images="gif")
    assert files(path, "packed") == []


def test_a_column_that_is_no_image_is_never_coded_with_loss(tmp_path):
    spec = RobotSpec(
        "arm", {"depth": ArraySpec((40, 40), "float32"), "image": ArraySpec((40, 40, 3), "uint8"),
                "place": ArraySpec((3,), "int32")}, ArraySpec((2,)),
    )  # fmt: skip
    schema, rng = TrajectorySchema.of(spec), np.random.default_rng(1)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        for number in range(2):
            columns = blank_episode(schema, 600)
            columns["observation.depth"] += rng.random((600, 40, 40), np.float32)
            key = EpisodeKey("actor1", 1, number)
            writer.append(whole_episode(key, schema, columns, Outcome.SUCCESS))
    with pytest.raises(ConfigError, match=r"depth.*one or three channels"):
        compress(tmp_path, NOW.replace(cameras={"depth": "jpeg90"}))
    before = contents(tmp_path)
    assert compress(tmp_path, NOW.replace(images="jpeg95")).psnr_db.keys() == {"observation.image"}
    after = contents(tmp_path)
    for key in before:
        assert np.array_equal(before[key]["observation.depth"], after[key]["observation.depth"])


def test_batches_from_compressed_segments_are_those_of_raw_ones(store, tmp_path):
    path, _ = store
    shutil.copytree(path, tmp_path / "raw")
    compress(path, NOW)
    with (
        ReplaySource(path, STILL) as one,
        ReplaySource(tmp_path / "raw", STILL) as other,
    ):
        for _ in range(5):
            ours, theirs = one.sample(64), other.sample(64)
            for name in ("image_wrist", "place"):
                assert np.array_equal(ours.observation[name], theirs.observation[name])
                assert np.array_equal(ours.next_observation[name], theirs.next_observation[name])
    assert not one.cached


def test_a_store_larger_than_memory_is_decoded_into_the_cache(store):
    path, _ = store
    compress(path, NOW)
    config = STILL.replace(memory_bytes=13 * 2**20, max_draws_per_load=2.0, read_bytes_per_s=1e9)
    seen = set()
    with ReplaySource(path, config) as source:
        for _ in range(60):
            batch = source.sample(64)
            assert source.cached
            place = batch.observation["place"]
            wanted = [(p[0] * 101 + p[1] * 13 + p[2] * 5) % 256 for p in place.tolist()]
            assert np.array_equal(batch.observation["image_wrist"][:, 3, 5, 1], wanted)
            seen |= {tuple(p) for p in place.tolist()}
        assert source.warnings == []
    assert len(seen) > 1500, len(seen)


def test_a_running_learner_goes_on_while_its_segments_are_compressed(store):
    path, _ = store
    with ReplaySource(path, STILL) as source:
        source.sample(32)
        compress(path, NOW)
        make(path, 5, actor=Actor(2, schema=IMAGE_SCHEMA, chunk_rows=100))
        source.refresh()
        for _ in range(10):
            batch = source.sample(256)
            place = batch.observation["place"]
            wanted = [(p[0] * 101 + p[1] * 13 + p[2] * 5) % 256 for p in place.tolist()]
            assert np.array_equal(batch.observation["image_wrist"][:, 0, 0, 0], wanted)


def test_a_release_that_does_not_know_compressed_columns_refuses_the_store(store):
    path, _ = store
    assert version(path) == 1
    compress(path, NOW)
    assert version(path) == 2
    set_index_aside(path)
    with StoreWriter(path, config=SMALL) as writer:
        assert "index rebuilt" in writer.warnings[0]
    assert version(path) == 2 and verify(path).ok


def test_a_lost_index_comes_back_of_compressed_segments(store):
    path, chunks = store
    compress(path, NOW)
    set_index_aside(path)
    with StoreWriter(path, config=SMALL):
        pass
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)


# --- loss --------------------------------------------------------------------------------------


def test_with_loss_a_store_is_whole_and_damage_is_found(store):
    path, _ = store
    assert compress(path, NOW.replace(images="jpeg90")).psnr_db["observation.image_wrist"] > 40
    assert verify(path).ok
    damage(path)
    report = verify(path)
    assert not report.ok and {d.segment for d in report.damages} == {1}


def test_rules_of_retention_do_not_lose_more_of_images_each_time(store, tmp_path):
    path, _ = store
    noisy(path)
    compress(path, NOW.replace(images="jpeg40"))
    before = contents(path)
    with StoreWriter(path, config=SMALL) as writer:
        gone = retain(writer, RetentionConfig(max_rows=2500, thin=2))
    assert gone
    compress(path, NOW.replace(images="jpeg40"))
    after = contents(path)
    assert_same({key: before[key] for key in after}, after)
    assert 0 < len(after) < len(before) and verify(path).ok


def test_images_without_loss_are_not_joined_with_those_that_have_some(store):
    path, _ = store
    noisy(path)
    newest = 1500 * RowLayout(IMAGE_SCHEMA).row_nbytes
    assert compress(path, NOW.replace(images="jpeg40", raw_bytes=newest)).segments == 1
    assert compress(path, NOW).segments == 1
    before = contents(path)
    with StoreWriter(path, config=SMALL) as writer:
        gone = retain(writer, RetentionConfig(max_rows=1, thin=3))
    assert {one.segment for one in gone} == {1, 2}
    after = contents(path)
    assert_same({key: before[key] for key in after}, after)
    assert 0 < len(after) < len(before) and verify(path).ok


def noisy(path):
    """Give the images of full segments something to lose, and their checksums with it."""
    with closing(StoreReader(path)) as reader:
        for number, _, rows in reader.tables.segments.tolist():
            place = segment_directory(path, number)
            with open(place / WRIST.filename, "r+b") as stream:
                images = np.random.default_rng(number).integers(90, 160, (rows, WRIST.stride))
                images[:, 4920:] = 0
                stream.write(images.astype(np.uint8).tobytes())
            rewrite_log(reader, number, place)


def rewrite_log(reader, number, place):
    import zlib
    from dataclasses import replace

    from user_learner.replay.layout import LOG_NAME, encode_entry

    entries = reader.log(number)
    header = (place / LOG_NAME).read_bytes().split(b"\n")[0] + b"\n"
    lines = []
    block_rows = reader.meta.block_rows
    for entry in entries:
        sums = {}
        for block in entry.checksums:
            start, stop = (
                block * block_rows,
                min(entry.start + entry.rows, (block + 1) * block_rows),
            )
            sums[block] = [
                zlib.crc32(read_rows(place, file, start, stop - start).tobytes())
                for file in reader.layout.files
            ]
        lines.append(encode_entry(replace(entry, checksums=sums)))
    data = header + b"".join(lines)
    (place / LOG_NAME).write_bytes(data)
    with closing(connect(reader.path, writable=True)) as index:
        index.execute("UPDATE segments SET log_bytes = ?, checksums = ? WHERE id = ?",
                      (len(data), str(list(sums.values())[-1]), number))  # fmt: skip


# --- damage, full disks, kills -----------------------------------------------------------------


def damage(path, segment=1):
    with open(segment_directory(path, segment) / WRIST.packed_filename, "r+b") as stream:
        stream.seek(-40, os.SEEK_END)
        stream.write(b"\xff" * 8)


def test_damage_in_a_compressed_file_costs_its_block_and_no_more(store):
    path, _ = store
    before = contents(path)
    compress(path, NOW)
    damage(path)
    replay_main(["verify", str(path), "--repair"])
    with closing(StoreReader(path)) as reader:
        (found,) = reader.tables.damages
        assert found.segment == 1 and found.block >= 0
    with ReplaySource(path, STILL.replace(memory_bytes=0)) as source:
        assert len(source) > 2000
        source.sample(64)  # its rows are mapped, without those that are set aside
    assert before.keys() == contents_that_can(path).keys()


def contents_that_can(path):
    found = {}
    with closing(StoreReader(path)) as reader:
        for episode in reader.episodes():
            try:
                found[episode.key] = reader.read_episode(episode)
            except StoreCorrupt:
                found[episode.key] = None
    return found


def test_a_damaged_raw_segment_stays_as_it_is(store):
    path, _ = store
    with open(segment_directory(path, 1) / WRIST.filename, "r+b") as stream:
        stream.seek(WRIST.stride * 700)
        stream.write(b"!!")
    for images in ("zstd", "jpeg90"):
        report = compress(path, NOW.replace(images=images))
        assert len(report.notes) == 1 and "segment 1 stays as it is" in report.notes[0]
    assert (segment_directory(path, 1) / WRIST.filename).exists()
    assert not (segment_directory(path, 2) / WRIST.filename).exists()


def test_a_full_disk_stops_the_compression_and_nothing_else(store):
    path, chunks = store
    with pytest.raises(StoreFull):
        compress(path, NOW, min_free_bytes=2**60)
    real, wrote = os.pwrite, []

    def full(handle, data, offset):
        wrote.append(len(data))
        if sum(wrote) > 300:
            raise OSError(28, "No space left on device")
        return real(handle, data, offset)

    with patch.object(packed_module.os, "pwrite", full), pytest.raises(StoreFull):
        compress(path, NOW)
    assert files(path, "packed") == files(path, "new") == []
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)
    assert compress(path, NOW).segments == 2


def test_a_segment_that_retention_takes_meanwhile_is_passed_over(store):
    path, _ = store
    first, asked = segment_directory(path, 1), []

    def retention_takes_it():
        if any(first.glob("*.new")) and not asked:
            asked.append(True)
            with closing(connect(path, writable=True)) as index:
                index.execute("DELETE FROM segments WHERE id = 1")
            for file in first.glob("*.col"):  # what is being written stays in its way
                file.unlink()
        return False

    report = compress(path, NOW, is_over=retention_takes_it)
    assert asked and report.segments == 1
    assert len(report.notes) == 1 and "segment 1 stays as it is" in report.notes[0]


def test_what_is_read_back_otherwise_does_not_take_the_place_of_anything(store):
    path, chunks = store
    real = packed_module._left_over

    def wrong(rows, code):
        left_over = real(rows, code)
        left_over[-1, 3] ^= 1
        return left_over

    with patch.object(packed_module, "_left_over", wrong):
        report = compress(path, NOW)
    assert len(report.notes) == 2 and "other bytes" in report.notes[0]
    assert files(path, "packed") == files(path, "new") == []
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)


_KILLED = """
import os, sys
from pathlib import Path
from user_learner.replay import packed
from user_learner.replay.config import CompressionConfig
from user_learner.upkeep.compression import compress, decompress
at, path = sys.argv[1], sys.argv[2]
def die(*words, **more): os.kill(os.getpid(), 9)
if at.startswith("undo"):
    compress(path, CompressionConfig(raw_bytes=0))
if at.endswith("writing"):
    packed.os.fsync = die
elif at.endswith("written"):
    packed.os.replace = die
elif at.endswith("renamed"):
    packed.sync_directory = die
elif at.endswith("removed"):
    unlink = Path.unlink
    Path.unlink = lambda path, **more: (unlink(path, **more), die())
(decompress if at.startswith("undo") else lambda p: compress(p, CompressionConfig(raw_bytes=0)))(path)
"""


@pytest.mark.parametrize(
    "at",
    ["writing", "written", "renamed", "removed", "undo writing", "undo written", "undo renamed"],
)
def test_a_kill_at_any_moment_leaves_one_or_both_files(store, at):
    path, chunks = store
    done = subprocess.run([sys.executable, "-c", _KILLED, at, str(path)], check=False)
    assert done.returncode == -9
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)
    assert verify(path).ok
    with StoreWriter(path, config=SMALL) as writer:
        assert writer.warnings == []
    compress(path, NOW)
    assert len(files(path, "packed")) == 2 and files(path, "new") == []
    assert len([f for f in files(path, "col") if f.name == WRIST.filename]) == 1
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)


# --- beside the other upkeep -------------------------------------------------------------------


def test_backup_restore_and_the_slower_disk_take_compressed_segments(store, tmp_path):
    path, _ = store
    before = contents(path)
    backup(path, tmp_path / "copy")
    compress(path, NOW)
    assert backup(path, tmp_path / "copy").copied <= 1  # it has them, plain
    backup(path, tmp_path / "second")
    assert len(files(tmp_path / "second", "packed")) == 2
    assert_same(before, contents(tmp_path / "second"))
    assert restore(tmp_path / "second", tmp_path / "back").ok
    assert_same(before, contents(tmp_path / "back"))
    move_old(path, tmp_path / "slow", keep_bytes=0)
    assert_same(before, contents(path))
    assert verify(path).ok
    bring_back(path)
    assert_same(before, contents(path))
    with upkeep_lock(path):
        for work in (lambda: compress(path, NOW), lambda: move_old(path, tmp_path / "slow", 0)):
            with pytest.raises(StoreError, match="upkeep"):
                work()


def test_segments_on_a_slower_disk_are_compressed_there(store, tmp_path):
    path, _ = store
    before = contents(path)
    move_old(path, tmp_path / "slow", keep_bytes=0)
    assert compress(path, NOW).segments == 2
    assert len(files(tmp_path / "slow", "packed")) == 2
    assert_same(before, contents(path))


def test_retention_takes_compressed_segments_and_keeps_of_them(store):
    path, _ = store
    before = contents(path)
    compress(path, NOW)
    with StoreWriter(path, config=SMALL) as writer:
        assert retain(writer, RetentionConfig(max_rows=2500, thin=3))
    after = contents(path)
    assert_same({key: before[key] for key in after}, after)
    with StoreWriter(path, config=SMALL) as writer:
        assert retain(writer, RetentionConfig(max_rows=1))
    assert verify(path).ok


def test_the_command_tells_what_it_did_and_undoes_it(store, capsys):
    path, chunks = store
    assert main(["compress", str(path)]) == 0
    assert "2 segments" in capsys.readouterr().out
    assert main(["compress", str(path)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["compress", str(path), "--undo"]) == 0
    assert files(path, "packed") == []
    assert version(path) == 1  # so that an older release takes it again
    with closing(StoreReader(path)) as reader:
        assert_holds(reader, chunks)
    assert main(["compress", str(path), "--camera", "image_wrist=webp80"]) == 0
    assert "PSNR of the worst image" in capsys.readouterr().out
    assert main(["compress", str(path / "nowhere")]) == 2


def test_a_store_of_numbers_alone_has_nothing_to_compress(tmp_path):
    with StoreWriter(tmp_path, config=SMALL) as writer:
        fill(writer, Actor(1), [Plan(200)] * 12)
    assert compress(tmp_path, NOW).segments == 0
    assert (tmp_path / INDEX_NAME).exists()
