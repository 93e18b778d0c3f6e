"""Begin a run with what another training has learned: offline from data, or an earlier run.

With the same algorithm and policy the new run goes on from its newest checkpoint, critics and optimisers
included; with another algorithm (reinforcement learning after cloning) from the weights of its policy. Counts of
steps and versions begin anew; updates go on counting, and are not taken for work that robots have to catch up with.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from user_core.codecs.weights import read_version
from user_core.errors import ConfigError, PolicyError
from user_core.interfaces import Policy
from user_core.runtime.files import write_atomically
from user_learner.training.checkpoint import CHECKPOINTS, SHARDS, CheckpointInfo, CheckpointStore
from user_learner.training.config import TrainingConfig, UtdConfig
from user_learner.training.publishing import POLICY_FILE
from user_learner.training.utd import UtdLimiter

STARTED_FILE = "started_from.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """What a run began with.

    Attributes:
        place: Folder or file, as it was given.
        update: Gradient updates that had been made.
        whole: Whether algorithm and optimisers go on, too; else the policy alone.
    """

    place: str
    update: int
    whole: bool


def learner_folder(place: Path) -> Path:
    """The folder of a learner: the given one, or ``learner`` in that of a run."""
    below = place / "learner"
    return below if below.is_dir() and not (place / POLICY_FILE).exists() else place


def take_policy(
    place: str | Path, policy: Policy, config_hash: str, identity: Mapping[str, Any]
) -> int:
    """Load the weights that another training has published last; the updates that they have had.

    Args:
        place: Its folder, the folder of its run, or a policy file.
        policy: Takes them.
        config_hash: What they must be made for.
        identity: What checkpoints of this run belong to, to say what is other.

    Raises:
        ConfigError: There is no policy.
        PolicyError: It is one of another robot, another kind or other parameters. Nothing is loaded.
    """
    path = Path(place).expanduser()
    file = path if path.is_file() else learner_folder(path) / POLICY_FILE
    if not file.exists():
        raise ConfigError(
            "start_from", got=f"no {POLICY_FILE} in {path}",
            expected="the folder of a training or of a run, or a policy file",
        )  # fmt: skip
    version = read_version(file)
    if version.config_hash != config_hash:
        kept = file.parent / CHECKPOINTS
        told = ("policy", "policy_config", "spec")
        other = CheckpointStore(kept, identity).others(told) if kept.is_dir() else []
        raise PolicyError(
            f"start_from: {file}",
            got="; ".join(other[:5])
            or "a policy of another robot, another plugin or other parameters",
            expected="the policy that is configured here, for a robot with the same observations and actions",
            hint="Take the `policy:` of its training; `user train` prints the algorithm that it used",
        )
    policy.load(version.arrays)
    return version.update


def take_checkpoint(
    place: str | Path, directory: Path, identity: Mapping[str, Any], update: int, kept: str = ""
) -> Started:
    """Make the newest checkpoint of another training the first of this run, where it is of the same
    algorithm, and remember what the run began with.

    Args:
        place: As for :func:`take_policy`.
        directory: Folder of the learner of this run.
        identity: What its checkpoints belong to.
        update: Of the policy that was loaded.
        kept: What its weights alone leave out, see :attr:`~user_core.interfaces.Policy.kept_from_actors`.

    Raises:
        PolicyError: They leave something out, and there is no such checkpoint. Nothing is begun.
    """
    path, found = Path(place).expanduser(), None
    folder = learner_folder(path) / CHECKPOINTS
    if path.is_dir() and folder.is_dir():
        found = CheckpointStore(folder, identity).look()
    if found is None and kept:
        raise PolicyError(
            f"start_from: {place}", got=f"a policy without {kept}, which only checkpoints have",
            expected="the folder of a training or of a run with the same algorithm",
            hint="What learns from data would begin anew, and lead what acts astray",
        )  # fmt: skip
    if found is not None:
        info = CheckpointInfo(found.info.update, 0, 0, time.time_ns())
        state = {
            "algorithm": found.state["algorithm"],
            "limiter": UtdLimiter(UtdConfig()).state(),
            "source": None,
        }
        if found.folder:
            state[SHARDS] = found.state[SHARDS]
            mine = directory / CHECKPOINTS / found.folder
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder / found.folder, mine, dirs_exist_ok=True)
        CheckpointStore(directory / CHECKPOINTS, identity).write(
            replace(found, info=info, state=state)
        )
        update = found.info.update
    started = Started(str(place), update, found is not None)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / STARTED_FILE, json.dumps(asdict(started)))
    what = (
        "algorithm and policy"
        if started.whole
        else "the policy, with an algorithm that begins anew"
    )
    _log.info("begins with what %s has learned in %d updates: %s", place, update, what)
    return started


def started_from(directory: Path) -> Started | None:
    """What the run began with; None where it began with nothing."""
    try:
        return Started(**json.loads((directory / STARTED_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{directory / STARTED_FILE}", got=str(error), expected="what start_from wrote"
        ) from error


def is_untrained(directory: Path) -> bool:
    """Whether nothing has been learned in a folder yet, so that it may begin with something."""
    kept = directory / CHECKPOINTS
    return not (kept.is_dir() and any(kept.iterdir()))


def without_debt(config: TrainingConfig, started: Started | None) -> TrainingConfig:
    """A training loop that does not take the updates made before for its own."""
    if started is None or not started.whole:
        return config
    utd = config.utd.replace(initial_updates=config.utd.initial_updates + started.update)
    return config.replace(utd=utd)
