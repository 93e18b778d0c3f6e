"""Frames and rotations of imported data, beside MuJoCo and OpenCV, which have code of their own for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_core.errors import ConfigError, SpecError
from user_learner.data.frames import (
    Laid,
    Transform,
    TransformMapping,
    between,
    matrix_of,
    written_as,
)
from user_learner.data.importing import import_data
from user_learner.data.mapping import ActionMapping, ArrayMapping, DataMapping
from user_learner.replay.meaning import read_meaning
from user_learner.replay.reader import StoreReader
from user_learner.replay.writer import StoreWriter

mujoco = pytest.importorskip("mujoco")

CAMERA = {"camera": TransformMapping(parent="base", xyz=(0.5, -0.2, 0.8), rpy=(0.3, -1.1, 2.0))}


def quaternions(count: int = 200) -> np.ndarray:
    """Any rotations, x y z w, with half turns and none among them."""
    found = np.random.default_rng(1).normal(size=(count, 4))
    found[:4] = np.eye(4)
    found[4:7] = [[1, 1, 0, 0], [0, 1, 1, 1e-9], [0, 0, 1, 1e-4]]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def by_mujoco(xyzw: np.ndarray) -> np.ndarray:
    """Matrices of quaternions."""
    found = np.empty((len(xyzw), 9))
    for row, quaternion in zip(found, np.roll(xyzw, 1, axis=1)):
        mujoco.mju_quat2Mat(row, np.ascontiguousarray(quaternion))
    return found.reshape(-1, 3, 3)


@pytest.mark.parametrize(
    "kind", ["xyzw", "wxyz", "rpy", "rotvec", "6d", "6d_rows", "rows", "columns"]
)
def test_each_way_to_write_a_rotation_comes_back(kind: str) -> None:
    turns = by_mujoco(quaternions())
    np.testing.assert_allclose(matrix_of("xyzw", quaternions()), turns, atol=1e-12)
    written = written_as(kind, turns)
    np.testing.assert_allclose(matrix_of(kind, written), turns, atol=1e-7)


def test_rotations_mean_what_mujoco_and_opencv_mean() -> None:
    import cv2

    rng = np.random.default_rng(2)
    for vector in rng.uniform(-1, 1, (50, 3)) * rng.uniform(0, 3, (50, 1)):
        np.testing.assert_allclose(
            matrix_of("rotvec", vector[None])[0], cv2.Rodrigues(vector)[0], atol=1e-9
        )
        back = written_as("rotvec", cv2.Rodrigues(vector)[0][None])[0]
        np.testing.assert_allclose(
            back, cv2.Rodrigues(cv2.Rodrigues(vector)[0])[0][:, 0], atol=1e-6
        )
    for angles in rng.uniform(-1.5, 1.5, (50, 3)):
        quaternion = np.zeros(4)
        mujoco.mju_euler2Quat(quaternion, angles, "XYZ")  # capitals: about fixed axes, as in URDF
        turn = by_mujoco(np.roll(quaternion, -1)[None])
        np.testing.assert_allclose(matrix_of("rpy", angles[None]), turn, atol=1e-9)
        np.testing.assert_allclose(written_as("rpy", turn)[0], angles, atol=1e-7)
    # Rotation.from_euler("xyz", [10, -20, 30], degrees=True) of SciPy: as_quat, as_rotvec
    turn = matrix_of("rpy", np.radians([[10.0, -20.0, 30.0]]))
    expected = [0.1276794, -0.14487813, 0.26853582, 0.94371436]
    np.testing.assert_allclose(written_as("xyzw", turn)[0], expected, atol=1e-7)
    # the first two columns, one behind the other (Zhou et al.), and rows (PyTorch3D)
    quarter = matrix_of("rpy", np.array([[0.0, 0.0, np.pi / 2]]))
    np.testing.assert_allclose(written_as("6d", quarter)[0], [0, 1, 0, -1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(written_as("6d_rows", quarter)[0], [0, -1, 0, 1, 0, 0], atol=1e-12)


def way() -> tuple[Transform, np.ndarray, np.ndarray]:
    """Where the camera is in the base, and the same by MuJoCo: place and quaternion w x y z."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.array(CAMERA["camera"].rpy), "XYZ")
    return between(CAMERA, "camera", "base"), np.array(CAMERA["camera"].xyz), quaternion


def test_poses_in_another_frame_are_those_of_mujoco() -> None:
    known, shift, turn = way()
    seen = np.concatenate([np.random.default_rng(3).normal(size=(200, 3)), quaternions()], axis=1)
    found = Laid("tcp_pose", "pose", way=known).apply(seen)
    for row, pose in zip(found, seen):
        place, quaternion = np.zeros(3), np.zeros(4)
        mujoco.mju_mulPose(place, quaternion, shift, turn, pose[:3], np.roll(pose[3:], 1))
        np.testing.assert_allclose(row[:3], place, atol=1e-12)
        assert abs(np.roll(quaternion, -1) @ row[3:]) == pytest.approx(1.0, abs=1e-9)
    back = Laid("x", "pose", "pose_wxyz", way=between(CAMERA, "base", "camera")).apply(found)
    np.testing.assert_allclose(back[:, :3], seen[:, :3], atol=1e-12)


@pytest.mark.parametrize("layout", ["twist", "wrench"])
def test_twists_and_wrenches_about_another_origin_are_those_of_mujoco(layout: Any) -> None:
    known, shift, turn = way()
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, turn)
    rows = np.random.default_rng(4).normal(size=(50, 6))
    found = Laid("x", layout, way=known, taken_at="origin").apply(rows)
    turned = Laid("x", layout, way=known, taken_at="tool").apply(rows)
    for row, one, given in zip(found, turned, rows):
        # MuJoCo has the turning part first, and takes from the world to the new frame
        spatial, expected = np.concatenate([given[3:], given[:3]]), np.zeros(6)
        at, old = np.zeros(3), axes.reshape(3, 3).T @ shift
        mujoco.mju_transformSpatial(
            expected, spatial, int(layout == "wrench"), -old, at, axes.reshape(3, 3).T.reshape(-1).copy()
        )  # fmt: skip
        np.testing.assert_allclose(row, [*expected[3:], *expected[:3]], atol=1e-9)
        np.testing.assert_allclose(one[:3], axes.reshape(3, 3) @ given[:3], atol=1e-12)


def test_a_change_in_another_frame_leads_to_the_same_pose() -> None:
    known, _, _ = way()
    rng = np.random.default_rng(5)
    before = np.concatenate([rng.normal(size=(50, 3)), quaternions(50)], axis=1)
    change = rng.uniform(-0.3, 0.3, (50, 6))

    def after(pose: np.ndarray, moved: np.ndarray) -> np.ndarray:
        turns = matrix_of("rotvec", moved[:, 3:]) @ matrix_of("xyzw", pose[:, 3:])
        return np.concatenate([pose[:, :3] + moved[:, :3], written_as("xyzw", turns)], axis=1)

    pose, moved = Laid("x", "pose", way=known), Laid("action", "change", way=known)
    here, there = after(pose.apply(before), moved.apply(change)), pose.apply(after(before, change))
    np.testing.assert_allclose(here[:, :3], there[:, :3], atol=1e-9)
    assert np.abs(np.sum(here[:, 3:] * there[:, 3:], axis=1)) == pytest.approx(
        np.ones(50), abs=1e-9
    )


def data_set(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir()
    np.savez(folder / "0.npz", **arrays)
    return folder


def mapping(**more: Any) -> DataMapping:
    """Poses of a camera's frame, in mm and degrees, and the opening of a gripper behind actions."""
    given: dict[str, Any] = {
        "robot": "arm", "period_s": 0.1, "transforms": CAMERA,
        "observation": {"tcp_pose": ArrayMapping(
            fields=("pose",), layout="pose_rpy", length="mm", angle="deg", frame="camera",
            to_frame="base",
        )},
        "action": ActionMapping(
            fields=("action",), layout="change_rpy", frame="camera", to_frame="base",
            kind="ee_delta", grippers=(6,),
        ),
    }  # fmt: skip
    return DataMapping(**{**given, **more})


def test_an_import_converts_frames_and_rotations_by_its_mapping(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    poses = rng.uniform(-100, 100, (12, 6))
    actions = np.concatenate([rng.uniform(-0.1, 0.1, (12, 6)), rng.integers(0, 2, (12, 1))], axis=1)
    path = data_set(tmp_path / "data", pose=poses, action=actions)
    with StoreWriter(tmp_path / "store") as store:
        report = import_data(path, store, mapping())
    assert report.episodes == 1 and not report.skipped
    reader = StoreReader(tmp_path / "store")
    spec = read_meaning(tmp_path / "store", reader.layout.schema).spec
    assert spec is not None
    tcp = spec.observation["tcp_pose"]
    assert (tcp.frame, tcp.unit) == ("base", "m")
    assert tcp.names == ("x", "y", "z", "qx", "qy", "qz", "qw")
    columns = reader.read_episode(next(iter(reader.episodes())))
    reader.close()
    _, shift, turn = way()
    for row, given in zip(columns["observation.tcp_pose"], poses):
        place, quaternion, local = np.zeros(3), np.zeros(4), np.zeros(4)
        mujoco.mju_euler2Quat(local, np.radians(given[3:]), "XYZ")
        mujoco.mju_mulPose(place, quaternion, shift, turn, given[:3] / 1000, local)
        np.testing.assert_allclose(row[:3], place, atol=1e-6)
        assert abs(np.roll(quaternion, -1) @ row[3:]) == pytest.approx(1.0, abs=1e-6)
    steps = ~columns["final"]
    np.testing.assert_array_equal(columns["action"][steps, 6], actions[: steps.sum(), 6])
    lengths = np.linalg.norm(columns["action"][steps, :3], axis=1)
    np.testing.assert_allclose(
        lengths, np.linalg.norm(actions[: steps.sum(), :3], axis=1), atol=1e-6
    )


def test_data_in_another_frame_than_the_stores_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    arrays = {"pose": rng.uniform(-100, 100, (9, 6)), "action": rng.uniform(-0.1, 0.1, (9, 7))}
    with StoreWriter(tmp_path / "store") as store:
        import_data(data_set(tmp_path / "a", **arrays), store, mapping())
        arrays["pose"] = arrays["pose"] + 1
        as_it_is = ArrayMapping(
            fields=("pose",), layout="pose_rpy", length="mm", angle="deg", frame="camera"
        )
        with pytest.raises(Exception, match=r"frames.*camera") as caught:
            import_data(
                data_set(tmp_path / "b", **arrays),
                store,
                mapping(observation={"tcp_pose": as_it_is}),
            )
        assert "base" in str(caught.value)


FIELDS = ("pose",)
REFUSED = {
    "no layout": (lambda: ArrayMapping(fields=FIELDS, frame="camera", to_frame="base"), "no layout"),
    "no frame": (lambda: ArrayMapping(fields=FIELDS, layout="pose", to_frame="base"), "no frame"),
    "a unit": (lambda: ArrayMapping(fields=FIELDS, layout="pose", unit="mm"), "length and angle"),
    "another kind": (
        lambda: ActionMapping(fields=FIELDS, layout="pose", kind="ee_delta"), "ee_delta.*change"
    ),
    "joints": (
        lambda: ActionMapping(fields=FIELDS, layout="twist", kind="joint_position"), "of joints"
    ),
    "another family": (lambda: Laid("x", "twist", "pose"), "twist is a twist"),
    "no angles": (lambda: Laid("x", "pose", angle=0.1), "has no angles"),
    "unknown frame": (lambda: between(CAMERA, "hand", "base"), "'hand' in 'base'.*move"),
    "a circle": (
        lambda: between({"a": TransformMapping(parent="b"), "b": TransformMapping(parent="a")}, "a", "c"),
        "a tree",
    ),
    "two rotations": (
        lambda: TransformMapping(parent="a", rpy=(0, 0, 0), xyzw=(0, 0, 0, 1)), "one of the two"
    ),
    "no quaternion": (lambda: matrix_of("xyzw", np.array([[0, 0, 0, 1.0], [0, 0, 0, 0]])), "at step 1"),
    "a mirror": (lambda: matrix_of("rows", np.diag([1.0, 1, -1, 1]).reshape(1, 16)), "a rotation"),
    "other way": (
        lambda: matrix_of("rows", np.array([[1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 2, 1, 1]])),
        "pose_columns",
    ),
    "too few": (lambda: matrix_of("6d", np.zeros((1, 6))), "two columns"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_known_meaning_is_refused_in_words(what: str) -> None:
    make, said = REFUSED[what]
    with pytest.raises((ConfigError, SpecError), match=said):
        make()


def test_a_mapping_whose_layout_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = data_set(tmp_path / "data", pose=np.zeros((9, 5)), action=np.zeros((9, 7)))
    with StoreWriter(tmp_path / "store") as store, pytest.raises(ConfigError, match="at least 6"):
        import_data(path, store, mapping())
    another = ArrayMapping(fields=("pose",), layout="pose", to_layout="pose_6d")
    with StoreWriter(tmp_path / "b") as store, pytest.raises(ConfigError, match="Another name"):
        import_data(path, store, mapping(observation={"tcp_pose": another}))
