"""An input that wakes up late: one sensor stays at 0 for 2,500 steps, and says what to do afterwards.

The right action depends on the sensor's value (0.1, 0.5 or 3 times its size, for 10 steps each) and on
nothing else. ``normalization: data`` is beside ``bounds`` (the sensor has none, so that it stays
as it is), in the synchronous loop of ``learning_curves.py`` with ``sac_small``; the mean return of
20 deterministic episodes with the sensor awake is shown. Whoever does not see the sensor gets -4.2.

    python benchmarks/learning/late_input.py --seeds 0 1 2 --sizes 0.01 1 100
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from user_core.command_line import Parser
from user_testing import experiments, systems

_ASLEEP_STEPS, _EPISODE = 2500, 10
_VALUES, _RIGHT = (0.1, 0.5, 3.0), (-0.8, 0.1, 0.8)


class LateSensor(gymnasium.Env[Any, Any]):
    """Two numbers of chance, and a sensor that sleeps at first. Steps of all instances count."""

    steps: ClassVar[int] = 0
    size: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "chance": spaces.Box(-1, 1, (2,), np.float32),
                "sensor": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._which, self._step = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._which, self._step = int(self.np_random.integers(len(_VALUES))), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = _RIGHT[self._which] if self._awake else 0.0
        reward = -float((action[0] - right) ** 2)
        self._step += 1
        LateSensor.steps += 1
        return self._observe(), reward, False, self._step >= _EPISODE, {}

    @property
    def _awake(self) -> bool:
        return LateSensor.steps >= _ASLEEP_STEPS

    def _observe(self) -> dict[str, Any]:
        value = self.size * _VALUES[self._which] if self._awake else 0.0
        chance = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"chance": chance, "sensor": np.float32([value])}


def one_run(normalization: str, size: float, seed: int, steps: int) -> dict[str, Any]:
    """Learn once, in a process of its own; the last evaluation."""
    LateSensor.size = size
    gymnasium.register("LateSensor-v0", LateSensor)
    words = [
        "sac_small.yaml", "--param", "env_id=LateSensor-v0", "--seed", str(seed), "--steps", str(steps),
        "--every", str(steps), "--set", f"policy.params.normalization={normalization}",
    ]  # fmt: skip
    arguments = experiments.make_parser().parse_args(words)
    config = experiments.read_config(arguments)
    with tempfile.TemporaryDirectory() as folder:
        line = experiments.Experiment(arguments, config, Path(folder)).run()[-1]
    return {"normalization": normalization, "size": size, **line}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.0], help="of the sensor")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to append the lines to")
    arguments = parser.parse_args()
    jobs = [
        (normalization, size, seed, arguments.steps)
        for size in arguments.sizes
        for normalization in ("data", "bounds")
        for seed in arguments.seeds
    ]
    returns = dict[tuple[float, str], list[float]]()
    for line in systems.each_in_its_own_process(one_run, jobs, arguments.processes):
        returns.setdefault((line["size"], line["normalization"]), []).append(line["return"])
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print("| size of the sensor | data | bounds |\n|---|---|---|")
    for size in arguments.sizes:
        cells = [", ".join(map(str, returns[size, each])) for each in ("data", "bounds")]
        print(f"| {size:g} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
