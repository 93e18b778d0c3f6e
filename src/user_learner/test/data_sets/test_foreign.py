"""Data of other people's formats, written by the formats' own libraries, through a mapping into a store."""

import json
from contextlib import closing
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from user_core import plugins
from user_core.codecs.trajectory import EpisodeFileWriter
from user_core.errors import CodecError, ConfigError, SpecError, StoreError
from user_core.specs import ActionKind
from user_core.types import EpisodeSource, Outcome, TrajectorySchema
from user_learner.cli.data import main
from user_learner.data.importing import import_data
from user_learner.data.mapping import load_mapping, propose, to_yaml
from user_learner.data.source import open_source
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.meaning import read_meaning
from user_testing.worlds.replay import QUICK


def take(source, path, **more):
    with StoreWriter(path, config=QUICK) as writer:
        return import_data(source, writer, **more)


def held(path):
    with closing(StoreReader(path)) as reader:
        return [(e, reader.read_episode(e)) for e in reader.episodes()]


def run(*words):
    out = StringIO()
    status = main([*map(str, words)], Console(file=out, width=200, highlight=False))
    return status, out.getvalue()


def robomimic(path, episodes=3, steps=6):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}
        )
        for i in range(episodes):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.normal(size=(steps, 7))
            demo["rewards"] = np.eye(steps)[-1]
            demo["dones"] = np.eye(steps, dtype=np.int64)[-1]
            pos = rng.normal(size=(steps + 1, 3))
            images = rng.integers(0, 256, (steps + 1, 16, 16, 3), np.uint8)
            for name, values in {"eef_pos": pos, "agentview_image": images}.items():
                demo[f"obs/{name}"] = values[:-1]
                demo[f"next_obs/{name}"] = values[1:]
    return path


def test_robomimic_comes_with_its_final_observations(tmp_path):
    import h5py

    path = robomimic(tmp_path / "low_dim.hdf5", episodes=12)
    status, text = run("inspect", path, "--write", tmp_path / "map.yaml")
    assert status == 0 and "Panda" in text and "20 Hz" in text
    status, text = run("import", path, "--into", tmp_path / "store", "--map", tmp_path / "map.yaml")
    assert status == 0, text
    episodes = held(tmp_path / "store")
    assert len(episodes) == 12
    with h5py.File(path) as file:
        for number, (info, columns) in enumerate(episodes):
            demo = file[f"data/demo_{number}"]
            assert np.array_equal(columns["action"][:-1], demo["actions"][()])
            assert np.array_equal(columns["observation.eef_pos"][:-1], demo["obs/eef_pos"][()])
            assert np.array_equal(columns["observation.eef_pos"][1:], demo["next_obs/eef_pos"][()])
            images = columns["observation.agentview_image"]
            assert np.array_equal(images[1:], demo["next_obs/agentview_image"][()])
            assert info.source is EpisodeSource.DEMONSTRATION and info.result.length == 6
    spec = read_meaning(tmp_path / "store").spec
    assert (spec.robot, spec.period_s) == ("Panda", 0.05)
    assert spec.action_kind is ActionKind.GENERIC


def test_robomimic_says_by_sparse_rewards_whether_episodes_succeeded(tmp_path):
    import h5py

    path = robomimic(tmp_path / "demo.hdf5", episodes=3)
    with h5py.File(path, "r+") as file:
        said = {"env_name": "Lift", "env_kwargs": {"control_freq": 20, "reward_shaping": False}}
        file["data"].attrs["env_args"] = json.dumps(said)
        file["data/demo_1/rewards"][-1] = 0.5  # a part of the task
    report = take(path, tmp_path / "sparse")
    episodes = held(tmp_path / "sparse")
    assert [info.result.outcome.name for info, _ in episodes] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert [bool(columns["terminated"][-2]) for _, columns in episodes] == [True, False, True]
    assert not any("succeeded" in note for note in report.notes)
    with h5py.File(path, "r+") as file:
        said["env_kwargs"]["reward_shaping"] = True
        file["data"].attrs["env_args"] = json.dumps(said)
    report = take(path, tmp_path / "shaped")
    assert {info.result.outcome.name for info, _ in held(tmp_path / "shaped")} == {"UNKNOWN"}
    assert any("its rewards may be shaped" in note for note in report.notes)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["rewards"], demo["dones"]
    report = take(path, tmp_path / "none")
    assert {info.result.outcome.name for info, _ in held(tmp_path / "none")} == {"UNKNOWN"}
    assert any("it has no rewards" in note for note in report.notes)


def test_an_episode_with_other_numbers_of_actions_and_observations_is_left_out(tmp_path):
    """Nobody knows which action belongs to which observation; one observation more is the last one."""
    import h5py

    path = robomimic(tmp_path / "a.hdf5", episodes=4)
    with h5py.File(path, "a") as file:
        for number, name, rows in ((1, "actions", 4), (2, "actions", 5), (3, "rewards", 3)):
            values = file[f"data/demo_{number}/{name}"][:rows]
            del file[f"data/demo_{number}/{name}"]
            file[f"data/demo_{number}/{name}"] = values
    report = take(path, tmp_path / "store")
    assert [columns["action"].shape[0] - 1 for _, columns in held(tmp_path / "store")] == [6, 5]
    assert len(report.skipped) == 2 and "6 rows beside 4 actions" in report.skipped[0]
    assert "'rewards': got 3 rows beside 6 actions" in report.skipped[1]


def test_each_episode_comes_once_wherever_the_file_lies(tmp_path):
    path = robomimic(tmp_path / "a.hdf5")
    assert take(path, tmp_path / "store").episodes == 3
    copy = tmp_path / "b.hdf5"
    copy.write_bytes(path.read_bytes())
    report = take(copy, tmp_path / "store")
    assert (report.episodes, report.duplicates, report.unread) == (0, 3, 0)
    assert take(copy, tmp_path / "store").unread == 3


def test_a_pickled_attribute_is_not_unpickled_and_damage_is_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = np.void(b"cos\nsystem\n(S'touch hurt'\ntR.")
        file["data/demo_1/note"] = "text"
        del file["data/demo_2/obs/eef_pos"]
        file["data/demo_0/rewards"][2] = np.nan
    report = take(path, tmp_path / "store")
    assert report.episodes == 1 and len(report.skipped) == 2
    assert any("not finite" in line for line in report.skipped)
    assert any("no ['obs/eef_pos']" in line for line in report.skipped)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CodecError, match="HDF5"):
        take(path, tmp_path / "store")
    assert len(held(tmp_path / "store")) == 1


def test_minari_datasets_written_by_minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    minari = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Pendulum-v1", max_episode_steps=8)
    buffers = []
    for seed in range(3):
        seen, done = [env.reset(seed=seed)[0]], False
        steps = []
        while not done:
            action = env.action_space.sample()
            after, reward, terminated, truncated, _ = env.step(action)
            seen.append(after)
            steps.append((action, reward, terminated, truncated))
            done = terminated or truncated
        actions, rewards, ended, cut = (list(part) for part in zip(*steps, strict=True))
        buffers.append(minari.data_collector.EpisodeBuffer(
            id=seed, seed=seed, observations=np.stack(seen), actions=np.stack(actions),
            rewards=rewards, terminations=ended, truncations=cut,
        ))  # fmt: skip
    dataset = minari.create_dataset_from_buffers(
        dataset_id="pendulum/test-v0", buffer=buffers, env=env, algorithm_name="random",
        author="a", author_email="a@b.c", code_permalink="https://example.org",
    )  # fmt: skip
    wanted = list(dataset.iterate_episodes())
    report = take(tmp_path / "minari/pendulum/test-v0", tmp_path / "store")
    assert (report.episodes, report.skipped) == (3, [])
    assert report.mapping.robot == "Pendulum-v1"
    for (_, columns), episode in zip(held(tmp_path / "store"), wanted, strict=True):
        assert np.array_equal(columns["observation.observations"], episode.observations)
        assert np.array_equal(columns["action"][:-1], episode.actions)
        assert np.array_equal(columns["reward"][:-1], episode.rewards.astype(np.float32))
        assert columns["truncated"][-2] and columns["final"][-1]


def npz(folder, episodes=3, steps=5, **more):
    folder.mkdir(exist_ok=True)
    for i in range(episodes):
        row = np.arange(steps, dtype=np.float64)
        joints = np.stack([row * 10 + i, row * -20], axis=1)
        arrays = {"action": joints + 10, "joints": joints, "time": row * 0.1, **more}
        np.savez(folder / f"{i}.npz", **arrays)
    return folder


MAPPING = """
robot: my_arm
period_s: 0.1
to_period_s: 0.2
task: reach
options: {period_s: 0.1}
observation:
  joint_position: {fields: [joints], names: [shoulder, elbow], unit: deg, to_unit: rad, dtype: float32}
action: {fields: [action], names: [shoulder, elbow], unit: deg, to_unit: rad, dtype: float32,
         kind: joint_position, to_kind: joint_delta}
success: always
"""


def test_a_mapping_converts_units_rates_and_targets_to_changes(tmp_path):
    (tmp_path / "map.yaml").write_text(MAPPING)
    report = take(
        npz(tmp_path / "data"), tmp_path / "store", mapping=load_mapping(tmp_path / "map.yaml")
    )
    assert (report.episodes, report.skipped) == (3, [])
    info, columns = held(tmp_path / "store")[0]
    assert info.result.outcome is Outcome.SUCCESS and info.task == "reach"
    assert np.allclose(columns["observation.joint_position"][:3, 0], np.deg2rad([0, 20, 40]))
    assert np.allclose(columns["action"][:2, 0], np.deg2rad([20, 20]))
    assert columns["reward"].sum() == 1 and columns["terminated"][-2]
    spec = read_meaning(tmp_path / "store").spec
    assert (spec.action_kind, spec.period_s) == (ActionKind.JOINT_DELTA, 0.2)
    assert spec.action.unit == "rad" and spec.action.names == ("shoulder", "elbow")


def test_what_is_proposed_can_be_written_and_read_again(tmp_path):
    with open_source(npz(tmp_path / "data")) as source:
        proposed = propose(source.describe())
        (tmp_path / "map.yaml").write_text(to_yaml(proposed, source.describe()))
    assert load_mapping(tmp_path / "map.yaml") == proposed


def test_a_mapping_that_names_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "map.yaml").write_text(MAPPING.replace("[joints]", "[joint_angles]"))
    with pytest.raises(ConfigError, match="joint_angles"):
        take(npz(tmp_path / "data"), tmp_path / "s", mapping=load_mapping(tmp_path / "map.yaml"))
    (tmp_path / "map.yaml").write_text(MAPPING.replace("to_period_s: 0.2", "to_period_s: 0.13"))
    with pytest.raises(SpecError, match="period"):
        take(tmp_path / "data", tmp_path / "s", mapping=load_mapping(tmp_path / "map.yaml"))


def test_objects_time_backwards_and_damage_are_left_out_and_the_rest_is_taken(tmp_path):
    folder = npz(tmp_path / "data", episodes=5)
    np.savez(folder / "1.npz", action=np.array([{"a": 1}], object), joints=np.zeros((1, 2)))
    row = np.arange(5.0)
    joints = np.stack([row, row], axis=1)
    np.savez(folder / "2.npz", action=joints, joints=joints, time=np.array([0, 1, 2, 1.5, 3]))
    (folder / "3.npz").write_bytes((folder / "4.npz").read_bytes()[:200])
    status, text = run("import", folder, "--into", tmp_path / "store")
    assert status == 1 and len(held(tmp_path / "store")) == 2
    for said in ("never unpickled", "runs backwards", "3.npz"):
        assert said in text
    status, text = run("verify", folder)
    assert status == 1 and text.count("damaged:") == 3


def test_what_is_no_data_set_is_said_and_no_store_is_left(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"hello")
    status, text = run("import", tmp_path / "x.bin", "--into", tmp_path / "store")
    assert status == 2 and "no format that is known" in text
    assert not (tmp_path / "store").exists()


def test_an_empty_folder_and_an_episode_file_are_told_as_what_they_are(tmp_path):
    (tmp_path / "empty").mkdir()
    status, text = run("inspect", tmp_path / "empty")
    assert status == 2 and "got an empty folder" in text
    with EpisodeFileWriter(
        tmp_path / "e.npz", TrajectorySchema.of(plugins.build("robots", "fake").spec)
    ):
        pass
    status, text = run("inspect", tmp_path / "e.npz")
    assert status == 2 and f"user replay import {tmp_path}/e.npz --into STORE" in text.replace(
        "\n", ""
    )
    with pytest.raises(StoreError, match="no replay store in .*e.npz: got a file"):
        StoreReader(tmp_path / "e.npz")


def test_a_mapping_of_another_format_is_named(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "map.yaml").write_text(MAPPING + "format: lerobot\n")
    data, store = robomimic(tmp_path / "demo.hdf5"), tmp_path / "store"
    status, text = run("import", data, "--into", store, "--map", tmp_path / "map.yaml")
    assert status == 2 and "got data of the format hdf5, expected lerobot" in text
    assert not store.exists()


def test_elements_are_selected_by_the_places_in_a_file(tmp_path):
    data, found = npz(tmp_path / "data"), []
    for chosen in ("", "select: [1, 0], "):
        file, store = tmp_path / "map.yaml", tmp_path / f"store{len(found)}"
        file.write_text(MAPPING.replace("{fields: [joints], ", f"{{fields: [joints], {chosen}"))
        assert take(data, store, mapping=load_mapping(file)).episodes == 3
        found.append([c["observation.joint_position"] for _, c in held(store)])
    for plain, turned in zip(*found, strict=True):
        assert np.array_equal(turned, plain[:, ::-1]) and plain[1, 0] != plain[1, 1]


def test_a_rate_that_nobody_knows_is_told_as_a_guess(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = file["data/demo_0/obs/x"] = np.zeros((3, 1), np.float32)
    status, text = run("inspect", tmp_path / "a.hdf5")
    assert status == 0 and "period_s is a guess" in text
    status, text = run("import", tmp_path / "a.hdf5", "--into", tmp_path / "store")
    assert status == 0 and "10 Hz is a guess" in text


def test_an_export_of_nothing_is_refused_and_leaves_nothing(tmp_path):
    pytest.importorskip("pyarrow")
    take(robomimic(tmp_path / "demo.hdf5"), tmp_path / "store")
    for kind in ("lerobot-v3", "hdf5", "mcap", "minari"):
        words = ("export", tmp_path / "store", tmp_path / "out", "--format", kind)
        status, text = run(*words, "--outcome", "success")
        assert status == 2 and "no episode that is chosen; outcomes: 3 unknown" in text
        assert not (tmp_path / "out").exists()


def test_many_tiny_episodes(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "many.hdf5", "w") as file:
        for i in range(300):
            file[f"data/demo_{i}/actions"] = np.full((2, 1), i, np.float32)
            file[f"data/demo_{i}/obs/x"] = np.full((2, 1), i, np.float32)
    assert take(tmp_path / "many.hdf5", tmp_path / "store").episodes == 300
    assert [c["action"][0, 0] for _, c in held(tmp_path / "store")] == list(range(300))


def test_a_library_that_is_missing_is_named_with_what_installs_it(monkeypatch, tmp_path):
    import sys

    path = tmp_path / "a.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    status, text = run("inspect", path)
    assert status == 2
    for said in ("HDF5 needs h5py", "pip install h5py", "requirements/extra_data.txt"):
        assert said in text
