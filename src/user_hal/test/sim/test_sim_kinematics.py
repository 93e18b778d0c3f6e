"""The same arm three times: plain numpy, MJCF and URDF; and against published numbers."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from user_core.errors import ConfigError, SpecError
from user_hal.sim.arms import ARMS, PANDA, UR5E, UR5E_PUBLISHED_DH, arm_named
from user_hal.sim.kinematics import (
    Kinematics,
    quaternion_xyzw,
    rotation_matrix,
    rotation_vector,
    tool_down,
)
from user_hal.sim.mjcf import optical_frame
from user_hal.sim.scene import scene_xml
from user_hal.sim.urdf import arm_urdf
from user_testing.urdf_reader import Urdf

URDF_FOLDER = Path(__file__).parents[2] / "urdf"
arms = pytest.mark.parametrize("arm", ARMS.values(), ids=list(ARMS))


def random_joints(arm, count: int, seed: int = 0) -> np.ndarray:
    kinematics = Kinematics(arm)
    rng = np.random.default_rng(seed)
    return rng.uniform(kinematics.lower_rad, kinematics.upper_rad, (count, len(arm.joints)))


def test_flange_of_the_stretched_panda_is_where_the_maker_says() -> None:
    flange = Kinematics(PANDA).flange_pose(np.zeros(7))
    # 333 + 316 + 384 mm up, 107 mm down to the flange; 88 mm to the front.
    np.testing.assert_allclose(flange[:3, 3], [0.088, 0.0, 0.926], atol=1e-9)


def test_ur5e_is_the_product_of_its_published_distal_table() -> None:
    for joints in random_joints(UR5E, 20):
        pose = np.diag([-1.0, -1.0, 1.0, 1.0])  # base_link against the base of the table
        for row, q in zip(UR5E_PUBLISHED_DH, joints, strict=True):
            c, s, ca, sa = np.cos(q), np.sin(q), np.cos(row.alpha_rad), np.sin(row.alpha_rad)
            pose = pose @ [
                [c, -s * ca, s * sa, row.a_m * c],
                [s, c * ca, -c * sa, row.a_m * s],
                [0, sa, ca, row.d_m],
                [0, 0, 0, 1],
            ]
        np.testing.assert_allclose(Kinematics(UR5E).flange_pose(joints), pose, atol=1e-9)


@arms
@pytest.mark.parametrize("task", ["reach", "pick_place", "peg_insertion"])
def test_numpy_mjcf_and_urdf_agree(arm, task: str) -> None:
    kinematics, urdf = Kinematics(arm), Urdf(arm_urdf(arm))
    model = mujoco.MjModel.from_xml_string(scene_xml(arm.name, task))
    data = mujoco.MjData(model)
    for joints in random_joints(arm, 25):
        data.qpos[: len(joints)] = joints
        mujoco.mj_kinematics(model, data)
        positions = dict(zip(arm.joint_names, joints, strict=True))
        for link, pose in zip(arm.links, kinematics.link_poses(joints), strict=True):
            body = data.body(link.name)
            np.testing.assert_allclose(body.xpos, pose[:3, 3], atol=1e-7)
            np.testing.assert_allclose(body.xmat.reshape(3, 3), pose[:3, :3], atol=1e-7)
            np.testing.assert_allclose(urdf.pose(link.name, positions), pose, atol=1e-7)
        tcp, site = kinematics.tcp_pose(joints), data.site("tcp")
        np.testing.assert_allclose(site.xpos, tcp[:3, 3], atol=1e-7)
        np.testing.assert_allclose(site.xmat.reshape(3, 3), tcp[:3, :3], atol=1e-7)
        np.testing.assert_allclose(urdf.pose(arm.gripper.tcp_frame, positions), tcp, atol=1e-7)


@arms
def test_fingers_are_at_the_same_place_in_mjcf_and_urdf(arm) -> None:
    urdf = Urdf(arm_urdf(arm))
    model = mujoco.MjModel.from_xml_string(scene_xml(arm.name, "pick_place"))
    data, opening_m = mujoco.MjData(model), 0.6 * arm.gripper.stroke_m
    positions = dict.fromkeys(arm.gripper.finger_names, opening_m)
    for name in positions:
        data.joint(name).qpos[0] = opening_m
    mujoco.mj_kinematics(model, data)
    for side, name in zip(("left", "right"), arm.gripper.finger_names, strict=True):
        pose = urdf.pose(name.replace("joint", "link"), positions)
        joints = dict(zip(arm.joint_names, np.zeros(len(arm.joints)), strict=True))
        pose = urdf.pose(name.replace("joint", "link"), positions | joints)
        np.testing.assert_allclose(data.body(f"{side}_finger").xpos, pose[:3, 3], atol=1e-7)


@arms
def test_limits_and_masses_are_the_same_everywhere(arm) -> None:
    urdf, kinematics = Urdf(arm_urdf(arm)), Kinematics(arm)
    model = mujoco.MjModel.from_xml_string(scene_xml(arm.name, "reach"))
    for i, joint in enumerate(arm.joints):
        limit = urdf.joints[joint.name].find("limit")
        expected = [joint.lower_rad, joint.upper_rad]
        np.testing.assert_allclose(model.joint(joint.name).range, expected, atol=1e-8)
        written = [float(limit.get("lower")), float(limit.get("upper"))]
        np.testing.assert_allclose(written, expected, atol=1e-8)
        assert float(limit.get("velocity")) == pytest.approx(joint.velocity_rad_s)
        assert float(limit.get("effort")) == pytest.approx(joint.effort_nm)
        assert kinematics.lower_rad[i] <= arm.home_rad[i] <= kinematics.upper_rad[i]
    for link in arm.links:
        assert model.body(link.name).mass[0] == pytest.approx(link.mass_kg)
        element = urdf.root.find(f"./link[@name='{link.name}']/inertial/mass")
        assert float(element.get("value")) == pytest.approx(link.mass_kg)


@arms
def test_installed_urdf_is_what_the_description_gives(arm) -> None:
    file = URDF_FOLDER / f"{arm.name}.urdf"
    assert file.read_text() == arm_urdf(arm), "run: python -m user_hal.sim.urdf src/user_hal/urdf"


@arms
def test_jacobian_is_the_derivative_of_the_tool_pose(arm) -> None:
    kinematics, small = Kinematics(arm), 1e-6
    for joints in random_joints(arm, 5, seed=3):
        jacobian, tcp = kinematics.jacobian(joints), kinematics.tcp_pose(joints)
        for i in range(len(joints)):
            moved = joints.copy()
            moved[i] += small
            after = kinematics.tcp_pose(moved)
            linear = (after[:3, 3] - tcp[:3, 3]) / small
            angular = rotation_vector(after[:3, :3] @ tcp[:3, :3].T) / small
            np.testing.assert_allclose(jacobian[:, i], [*linear, *angular], atol=2e-5)


@arms
def test_inverse_finds_joints_for_what_can_be_reached_and_none_for_what_cannot(arm) -> None:
    kinematics, rng = Kinematics(arm), np.random.default_rng(1)
    for _ in range(20):
        pose = tool_down(rng.uniform((0.32, -0.2, 0.05), (0.58, 0.2, 0.35)), rng.uniform(-0.5, 0.5))
        joints = kinematics.inverse(pose)
        assert joints is not None
        np.testing.assert_allclose(kinematics.tcp_pose(joints), pose, atol=1e-5)
        assert (joints >= kinematics.lower_rad).all() and (joints <= kinematics.upper_rad).all()
    assert kinematics.inverse(tool_down(np.array([2.0, 0.0, 0.2]))) is None


def test_quaternions_and_matrices_are_each_others_inverse() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        q = rng.standard_normal(4)
        q /= np.linalg.norm(q)
        again = quaternion_xyzw(rotation_matrix(q))
        assert min(np.abs(again - q).max(), np.abs(again + q).max()) < 1e-9
    half_turn = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(np.abs(rotation_vector(half_turn)), [np.pi, 0, 0], atol=1e-9)
    np.testing.assert_allclose(rotation_vector(np.eye(3)), np.zeros(3))


def test_wrong_questions_name_what_is_there() -> None:
    with pytest.raises(ConfigError, match=r"panda.*ur5e"):
        arm_named("kuka")
    with pytest.raises(SpecError, match="panda_joint1"):
        Kinematics(PANDA).tcp_pose(np.zeros(6))


@arms
def test_cameras_are_at_the_same_place_in_mjcf_and_urdf(arm) -> None:
    urdf = Urdf(arm_urdf(arm))
    model = mujoco.MjModel.from_xml_string(scene_xml(arm.name, "reach"))
    data = mujoco.MjData(model)
    for joints in random_joints(arm, 3):
        positions = dict(zip(arm.joint_names, joints, strict=True))
        for name, value in positions.items():
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_forward(model, data)
        for camera in ("front", "wrist"):
            number = model.camera(camera).id
            pose = urdf.pose(optical_frame(camera), positions)
            np.testing.assert_allclose(pose[:3, 3], data.cam_xpos[number], atol=1e-6)
            seen = data.cam_xmat[number].reshape(3, 3) * [1, -1, -1]  # MuJoCo looks along -z
            np.testing.assert_allclose(pose[:3, :3], seen, atol=1e-6)
