"""Learning curves in one process: an algorithm file of config/algorithms against a robot.

Synchronous by default: one environment step, then as many updates as the ratio allows, so that
curves do not depend on the machine. With ``--real-time`` the robot keeps its control period and
the training loop runs beside it in a thread, as in the running system. Prints one JSON line per
evaluation (episodes are deterministic and apart from training), and writes them to ``--out``.

    python benchmarks/learning/learning_curves.py sac_small.yaml --robot gymnasium \\
        --param env_id=Pendulum-v1 --steps 10000
    python benchmarks/learning/learning_curves.py rlpd_cpu.yaml --robot mujoco --param task=peg_insertion \\
        --demonstrations 20 --steps 2500 --seed 1
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from user_testing.experiments import Experiment, make_parser, read_config


def main() -> None:
    arguments = make_parser(__doc__.splitlines()[0]).parse_args()
    config = read_config(arguments)
    with tempfile.TemporaryDirectory() as directory:
        Experiment(arguments, config, Path(directory)).run()


if __name__ == "__main__":
    main()
