"""Whether robot, policy, algorithm and reward of a deployment fit each other, before it starts.

Each of them may be right by itself: a policy that looks at images, and a robot that has none. So they
are made, as their processes will make them, in a process of their own: what a plugin does there
(raises, calls ``sys.exit``, crashes, hangs) is told, and harms nobody. Nothing is connected.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from user_bringup.running.apart import answer, ask, doing
from user_core.config import from_mapping, load_document, path_of_file
from user_core.errors import ConfigError, SpecError, SuiteError, may_pass
from user_core.interfaces import Policy, Reward, Robot
from user_core.plugins import PluginChoice
from user_core.reasons import Reason
from user_core.specs import RobotSpec
from user_core.types import Task, TaskFeedback
from user_fleet.deployment import Composition, Faults, ProcessSpec
from user_fleet.deployment.check import OF_EVERY_NODE
from user_fleet.deployment.known_good import KnownGood, key_of, source_of
from user_hal.robot_file import find_robot_file
from user_learner.replay.index import INDEX_NAME

_TIMEOUT_S = 120.0
_COMMAND = [sys.executable, "-m", "user_bringup.running.fit"]
_ITS_ROBOT, _FIRST_STEP = "its robot", "first step of its environment"
#: Environments are asked for a verdict for this many steps, or this long, of chance.
_PROBE_STEPS, _PROBE_S = 1000, 3.0
_KINDS = ("hal_node", "actor_node", "learner_node")
#: Where their parameters choose plugins that are made here, and of which kind these are.
_PLUGINS = {"robot": "robots", "algorithm": "algorithms", "policy": "policies", "reward": "rewards"}
#: Parameters of an actor that are looked at here.
_OF_ACTING = ("policy", "reward", "remote", "instruction", "loop")
#: Those of a learner that name what it begins with, besides the store of its run.
_DATA = ("demonstrations", "history", "start_from")
#: Parameters that are not looked at here, and that name the folders and endpoints of one run.
_OF_A_RUN = {"directory", "store", "demonstrations", "outbox", "state_dir", "display", "zenoh"}


@dataclass
class Fit:
    """What was found.

    Attributes:
        faults: What keeps processes from their work, as name of the process and text.
        of_data: What keeps them from the data that they begin with, likewise.
        notes: What a person should know.
    """

    faults: list[tuple[str, str]] = field(default_factory=list)
    of_data: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_fit(composition: Composition, faults: Faults, *, asks_success: bool = False) -> list[str]:
    """Add to ``faults`` what does not fit.

    Args:
        composition: A deployment whose parameters are right, for this machine.
        faults: Gets what is wrong.
        asks_success: Also try whether a simulation tells success at all.

    Returns:
        Notes for a person.
    """
    processes = [p for p in composition.deployment.processes if p.executable in _KINDS]
    request = [
        {"name": p.name, "kind": p.executable, "namespace": p.namespace, "parameters": _plain(p)}
        for p in processes
    ]
    if len({entry["kind"] for entry in request}) < 2:
        return []  # nothing to compare
    known, sign = KnownGood(), _sign(request, asks_success)
    if known.has(sign):
        return []
    fit = _ask({"processes": request, "asks_success": asks_success})
    for name, text in fit.faults:
        faults.add(composition.origin(name, ("parameters",)), text)
    for name, text in fit.of_data:
        given = next(p for p in processes if p.name == name).parameters
        key = next((key for key in _DATA if given.get(key)), "store")
        faults.add(composition.origin(name, ("parameters", key)), text)
    if not fit.faults and not fit.of_data and not fit.notes:
        known.add(sign)
    return fit.notes


def _sign(request: list[dict[str, Any]], asks_success: bool) -> str:
    """A key for what was asked; empty where the source of something that will be made is not known."""
    asked, sources = [], []
    for entry in request:
        folder = entry["parameters"].get("directory")
        if entry["kind"] == "learner_node":
            goes_on = (Path(str(folder)) / "checkpoints").is_dir() or entry["parameters"].get(
                "start_from"
            )
            if goes_on or _data_of(entry["parameters"]):
                return ""  # what it was trained with, and from what, is looked at each time
        parameters = {k: v for k, v in entry["parameters"].items() if k not in _OF_A_RUN}
        if entry["kind"] == "hal_node" and (name := parameters.get("robot_file")):
            try:
                parameters = {**load_document(find_robot_file(str(name))).data, **parameters}
            except SuiteError:
                return ""
        asked.append([entry["name"], entry["kind"], entry["namespace"], parameters])
        for key, kind in _PLUGINS.items():
            choice = parameters.get(key)
            if isinstance(choice, Mapping) and (plugin := choice.get("plugin")):
                # An environment is registered by a module that is not known here.
                known = kind != "robots" or plugin != "gymnasium"
                sources.append(source_of(kind, str(plugin)) if known else "")
    return (
        key_of("fit", asked, asks_success, sources, _files([__file__, asked]))
        if all(sources)
        else ""
    )


def _data_of(parameters: Mapping[str, Any]) -> bool:
    """Whether a learner has data before its robots bring any."""
    store = Path(str(parameters.get("store", ""))) / INDEX_NAME
    return any(parameters.get(key) for key in _DATA) or store.exists()


def _files(value: Any) -> list[tuple[str, int, int]]:
    """Size and time of the files that parameters name, for instance models and weights, and of those in a folder."""
    if isinstance(value, Mapping):
        return _files(list(value.values()))
    if isinstance(value, list):
        return [file for part in value for file in _files(part)]
    with contextlib.suppress(OSError, ValueError, ConfigError):
        if isinstance(value, str) and "/" in value and (file := path_of_file(value)).exists():
            inside = sorted(one for one in file.iterdir() if one.is_file()) if file.is_dir() else []
            stats = [(one, one.stat()) for one in (file, *inside)]
            return [(str(one), stat.st_size, stat.st_mtime_ns) for one, stat in stats]
    return []


def _plain(process: ProcessSpec) -> dict[str, Any]:
    return {k: v for k, v in process.parameters.items() if k not in OF_EVERY_NODE}


def _ask(request: Mapping[str, Any]) -> Fit:
    """Have it found out by another process."""
    reply = ask(_COMMAND, request, _TIMEOUT_S, _say_slow)
    if reply.value is not None:
        faults, of_data = (
            [(name, text) for name, text in reply.value[kind]] for kind in ("faults", "of_data")
        )
        return Fit(faults, of_data, reply.value["notes"])
    robot = next(p["name"] for p in request["processes"])
    name, at = reply.at.partition(" ")[0] or robot, reply.at or "a plugin"
    if reply.status is not None:
        how = f"ended the process that makes it (exit code {reply.status}): {reply.last_words}"
        return Fit([(name, f"{at} {how}")])
    where = f": {reply.last_words}" if reply.last_words else ""
    text = f"{at} has not ended within {_TIMEOUT_S:g} s{where}"
    if at.endswith((_ITS_ROBOT, _FIRST_STEP)):  # its node would hang, too, and has less time
        return Fit([(name, text)])
    return Fit(notes=[f"{text}. It was not waited for"])


def _say_slow(at: str, for_s: float) -> None:
    print(f"{at or 'imports'}: not ended yet, {for_s:.0f} s", file=sys.stderr, flush=True)


# --- in the other process ---


def find_out(request: Mapping[str, Any]) -> Fit:
    """Make what the processes will make, and see whether it fits."""
    fit = Fit()
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for entry in request["processes"]:
        by_kind[entry["kind"]].append(entry)
    specs: dict[str, tuple[str, RobotSpec]] = {}
    for entry in by_kind["hal_node"]:
        with _warnings(fit, entry["name"]):
            made = _made(fit, entry, _ITS_ROBOT, lambda entry=entry: _robot(entry["parameters"]))
            if made is not None:
                robot, spec = made
                specs[entry["namespace"]] = (entry["name"], spec)
                if not _starts(fit, entry, robot):
                    continue
                if request["asks_success"] and robot.spec.lockstep:
                    _probe(fit, entry, robot)
                with contextlib.suppress(Exception):
                    robot.close()
    policies = _Policies()
    for entry in by_kind["learner_node"]:
        for hal, spec in _distinct(specs.values()):
            what = f"policy and algorithm for {spec.robot!r} ({hal})"
            made = _made(
                fit, entry, what, lambda e=entry, s=spec: _algorithm(e["parameters"], s, policies)
            )
            if made is not None:
                _judge_data(fit, entry, spec, policies)
    tried: list[tuple[RobotSpec, Any]] = []
    for entry in by_kind["actor_node"]:
        found = specs.get(entry["namespace"]) or next(iter(specs.values()), None)
        if found is None:
            continue
        hal, spec = found
        alike = (spec, [entry["parameters"].get(name) for name in _OF_ACTING])
        if alike in tried:  # one of them is enough: a large model takes its time
            continue
        what = f"policy and reward for {spec.robot!r} ({hal})"
        if _made(fit, entry, what, lambda e=entry, s=spec: _acting(e["parameters"], s, policies)):
            tried.append(alike)
    told = {name for name, _ in fit.faults}
    actors = [entry for entry in by_kind["actor_node"] if entry["name"] not in told]
    _compare_policies(fit, by_kind["learner_node"], actors, specs)
    return fit


def _compare_policies(
    fit: Fit,
    learners: list[dict[str, Any]],
    actors: list[dict[str, Any]],
    specs: Mapping[str, tuple[str, RobotSpec]],
) -> None:
    """Tell of robots whose policy is not the one that the learner makes: they would refuse each version."""
    from user_core.policies import differences_in_words, policy_made_for

    if len(learners) != 1:
        return  # whose versions a robot takes is not known here
    for entry in actors:
        mine, theirs = (
            PluginChoice.model_validate(e["parameters"].get("policy") or {"plugin": ""})
            for e in (entry, learners[0])
        )
        acts_elsewhere = (entry["parameters"].get("remote") or {}).get("enabled")
        if mine == theirs or acts_elsewhere or not (mine.plugin and theirs.plugin):
            continue
        found = specs.get(entry["namespace"]) or next(iter(specs.values()), None)
        if found is None:
            continue
        try:
            here, there = (
                policy_made_for(one.plugin, one.params, found[1]) for one in (mine, theirs)
            )
        except SuiteError:
            continue  # told where they are made
        if here != there:
            got, expected, _ = differences_in_words(here, there)
            fit.faults.append(
                (
                    entry["name"],
                    f"{entry['name']}: policy: got {', '.join(got)}, expected {', '.join(expected)}, as the learner has it. "
                    "`algorithm:=` sets both; a parameter of the policy is set for both, actor.policy... and learner.policy...",
                )
            )


class _Policies:
    """Policies as they are configured; who asks for what was made last gets that: a large model takes its time."""

    def __init__(self) -> None:
        self._asked: Any = None
        self._policy: Any = None

    def make(self, choice: PluginChoice, spec: RobotSpec) -> Policy:
        """A policy that may have been used before. Raises what making it raises."""
        asked = (choice, spec)
        if self._asked != asked:
            self._asked = self._policy = None
            self._policy, self._asked = choice.build("policies", spec, path="policy"), asked
        policy: Policy = self._policy
        return policy


@contextlib.contextmanager
def _warnings(fit: Fit, name: str) -> Iterator[None]:
    """What a driver warns of while it is made is told, once each."""

    class _Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note = f"{name}: {record.getMessage()}"
            if note not in fit.notes:
                fit.notes.append(note)

    handler, logger = _Notes(logging.WARNING), logging.getLogger("user_hal")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _made(fit: Fit, entry: Mapping[str, Any], what: str, make: Any) -> Any:
    """What was made; None where that failed, which is told."""
    name = entry["name"]
    doing(f"{name} {what}")
    try:
        return make()
    except BaseException as error:  # SystemExit of a plugin, too
        text = Reason.of(error).text
        choice = entry["parameters"].get("robot") or {}
        if may_pass(error) and choice.get("plugin") != "gymnasium":
            fit.notes.append(f"{name}: {what} could not be tried: {text}")
        else:
            fit.faults.append((name, f"{name}: {what}: {text}"))
        return None


def _distinct(specs: Iterable[tuple[str, RobotSpec]]) -> list[tuple[str, RobotSpec]]:
    found: list[tuple[str, RobotSpec]] = []
    for hal, spec in specs:
        if all(spec != other for _, other in found):
            found.append((hal, spec))
    return found


def _robot(parameters: Mapping[str, Any]) -> tuple[Robot, RobotSpec]:
    """A robot, and its spec for those who drive it."""
    from user_hal.node_configs import HalConfig
    from user_hal.robot_file import build_robot, spec_of

    file = from_mapping(HalConfig, parameters, "hal").expand(parameters)
    robot = build_robot(file)
    return robot, spec_of(file, robot)


def _algorithm(parameters: Mapping[str, Any], spec: RobotSpec, policies: _Policies) -> object:
    from user_learner.algorithms.common.shardable import require_no_scale
    from user_learner.learner import require_resumable
    from user_learner.node_configs import LearnerNodeConfig
    from user_learner.ranks import require_places, unsharded
    from user_learner.sampling.hindsight import Hindsight

    config = from_mapping(LearnerNodeConfig, parameters, "learner")
    if config.sampler.hindsight.enabled:
        Hindsight(config.sampler.hindsight, spec.observation)
    policy = policies.make(config.policy, spec)
    choice = unsharded(config.algorithm)  # here are no processes to spread it over
    algorithm = choice.build("algorithms", spec, policy, path="algorithm")
    if choice is not config.algorithm:
        require_no_scale(policy.network())
    require_places(config, algorithm.updates_per_call)
    require_resumable(config, spec)
    return algorithm


def _judge_data(fit: Fit, entry: Mapping[str, Any], spec: RobotSpec, policies: _Policies) -> None:
    """Tell of demonstrations, older stores and weights to begin from that are not of this robot."""
    from user_learner.learner import require_data
    from user_learner.node_configs import LearnerNodeConfig

    name = entry["name"]
    doing(f"{name} the data that it begins with")
    config = from_mapping(LearnerNodeConfig, entry["parameters"], "learner")
    try:
        require_data(config, spec, policies.make)
    except Exception as error:  # of files that cannot be read, too
        text = Reason.of(error).text
        if may_pass(error):  # another process has the store now
            fit.notes.append(f"{name}: its data could not be looked at: {text}")
        else:
            fit.of_data.append((name, f"{name}: {text}"))


def _judge(reward: Reward, spec: RobotSpec) -> None:
    """Let a reward judge a step that is drawn. Raises SpecError where it looks at what the robot does not show."""
    import numpy as np

    rng = np.random.default_rng(0)
    before, after = (spec.sample_observation(rng) for _ in range(2))
    reward.reset()
    try:
        reward(before, spec.action.sample(rng), after, TaskFeedback(0.0))
    except SpecError:
        raise
    except Exception:  # drawn numbers may be none that it can judge
        return


def _acting(parameters: Mapping[str, Any], spec: RobotSpec, policies: _Policies) -> bool:
    import numpy as np

    from user_actor.config import ActorConfig
    from user_actor.loop.acting.fallback import policy_of_file
    from user_actor.loop.acting.policy import check_plan

    config = from_mapping(ActorConfig, parameters, "actor")
    _judge(config.reward.build("rewards", path="reward"), spec)
    if config.loop.mode == "demonstration":
        return True
    fallback = config.remote.fallback
    if config.remote.enabled and fallback.weights not in ("", "versions"):
        policy_of_file(fallback.weights, fallback.choice(config.policy), spec, Task())
    policy = policies.make(config.policy, spec)
    rng = np.random.default_rng(0)
    seen = spec.sample_observation(rng, policy.observation_history)
    policy.reset(Task(instruction=config.instruction))
    check_plan(policy.act(seen, deterministic=True), spec)
    return True


def _starts(fit: Fit, entry: Mapping[str, Any], robot: Robot) -> bool:
    """Whether an environment begins, takes an action and shows what its spaces say. It moves
    nothing that is real; other robots are not tried."""
    import numpy as np

    if (entry["parameters"].get("robot") or {}).get("plugin") != "gymnasium":
        return True
    name, what = entry["name"], _FIRST_STEP
    doing(f"{name} {what}")
    try:
        robot.connect()
        robot.reset(0)
        robot.command(robot.spec.action.sample(np.random.default_rng(0)))
    except BaseException as error:  # SystemExit, too
        text = Reason.of(error).text
        fit.faults.append((name, f"{name}: {what}: {text}"))
        return False
    return True


def _probe(fit: Fit, entry: Mapping[str, Any], robot: Robot) -> None:
    """Whether a simulation says of an episode of chance whether it succeeded."""
    import numpy as np

    rng, end_s = np.random.default_rng(0), time.monotonic() + _PROBE_S
    try:
        robot.connect()
        task = robot.reset(0).task
        for _ in range(_PROBE_STEPS):
            if task.success is not None:
                return
            if task.terminated or task.truncated or time.monotonic() > end_s:
                break
            robot.command(robot.spec.action.sample(rng))
            task = robot.read().task
    except BaseException as error:  # whatever it is: that is not what was asked
        fit.notes.append(f"{entry['name']}: an episode of chance failed: {error}")
        return
    if task.success is None and (task.terminated or task.truncated):
        fit.notes.append(
            f"{robot.spec.robot!r} does not say whether an episode succeeded (info has no "
            "is_success or success): success is shown as -, and --until-success can never be reached. "
            "Settings of a Gymnasium environment say it: success_key, success_reward, success_return"
        )


def main() -> int:
    """Answer the question of :func:`_ask`."""
    return answer(lambda request: asdict(find_out(request)))


if __name__ == "__main__":
    sys.exit(main())
