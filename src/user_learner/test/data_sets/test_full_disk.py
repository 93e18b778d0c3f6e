"""A full disk during import and export: an error that says it, and what was there stays."""

import os
import subprocess
from contextlib import closing
from io import StringIO

import pytest
from rich.console import Console

from user_core.errors import StoreFull
from user_learner.cli.data import main
from user_learner.data.exporting import export_lerobot
from user_learner.data.importing import import_data
from user_learner.replay import StoreConfig, StoreReader, StoreWriter
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, Actor, Plan, fill

pytest.importorskip("pyarrow")
SMALL = StoreConfig(min_free_bytes=0, segment_bytes=2**20, durability="kernel")


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root, for a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_what_was_taken_stays_and_the_rest_comes_when_there_is_room(tmp_path, small):
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        actor = Actor(1, schema=IMAGE_SCHEMA, chunk_rows=500)
        fill(writer, actor, [Plan(100)] * 40)
    (small / "fill").write_bytes(bytes(2**24 - 2**17))
    with pytest.raises(OSError, match="No space"):
        export_lerobot(tmp_path / "store", small / "v3", coding="png", file_steps=300)
    (small / "fill").unlink()
    report = export_lerobot(tmp_path / "store", small / "v3", coding="png", file_steps=300)
    assert report.episodes + report.duplicates == 40
    with pytest.raises(StoreFull), StoreWriter(small / "back", config=SMALL) as writer:
        import_data(small / "v3", writer)
    with closing(StoreReader(small / "back")) as reader:
        taken = len(list(reader.episodes()))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
    with StoreWriter(small / "back", config=SMALL) as writer:
        report = import_data(small / "v3", writer)
    assert (report.episodes, report.duplicates) == (40 - taken, taken)


@pytest.mark.parametrize("kind", ["lerobot-v3", "hdf5", "mcap", "minari"])
def test_an_export_to_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path, small, kind):
    pytest.importorskip("h5py")
    with StoreWriter(tmp_path / "store", config=QUICK) as writer:
        fill(writer, Actor(1, schema=IMAGE_SCHEMA, chunk_rows=500), [Plan(100)] * 4)
    words = ["export", str(tmp_path / "store"), str(small / "out"), "--format", kind]
    (small / "fill").write_bytes(bytes(2**24 - 2**16))
    out = StringIO()
    assert main(words, Console(file=out, width=300, highlight=False)) == 2
    assert "store_full: export to" in out.getvalue() and "Make room" in out.getvalue()
    (small / "fill").unlink()
    assert main(words, Console(file=out, width=300, highlight=False)) == 0
    assert "4 episodes" in out.getvalue()
    said = out.getvalue().split("written to ")[1].split(";")[0]
    assert small.joinpath(said).exists()  # Minari's has a version in its name
