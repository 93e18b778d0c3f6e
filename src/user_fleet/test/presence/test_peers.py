"""How the roles of an experiment find each other."""

from pathlib import Path

import pytest

from user_core.errors import ConfigError, PluginError
from user_core.reasons import NO_REASON
from user_fleet.presence.peers import Place, domain_of, peers_of, port_of
from user_fleet.scheduling.experiment import Run, load_experiment
from user_fleet.scheduling.store import Grant

RUN = Run(
    deployment="edge",
    set={"router": "tcp/${learner.address}:${learner.port}", "other": ["${robots.name}"], "own": "${host}"},
)  # fmt: skip


def grant(number: int, resource: str, role: str) -> Grant:
    return Grant(number, resource, "e", role, False, 0, ending=NO_REASON)


def test_what_a_run_asks_of_others_is_told_as_far_as_it_is_known() -> None:
    grants = [grant(3, "h2/robot/right", "robots"), grant(2, "h2/robot/left", "robots")]
    assert peers_of(RUN, grants, {}, {}) == {"robots.name": "left"}
    grants += [grant(7, "h1/gpu/b", "learner"), grant(8, "h1/gpu/a", "learner")]
    places = {"h1": Place("10.0.0.7", "hall")}
    found = peers_of(RUN, grants, {8: Run(deployment="cloud")}, places)
    assert found == {
        "robots.name": "left", "learner.address": "10.0.0.7", "learner.port": str(port_of(8)),
    }  # fmt: skip


def test_ports_and_domains_are_those_that_every_system_has() -> None:
    numbers = [1, 99, 100, 10_001, 1_795_939_447]
    assert all(20000 <= port_of(n) < 30000 for n in numbers)
    assert all(1 <= int(domain_of(n, "0")) <= 101 for n in numbers)
    assert domain_of(4, "5") == "101"


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("${learner.port}", "${lerner.port}"), 9, "lerner"),
        (("${learner.port}", "${learner.prt}"), 9, "prt"),
        (("partition: gpu", "partitoin: gpu"), 14, "partition"),
        (("done_with: [learner]", "done_with: [l]"), 15, "done_with"),
        (("joints: [7]", "joint: [7]"), 4, "joints"),
        (("options: {", "ranks: {"), 14, "ranks"),
    ],
)
def test_faults_of_an_experiment_are_told_with_their_line(
    tmp_path: Path, change: tuple[str, str], line: int, words: str
) -> None:
    text = """name: e
roles:
  robots:
    joints: [7]
    run:
      deployment: edge
      set:
        name: x
        router: "tcp/${learner.address}:${learner.port}"
  learner:
    kind: host
    run:
      deployment: cloud
      engine: slurm
      options: {partition: gpu}
done_with: [learner]
"""
    file = tmp_path / "e.yaml"
    file.write_text(text)
    assert load_experiment(file).roles["learner"].run is not None
    file.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=words) as caught:
        load_experiment(file)
    told = int(str(caught.value).split("e.yaml:")[1].split(":")[0])
    assert abs(told - line) <= 4  # the line of the key, or of the run that it belongs to
    file.write_text(text.replace("slurm", "slurn"))
    with pytest.raises(PluginError, match="did you mean 'slurm'"):
        load_experiment(file)
