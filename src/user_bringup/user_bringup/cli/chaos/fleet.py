"""`user chaos EXPERIMENT --fleet`: faults to a fleet that runs an experiment."""

from __future__ import annotations

import argparse
import signal
from contextlib import ExitStack
from dataclasses import replace

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.faults import PlanSize, make_plan
from user_bringup.chaos.fleet import SCHEDULERS, FleetTrial, made_fleet, obeyed_one
from user_bringup.chaos.promises import lost_blows, promises
from user_bringup.chaos.trial import Trial
from user_bringup.chaos.verdict import Check
from user_core.config import file_meant
from user_core.errors import ConfigError, SuiteError
from user_fleet.deployment import ProcessSpec
from user_fleet.scheduling.experiment import load_experiment

_FLEET = ("resource_agent", "scheduler")


def run_fleet_trial(
    arguments: argparse.Namespace, run: str, size: PlanSize
) -> tuple[Trial, list[Check]]:
    """Start a fleet and its experiment, let things happen to both, end them, judge."""
    from user_bringup.nodes.graph_recorder import GraphRecorder

    experiment = load_experiment(file_meant("experiments", arguments.deployment))
    folder = (arguments.runs / run).resolve()
    if folder.exists():
        raise ConfigError("--run", got=f"{run}, which is there", expected="a new one for a fleet")
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    evidence = Evidence()
    with ExitStack() as stack:
        files = folder.parent / f"{folder.name}.fleet"
        files.mkdir(parents=True)
        fleet = stack.enter_context(made_fleet(files.resolve(), arguments.domains))
        for domain in arguments.domains:
            stack.enter_context(GraphRecorder(evidence, domain))
        trial = FleetTrial(fleet, experiment, folder, evidence, tell, 10.0)
        failure = ""
        try:
            trial.start()
            assert trial.deployment is not None
            processes = trial.deployment.processes
            victims = victims_of(processes)
            plan = make_plan(arguments.seed, victims, (), size, (), (), sorted(fleet.links))
            trial.follow(plan, size.seconds)
        except SuiteError as error:
            failure = str(error)
        finally:
            left = trial.end()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.log").write_text("\n".join(said) + "\n", encoding="utf-8")
    goes_on = trial.state_at_end.split(" ")[0] == "running"
    recovered, *others = promises(trial, evidence, trial.gather(), failure, _hits(trial), left)
    checks = [
        replace(recovered, good=recovered.good and bool(trial.blows)),
        Check("the experiment went on by itself", goes_on, trial.state_at_end or "it never began"),
        obeyed_one(fleet),
        *others,
    ]
    return trial, checks


def victims_of(processes: tuple[ProcessSpec, ...]) -> list[str]:
    """Who may be killed: agents and schedulers, each as often as two of what they run."""
    fleet = [p.name for p in processes if p.executable in _FLEET]
    return [p.name for p in processes] + fleet


def _hits(trial: Trial) -> str:
    hits = [blow for blow in trial.blows if blow.hit_s is not None]
    kills = [blow for blow in hits if blow.fault.kind == "kill"]
    schedulers = sum(blow.fault.victim in SCHEDULERS for blow in kills)
    agents = sum(blow.fault.victim.startswith("agent_") for blow in kills)
    cuts = sum(blow.fault.kind == "network" for blow in hits)
    again = sum(blow.overtaken and blow.works_s is None for blow in hits)
    text = f"{len(kills)} kills ({schedulers} of schedulers, {agents} of agents), {cuts} cuts"
    return "; ".join([text, f"{again} on those not back yet", *lost_blows(trial)])
