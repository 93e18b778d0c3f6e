"""One of two learner processes; run by test_training_together.py."""

import sys
from pathlib import Path

import numpy as np
import torch.distributed

from user_core.fakes import PolicyMailbox
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.off_policy.sac import SAC, SACConfig
from user_learner.training import TrainingConfig, TrainingLoop, UtdConfig

RANK, DIRECTORY = int(sys.argv[1]), Path(sys.argv[2])
SPEC = RobotSpec("r", {"x": ArraySpec((2,))}, ArraySpec((1,), low=-1.0, high=1.0))


class OwnData:
    """Each process draws other data; the second one asks to stop after a while."""

    def __init__(self):
        self.rng, self.draws, self.loop = np.random.default_rng(RANK), 0, None

    def __len__(self):
        return 1000

    def sample(self, batch_size):
        self.draws += 1
        if RANK == 1 and self.draws == 31:
            self.loop.stop()
        x = self.rng.standard_normal((batch_size, 2)).astype(np.float32)
        action = self.rng.uniform(-1, 1, (batch_size, 1)).astype(np.float32)
        zeros = np.zeros(batch_size, np.float32)
        return Batch({"x": x}, action, x[:, 0], zeros, {"x": x})


torch.distributed.init_process_group(
    "gloo", init_method=f"file://{DIRECTORY}/meet", rank=RANK, world_size=2
)
# Even different first weights become those of the first process.
policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=(16,), seed=RANK), SPEC)
algorithm = SAC(SACConfig(critic_hidden=(16,), seed=RANK), SPEC, policy)
data = OwnData()
loop = TrainingLoop(
    TrainingConfig(
        batch_size=16,
        utd=UtdConfig(target=None, learning_starts=0),
        prefetch=0,
        checkpoints_kept=1,  # how many a young process writes depends on the machine
    ),
    algorithm,
    data,
    PolicyMailbox(),
    environment_steps=lambda: 0,
    directory=DIRECTORY / f"run{RANK}",
    identity={},
)
data.loop = loop
loop.run()
state = algorithm.state()
arrays = {f"{part}.{name}": array for part in ("actor", "critics", "target", "log_temperature")
          for name, array in state[part].items()}  # fmt: skip
np.savez(
    DIRECTORY / f"rank{RANK}.npz",
    update=loop.progress().update,
    sample=data.rng.random(3),
    **arrays,
)
torch.distributed.destroy_process_group()
