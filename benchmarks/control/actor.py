"""What a step costs an actor beyond its policy, and what reaches the disk meanwhile.

In process: the control loop at its rate, with the durable outbox on disk and a store that
acknowledges everything, fed with ready-made observations; the loop itself counts the time of a
step beyond inference. Beside it a bare loop that only sleeps until its deadlines and lets the
policy act: its lateness is that of the machine.

Through ROS: actor_node as a process, and a lockstep robot (spec, lease, reset, observations) in
this one. A round trip goes from an observation's publication to the arrival of its action. In
turns with it, a bare rclpy process answers the same observations with the same actions from its
callback. The difference of the medians, less inference, is what the actor adds.

    tools/run python benchmarks/control/actor.py [--seconds 10] [--rate 20] [--steps 400] [--no-ros]
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from user_actor.loop import ActorLoop, ActorLoopConfig, EpisodeLoop, PolicyHolder
from user_actor.outbox import Outbox, OutboxConfig
from user_core import fakes, plugins
from user_core.command_line import Parser
from user_core.config import from_mapping
from user_core.interfaces import Reward, RewardOutcome
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.histogram import LatencyHistogram
from user_core.runtime.observation_box import ObservationBox
from user_core.runtime.pacing import Pacer
from user_core.runtime.scheduling import make_process_prompt, urgent_thread
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import ActionChunk, AppliedAction, Observation, TaskFeedback, TrajectoryAck
from user_testing import systems

LIMITS_MS = {"state": 2.0, "images": 4.0}
NAMESPACE = "/bench"


def spec_of(kind: str, period_s: float, lockstep: bool) -> RobotSpec:
    observation = {"state": ArraySpec((32,), "float32", -1.0, 1.0)}
    if kind == "images":
        for camera in ("front", "wrist"):
            observation[f"image_{camera}"] = ArraySpec((128, 128, 3), "uint8")
    action = ArraySpec((7,), "float32", -1.0, 1.0)
    return RobotSpec("bench", observation, action, period_s=period_s, lockstep=lockstep)


class Constant(Reward):
    """Judges nothing."""

    def __call__(self, observation: Any, action: Any, after: Any, task: Any) -> RewardOutcome:
        return RewardOutcome(0.0)


class Replayed:
    """RobotPort that shows ready-made observations at twice the control rate."""

    def __init__(self, spec: RobotSpec) -> None:
        rng = np.random.default_rng(0)
        self.spec, self.observations = spec, ObservationBox()
        self._ready = [{k: v.sample(rng) for k, v in spec.observation.items()} for _ in range(32)]
        self._applied: AppliedAction | None = None
        self._count = self._episode = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _show(self) -> Observation:
        self._count += 1
        arrays = self._ready[self._count % len(self._ready)]
        return Observation(
            arrays, time.time_ns(), self._count, self._episode, TaskFeedback(0.0), self._applied
        )

    def _run(self) -> None:
        while not self._ending.wait(self.spec.period_s / 2):
            self.observations.put(self._show())

    def send(self, chunk: ActionChunk) -> None:
        self._applied = AppliedAction(chunk.actions_ta[0], chunk.sequence)

    def reset(self, seed: int | None) -> Future[Observation]:
        self._episode += 1
        future: Future[Observation] = Future()
        future.set_result(self._show())
        return future

    def trouble(self) -> Reason:
        return NO_REASON

    def unready(self) -> Reason:
        return NO_REASON

    def close(self) -> None:
        self._ending.set()
        self._thread.join()


def bare_lateness(spec: RobotSpec, seconds: float) -> LatencyHistogram:
    """The lateness of a loop that does nothing but sleep and let the policy act."""
    policy = plugins.build("policies", "tanh_gaussian", {"observations": ["state"]}, spec)
    rng = np.random.default_rng(0)
    observation = {name: item.sample(rng) for name, item in spec.observation.items()}
    pacer = Pacer(int(spec.period_s * 1e9))
    pacer.start(time.monotonic_ns())
    for _ in range(int(seconds / spec.period_s)):
        time.sleep(max(0.0, (pacer.due_ns - time.monotonic_ns()) * 1e-9))
        pacer.met(time.monotonic_ns())
        policy.act(observation)
    return pacer.lateness


#: The policy beside which a step is measured, and how it is carried out.
SMALL: tuple[str, dict[str, Any], dict[str, Any]] = (
    "tanh_gaussian", {"observations": ["state"]}, {},
)  # fmt: skip
#: A transformer with cross-attention to both images; a chunk of 16 rows, a new one every 8 steps.
FLOW = {"rows": 16, "steps": 8}
IMAGES = {
    "small policy": SMALL,
    "flow, in the loop": ("flow", FLOW, {"replan_every": 8}),
    "flow, in a thread": (
        "flow", FLOW,
        {"replan_every": 8, "chunks": {"inference": "thread", "execution": "real_time"}},
    ),
}  # fmt: skip


def in_process(
    kind: str, rate_hz: float, seconds: float, name: str = "", acting: Any = SMALL
) -> bool:
    spec = spec_of(kind, 1 / rate_hz, lockstep=False)
    robot = Replayed(spec)
    policy, params, words = acting
    holder = PolicyHolder(
        lambda: plugins.build("policies", policy, params, spec), spec, fakes.PolicyMailbox()
    )
    if policy != "tanh_gaussian":  # what is slow only the first time
        for _ in range(3):
            holder.current().policy.act(spec.sample_observation(np.random.default_rng(0)))
    config = from_mapping(
        ActorLoopConfig,
        {
            "max_episodes": 1, "max_episode_steps": int(seconds * rate_hz),
            "exploration": {"before_first_version": "initial"}, **words,
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=".") as folder:
        outbox = Outbox(OutboxConfig(directory=Path(folder)), "bench", spec)
        outbox.deliver_to(
            lambda chunk: outbox.acknowledge(
                TrajectoryAck("bench", chunk.id.incarnation, chunk.id.sequence, "store")
            )
        )
        loop = ActorLoop(EpisodeLoop(robot, holder, Constant(), outbox, config))
        with urgent_thread():
            loop.run()
        outbox.flush(10)
        steps = outbox.total_steps
        outbox.close()
    robot.close()
    bare = bare_lateness(spec, seconds / 2)
    overhead, late = loop.stats.overhead, loop.pacer.lateness
    p50_ms = overhead.percentile_ns(50) * 1e-6
    print(
        f"{name or kind:17} overhead p50 {p50_ms:.2f} ms, p99 {overhead.percentile_ns(99) * 1e-6:.2f} ms"
        f" (at most {LIMITS_MS[kind]:g});  inference p50 "
        f"{loop.stats.inference.percentile_ns(50) * 1e-6:.2f} ms;  lateness p50/p99 "
        f"{late.percentile_ns(50) * 1e-6:.2f}/{late.percentile_ns(99) * 1e-6:.2f} ms, bare loop "
        f"{bare.percentile_ns(50) * 1e-6:.2f}/{bare.percentile_ns(99) * 1e-6:.2f} ms;  "
        f"{steps} steps committed"
    )
    return p50_ms <= LIMITS_MS[kind]


class Bench:
    """A lockstep robot as a node: shows an observation, waits for the action, notes the time."""

    def __init__(self, kind: str) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from user_msgs.msg import ActionChunk as ActionMessage
        from user_msgs.msg import Observation as ObservationMessage
        from user_msgs.msg import RobotSpec as SpecMessage
        from user_msgs.srv import AcquireLease, ReleaseLease, RenewLease, ResetRobot

        from user_comm import topics
        from user_comm.converters import (
            RobotDescription,
            observation_to_message,
            robot_description_to_message,
        )
        from user_comm.topics import profile

        self._encode = observation_to_message
        spec = spec_of(kind, 0.05, lockstep=True)
        self._robot = Replayed(spec)
        self._robot.close()
        self._context = rclpy.Context()
        self._context.init()
        self._node = rclpy.create_node("hal", namespace=NAMESPACE, context=self._context)
        node = self._node
        self._shown = node.create_publisher(
            ObservationMessage, "observation", profile(topics.OBSERVATION.quality)
        )
        specs = node.create_publisher(SpecMessage, "robot_spec", profile(topics.ROBOT_SPEC.quality))
        specs.publish(robot_description_to_message(RobotDescription(spec)))
        self._specs = specs
        node.create_subscription(
            ActionMessage, "action", self._on_action, profile(topics.ACTION.quality), raw=True
        )
        node.create_service(AcquireLease, "hal/acquire_lease", self._lease)
        node.create_service(RenewLease, "hal/renew_lease", self._lease)
        node.create_service(ReleaseLease, "hal/release_lease", self._lease)
        node.create_service(ResetRobot, "hal/reset", self._reset)
        self.round_trip = LatencyHistogram()
        self._sent_ns = 0
        self._sequence = 0
        self._answered = threading.Event()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _lease(self, request: Any, response: Any) -> Any:
        response.success = True
        if hasattr(response, "lease"):
            response.lease.token, response.lease.duration_s = 7, 60.0
        return response

    def _reset(self, request: Any, response: Any) -> Any:
        self._robot.reset(None)
        self._robot._applied = None
        response.success = True
        response.observation = self._encode(self._robot._show())
        return response

    def _on_action(self, data: bytes) -> None:
        from rclpy.serialization import deserialize_message
        from user_msgs.msg import ActionChunk as ActionMessage

        now_ns = time.monotonic_ns()
        if self._sent_ns:
            self.round_trip.add(now_ns - self._sent_ns)
        self._sequence = deserialize_message(data, ActionMessage).sequence
        self._answered.set()

    def show(self) -> None:
        """Show the next observation; the action came before."""
        applied = AppliedAction(np.zeros(7, np.float32), self._sequence)
        message = self._encode(replace(self._robot._show(), applied=applied))
        self._answered.clear()
        self._sent_ns = time.monotonic_ns()
        self._shown.publish(message)

    def measure(self, steps: int, total: LatencyHistogram, timeout_s: float = 60.0) -> None:
        """Show observations until enough were answered."""
        end_s = time.monotonic() + timeout_s
        while self._shown.get_subscription_count() == 0:
            time.sleep(0.05)
        self.round_trip, enough = total, total.count + steps
        while total.count < enough and time.monotonic() < end_s:
            self.show()
            self._answered.wait(0.3)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self._node.destroy_node()
        self._context.try_shutdown()


def echo() -> None:
    """The bare partner: answers every observation with an action, from its callback."""
    import rclpy
    from user_msgs.msg import ActionChunk as ActionMessage
    from user_msgs.msg import Observation as ObservationMessage

    from user_comm import topics
    from user_comm.topics import profile

    rclpy.init()
    node = rclpy.create_node("echo", namespace=NAMESPACE)
    out = node.create_publisher(ActionMessage, "action", profile(topics.ACTION.quality))
    answer = ActionMessage(period_ns=50_000_000)
    answer.actions.name, answer.actions.dtype, answer.actions.shape = "actions", 10, [1, 7]
    answer.actions.data = array.array("B", bytes(28))

    def on_observation(message: Any) -> None:
        answer.sequence = message.sequence
        out.publish(answer)

    node.create_subscription(
        ObservationMessage, "observation", on_observation, profile(topics.OBSERVATION.quality)
    )
    with contextlib.suppress(KeyboardInterrupt):
        rclpy.spin(node)


def partner(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return systems.start([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)


def through_ros(kind: str, steps: int, rounds: int) -> bool:
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    bare, ours = LatencyHistogram(), LatencyHistogram()
    spec = spec_of(kind, 0.05, lockstep=True)
    policy = plugins.build("policies", "linear_gaussian", {}, spec)
    rng = np.random.default_rng(0)
    observation = {name: item.sample(rng) for name, item in spec.observation.items()}
    inference = LatencyHistogram()
    for _ in range(500):
        begin_ns = time.monotonic_ns()
        policy.act(observation)
        inference.add(time.monotonic_ns() - begin_ns)
    here = str(Path(__file__).parent)
    bare_program = f"import sys; sys.path.insert(0, {here!r}); import actor; actor.echo()"
    actor_program = "from user_actor.nodes.actor import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        actor_words = ["--ros-args", "-r", f"__ns:={NAMESPACE}"]
        for name, value in (
            ("autostart", "true"), ("policy.plugin", "linear_gaussian"),
            ("outbox.directory", folder), ("loop.exploration.before_first_version", "initial"),
        ):  # fmt: skip
            actor_words += ["-p", f"{name}:={value}"]
        for _ in range(rounds):
            for program, words, total in (
                (bare_program, [], bare), (actor_program, actor_words, ours),
            ):  # fmt: skip
                bench, process = Bench(kind), partner(program, *words)
                try:
                    bench.measure(50, LatencyHistogram())
                    bench.measure(steps, total)
                finally:
                    process.send_signal(signal.SIGINT)
                    process.wait(30)
                    bench.close()
    numbers = [histogram.percentile_ns(50) * 1e-6 for histogram in (bare, ours, inference)]
    added_ms = numbers[1] - numbers[0] - numbers[2]
    print(
        f"{kind:7} round trip p50 bare {numbers[0]:.2f} ms, actor {numbers[1]:.2f} ms "
        f"(p99 {bare.percentile_ns(99) * 1e-6:.2f} and {ours.percentile_ns(99) * 1e-6:.2f});  "
        f"added beyond inference ({numbers[2]:.2f} ms): {added_ms:.2f} ms (at most "
        f"{LIMITS_MS[kind]:g});  {ours.count} steps"
    )
    return added_ms <= LIMITS_MS[kind]


def main() -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-ros", action="store_true")
    parser.add_argument(
        "--flow",
        action="store_true",
        help="a flow policy from images, beside the small one; no more",
    )
    arguments = parser.parse_args()
    make_process_prompt()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the actor node does
    if arguments.flow:
        turns = [
            in_process("images", arguments.rate, arguments.seconds, name, acting)
            for _ in range(arguments.rounds)
            for name, acting in IMAGES.items()
        ]
        sys.exit(not all(turns))
    good = [in_process(kind, arguments.rate, arguments.seconds) for kind in LIMITS_MS]
    if not arguments.no_ros:
        good += [through_ros(kind, arguments.steps, arguments.rounds) for kind in LIMITS_MS]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
