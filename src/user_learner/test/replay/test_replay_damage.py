"""Disks that lie: what is damaged is set aside with the reason, the rest goes on."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from user_core.errors import StoreCorrupt
from user_learner.replay import ChunkStatus, StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_learner.sampling import ReplaySource
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, STILL, Actor, Plan, assert_holds, fill

CONFIG = QUICK.replace(segment_bytes=1)  # segments of 1024 rows


@pytest.fixture
def filled(tmp_path):
    """A store with two full segments and one that is being filled, and what is in it."""
    path, actor = tmp_path / "store", Actor(1, schema=IMAGE_SCHEMA, chunk_rows=64)
    with StoreWriter(path, config=CONFIG) as writer:
        chunks = fill(writer, actor, [Plan(700), Plan(800), Plan(900)])
    return path, actor, chunks


def column(path, segment, name="records.col"):
    return path / "segments" / f"{segment:08d}" / name


def flip(file, offset):
    with open(file, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 0x40]))


def truncate(file, nbytes):
    with open(file, "r+b") as stream:
        stream.truncate(nbytes)


def drawn_places(path):
    with ReplaySource(path, STILL) as source:
        places = [source.sample(512).observation["place"].copy() for _ in range(60)]
        return {tuple(place) for place in np.concatenate(places).tolist()}, len(source)


def goes_on(path, actor):
    """The store takes chunks, and gives them back."""
    with StoreWriter(path, config=CONFIG) as writer:
        chunks = fill(writer, actor, [Plan(50)])
        warnings = writer.warnings
    reader = StoreReader(path)
    episode = next(e for e in reader.episodes() if e.key == chunks[0].episode)
    assert episode.rows == 51
    places = reader.read_episode(episode)["observation.place"]
    assert places[:, 2].tolist() == list(range(51))
    reader.close()
    return warnings


def test_a_flipped_bit_is_found_and_only_its_block_is_set_aside(filled):
    path, actor, _ = filled
    name = "observation.image_wrist.col"
    flip(column(path, 2, name), 600 * 4928 + 77)  # a row of the second block of 512
    report = verify(path)
    assert not report.ok
    assert report.errors == [f"segment 2: checksum of {name}, rows 512 to 1023"]
    with StoreWriter(path, config=CONFIG) as writer:
        writer.set_aside(report.damages)
    report = verify(path)
    assert report.ok
    assert any("set aside" in warning for warning in report.warnings)
    seen, steps = drawn_places(path)
    # rows 512..1023 of segment 2 are rows 1536..2047 of all: of the third episode, from 34 on
    assert steps == 2400 - 512 - 1  # and the row before it has no successor
    lost = {(1, 2, row) for row in range(1536 - 1502, 2048 - 1502)}
    assert not seen & lost
    with ReplaySource(path, STILL) as source:
        assert any("checksum" in warning for warning in source.warnings)
    assert goes_on(path, actor) == []


@pytest.mark.parametrize("name", ["records.col", "observation.image_wrist.col"])
def test_a_truncated_segment_is_set_aside_whole(filled, name):
    path, actor, _ = filled
    truncate(column(path, 1, name), 100)
    seen, steps = drawn_places(path)  # a reader alone: it must not die by SIGBUS
    assert steps == 2403 - 1024 - 2
    assert min(row for _, episode, row in seen if episode == 1) == 1024 - 701
    assert not verify(path).ok
    assert any("segment 1 set aside" in warning for warning in goes_on(path, actor))
    assert verify(path).ok


def test_a_missing_segment_is_set_aside(filled):
    path, actor, _ = filled
    column(path, 2).unlink()
    assert any("No such file" in warning for warning in goes_on(path, actor))
    assert drawn_places(path)[1] > 1000


def test_the_segment_that_is_being_filled_is_checked_on_opening(filled):
    path, actor, chunks = filled
    flip(column(path, 3), 40)
    warnings = goes_on(path, actor)
    assert warnings == ["segment 3 set aside: checksum of records.col, rows 0 to 354"]
    reader = StoreReader(path)
    assert reader.tables.segments[:, 0].tolist() == [1, 2, 3, 4]  # nothing is appended to it
    reader.close()
    with StoreWriter(path, config=CONFIG) as writer:  # its producer still counts as served
        assert writer.append(chunks[-1]).status == ChunkStatus.DUPLICATE


def test_a_log_that_is_cut_short_closes_its_segment_only(filled):
    path, actor, _ = filled
    truncate(column(path, 3, "chunks.log"), 1000)
    before = drawn_places(path)[1]
    assert goes_on(path, actor) == ["segment 3 closed: its log is missing or cut short"]
    assert drawn_places(path)[1] == before + 50


def test_torn_bytes_behind_what_is_committed_do_not_matter(filled):
    path, _, chunks = filled
    with open(column(path, 3), "r+b") as stream:
        stream.seek(400 * 128)
        stream.write(b"\xff" * 5000)
    with open(column(path, 3, "chunks.log"), "ab") as stream:
        stream.write(b'0badc0de {"chunk": [')
    assert verify(path).ok
    actor = Actor(2, schema=IMAGE_SCHEMA, chunk_rows=64)
    with StoreWriter(path, config=CONFIG) as writer:
        assert writer.warnings == []
        more = fill(writer, actor, [Plan(300)])
    reader = StoreReader(path)
    assert_holds(reader, [*chunks, *more])
    reader.close()
    assert verify(path).ok


def index_damages(path):
    index = path / "index.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = index.stat().st_size

    def scribble(offset, length):
        with open(index, "r+b") as stream:
            stream.seek(offset)
            stream.write(np.random.default_rng(offset).bytes(length))

    return {
        "header": lambda: scribble(0, 100),
        "page": lambda: scribble(4096 * 3, 4096),
        "every page": lambda: scribble(4096, size - 4096),
        "short": lambda: truncate(index, 5000),
        "empty": lambda: truncate(index, 0),
        "gone": index.unlink,
        "another file": lambda: index.write_text("not a database" * 1000),
    }


@pytest.mark.parametrize(
    "kind", ["header", "page", "every page", "short", "empty", "gone", "another file"]
)
def test_a_damaged_index_is_rebuilt_with_everything_that_was_acknowledged(filled, kind):
    path, actor, chunks = filled
    second = Actor(2, schema=IMAGE_SCHEMA, chunk_rows=10)
    with StoreWriter(path, config=CONFIG) as writer:
        identity = writer.store
        chunks += fill(writer, second, [Plan(35, humans=frozenset({1, 2}))])
        open_chunks = second.chunks(Plan(25))
        chunks.append(open_chunks[0])
        writer.append(open_chunks[0])
        writer.commit()
    index_damages(path)[kind]()
    if kind != "gone":
        with pytest.raises(StoreCorrupt):
            StoreReader(path)
    with StoreWriter(path, config=CONFIG) as writer:
        assert any("index rebuilt" in warning for warning in writer.warnings)
        assert writer.store == identity
        assert {(a.producer, a.sequence) for a in writer.acknowledged()} == {
            (actor.name, actor.sequence),
            (second.name, open_chunks[0].id.sequence),
        }
        for chunk in chunks:
            assert writer.append(chunk).status == ChunkStatus.DUPLICATE
        for chunk in open_chunks[1:]:
            assert writer.append(chunk).status == ChunkStatus.STAGED
    reader = StoreReader(path, with_actors=True)
    assert_holds(reader, [*chunks, *open_chunks[1:]])
    assert reader.meta.steps == {0: 2400 + 35 + 25}
    assert reader.tables.actors[:, 3].tolist().count(1) == 1  # one intervention of two steps
    results = [episode.result for episode in reader.episodes()]
    assert all(result is not None for result in results)
    reader.close()
    assert verify(path).ok
    kept = list(path.glob("index.sqlite.damaged-*"))
    assert bool(kept) == (kind != "gone")


def test_rebuilding_sets_damaged_rows_aside_too(filled):
    path, actor, _ = filled
    flip(column(path, 1), 200 * 128)
    truncate(column(path, 2), 512 * 64)
    (path / "index.sqlite").unlink()
    warnings = goes_on(path, actor)
    assert any("segment 1 set aside: checksum of block 0" in w for w in warnings), warnings
    assert any("segment 2 set aside" in w for w in warnings)
    assert verify(path).ok


def test_rebuilding_keeps_what_was_durable_and_cuts_what_was_being_written(tmp_path):
    """As after a power cut that took the index as well: the end of a segment is torn."""
    actor = Actor(1, chunk_rows=10)
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        chunks = fill(writer, actor, [Plan(55)])
    flip(column(tmp_path, 1), 52 * 64)  # in the last chunk, rows 50 to 55
    (tmp_path / "index.sqlite").unlink()
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        assert [ack.sequence for ack in writer.acknowledged()] == [5]
        assert writer.append(chunks[5]).status == ChunkStatus.STAGED
    reader = StoreReader(tmp_path)
    assert_holds(reader, chunks)
    reader.close()
    assert verify(tmp_path).ok


def test_a_reader_goes_on_after_the_index_was_rebuilt(tmp_path):
    actor = Actor(1)
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        fill(writer, actor, [Plan(30)])
    with ReplaySource(tmp_path, STILL) as source:
        assert len(source) == 30
        source.sample(8)
        (tmp_path / "index.sqlite").rename(tmp_path / "lost")
        source.refresh()  # it is gone: what was known stays known
        assert len(source) == 30
        with StoreWriter(tmp_path, config=CONFIG) as writer:
            fill(writer, actor, [Plan(12)])
            assert source.refresh()
            assert len(source) == 42
            batch = source.sample(256)
            assert set(batch.observation["place"][:, 1].tolist()) == {0, 1}


def test_nothing_readable_is_left_alone(tmp_path):
    with StoreWriter(tmp_path, config=CONFIG) as writer:
        fill(writer, Actor(), [Plan(3)])
    (tmp_path / "index.sqlite").unlink()
    column(tmp_path, 1, "chunks.log").write_bytes(b"nothing of sense")
    with pytest.raises(StoreCorrupt, match="neither an index nor a segment"):
        StoreWriter(tmp_path, config=CONFIG)
    assert column(tmp_path, 1).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("producers SET sequence = sequence + 1", "1 acknowledged chunks are missing"),
        ("producers SET sequence = 3", "is stored, and 3 the last that is acknowledged"),
        ("extents SET rows = rows - 1 WHERE id = 1", "is in no episode, or in two"),
        ("episodes SET rows = rows + 1 WHERE id = 2", "802 rows came, 801 are here"),
        ("episodes SET ended = 0", "is not closed"),
        ("segments SET rows = rows - 5 WHERE id = 3", "350 rows, but chunks for 355"),
    ],
)
def test_verification_finds_what_contradicts_itself(filled, change, words):
    path = filled[0]
    assert verify(path).ok
    with closing(sqlite3.connect(path / "index.sqlite")) as connection, connection:
        connection.execute(f"UPDATE {change}")
    report = verify(path)
    assert any(words in error for error in report.errors), report.errors
