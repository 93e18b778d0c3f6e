"""What the simulator costs beside the bare physics and the bare renderer, and how often the
scripted experts succeed.

The contenders take turns in one process, so that a busy machine slows all of them alike:
what counts is the ratio. Steps a second are given by the wall clock and by the processor time
of this process, which other processes disturb less.

    python benchmarks/control/simulation.py [--rounds 30] [--images] [--real-time] [--experts 100]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pool

import mujoco
import numpy as np

from user_core.command_line import Parser
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.arms import ARMS
from user_hal.sim.experts import ScriptedExpert
from user_hal.sim.rendering import Renderer, Snapshot
from user_hal.sim.tasks import TASKS
from user_testing import systems

#: Everything that the next physics step depends on.
FULL = int(mujoco.mjtState.mjSTATE_INTEGRATION)
#: The seed of an episode that begins, and an action.
Move = tuple[int | None, np.ndarray]
SCENES = [(arm, task) for arm in ARMS for task in TASKS]


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor time of a call, seconds."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def in_turns(
    contenders: Sequence[Callable[[], None]], rounds: int
) -> list[tuple[float, float, float]]:
    """Of each: median wall time, median and tenth percentile of processor time, seconds."""
    times: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for _ in range(rounds):
        for mine, contender in zip(times, contenders, strict=True):
            mine.append(timed(contender))
    return [
        (
            float(np.median([wall_s for wall_s, _ in mine])),
            *np.percentile([cpu_s for _, cpu_s in mine], [50, 10]).tolist(),
        )
        for mine in times
    ]


HEADER = (
    "scene                  steps/s: wall p50   cpu p50   cpu p10   "
    "{}: cpu p50   cpu p10   x bare (p50)"
)


def row(arm: str, task: str, steps: int, mine: Sequence[float], bare: Sequence[float]) -> str:
    ours = "".join(f"{steps / seconds:10.0f}" for seconds in mine)
    theirs = "".join(f"{steps / seconds:13.0f}" for seconds in bare[1:])
    return f"{arm:6} {task:14} {ours:>32} {theirs:>32} {mine[1] / bare[1]:14.2f}"


def state_only(rounds: int, steps: int = 100) -> None:
    print("\nState only, 10 Hz control with 20 physics steps, episodes of the noisy expert and")
    print("their resets; bare mj_step goes through the same physics states:")
    print(HEADER.format("bare mj_step"))
    for arm, task in SCENES:
        robot = MujocoRobot(MujocoConfig(robot=arm, task=task))
        robot.connect()
        moves, states = recorded(robot, steps)

        def ours(robot: MujocoRobot = robot, moves: list[Move] = moves) -> None:
            for seed, action in moves:
                if seed is not None:
                    robot.reset(seed)
                robot.command(action)
                robot.read()

        def bare(robot: MujocoRobot = robot, states: list[np.ndarray] = states) -> None:
            model, data = robot.scene.model, robot.scene.data
            for state in states:
                mujoco.mj_setState(model, data, state, FULL)
                mujoco.mj_step(model, data, robot.config.substeps)

        mine, physics = in_turns([ours, bare], rounds)
        robot.close()
        print(row(arm, task, steps, mine, physics))


def recorded(robot: MujocoRobot, steps: int) -> tuple[list[Move], list[np.ndarray]]:
    """What a noisy expert does, episode after episode; and the physics at each action."""
    expert, moves, states = ScriptedExpert(robot.spec, noise=0.15), [], []
    seed, begun, observation = -1, False, None
    state = np.empty(mujoco.mj_stateSize(robot.scene.model, FULL))
    advance = robot.scene.advance

    def noted(substeps: int) -> None:
        mujoco.mj_getState(robot.scene.model, robot.scene.data, state, FULL)
        states.append(state.copy())
        advance(substeps)

    robot.scene.advance = noted  # type: ignore[method-assign]
    for _ in range(steps):
        if observation is None or observation.task.terminated or observation.task.truncated:
            seed, begun = seed + 1, True
            observation = robot.reset(seed)
            expert.reset()
        moves.append((seed if begun else None, robot.command(expert.act(observation.arrays))))
        observation, begun = robot.read(), False
    robot.scene.advance = advance  # type: ignore[method-assign]
    return moves, states


def with_images(rounds: int, steps: int = 10) -> None:
    print("\nWith two images of 128x128 (front, wrist) in each observation:")
    print(
        "scene                  steps/s (wall)  steps/s (cpu)  bare renderer (cpu)  ratio of time"
    )
    for arm, task in SCENES:
        robot = MujocoRobot(MujocoConfig(robot=arm, task=task, cameras=("front", "wrist")))
        robot.connect()
        robot.reset(seed=0)
        still = np.zeros(robot.spec.action.shape, np.float32)
        renderer = Renderer(robot.scene.model, 128, 128)
        snapshot = Snapshot.of(robot.scene.data)

        def ours(robot: MujocoRobot = robot, still: np.ndarray = still) -> None:
            for _ in range(steps):
                robot.command(still)
                robot.read()

        def bare(renderer: Renderer = renderer, snapshot: Snapshot = snapshot) -> None:
            for _ in range(steps):
                renderer.render(snapshot, ("front", "wrist"))

        mine, drawing = in_turns([ours, bare], rounds)
        renderer.close()
        robot.close()
        print(row(arm, task, steps, mine, drawing))


def real_time(seconds: float) -> None:
    """Lateness of the physics thread against its deadlines, beside a loop that only sleeps."""
    print(f"\nReal time, physics every 5 ms for {seconds:g} s, lateness in ms:")
    for name, params in (
        ("bare absolute sleep", None),
        ("state, read at 10 Hz", {}),
        ("two images, read at 10 Hz", {"cameras": ("front", "wrist")}),
        ("two images at 20 Hz", {"cameras": ("front", "wrist"), "image_rate_hz": 20.0}),
    ):
        late_ms = sleeping(seconds) if params is None else driving(seconds, params)
        p50, p99, worst = np.percentile(late_ms, [50, 99, 100])
        print(f"  {name:28} p50 {p50:6.2f}  p99 {p99:6.2f}  max {worst:6.2f}")


def sleeping(seconds: float, period_s: float = 0.005) -> list[float]:
    start_s, late_ms = time.monotonic(), []
    for i in range(1, round(seconds / period_s)):
        time.sleep(max(0.0, start_s + i * period_s - time.monotonic()))
        late_ms.append((time.monotonic() - start_s - i * period_s) * 1e3)
    return late_ms


def driving(seconds: float, params: dict) -> list[float]:
    robot, stamps_s = MujocoRobot(MujocoConfig(real_time=True, **params)), []
    advance = robot.scene.advance

    def noted(substeps: int) -> None:
        stamps_s.append(time.monotonic())
        advance(substeps)

    robot.scene.advance = noted  # type: ignore[method-assign]
    robot.connect()
    observation, expert = robot.reset(seed=0), ScriptedExpert(robot.spec)
    deadline_s = time.monotonic()
    for _ in range(round(seconds / robot.spec.period_s)):
        robot.command(expert.act(observation.arrays))
        deadline_s += robot.spec.period_s
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        observation = robot.read()
        if observation.task.terminated or observation.task.truncated:
            observation = robot.reset()
            expert.reset()
    robot.close()
    # Lateness against the grid of deadlines that the earliest ticks lie on.
    phase = np.array(stamps_s) - 0.005 * np.arange(len(stamps_s))
    return list((phase - phase.min()) * 1e3)


def episode(job: tuple[str, str, float, int]) -> tuple[bool, int]:
    """Whether the expert succeeds from one start, and in how many steps."""
    arm, task, noise, seed = job
    robot = MujocoRobot(MujocoConfig(robot=arm, task=task))
    robot.connect()
    expert, observation, steps = ScriptedExpert(robot.spec, noise, seed), robot.reset(seed), 0
    while not (observation.task.terminated or observation.task.truncated):
        robot.command(expert.act(observation.arrays))
        observation, steps = robot.read(), steps + 1
    robot.close()
    return bool(observation.task.success), steps


def experts(count: int) -> bool:
    print(f"\nScripted experts, seeds 0 to {count - 1}, ee_delta:")
    print("scene                  noise 0: solved  steps   noise 0.15: solved  steps")
    enough = True
    with Pool(2, systems.end_with_pool) as pool:
        for arm, task in SCENES:
            line = f"{arm:6} {task:14}"
            for noise in (0.0, 0.15):
                jobs = [(arm, task, noise, seed) for seed in range(count)]
                results = pool.map(episode, jobs, chunksize=10)
                solved = sum(success for success, _ in results)
                enough &= bool(noise) or solved >= 0.95 * count
                mean = statistics.mean(steps for _, steps in results)
                line += f" {solved:13}/{count} {mean:8.1f}"
            print(line, flush=True)
    return enough


def main() -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="of each measurement; 0 skips it")
    parser.add_argument("--images", action="store_true", help="measure with images too")
    parser.add_argument("--real-time", type=float, metavar="SECONDS", default=0.0)
    parser.add_argument("--experts", type=int, metavar="SEEDS", default=0)
    args = parser.parse_args()
    if args.rounds:
        state_only(args.rounds)
    if args.images:
        with_images(args.rounds or 10)
    if args.real_time:
        real_time(args.real_time)
    return 0 if not args.experts or experts(args.experts) else 1


if __name__ == "__main__":
    sys.exit(main())
