"""Export to LeRobotDataset v3 and back: numbers bit by bit, images without loss or with one that is told."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from user_core.errors import CodecError
from user_core.specs import ActionKind
from user_core.types import EpisodeSource, Outcome
from user_learner.data.exporting import Choice, export_hdf5, export_lerobot
from user_learner.data.lerobot.layout import OUR_MEANING
from user_learner.data.source import open_source
from user_learner.edits import Edit
from user_learner.edits.view import EditedEpisodes
from user_learner.replay.meaning import write_meaning
from user_testing.processes import killed_after
from user_testing.worlds.data_sets import SPEC, as_version_2_1, held, store, take
from user_testing.worlds.replay import joined, same_columns

pytest.importorskip("pyarrow")
pytest.importorskip("av")


@pytest.mark.parametrize("coding", ["lossless", "png"])
def test_a_store_comes_back_from_v3_bit_by_bit(tmp_path, coding):
    chunks = store(tmp_path / "store")
    exported = export_lerobot(tmp_path / "store", tmp_path / "v3", coding=coding, file_steps=10)
    assert exported.episodes == 4 and exported.psnr_db == float("inf")
    report = take(tmp_path / "v3", tmp_path / "back")
    assert (report.episodes, report.skipped) == (4, [])
    before, after, wanted = held(tmp_path / "store"), held(tmp_path / "back"), joined(chunks)
    assert after.keys() == wanted.keys()
    for key, (episode, columns) in after.items():
        assert same_columns(columns, wanted[key]), key
        assert episode.result == before[key][0].result
        assert (episode.robot, episode.task, episode.source) == (
            "arm", "reach", before[key][0].source
        )  # fmt: skip
    again = take(tmp_path / "v3", tmp_path / "back")
    assert (again.episodes, again.duplicates, again.unread) == (0, 4, 4)
    assert take(tmp_path / "v3", tmp_path / "store").duplicates == 4


def test_a_store_of_what_robots_sent_is_exported_with_the_names_of_its_elements(tmp_path):
    store(tmp_path / "store")
    write_meaning(tmp_path / "store", SPEC)
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="png")
    features = json.loads((tmp_path / "v3/meta/info.json").read_text())["features"]
    names = ["joint_position.shoulder", "joint_position.elbow", "opening"]
    assert features["observation.state"]["names"] == names
    assert features["action"]["names"] == list(SPEC.action.names)
    # one that was begun when they were not told goes on
    mark = tmp_path / "v3" / OUR_MEANING
    about = json.loads(mark.read_text())
    for column in about["schema"].values():
        column.pop("names", None)
    mark.write_text(json.dumps(about))
    again = export_lerobot(tmp_path / "store", tmp_path / "v3", coding="png")
    assert (again.episodes, again.duplicates) == (0, 4)
    features = json.loads((tmp_path / "v3/meta/info.json").read_text())["features"]
    assert features["observation.state"]["names"] == names


def test_a_lossy_export_says_its_loss_and_keeps_every_number(tmp_path):
    chunks = store(tmp_path / "store")
    report = export_lerobot(tmp_path / "store", tmp_path / "v3", coding="h264")
    assert 10 < report.psnr_db < 60
    said = json.loads((tmp_path / "v3/user/meaning.json").read_text())
    assert said["psnr_db"] == pytest.approx(report.psnr_db, abs=0.01)
    taken = take(tmp_path / "v3", tmp_path / "back")
    assert any("dB PSNR" in note for note in taken.notes)
    for key, (_, columns) in held(tmp_path / "back").items():
        wanted = joined(chunks)[key]
        images = [n for n in columns if n in ("observation.image_wrist", "observation.depth")]
        rest = {n: c for n, c in columns.items() if n not in images}
        assert same_columns(rest, {n: c for n, c in wanted.items() if n not in images})


def test_what_is_chosen_is_exported(tmp_path):
    store(tmp_path / "store")
    choice = Choice(sources=[EpisodeSource.ONLINE, EpisodeSource.EVALUATION],
                    outcomes=[Outcome.SUCCESS])  # fmt: skip
    assert export_lerobot(tmp_path / "store", tmp_path / "v3", choice, "png").episodes == 1
    with open_source(tmp_path / "v3") as source:
        assert [ref.steps for ref in source.episodes()] == [4]


def test_another_export_is_not_mixed_in(tmp_path):
    store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="png")
    with pytest.raises(CodecError, match="another export"):
        export_lerobot(tmp_path / "store", tmp_path / "v3", coding="h264")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("mine")
    with pytest.raises(CodecError, match="other files"):
        export_lerobot(tmp_path / "store", tmp_path / "other")
    assert (tmp_path / "other/thesis.tex").read_text() == "mine"


_EXPORT = """
import sys, time
from user_learner.data.exporting import export_lerobot
def slowly(done, total):
    print(done, flush=True)
    if done == 3:
        print("three are begun", flush=True)
        time.sleep(60)
export_lerobot(*sys.argv[1:], file_steps=10, progress=slowly)
"""


def test_an_export_that_was_killed_is_not_continued_after_an_edit(tmp_path):
    """Else its first files were as before the edit, and the others as after it."""
    store(tmp_path / "store")
    key = next(iter(held(tmp_path / "store")))
    words = [sys.executable, "-c", _EXPORT, str(tmp_path / "store"), str(tmp_path / "v3")]
    assert "three are begun\n" in killed_after(words, 3.0)
    written = {file: file.read_bytes() for file in (tmp_path / "v3").rglob("*.parquet")}
    assert written
    with EditedEpisodes(tmp_path / "store") as edited:
        edited.append(Edit.exclude([key]))
    with pytest.raises(CodecError, match="began with 0 edits .* there are 1 now.*new directory"):
        export_lerobot(tmp_path / "store", tmp_path / "v3", file_steps=10)
    assert {f: f.read_bytes() for f in (tmp_path / "v3").rglob("*.parquet")} == written
    with pytest.raises(CodecError, match="not finished"):
        take(tmp_path / "v3", tmp_path / "early")
    assert export_lerobot(tmp_path / "store", tmp_path / "new", file_steps=10).episodes == 3
    take(tmp_path / "new", tmp_path / "back")
    assert held(tmp_path / "back").keys() == held(tmp_path / "store").keys() - {key}


def test_an_export_that_was_stopped_continues_with_whole_files(tmp_path):
    store(tmp_path / "store")

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lerobot(tmp_path / "store", tmp_path / "v3", file_steps=10, progress=stop)
    with pytest.raises(CodecError, match="not finished"):
        take(tmp_path / "v3", tmp_path / "early")
    report = export_lerobot(tmp_path / "store", tmp_path / "v3", file_steps=10)
    assert (report.duplicates, report.episodes) == (2, 2)
    assert take(tmp_path / "v3", tmp_path / "back").episodes == 4
    assert held(tmp_path / "back").keys() == held(tmp_path / "store").keys()


def test_data_of_another_robot_are_refused_with_the_difference_in_words(tmp_path):
    from user_core.errors import SchemaMismatch

    store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="png")
    store(tmp_path / "other", number=2)
    write_meaning(tmp_path / "other", replace(SPEC, action_kind=ActionKind.JOINT_DELTA))
    with pytest.raises(SchemaMismatch, match="joint_position.*expected.*joint_delta"):
        take(tmp_path / "v3", tmp_path / "other")
    assert len(held(tmp_path / "other")) == 4


def test_damaged_files_are_named_and_the_rest_is_taken(tmp_path):
    store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="h264", file_steps=10)
    video = tmp_path / "v3/videos/observation.images.depth/chunk-000/file-001.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    report = take(tmp_path / "v3", tmp_path / "back")
    assert report.episodes == 2 and len(report.skipped) == 2
    assert all("file-001.mp4" in line for line in report.skipped)
    video.write_bytes(whole)
    assert take(tmp_path / "v3", tmp_path / "back").episodes == 2
    data = tmp_path / "v3/data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:-100])
    report = take(tmp_path / "v3", tmp_path / "third")
    assert report.episodes == 2 and "cut short" in report.skipped[0]


def test_a_path_that_leaves_the_directory_is_not_followed(tmp_path):
    store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="png")
    shutil.copytree(tmp_path / "v3/data", tmp_path / "data")
    info = json.loads((tmp_path / "v3/meta/info.json").read_text())
    for path in ("../" + info["data_path"], str(tmp_path / info["data_path"])):
        info["data_path"] = path
        (tmp_path / "v3/meta/info.json").write_text(json.dumps(info))
        report = take(tmp_path / "v3", tmp_path / "back")
        assert report.episodes == 0 and "below its directory" in report.skipped[0]


def test_version_2_1_is_read_by_a_mapping(tmp_path):
    chunks = store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="lossless")
    old = as_version_2_1(tmp_path / "v3", tmp_path / "old")
    report = take(old, tmp_path / "back")
    assert (report.episodes, report.skipped) == (4, [])
    assert report.mapping.reward.field == "next.reward"
    wanted = list(joined(chunks).values())
    for (_, columns), before in zip(held(tmp_path / "back").values(), wanted, strict=True):
        steps = int((~columns["final"]).sum())
        assert (
            steps == int((~before["final"]).sum()) - 1
        )  # its last observation became the final one
        for mine, name in (
            ("image_wrist", "image_wrist"),
            ("place", "place"),
            ("precise", "precise"),
        ):
            found = columns[f"observation.{mine}"]
            assert np.array_equal(found, before[f"observation.{name}"][: steps + 1]), name
        assert np.array_equal(columns["action"][:steps], before["action"][:steps])
        assert np.array_equal(columns["reward"][:steps], before["reward"][:steps])
    again = take(old, tmp_path / "back")
    assert (again.episodes, again.unread) == (0, 4)


def changed(file, name, change):
    """Change a column of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    values = pa.array(change(table.column(at).to_pylist()), field.type)
    pq.write_table(table.set_column(at, field, values), file)


def test_episodes_with_faults_are_named_and_the_others_are_taken(tmp_path):
    store(tmp_path / "store")
    export_lerobot(tmp_path / "store", tmp_path / "v3", coding="lossless")
    old = as_version_2_1(tmp_path / "v3", tmp_path / "old")
    (old / "videos/chunk-000/observation.images.image_wrist/episode_000000.mp4").unlink()
    file = old / "data/chunk-000/episode_{:06d}.parquet"

    def without_a_number(rows):
        rows[1][0] = float("nan")
        return rows

    changed(str(file).format(1), "action", without_a_number)
    changed(str(file).format(2), "timestamp", lambda rows: rows[::-1])
    report = take(old, tmp_path / "back")
    assert report.episodes == 1
    missing, number, backwards = report.skipped
    assert "episode 0" in missing and "image_wrist" in missing and "no such file" in missing
    assert "episode 1" in number and "action" in number and "not finite at step 1" in number
    assert "episode 2" in backwards and "runs backwards" in backwards
    meta = tmp_path / "v3/meta/episodes/chunk-000/file-000.parquet"
    meta.write_bytes(meta.read_bytes()[:-100])  # nobody knows which episodes there are
    with pytest.raises(CodecError, match=r"file-000.parquet.*cut short"):
        take(tmp_path / "v3", tmp_path / "other")


def test_a_store_comes_back_from_hdf5_bit_by_bit(tmp_path):
    pytest.importorskip("h5py")
    chunks = store(tmp_path / "store")
    assert export_hdf5(tmp_path / "store", tmp_path / "all.hdf5").episodes == 4
    report = take(tmp_path / "all.hdf5", tmp_path / "back")
    assert not any("succeeded" in note for note in report.notes)  # the store had said it
    assert (report.episodes, report.skipped) == (4, [])
    before, wanted = held(tmp_path / "store"), joined(chunks)
    for key, (episode, columns) in held(tmp_path / "back").items():
        assert same_columns(columns, wanted[key]), key
        assert episode.result == before[key][0].result and episode.task == "reach"
    with pytest.raises(CodecError, match="a new one"):
        export_hdf5(tmp_path / "store", tmp_path / "all.hdf5")
