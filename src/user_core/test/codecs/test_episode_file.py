import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.codecs.trajectory import EpisodeFileReader, EpisodeFileWriter, RecordedEpisode
from user_core.errors import CodecError, SpecError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    Step,
    TrajectorySchema,
)

SPEC = RobotSpec(
    "r",
    {"position": ArraySpec((3,), unit="m"), "image": ArraySpec((4, 5, 3), "uint8"),
     "nothing": ArraySpec((0,))},
    ArraySpec((2,), low=-1.0, high=1.0),
)  # fmt: skip
SCHEMA = TrajectorySchema.of(SPEC)


def episode(number, steps, result=True):
    rng = np.random.default_rng(number)

    def observation():
        return {name: spec.sample(rng) for name, spec in SPEC.observation.items()}

    rows = [
        Step(observation(), SPEC.action.sample(rng), SPEC.action.sample(rng), float(i), stamp_ns=i)
        for i in range(steps)
    ]
    key = EpisodeKey("actor", 7, number)
    return RecordedEpisode(
        key,
        EpisodeSource.DEMONSTRATION,
        SCHEMA.rows([*rows, FinalObservation(observation())]),
        EpisodeResult(key, EpisodeSource.DEMONSTRATION, Outcome.SUCCESS, steps, 1.5, reason="é")
        if result
        else None,
        "arm",
        "peg",
        first_row=number,
    )


def same(one, other):
    return replace(one, columns={}) == replace(other, columns={}) and all(
        one.columns[name].dtype == other.columns[name].dtype
        and np.array_equal(one.columns[name], other.columns[name])
        for name in SCHEMA.columns
    )


@pytest.fixture
def file(tmp_path):
    with EpisodeFileWriter(tmp_path / "e.npz", SCHEMA) as writer:
        for number in range(3):
            writer.add(episode(number, 2 + number, result=number > 0))
        assert len(writer) == 3
    return tmp_path / "e.npz"


def read_all(path):
    with EpisodeFileReader(path) as reader:
        return reader.schema, list(reader)


@pytest.mark.parametrize("compress", [False, True])
def test_what_goes_in_comes_out(tmp_path, compress):
    wanted = [episode(n, n + 1, result=n % 2 == 0) for n in range(4)]
    with EpisodeFileWriter(tmp_path / "e.npz", SCHEMA, compress) as writer:
        for one in wanted:
            writer.add(one)
    schema, found = read_all(tmp_path / "e.npz")
    assert schema.to_dict() == SCHEMA.to_dict()
    assert len(found) == 4
    assert all(same(*pair) for pair in zip(wanted, found, strict=True))


def test_numpy_opens_it_alone(file):
    arrays = np.load(file)
    assert arrays["000002/observation.image"].shape == (5, 4, 5, 3)
    assert np.array_equal(arrays["000001/reward"], [0, 1, 2, 0])


def test_an_episode_of_another_schema_is_not_written(tmp_path):
    with pytest.raises(SpecError, match="columns of a trajectory"):
        with EpisodeFileWriter(tmp_path / "e.npz", SCHEMA) as writer:
            writer.add(replace(episode(0, 1), columns={"reward": np.zeros(2, np.float32)}))
    assert list(tmp_path.iterdir()) == []  # and nothing is left of the attempt


def test_it_appears_when_it_is_whole(tmp_path):
    with EpisodeFileWriter(tmp_path / "e.npz", SCHEMA) as writer:
        writer.add(episode(0, 1))
        assert not (tmp_path / "e.npz").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


def test_only_an_episode_file_is_replaced(tmp_path, file):
    with EpisodeFileWriter(file, SCHEMA) as writer:
        writer.add(episode(0, 1))
    assert len(read_all(file)[1]) == 1
    (tmp_path / "robot.yaml").write_text("robot: {plugin: mujoco}")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    damaged = (tmp_path / "other.npz").read_bytes().replace(b"PK\1\2", b"PK\0\0")
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name, what in (
        ("robot.yaml", "of another kind"), ("other.npz", "of another kind"), ("damaged.npz", "of another kind"),
        ("folder", "a folder"),
    ):  # fmt: skip
        with pytest.raises(CodecError, match=what):
            EpisodeFileWriter(tmp_path / name, SCHEMA)
    assert (tmp_path / "robot.yaml").read_text() == "robot: {plugin: mujoco}"
    assert np.load(tmp_path / "other.npz").files == ["a"]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_is_noticed_or_does_not_matter(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("d") / "e.npz"
    wanted = [episode(n, 2) for n in range(2)]
    with EpisodeFileWriter(path, SCHEMA) as writer:
        for one in wanted:
            writer.add(one)
    block = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(block) - 1))
    block[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(block)
    try:
        schema, found = read_all(path)
    except (CodecError, SpecError):
        return
    # bytes that nobody reads: time stamps, attributes, padding
    assert schema.to_dict() == SCHEMA.to_dict()
    assert all(same(*pair) for pair in zip(wanted, found, strict=False))


@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("n") / "e.npz"
    path.write_bytes(noise)
    with pytest.raises(CodecError):
        read_all(path)


def forged(file, change):
    """The file with some members replaced, all checksums right."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    out = file.with_name("forged.npz")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


def npy(array, **kwargs):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **kwargs)
    return stream.getvalue()


def header_only(shape, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def put(name, data):
    return lambda members: members.__setitem__(name, data)


def edit(name, **values):
    def change(members):
        data = json.loads(members[name])
        data.update(values)
        members[name] = json.dumps(data).encode()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("000000/observation.position.npy", header_only((2**50, 3))), "position.*bytes for"),
        (put("000000/action.npy", header_only((-1, 2))), "action.npy"),
        (put("000000/action.npy", npy(np.zeros((3, 5), np.float32))), r"\[3, 5\], not float32"),
        (put("000000/action.npy", npy(np.zeros((3, 2)))), "float64"),
        (put("000000/action.npy", npy(np.zeros((9, 2), np.float32))), "action.npy"),
        (put("000000/action.npy", npy(np.array([{}, 1]), allow_pickle=True)), "object"),
        (put("000000/action.npy", b"junk"), "action.npy"),
        (put("000000/reward.npy", npy(np.float32(1))), "reward.npy"),
        (lambda members: members.pop("000000/reward.npy"), "reward.npy"),
        (put("000000/episode.json", b"[1]"), "not a mapping"),
        (put("000000/episode.json", b"{"), "episode.json"),
        (put("000000/episode.json", b"[" * 10**5), "episode.json"),
        (put("000000/episode.json", b" " * 2**21), "episode.json"),
        (edit("000000/episode.json", source=9), "episode.json"),
        (edit("000000/episode.json", key={"producer": "x"}), "episode.json"),
        (edit("000000/episode.json", result={"key": None}), "episode.json"),
        (edit("dataset.json", version=2), "version 2"),
        (edit("dataset.json", format="lerobot"), "'lerobot'"),
        (edit("dataset.json", schema={"reward": {"shape": [1], "dtype": "object"}}), "dataset"),
        (edit("dataset.json", schema=None), "dataset"),
        (lambda members: members.pop("dataset.json"), "dataset.json"),
    ],
)
def test_what_is_wrong_within_is_refused_and_named(file, change, words):
    with pytest.raises(CodecError, match=words):
        read_all(forged(file, change))


def test_the_forger_can_also_make_a_good_one(file):
    assert len(read_all(forged(file, lambda members: None))[1]) == 3


def test_no_such_file(tmp_path):
    with pytest.raises(CodecError, match="nothing"):
        EpisodeFileReader(tmp_path / "nothing")
