"""gym_hil's pick cube from two images of 128 x 128, and a script that shows how it is done. Part of
``recipes/images.py``:

    pip install --no-deps gym-hil      # and mujoco below 3.9
    python benchmarks/recipes/images.py --only gym_hil --demonstrations 20 --updates 4000 --out gym_hil.jsonl

The policy sees both images and the arm (joints, fingers, tool). The cube lies somewhere else in each episode. What was
cloned from demonstrations is then corrected by the same script, in rounds, until it does it alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np

from corrections import concatenated, of_person
from tasks import Windows, evaluated
from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.config import from_mapping
from user_core.interfaces import Policy, Teleop, TeleopCommand
from user_core.specs import Array, RobotSpec
from user_core.types import Observation, Outcome
from user_hal.local import LocalHal
from user_testing.experiments import Ring

#: The tool is over the cube, or at it, within this distance, and moves by this much a step; it is closed after this many
#: steps at the cube.
_OVER_M, _AT_M, _STEP_M, _CLOSING = 0.015, 0.012, 0.025, 3
_CLOSE, _STAY, _OPEN = 2.0, 1.0, 0.0
#: A cube that is further from the tool was not got, or was lost; where the gripper's number stands among those of the
#: arm.
_LOST_M, _GRIPPER = 0.05, 14
#: He takes over after this many actions that were this far (share of half ranges; of the gripper, of its opening) from
#: his own, or where nothing comes of it.
_PATIENCE, _TOLERANCE, _SLOWEST, _LONGEST, _HELPS = 3, 0.6, 0.2, 30, 12
#: The gripper's number when it is closed; a tool that closes further away than this is not at the cube.
_CLOSED, _BESIDE_M = 255.0, 0.02
#: Episodes of one round, rounds at most, and every which is followed by an evaluation; rows of what was corrected, at
#: most.
_EPISODES, _ROUNDS, _EVERY, _MOST_ROWS = 10, 30, 2, 3500
#: Success that is wanted.
WANTED = 0.95


class Reproducible(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Starts that a seed decides, and images that a CPU can draw: the environment draws the cube's place from NumPy's
    global generator, and each image with shadows of a map of 8192 x 8192.

    Args:
        env: The environment.
        shadows: Draw them.
        choices: The gripper closes, stays or opens, as in HIL-SERL (Luo et al. 2024); else its command is any number
            between, which adds up: a policy that is a tenth off closes it in ten steps.

    Attributes:
        newest: The one that was made last, for the script that shows the task.
        ends: How episodes ended, see :meth:`_end`; whoever reads them empties the list.
    """

    newest: ClassVar[Reproducible]
    ends: ClassVar[list[str]] = []

    def __init__(self, env: Any, shadows: bool = False, choices: bool = True) -> None:
        super().__init__(env)
        self._choices, self._end = choices, ""
        if choices:
            moves = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
            self.action_space = gymnasium.spaces.Tuple((moves, gymnasium.spaces.Discrete(3)))
        if not shadows:
            import mujoco

            flags = env.unwrapped._viewer.scene.flags
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                flags[flag] = 0
        Reproducible.newest = self

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            np.random.seed(seed)
        if self._end:  # it ran out of time, or was broken off
            Reproducible.ends.append(self._end)
        self._end, self._was_closed = "", False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self._choices:
            action = np.append(*action).astype(np.float32)
        found = self.env.step(action)
        self._follow(found[0]["agent_pos"][_GRIPPER] > _CLOSED / 2)
        if found[2]:
            solved = bool(found[4].get("succeed"))
            Reproducible.ends.append("solved" if solved else f"away, {self._end}")
            self._end = ""
        return found

    @classmethod
    def ended(cls) -> dict[str, int]:
        """How many episodes ended in which way since it was asked."""
        if cls.newest._end:
            cls.ends.append(cls.newest._end)
            cls.newest._end = ""
        found = dict(Counter(cls.ends).most_common())
        cls.ends.clear()
        return found

    def _follow(self, closed: bool) -> None:
        """Say how the episode would have ended up to now: the gripper never closed, closed beside the cube, or at it
        without lifting it."""
        cube, tool = self.places()
        if closed and not self._was_closed:
            beside = np.abs(cube - tool)[:2].max() > _BESIDE_M
            self._end = "closed beside" if beside else "closed at it"
        self._end, self._was_closed = self._end or "never closed", closed

    def places(self) -> tuple[Any, Any]:
        """Of the cube and of the tool, m."""
        data = self.unwrapped._data  # type: ignore[attr-defined]
        return data.sensor("block_pos").data.copy(), data.sensor("2f85/pinch_pos").data.copy()


class Person(Teleop):
    """Knows where the cube is: over it, down, close, up; his hand shakes.

    Args:
        noise: Standard deviation of the shaking, in half ranges.
        seed: Of it.
        watches: He only takes over where the robot goes wrong, for a while, as ``corrects`` of the plugin ``expert``.
    """

    scripted = True

    def __init__(self, noise: float, seed: int, watches: bool = False) -> None:
        self._noise, self._rng, self._watches = noise, np.random.default_rng(seed), watches
        self._held, self._episode = 0, -1
        self._left = self._bad = self._alone = 0
        self._wanted: Array | None = None
        self._grip = 0.0

    def connect(self, spec: RobotSpec) -> None:
        self._spec = spec
        self._half = (spec.action.high_array - spec.action.low_array) / 2

    def read(self, observation: Observation) -> TeleopCommand:
        if observation.episode != self._episode:
            self._episode, self._wanted, self._grip = observation.episode, None, 0.0
            self._held = self._left = self._bad = self._alone = 0
        engaged = not self._watches or self._takes_over(observation)
        wanted = self._wanted = self._way(observation)
        action = wanted.copy()
        action[:3] += self._noise * self._rng.standard_normal(3) * (self._held == 0)
        low, high = self._spec.action.low_array, self._spec.action.high_array
        return TeleopCommand(engaged, np.clip(action, low, high).astype(np.float32), time.time_ns())

    def _way(self, observation: Observation) -> Array:
        """What he would do now."""
        cube, tool = Reproducible.newest.places()
        apart = cube - tool
        if self._held > _CLOSING and np.linalg.norm(apart) > _LOST_M:
            self._held = 0
        hand = _OPEN if observation.arrays["agent_pos"][_GRIPPER] > 0 else _STAY
        if np.abs(apart[:2]).max() > _OVER_M and not self._held:
            move = np.array([apart[0], apart[1], max(0.0, apart[2] + _LOST_M)])
        elif apart[2] < -_AT_M and not self._held:
            move = apart
        else:
            self._held += 1
            hand = _CLOSE
            move = np.array([0, 0, _STEP_M if self._held > _CLOSING else 0.0])
        return np.append(np.clip(move / _STEP_M, -1, 1), hand)

    def _takes_over(self, observation: Observation) -> bool:
        """Whether he drives, since the robot did something else than he would have, or gets nowhere."""
        self._alone += 1
        if self._left:
            self._left -= 1
            self._alone = 0
            return self._left > 0
        grip = float(observation.arrays["agent_pos"][_GRIPPER]) / _CLOSED
        if self._wanted is not None and observation.applied is not None:
            done, wanted = observation.applied.action[:3], self._wanted[:3]
            nearest = np.clip(done, *np.sort([_SLOWEST * wanted, wanted], axis=0))
            off = np.abs(done - nearest) / self._half[:3]
            # what became of the gripper, however it was told: one that is open may be opened
            gripped = abs(grip - np.clip(self._grip + self._wanted[3] - _STAY, 0, 1))
            self._bad = self._bad + 1 if max(off.max(), gripped) > _TOLERANCE else 0
        self._grip = grip
        if self._bad >= _PATIENCE or self._alone > _LONGEST:
            self._left, self._bad = _HELPS, 0
        return self._left > 0

    def close(self) -> None:
        pass


def corrected(
    hal: LocalHal, policy: Policy, algorithm: Any, shown: Windows, learned_from: Callable[[Ring], Ring],
    settings: dict[str, Any], tell: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Rounds of episodes that the script corrects, each followed by more cloning, until the policy does it alone.

    Args:
        hal: The environment.
        policy: The one that was cloned.
        algorithm: What trains it.
        shown: The demonstrations.
        learned_from: Gives the steps as they are learned from: with features in the place of images where a frozen
            encoder sees them, on the device that learns.
        settings: ``seed``, ``updates`` of a round, ``episodes`` of an evaluation, ``rows`` of a chunk, ``end_s`` (wall
            clock).
        tell: Called with what was measured after each round.
    """
    person, seed = Person(0.0, settings["seed"], watches=True), settings["seed"]
    person.connect(hal.spec)
    words = {
        "replan_every": 4, "arbiter": {"hold_s": 0.0}, "exploration": {"deterministic": True},
    }  # fmt: skip
    trials, own = MemorySink("online"), Ring(hal.spec, 4000)
    loop = EpisodeLoop(
        hal, policy, plugins.build("rewards", "task"), trials, from_mapping(ActorLoopConfig, words),
        teleop=LocalTeleop(person),
    )  # fmt: skip
    start, steps, updates = 10_000_000 * (seed + 1), 0, 0
    for number in range(1, _ROUNDS + 1):
        begin_s, results = time.monotonic(), []
        while len(results) < _EPISODES:
            start += 1
            if (result := loop.run(seed=start)) is not None:
                results.append(result)
                for row in of_person(trials.rows.pop(result.key)):
                    own.append(row)
        steps += sum(result.length for result in results)
        collecting_s, begin_s = time.monotonic() - begin_s, time.monotonic()
        mixed = [shown]
        if own.steps:
            mixed.append(Windows(learned_from(own), settings["rows"], number))
        for _ in range(settings["updates"]):
            algorithm.update(concatenated([one.sample(128 // len(mixed)) for one in mixed]))
        updates += settings["updates"]
        policy.load(algorithm.policy_arrays())
        learning_s, begin_s = time.monotonic() - begin_s, time.monotonic()
        last = number == _ROUNDS or own.rows > _MOST_ROWS or time.time() > settings["end_s"]
        if number % _EVERY and not last:
            continue
        Reproducible.ended()
        found = evaluated(hal, policy, 20, replan_every=4)
        if found["success"] >= WANTED:
            Reproducible.ended()
            found = evaluated(hal, policy, settings["episodes"], replan_every=4)
        last = last or found["success"] >= WANTED
        tell({
            "round": number, "steps": steps, "corrected": own.steps, "more_updates": updates, **found,
            "interventions": round(float(np.mean([r.takeovers for r in results])), 2),
            "helped": round(float(np.mean([r.outcome is Outcome.SUCCESS for r in results])), 2),
            "collecting_s": round(collecting_s, 1), "learning_s": round(learning_s, 1),
            "evaluating_s": round(time.monotonic() - begin_s, 1), "ends": Reproducible.ended(), "last": last,
        })  # fmt: skip
        if last:
            return


def robot(size: int, choices: bool = True) -> LocalHal:
    """The environment; ``choices``: of the gripper, see :class:`Reproducible`."""
    made = plugins.build(
        "robots", "gymnasium",
        {
            "env_id": "gym_hil:gym_hil/PandaPickCube-v0", "period_s": 0.1, "max_episode_steps": 100,
            "kwargs": {
                "image_obs": True, "random_block_position": True, "reset_delay_seconds": 0.0,
            },
            "wrappers": [{"target": "pick_cube:Reproducible", "kwargs": {"choices": choices}}],
            "images": {
                name: {"resize": [size, size]} for name in ("pixels.front", "pixels.wrist")
            },
        },
    )  # fmt: skip
    return LocalHal(made)
