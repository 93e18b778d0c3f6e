"""The shipped JSON Schemas are up to date, and say what the shipped YAML files may hold."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from user_bringup.schemas import make_schemas, text_of

PACKAGE = Path(__file__).parents[2]
SHIPPED = PACKAGE / "schemas"
FILES = {
    "robots": "robot", "deployments": "deployment", "fragments": "fragment",
    "algorithms": "algorithm", "experiments": "experiment",
}  # fmt: skip
YAML = [file for folder in FILES for file in sorted((PACKAGE / "config" / folder).glob("*.yaml"))]


def schema(name):
    return json.loads((SHIPPED / f"{name}.schema.json").read_text(encoding="utf-8"))


def faults(name, document):
    """Where a document is wrong, and what is said of it."""
    whole = Resource.from_contents(schema("deployment"))
    registry = Registry().with_resource("deployment.schema.json", whole)
    validator = jsonschema.Draft202012Validator(schema(name), registry=registry)
    errors = (jsonschema.exceptions.best_match([e]) for e in validator.iter_errors(document))
    return {".".join(map(str, error.absolute_path)): error.message for error in errors}


def test_the_shipped_schemas_are_what_the_code_says():
    made = {name: text_of(schema) for name, schema in make_schemas(ours_only=True).items()}
    shipped = {file.name: file.read_text(encoding="utf-8") for file in SHIPPED.glob("*.json")}
    stale = [name for name in made.keys() | shipped if made.get(name) != shipped.get(name)]
    assert not stale, "run: make schemas"


@pytest.mark.parametrize("name", [file.name.split(".")[0] for file in SHIPPED.glob("*.json")])
def test_each_is_a_schema(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("file", YAML, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_shipped_files_follow_the_schema_that_they_name(file):
    head, line = file.read_text(encoding="utf-8").splitlines()[0].split("$schema=")
    assert head == "# yaml-language-server: "
    kind = FILES[file.parent.name]
    assert (file.parent / line).resolve() == SHIPPED / f"{kind}.schema.json"
    assert faults(kind, yaml.safe_load(file.read_text(encoding="utf-8"))) == {}


def test_an_experiment_is_marked_where_it_is_wrong():
    file = PACKAGE / "config/experiments/two_arms.yaml"
    whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    run = whole["roles"]["learner"]["run"]
    run |= {"engine": "slurm", "options": {"partition": "gpu", "minutes": 60}}
    assert faults("experiment", whole) == {}
    run["options"]["minuts"] = 5
    assert "minuts" in str(faults("experiment", whole))
    run["options"] = {}
    whole["roles"]["robots"]["joint"] = [7]
    assert "joint" in str(faults("experiment", whole))


def test_what_is_wrong_is_marked_where_it_stands():
    robot = yaml.safe_load((PACKAGE / "config/robots/panda_sim.yaml").read_text(encoding="utf-8"))
    robot["robot"]["params"]["arm"], robot["safety"]["watchdog_s"] = "panda", "long"
    assert faults("robot", robot).keys() == {"robot.params", "safety.watchdog_s"}
    training = {"batchsize": 3, "max_updates": "${many}"}
    learner = {"learner": {"parameters": {"training": training}}}
    wrong = faults("deployment", {"name": "x", "processes": learner})
    assert "batchsize" in wrong["processes.learner.parameters.training"]
    assert "max_updates" not in str(wrong)
    wrong = faults("deployment", {"name": "x", "processes": {"learner": {"niceness": 30}}})
    assert "19" in wrong["processes.learner.niceness"]
    fragment = {"processes": {"mine": {"executable": "hal_node", "parameters": {"robto": 1}}}}
    assert "robto" in faults("fragment", fragment)["processes.mine.parameters"]
    assert faults("teleop_node", {"teleop": {"plugin": "joy", "params": {"buttons": 1}}})
    assert not faults("teleop_node", {"teleop": {"plugin": "my_lab:Glove", "params": {"hand": 1}}})
