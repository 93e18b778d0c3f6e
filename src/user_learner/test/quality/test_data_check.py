"""What is wrong with stored episodes is found, each kind by itself; what is right is not."""

import argparse
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeKey,
    Outcome,
    TrajectorySchema,
)
from user_learner.cli.data_check import run_check
from user_learner.data.exporting import export_hdf5
from user_learner.edits.listing import EpisodeFilter, list_all, select
from user_learner.edits.view import EditedEpisodes
from user_learner.quality import StatisticsCache, judge
from user_learner.quality.findings import anomalous
from user_learner.replay import StoreWriter
from user_learner.replay.meaning import write_meaning
from user_testing.worlds.replay import QUICK, whole_episode

STEPS, PERIOD_NS = 60, 50_000_000
SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((3,), "float32"),
        "cube": ArraySpec((1,), "float32"),
        "wrench": ArraySpec((1,), "float32"),
        "image_wrist": ArraySpec((48, 48, 3), "uint8"),
    },
    ArraySpec((4,), "float32", low=-1.0, high=1.0),
    period_s=0.05,
)
SCHEMA = TrajectorySchema.of(SPEC)


def episode(number, rng):
    """An arm whose joints follow velocities, seen by a camera. Half-way it closes its gripper, and carries away
    a cube that trembled on the table till then."""
    rows = STEPS + 1
    phase = rng.uniform(0, 6, 3)
    speed = rng.uniform(0.5, 1.0, 3)
    action = 0.7 * np.sin(phase + speed * 0.25 * np.arange(rows)[:, None])
    position = np.cumsum(np.vstack([np.zeros(3), action[:-1]]), axis=0) * 0.05
    carried = np.arange(rows) >= STEPS // 2
    cube = np.cumsum(np.where(carried, 0.02, 0.0)) + rng.uniform(-1e-4, 1e-4, rows)
    wrench = rng.normal(0.0, 0.01, rows) + 20.0 * (np.arange(rows) == STEPS // 2)  # contact
    action = np.column_stack([action, np.where(carried, -1.0, 1.0)])
    image = rng.integers(30, 220, (rows, 48, 48, 3))
    step = np.arange(rows) < STEPS
    columns = {
        "observation.joint_position": position + rng.uniform(-1, 1, 3),
        "observation.cube": cube[:, None],
        "observation.wrench": wrench[:, None],
        "observation.image_wrist": image,
        "action": action * step[:, None],
        "proposed_action": action * step[:, None],
        "reward": np.zeros(rows),
        "terminated": np.zeros(rows),
        "truncated": np.arange(rows) == STEPS - 1,
        "final": ~step,
        "acted_by": np.zeros(rows),
        "reward_source": np.zeros(rows),
        "policy_version": np.ones(rows),
        "stamp_ns": 10**18 + number * 10**12 + np.arange(rows) * PERIOD_NS,
        "action_stamp_ns": np.zeros(rows),
    }
    return {n: np.array(columns[n]).astype(s.dtype) for n, s in SCHEMA.columns.items()}


def gap(c):
    c["stamp_ns"][30:] += 20 * PERIOD_NS


def shaky(c):
    c["stamp_ns"] += np.arange(STEPS + 1) % 2 * (PERIOD_NS * 2 // 5)


def backwards(c):
    c["stamp_ns"][30] = c["stamp_ns"][10]


def frozen(c):
    c["observation.image_wrist"][:] = c["observation.image_wrist"][0]


def black(c):
    c["observation.image_wrist"] //= 60


def still(c):
    c["observation.joint_position"][:, 1] = 0.25


def jump(c):
    c["observation.joint_position"][25:, 0] += 4.0


def clipped(c):
    c["action"][: STEPS * 2 // 3, 0] = 1.0
    c["proposed_action"][:] = c["action"]


def gate(c):
    c["action"][::2] *= 0.5


def late(c):
    moved = c["observation.joint_position"].copy()
    c["observation.joint_position"][5:] = moved[:-5]
    c["observation.joint_position"][:5] = moved[0]


def odd(c):
    c["action"][:] = c["proposed_action"][:] = 0.99 + 0.0 * c["action"]


FAULTS = {
    10: (gap, "gaps"), 11: (shaky, "jitter"), 12: (backwards, "time_backwards"),
    13: (frozen, "frozen_camera"), 14: (black, "black_camera"), 15: (still, "constant"),
    16: (jump, "jump"), 17: (clipped, "clipped"), 18: (gate, "gate"), 19: (late, "lag"),
    20: (odd, "outlier"),
}  # fmt: skip
COPY, SHORT, EPISODES = 21, 22, 23


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    write_meaning(path, SPEC)
    rng = np.random.default_rng(4)
    made = {}
    with StoreWriter(path, config=QUICK) as writer:
        for number in range(EPISODES):
            columns = episode(number, rng)
            if number in FAULTS:
                FAULTS[number][0](columns)
            if number == COPY:
                stamps = columns["stamp_ns"]
                columns = {**{n: c.copy() for n, c in made[3].items()}, "stamp_ns": stamps}
            made[number] = columns
            if number == SHORT:
                columns = {n: c[:2] for n, c in columns.items()}
            key = EpisodeKey("arm", 1, number)
            outcome = Outcome.FAILURE if number == COPY else Outcome.SUCCESS
            chunk = whole_episode(key, SCHEMA, columns, outcome, task="reach")
            assert writer.append(chunk).status == "staged"
        writer.commit()
    return path


@pytest.fixture(scope="module")
def found(store):
    with EditedEpisodes(store) as view:
        listed = list_all(view)
        cache = StatisticsCache(store)
        assert not cache.update(view.reader, [item.episode.info for item in listed])
        outcomes = {item.episode.key: item.episode.outcome for item in listed}
    return cache, listed, judge(cache.found, outcomes)


@pytest.mark.parametrize("number", FAULTS)
def test_each_fault_is_found_where_it_is(found, number):
    kind = FAULTS[number][1]
    mine = {f.kind for f in found[2] if f.episode.number == number}
    assert kind in mine
    assert {f.episode.number for f in found[2] if f.kind == kind} <= {
        number, *((10, 12) if kind in ("gaps", "time_backwards") else ()),
        *((17, 20) if kind in ("clipped", "outlier") else ()), *((10, 11, 12) if kind == "jitter" else ()),
    }  # fmt: skip


def test_good_episodes_are_left_alone(found):
    assert not [f for f in found[2] if f.episode.number < 10]


def test_copies_and_contradicting_labels_are_found(found):
    pairs = {(f.kind, f.episode.number, f.other.number) for f in found[2] if f.other is not None}
    assert pairs == {("duplicate", COPY, 3), ("label_conflict", COPY, 3)}
    (short,) = [f for f in found[2] if f.kind == "too_short"]
    assert short.episode.number == SHORT


def test_the_jump_is_told_with_its_step(found):
    (jump_,) = [f for f in found[2] if f.kind == "jump"]
    assert (jump_.episode.number, jump_.step) == (16, 24)


def test_the_delay_is_estimated(found):
    cache = found[0].found
    lags = {key.number: one.lag_steps for key, one in cache.items()}
    assert all(lags[number] == 0 for number in range(10))
    assert lags[19] == 5


def test_statistics_that_can_neither_be_read_nor_removed_are_measured_again(store, tmp_path):
    """As those of another version on a disk that is read-only."""
    (tmp_path / "statistics.sqlite").mkdir()
    with EditedEpisodes(store) as view:
        listed = [item.episode.info for item in list_all(view)]
        cache = StatisticsCache(tmp_path)
        assert not cache.update(view.reader, listed)
        assert len(cache.found) == EPISODES and not cache.missing(listed)


def test_statistics_are_measured_once_and_can_be_deleted(store, found):
    infos = [item.episode.info for item in found[1]]
    again = StatisticsCache(store)
    assert not again.missing(infos)
    assert again.found == found[0].found
    (store / "statistics.sqlite").write_bytes(b"no database at all, but a text of some length")
    assert len(StatisticsCache(store).missing(infos)) == EPISODES


def test_filters_of_lists_use_them(found):
    cache, listed, findings = found
    chosen = select(listed, EpisodeFilter(anomalous=True), {}, anomalous(findings))
    numbers = {item.number for item in chosen}
    assert numbers == {*range(10, EPISODES)} - {18}  # 17 is an outlier, too
    gate_ = {key: one.gate_changed for key, one in cache.found.items()}
    chosen = select(listed, EpisodeFilter(gate_limited=True), gate_)
    assert [item.number for item in chosen] == [18]


def given(data, out=""):
    """The arguments of a check, all others as when they are not given."""
    return argparse.Namespace(
        store=str(data), out=out, edits="", map="", all=False, json=False, format="", robot="", options=""
    )  # fmt: skip


def test_the_report_is_a_page_with_pictures_and_changes_nothing(store, tmp_path):
    before = {p: p.read_bytes() for p in store.rglob("*.col")}
    text = io.StringIO()
    options = given(store, out=str(tmp_path))
    assert run_check(options, Console(file=text, width=160)) == 1
    assert "frozen_camera" in text.getvalue()
    page = (tmp_path / "index.html").read_text()
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) >= 12
    for picture in pictures:
        assert picture.name in page
        pixels = np.asarray(Image.open(picture))
        assert pixels.shape[1] == 720
        assert pixels.std() > 5
    report = json.loads((tmp_path / "report.json").read_text())
    assert {f["number"] for f in report["findings"] if f["kind"] == "gaps"} >= {10}
    assert before == {p: p.read_bytes() for p in store.rglob("*.col")}


def test_a_data_set_of_another_format_is_checked_as_it_would_be_imported(store, tmp_path):
    pytest.importorskip("h5py")
    export_hdf5(store, tmp_path / "data.hdf5")
    options = given(tmp_path / "data.hdf5")
    text = io.StringIO()
    assert run_check(options, Console(file=text, width=160)) == 1
    said = text.getvalue()
    for kind in ("gaps", "jump", "clipped", "lag", "duplicate"):
        assert kind in said, said
    assert [file.name for file in tmp_path.iterdir()] == ["data.hdf5"], "nothing is left behind"
