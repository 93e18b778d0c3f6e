"""How many observations a policy of LeRobot sees at once, without importing LeRobot here.

A process that acts by an inference server needs nothing else of it, and would keep nearly a gigabyte of memory for this number. So
another process imports it, says the number, and ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

from user_core.config import from_mapping, to_mapping
from user_core.errors import ConfigError, PluginError, PolicyError, SpecError, SuiteError
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.runtime.processes.parents import end_with_parent
from user_core.specs import RobotSpec

_log = logging.getLogger(__name__)
#: The import takes seconds, and a minute where several processes begin on few cores.
_LIMIT_S = 300.0
_ERRORS = {kind.code: kind for kind in (ConfigError, SpecError, PluginError, PolicyError)}


def history_of(config: LeRobotConfig, spec: RobotSpec) -> int:
    """What LeRobot's configuration says, see :meth:`~user_core.interfaces.Policy.history_of`; where LeRobot or the checkpoint is
    not on this host, ``n_obs_steps`` of the parameters.

    Raises:
        ConfigError: A setting that LeRobot does not have.
        SpecError: The robot lacks what the policy wants to see.
    """
    try:
        return _here(config, spec) if "lerobot.policies" in sys.modules else _apart(config, spec)
    except (ImportError, PluginError, PolicyError):
        return int(config.config.get("n_obs_steps", 1))


def _here(config: LeRobotConfig, spec: RobotSpec) -> int:
    from user_core.policies.lerobot.opening import lags_of, their_config

    return max(lags_of(their_config(config, spec))) + 1


def _apart(config: LeRobotConfig, spec: RobotSpec) -> int:
    """Asked of another process. Raises what :func:`_here` raises."""
    if find_spec("lerobot") is None:
        raise PluginError("observations of a policy of LeRobot", got="no LeRobot")
    question = json.dumps({"config": to_mapping(config), "spec": spec.to_dict()})
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=question, capture_output=True, text=True, timeout=_LIMIT_S,
            preexec_fn=partial(end_with_parent, signal.SIGKILL, os.getpid()),
        )  # fmt: skip
        if done.returncode or not done.stdout:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise OSError(f"the process that looks it up ended with {done.returncode}: {last}")
        said: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _not_said(config, error) from error
    if "history" in said:
        return int(said["history"])
    kind = _ERRORS.get(said["code"], PluginError)
    raise kind(said["what"], got=said["got"], expected=said["expected"], hint=said["hint"])


def _not_said(config: LeRobotConfig, error: Exception) -> PluginError:
    steps = config.config.get("n_obs_steps", 1)
    _log.warning(
        "how many observations policy %s sees at once could not be found out (%s): taken to be %s, as n_obs_steps in "
        "the config of its parameters says", config.type or config.checkpoint, error, steps,
    )  # fmt: skip
    return PluginError("observations of a policy", got=str(error))


def main() -> None:
    """The other process: the question on its standard input, the answer on its standard output."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    question = json.loads(sys.stdin.read())
    said: dict[str, Any]
    try:
        config = from_mapping(LeRobotConfig, question["config"])
        said = {"history": _here(config, RobotSpec.from_dict(question["spec"]))}
    except SuiteError as error:
        told = {name: getattr(error, name) for name in ("got", "expected")}
        said = {name: None if one is None else str(one) for name, one in told.items()}
        said |= {"code": error.code, "what": error.what, "hint": error.hint}
    answer.write(json.dumps(said))
    answer.flush()
    os._exit(0)  # threads of libraries keep nobody waiting


if __name__ == "__main__":
    main()
