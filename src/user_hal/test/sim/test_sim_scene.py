"""Physics that behaves: starts, motion, contact, force, and its limits."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from user_core.errors import DeviceFault, SpecError
from user_hal.sim.arms import ARMS
from user_hal.sim.control import EeDelta, JointPosition
from user_hal.sim.scene import Scene
from user_hal.sim.tasks import TASKS, PegInsertion

arms = pytest.mark.parametrize("arm", list(ARMS))
scenes = pytest.mark.parametrize(("arm", "task"), [(a, t) for a in ARMS for t in TASKS])


def fresh(arm: str, task: str, seed: int = 0) -> tuple[Scene, EeDelta]:
    scene = Scene(arm, task, drive="tool")
    control = EeDelta(scene, 0.1)
    scene.reset(np.random.default_rng(seed))
    return scene, control


def drive(scene: Scene, control: EeDelta, action: list[float], times: int = 1) -> None:
    """Move the tool; the gripper, where there is one, stays open."""
    values = action + [0.0] * (control.spec.size - len(action))
    if scene.has_gripper and len(action) < control.spec.size:
        values[-1] = 1.0
    for _ in range(times):
        control.apply(np.array(values))
        scene.advance(20)


def contact_force(scene: Scene, robot_bodies: set[int]) -> np.ndarray:
    """Force of all contacts on the robot, straight from the solver."""
    total, wrench = np.zeros(3), np.zeros(6)
    for i, contact in enumerate(scene.data.contact):
        mujoco.mj_contactForce(scene.model, scene.data, i, wrench)
        force = contact.frame.reshape(3, 3).T @ wrench[:3]  # on the second geom
        bodies = scene.model.geom_bodyid[[contact.geom1, contact.geom2]]
        if bodies[1] in robot_bodies:
            total += force
        elif bodies[0] in robot_bodies:
            total -= force
    return total


@scenes
def test_a_seed_decides_the_start_whatever_happened_before(arm: str, task: str) -> None:
    scene, control = fresh(arm, task, seed=7)
    first = scene.state()
    drive(scene, control, [0.01, 0.0, 0.01], times=5)
    scene.reset(np.random.default_rng(8))
    other = scene.state()
    scene.reset(np.random.default_rng(7))
    again = scene.state()
    assert np.array_equal(first.joint_position, again.joint_position)
    for name, value in first.features.items():
        assert np.array_equal(value, again.features[name]), name
    assert not np.allclose(first.tcp_pose, other.tcp_pose)
    assert not scene.succeeded()


@scenes
def test_the_arm_holds_still_without_drift_or_force(arm: str, task: str) -> None:
    scene, control = fresh(arm, task)
    start = scene.state()
    drive(scene, control, [0.0], times=40)
    end = scene.state()
    np.testing.assert_allclose(end.tcp_pose, start.tcp_pose, atol=3e-4)
    np.testing.assert_allclose(end.wrench, 0.0, atol=0.05)


@arms
def test_the_tool_goes_where_it_is_told_and_keeps_pointing_down(arm: str) -> None:
    scene, control = fresh(arm, "reach", seed=2)
    start = scene.state().tcp_pose
    move = np.array([0.012, -0.02, -0.008]) * np.sign(0.45 - start[0])
    drive(scene, control, move.tolist(), times=4)
    drive(scene, control, [0.0], times=5)
    state = scene.state()
    np.testing.assert_allclose(state.tcp_pose[:3], start[:3] + 4 * move, atol=1e-3)
    np.testing.assert_allclose(np.abs(state.tcp_pose[3:]), [1, 0, 0, 0], atol=2e-3)
    np.testing.assert_allclose(state.tcp_velocity, 0.0, atol=0.01)


@arms
def test_the_tool_turns_about_the_vertical(arm: str) -> None:
    scene, control = fresh(arm, "pick_place")
    drive(scene, control, [0.0, 0.0, 0.0, 0.1], times=4)
    drive(scene, control, [0.0], times=4)
    x, y = scene.tcp_rotation[:2, 0]
    assert np.arctan2(y, x) == pytest.approx(0.4, abs=0.01)


@arms
def test_velocity_is_what_the_positions_say(arm: str) -> None:
    scene, control = fresh(arm, "reach", seed=4)
    drive(scene, control, [0.0, 0.01, 0.0], times=2)
    before = scene.state()
    scene.advance(1)
    after = scene.state()
    moved = (after.tcp_pose[:3] - before.tcp_pose[:3]) / scene.timestep_s
    np.testing.assert_allclose(after.tcp_velocity[:3], moved, atol=5e-3)


@arms
def test_the_workspace_box_and_the_leash_bound_what_is_commanded(arm: str) -> None:
    scene, control = fresh(arm, "peg_insertion")
    high_m = np.array(scene.task.workspace_high_m)
    drive(scene, control, [0.01, 0.01, 0.01], times=60)
    assert (scene.tcp_position <= high_m + 1e-3).all()
    np.testing.assert_allclose(scene.tcp_position, high_m, atol=2e-3)


@arms
def test_the_wrist_sensor_shows_the_force_of_contact(arm: str) -> None:
    scene, control = fresh(arm, "peg_insertion")
    for _ in range(40):  # beside the hole, then down on the block
        aside = scene.state().features["peg_to_hole"] + [0.03, 0.0, 0.0]
        drive(scene, control, [*np.clip(aside[:2], -0.01, 0.01), 0.0])
    drive(scene, control, [0.0, 0.0, -0.01], times=10)
    state, hand = scene.state(), scene.model.body("hand").id
    bodies = {
        i for i in range(scene.model.nbody) if i == hand or scene.model.body_parentid[i] == hand
    }
    pushed = contact_force(scene, bodies)
    assert state.wrench[2] == pytest.approx(2500.0 * 0.014, rel=0.05)  # stiffness times way
    np.testing.assert_allclose(state.wrench[:3], pushed, atol=0.5)


@arms
def test_what_the_gripper_holds_is_felt(arm: str) -> None:
    from user_core.specs import RobotSpec
    from user_hal.sim.experts import ScriptedExpert
    from user_hal.sim.scene import observation_arrays, observation_specs

    scene, control = fresh(arm, "pick_place")
    spec = RobotSpec(arm, observation_specs(scene), control.spec, control.kind)
    expert = ScriptedExpert(spec)
    for _ in range(60):
        if scene.succeeded():
            break
        control.apply(expert.act(observation_arrays(scene.state(), gripper=True)))
        scene.advance(20)
    drive(scene, control, [0.0, 0.0, 0.0, 0.0, 0.0], times=10)
    weight_n = 0.08 * 9.81
    np.testing.assert_allclose(scene.state().wrench[:3], [0, 0, -weight_n], atol=0.05)


@arms
def test_a_peg_goes_into_the_hole_and_nowhere_else(arm: str) -> None:
    for aside_m, enters in ((0.0, True), (0.006, False), (0.02, False)):
        scene = Scene(arm, PegInsertion(calibration_noise_m=0.0), drive="tool")
        control = EeDelta(scene, 0.1)
        scene.reset(np.random.default_rng(5))
        for _ in range(30):
            way = scene.state().features["peg_to_hole"] + [0.0, aside_m, 0.005]
            drive(scene, control, np.clip(way, -0.01, 0.01).tolist())
        for _ in range(20):
            way = scene.state().features["peg_to_hole"] + [0.0, aside_m, 0.0]
            drive(scene, control, [*np.clip(way[:2], -0.002, 0.002), -0.006])
        depth_m = scene.state().features["peg_to_hole"][2]
        assert scene.succeeded() == enters, (aside_m, depth_m)
        if not enters:
            assert depth_m < 0.002


def test_clearance_is_one_millimetre_all_around() -> None:
    scene = Scene("panda", "peg_insertion")
    task = scene.task
    assert isinstance(task, PegInsertion)
    walls = [scene.model.geom(f"wall{i}") for i in range(6)]
    for wall in walls:
        inner_m = np.hypot(*wall.pos[:2]) - wall.size[0]
        assert inner_m == pytest.approx(task.peg_radius_m + 0.001)
    for i in range(6):
        geom = scene.model.geom(f"peg{i}")
        assert np.hypot(*geom.pos[:2]) + geom.size[0] == pytest.approx(task.peg_radius_m)


@arms
def test_a_far_target_is_approached_within_the_velocity_limits(arm: str) -> None:
    scene = Scene(arm, "reach")
    control = JointPosition(scene, 0.1)
    goal = scene.kinematics.home_rad + 0.6
    goal[1] -= 1.0  # away from the table
    limit, fastest = scene.kinematics.velocity_rad_s, np.zeros(scene.joint_count)
    for _ in range(15):
        control.apply(goal)
        scene.advance(20)
        fastest = np.maximum(fastest, np.abs(scene.state().joint_velocity))
    assert (fastest < limit).all()
    np.testing.assert_allclose(scene.state().joint_position, goal, atol=0.01)


def test_a_redundant_arm_returns_to_its_posture_without_moving_the_tool() -> None:
    scene, control = fresh("panda", "reach")
    jacobian = scene.kinematics.jacobian(scene.state().joint_position)
    _, _, rows = np.linalg.svd(jacobian)
    away = rows[-1]  # the motion that the tool does not feel
    scene.data.qvel[:7] = 0.8 * away  # a push against the elbow
    start, distance = scene.state(), []
    for _ in range(40):
        drive(scene, control, [0.0])
        joints = scene.state().joint_position
        distance.append(abs(float(away @ (joints - start.joint_position))))
    assert max(distance) > 0.02
    assert distance[-1] < 0.6 * max(distance)
    np.testing.assert_allclose(scene.state().tcp_pose[:3], start.tcp_pose[:3], atol=2e-3)


@arms
@pytest.mark.parametrize("drive_name", ["tool", "joints"])
def test_hold_stops_the_arm_where_it_is(arm: str, drive_name: str) -> None:
    scene = Scene(arm, "reach", drive=drive_name)
    scene.reset(np.random.default_rng(1))
    if drive_name == "tool":
        scene.set_tool_target(scene.tcp_position + np.array([0.0, 0.03, 0.0]), duration_s=0.1)
    else:
        scene.set_joint_targets(scene.targets + 0.05, duration_s=0.1)
    scene.advance(10)
    scene.hold()
    held = scene.state()
    scene.advance(200)
    np.testing.assert_allclose(scene.state().tcp_pose[:3], held.tcp_pose[:3], atol=0.005)
    np.testing.assert_allclose(scene.state().joint_velocity, 0.0, atol=0.02)
    assert np.abs(scene.state().joint_position - held.joint_position).max() < 0.08


def test_bad_input_and_broken_physics_are_errors() -> None:
    scene = Scene("panda", "reach")
    with pytest.raises(SpecError, match="joint targets"):
        scene.set_joint_targets(np.zeros(6))
    with pytest.raises(SpecError, match="drive 'joints'"):
        scene.set_tool_target(np.zeros(3))
    scene.data.qvel[0] = np.nan
    with pytest.raises(DeviceFault, match="substeps"):
        scene.advance(5)
    scene.reset(np.random.default_rng(0))
    scene.advance(5)
    assert np.isfinite(scene.state().joint_position).all()
