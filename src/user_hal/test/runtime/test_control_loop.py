"""The loop behind the gate, with a clock that the test tells the time."""

from __future__ import annotations

import math
import sys
import threading
import time

import numpy as np
import pytest

from user_core.errors import LeaseError, SafetyError, SuiteError
from user_core.reasons import Reason
from user_core.types import ActionChunk
from user_hal.robots.mock import MockConfig, MockRobot
from user_hal.runtime.control_loop import HalLoop, LoopConfig, is_running
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import Refused, SafetyConfig
from user_hal.safety.stops import SafetyState
from user_testing.waiting import wait_until
from user_testing.worlds.robots.hal import EPOCH_NS, MS, World


def refusal(world: World, chunk: ActionChunk) -> str:
    """Submit a chunk that must be refused; return the reason."""
    with pytest.raises(Refused) as caught:
        world.loop.submit(chunk)
    assert world.loop.status().reasons[caught.value.code] >= 1
    return caught.value.code


def test_observations_come_at_their_rate_and_say_what_was_sent() -> None:
    world = World()
    world.run(1000)
    assert len(world.seen) in (20, 21)
    gaps = np.diff([o.stamp_ns for o in world.seen[1:]])
    assert (gaps == 50 * MS).all()
    assert world.state is SafetyState.IDLE and world.seen[-1].applied is None
    world.command(0.01)
    world.run(60)
    applied = world.seen[-1].applied
    assert applied is not None and applied.sequence == 1 and not applied.changed
    assert float(applied.action[0]) == pytest.approx(0.01)
    assert world.seen[-1].arrays["tcp_pose"][0] == pytest.approx(0.41)
    assert world.state is SafetyState.ACTIVE


def test_a_loop_that_was_held_up_does_not_drift() -> None:
    world = World()
    world.run(200)
    world.time.now_ns += 130 * MS  # something held the whole process up
    before = len(world.seen)
    world.run(300)
    assert [o.stamp_ns // MS % 50 for o in world.seen[before + 1 :]] == [
        world.seen[1].stamp_ns // MS % 50
    ] * len(world.seen[before + 1 :])
    assert world.loop.status().lateness.missed == 1


def test_the_watchdog_stops_a_robot_whose_commands_stay_away() -> None:
    world = World()
    world.run(60)
    world.drive(500)
    assert world.stops == 0
    last_ns = world.time.now_ns - 50 * MS
    world.run(600)
    assert world.stops == 1 and world.cause == "watchdog"
    assert world.state is SafetyState.STOPPED
    assert "last command is 0.2" in world.loop.status().cause.text
    stamps = [o.stamp_ns for o in world.seen]
    assert max(stamps) - last_ns - EPOCH_NS >= 500 * MS  # it is still watched
    world.command(0.001)  # and goes on when commands come again
    world.run(10)
    assert world.state is SafetyState.ACTIVE and world.cause == ""


def test_a_chunk_is_played_row_by_row_and_its_end_is_a_safe_stop() -> None:
    world = World()
    world.run(60)
    world.command(0.01, 0.02, 0.03)
    world.run(140)
    assert world.commands == [0.01, 0.02, 0.03] and world.stops == 0
    world.run(300)
    assert world.commands == [0.01, 0.02, 0.03] and world.stops == 1
    assert world.cause == "watchdog"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"actions_ta": np.zeros((1, 6), np.float32)}, "shape"),
        ({"actions_ta": np.zeros((1, 7), np.float64)}, "dtype"),
        ({"actions_ta": np.full((2, 7), math.nan, np.float32)}, "not_finite"),
        ({"actions_ta": np.zeros((99, 7), np.float32)}, "chunk_too_long"),
        ({"start_ns": EPOCH_NS}, "stale_chunk"),
        ({"start_ns": EPOCH_NS + 3600 * 10**9}, "future"),
        ({"lease_token": 7}, "lease"),
        ({"sequence": 0}, "sequence"),
    ],
)
def test_bad_chunks_are_refused_at_the_door(change, code) -> None:
    world = World()
    world.run(60)
    world.command(0.001)
    good = {"actions_ta": np.zeros((1, 7), np.float32), "period_ns": 50 * MS, "sequence": 9}
    assert refusal(world, ActionChunk(**{**good, **change})) == code
    world.run(10)
    assert len(world.commands) == 1


def test_a_command_far_out_of_bounds_stops_the_robot_and_the_next_good_one_goes() -> None:
    world = World()
    world.run(60)
    world.drive(100)
    world.command(0.5)
    world.run(20)
    assert world.stops == 1 and world.cause == "out_of_bounds"
    assert "allowed -0.05 to 0.05" in world.loop.status().cause.text
    world.command(0.001)
    world.run(60)
    assert world.state is SafetyState.ACTIVE and world.commands[-1] == 0.001


def test_chunks_that_come_too_fast_reach_the_driver_at_a_bounded_rate() -> None:
    world = World()
    world.run(60)
    for _ in range(500):
        world.command(0.001)
        world.run(1)
    assert len(world.commands) <= 500 / 25 + 1


def test_only_the_holder_of_the_newest_lease_is_obeyed() -> None:
    world = World(lease_required=True)
    world.run(60)
    assert refusal(world, world.chunk(0.001)) == "lease"
    first = world.loop.leases.acquire("first", 1.0)
    world.command(0.001, lease_token=first.token)
    world.run(60)
    second = world.loop.leases.acquire("second", 1.0, preempt=True)
    assert second.token > first.token
    assert world.stops == 1 and world.cause == "lease"
    assert refusal(world, world.chunk(0.001, lease_token=first.token)) == "lease"
    world.command(0.002, lease_token=second.token, sequence=1)
    world.run(60)
    assert world.commands == [0.001, 0.002]


def test_a_lease_that_runs_out_stops_the_robot() -> None:
    world = World(lease_required=True, safety={"watchdog_s": 5.0, "max_chunk_s": 2.0})
    world.run(60)
    lease = world.loop.leases.acquire("actor", 0.3)
    world.command(*([0.001] * 30), lease_token=lease.token)
    world.run(290)
    assert world.stops == 0
    world.run(30)
    assert world.stops == 1 and world.cause == "lease"
    assert "ran out" in world.loop.status().cause.text
    played = len(world.commands)
    world.run(500)
    assert len(world.commands) == played


def test_commands_renew_the_lease() -> None:
    world = World(lease_required=True)
    world.run(60)
    lease = world.loop.leases.acquire("actor", 0.3)
    for _ in range(20):
        world.command(0.001, lease_token=lease.token)
        world.run(50)
    assert world.state is SafetyState.ACTIVE and world.stops == 0


def test_an_emergency_stop_stays_until_it_is_reset() -> None:
    world = World()
    world.run(60)
    world.drive(100)
    world.loop.path.press_emergency("a test")
    assert world.stops >= 1 and world.state is SafetyState.EMERGENCY
    played = len(world.commands)
    for _ in range(5):
        assert refusal(world, world.chunk(0.001)) == "emergency_stop"
        world.run(100)
    with pytest.raises(SafetyError, match="emergency"):
        world.loop.reset(None)
    assert len(world.commands) == played and world.state is SafetyState.EMERGENCY
    world.loop.path.reset_emergency()
    world.run(10)
    assert world.state is SafetyState.IDLE
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


def test_a_force_stops_the_robot_until_it_has_gone() -> None:
    world = World(safety={"force": {"stop_n": 20.0, "resume_n": 10.0}})
    world.run(60)
    world.drive(100)
    world.robot.faults.wrench = (0, 0, 25.0, 0, 0, 0)
    world.run(60)
    assert world.cause == "force" and world.stops == 1
    world.robot.faults.wrench = (0, 0, 15.0, 0, 0, 0)  # between the two limits: still stopped
    world.run(60)
    assert refusal(world, world.chunk(0.001)) == "stopped"
    world.robot.faults.wrench = (0, 0, 5.0, 0, 0, 0)
    world.run(60)
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


@pytest.mark.parametrize("call", ["read", "command"])
@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_a_driver_that_fails_is_stopped_and_comes_back_by_itself(call, fault) -> None:
    world = World()
    world.run(60)
    world.drive(100)
    setattr(world.robot.faults, call, fault)
    world.command(0.001)
    world.run(60)
    assert world.stops >= 1 and world.state is SafetyState.STOPPED
    assert world.cause == "device_fault"
    detail = world.loop.status().cause.text
    assert ("nan" in detail or "not finite" in detail) if fault == "nan" else "asked for" in detail
    if call == "read":
        world.run(1000)
        assert world.cause == "device_fault" and world.loop.status().present
        assert refusal(world, world.chunk(0.001)) == "stopped"
    setattr(world.robot.faults, call, "")
    world.run(2100)  # the longest pause between two attempts
    assert not world.loop.status().present
    world.drive(100)
    assert world.state is SafetyState.ACTIVE
    assert len(world.seen) > 10


def test_a_robot_that_went_away_is_connected_again() -> None:
    world = World()
    world.run(60)
    world.robot.faults.connect = "refuse"
    world.robot.close()
    world.run(500)
    assert world.cause == "device_not_connected" and world.loop.status().present
    world.robot.faults.connect = ""
    world.run(2100)
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


def test_readings_that_are_old_when_they_come_stop_the_robot() -> None:
    world = World(safety={"max_observation_age_s": 0.1})
    world.run(60)
    world.drive(100)
    world.time.epoch_ns += 500 * MS  # what the driver stamps is half a second behind
    slow = world.time.epoch_ns - 500 * MS
    world.robot._clock_ns = lambda: slow + world.time.now_ns
    world.run(60)
    assert world.cause == "stale_observation" and world.stops == 1
    world.robot._clock_ns = world.time.wall_ns
    world.run(60)
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


def test_outside_its_box_a_robot_may_only_come_back() -> None:
    world = World(safety={"workspace": {"low": [0.2, -0.3, 0.0], "high": [0.6, 0.3, 0.6]}})
    world.run(60)
    world.robot.faults.tcp = (0.65, 0.0, 0.3)
    world.run(60)
    world.command(0.01)
    world.run(10)
    assert world.commands == [] and world.cause == "workspace"
    world.command(-0.01)
    world.run(10)
    assert world.commands == [] and world.cause == "unsettled"  # how did it get there so fast?
    world.run(200)
    world.command(-0.01)
    world.run(60)
    assert world.commands == [-0.01]


def test_joint_actions_stop_when_the_tool_leaves_its_box_until_a_reset() -> None:
    world = World(
        control="joint_position",
        safety={"workspace": {"low": [0.2, -0.3, 0.0], "high": [0.6, 0.3, 0.6]}},
    )
    world.run(60)
    world.command(0.7)
    world.run(60)
    assert world.cause == "workspace" and world.loop.status().present
    assert refusal(world, world.chunk(0.4)) == "stopped"
    done = world.loop.reset(3)
    world.run(60)
    assert done.result(0).episode == 1
    assert world.state is SafetyState.IDLE


def test_a_reset_stops_first_lets_nothing_in_and_starts_anew() -> None:
    world = World()
    world.run(60)
    world.command(0.001, 0.002, 0.003, 0.004)
    world.run(60)
    done = world.loop.reset(5)
    assert refusal(world, world.chunk(0.001)) == "busy"
    world.run(60)
    first = done.result(0)
    assert first.episode == 1 and first.applied is None
    whats = [what for what, _, _ in world.robot.log.entries]
    assert whats[-2:] == ["stop", "reset"]  # and the rest of the old chunk was never played
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


def test_a_reset_that_fails_says_so_and_the_robot_comes_back() -> None:
    world = World()
    world.run(60)
    world.robot.faults.reset = "raise"
    done = world.loop.reset(None)
    world.run(20)
    with pytest.raises(SuiteError, match="asked for"):
        done.result(0)
    world.robot.faults.reset = ""
    world.run(200)
    again = world.loop.reset(None)
    world.run(60)
    assert again.result(0).episode == 1


def test_a_reset_that_meets_an_emergency_stop_leaves_the_door_as_it_was() -> None:
    world = World()
    world.run(60)
    done = world.loop.reset(None)
    world.loop.path.press_emergency("a test")  # before the loop came to the reset
    world.run(20)
    with pytest.raises(SafetyError):
        done.result(0)
    world.loop.path.reset_emergency()
    world.run(20)
    world.drive(100)
    assert world.state is SafetyState.ACTIVE


def test_an_answer_to_the_first_observation_of_an_episode_finds_the_door_open() -> None:
    world = World(lockstep=True)
    world.run(10)

    def answer(observation) -> None:
        world.seen.append(observation)
        if observation.episode == 1 and observation.applied is None:
            world.command(0.001)

    world.loop._on_observation = answer
    world.loop.reset(None)
    world.run(10)
    assert world.commands == [0.001]


def test_a_reset_needs_the_lease() -> None:
    world = World(lease_required=True)
    world.run(60)
    with pytest.raises(LeaseError):
        world.loop.reset(None, token=3)


def test_a_robot_in_lockstep_gives_one_observation_per_command_and_no_watchdog() -> None:
    world = World(lockstep=True)
    world.run(10)
    before = len(world.seen)
    for i in range(10):
        world.command(0.001)
        world.run(1)
        assert len(world.seen) == before + i + 1
        assert world.seen[-1].applied.sequence == i + 1
    world.run(5000)
    assert world.state is SafetyState.ACTIVE and world.stops == 0
    again = world.seen[before + 10 :]
    assert 9 <= len(again) <= 11  # shown again for who missed it
    assert {o.sequence for o in again} == {world.seen[before + 9].sequence}


def live_loop(lost, robot=None):
    """A loop in threads of its own."""
    robot = robot or MockRobot(MockConfig(rate_hz=100.0))
    return robot, HalLoop(
        robot, LoopConfig(), SafetyConfig(watchdog_s=0.3), LeaseConfig(required=False),
        on_lost=lost.append,
    )  # fmt: skip


@pytest.mark.parametrize("who", ["observation", "waiter"])
def test_a_sys_exit_beside_the_driver_does_not_end_the_loop(who) -> None:
    lost, seen = [], []
    _, loop = live_loop(lost)

    def leave(*arguments: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            raise SystemExit(0)
        time.sleep(0.005)

    if who == "observation":
        loop._on_observation = leave
    else:
        loop.waiter.wait = leave  # type: ignore[method-assign]
    loop.start()
    try:
        wait_until(lambda: len(seen) > 10)
        assert not lost and not loop.lost
    finally:
        loop.close()


def test_a_thread_that_starts_late_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Reason] = []
    _, loop = live_loop(lost)
    looks: list[int] = []
    look, start = loop.look, threading.Thread.start

    def watched() -> None:
        look()
        looks.append(1)

    def late(thread: threading.Thread) -> None:
        if thread.name == "hal_loop":
            seen = len(looks)
            wait_until(lambda: len(looks) > seen + 3)
        start(thread)

    monkeypatch.setattr(loop, "look", watched)
    monkeypatch.setattr(threading.Thread, "start", late)
    for _ in range(2):  # also when it is started again, after a thread that has ended
        loop.start()
        try:
            wait_until(lambda: not loop.fault)
            assert not lost and not loop.lost
        finally:
            loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_whose_thread_has_died_stops_the_robot_and_says_so() -> None:
    lost: list[Reason] = []
    robot, loop = live_loop(lost)

    def leave() -> int:
        raise SystemExit(0)

    loop.start()
    try:
        wait_until(lambda: loop.status().passed == 0 and not loop.fault)
        loop._safe_step = leave  # past all our helpers
        wait_until(lambda: lost)
        assert lost[0].code == "loop_died" and loop.lost
        wait_until(lambda: any(what == "stop" for what, _, _ in robot.log.entries))
        assert loop.status().cause.code == "loop_died"
    finally:
        loop.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel")
def test_a_thread_that_c_code_has_ended_is_not_running() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait, daemon=True)
    thread.start()
    assert is_running(thread)
    go.set()
    thread.join()
    assert not is_running(thread)
