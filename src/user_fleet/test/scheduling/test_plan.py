"""Plans: always valid, never worse than brute force, and never impossible where brute force finds one."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from user_core.errors import ConfigError
from user_core.reasons import Reason
from user_fleet.resources.model import Resource
from user_fleet.scheduling.experiment import Experiment, load_experiment
from user_fleet.scheduling.plan import WAIT_COST, Situation, cost_of, plan

HELD = Reason("lease", "held by another")
GIB = 2.0**30


def why_invalid(
    experiment: Experiment,
    situation: Situation,
    roles: Mapping[str, Sequence[str]],
    options: Mapping[str, int],
    now: bool = True,
) -> str:
    """What is wrong with a choice; empty when it gives every role what it asks for."""
    by_id = {item.id: item for item in situation.resources}
    used = [name for names in roles.values() for name in names]
    if len(set(used)) != len(used):
        return "a resource is given twice"
    if set(roles) != set(experiment.roles) or set(options) != set(experiment.roles):
        return "not every role is given something"
    for name, role in experiment.roles.items():
        requirement = role.first_of[options[name]]
        if len(roles[name]) != requirement.count:
            return f"{name} is given {len(roles[name])} of {requirement.count}"
        items = [by_id[item] for item in roles[name]]
        for item in items:
            if lacks := requirement.lacks(item):
                return f"{item.id} for {name}: {lacks[0]}"
            if now and (why := situation.why_not_now(item, role.share)):
                return f"{item.id} for {name}: {why.text}"
        if requirement.on_one_host and len({item.host for item in items}) > 1:
            return f"{name} is given resources of several hosts"
    return ""


def robot(name: str, site: str = "", **changes) -> Resource:
    return Resource(id=name, kind="robot", site=site, **{"joints": 7, **changes})


def gpu(name: str, memory_gb: float = 80, site: str = "") -> Resource:
    return Resource(id=name, kind="gpu", site=site, amounts={"memory_bytes": memory_gb * GIB})


def cpu(host: str, cores: float = 8, site: str = "") -> Resource:
    return Resource(id=f"{host}/cpu/cpu", kind="cpu", site=site, amounts={"cores": cores})


def asks(**roles) -> Experiment:
    preferences = roles.pop("preferences", {})
    return Experiment(name="e", roles=roles, preferences=preferences)


def brute_force(experiment: Experiment, situation: Situation, now: bool) -> int | None:
    """Cost of the best choice, by trying all; None where there is none."""
    names = list(experiment.roles)
    counts = [range(len(experiment.roles[name].first_of)) for name in names]
    ids = [item.id for item in situation.resources]
    best = None
    for numbers in itertools.product(*counts):
        options = dict(zip(names, numbers))
        sizes = [experiment.roles[n].first_of[o].count for n, o in options.items()]

        def choices(left, sizes):
            if not sizes:
                yield ()
                return
            for picked in itertools.combinations(left, sizes[0]):
                rest = [item for item in left if item not in picked]
                for others in choices(rest, sizes[1:]):
                    yield (picked, *others)

        for picked in choices(ids, sizes):
            roles = dict(zip(names, picked))
            if why_invalid(experiment, situation, roles, options, now):
                continue
            cost = cost_of(experiment, situation, roles, options)
            best = cost if best is None or cost < best else best
    return best


_SITES = {"h1": "north", "h2": "north", "h3": "south", "h4": ""}


@st.composite
def _situations(draw) -> Situation:
    resources = []
    for number in range(draw(st.integers(0, 7))):
        host = draw(st.sampled_from(sorted(_SITES)))
        kind = draw(st.sampled_from(["robot", "robot", "gpu"]))
        tags = draw(st.sampled_from([(), ("a",), ("a", "b")]))
        if kind == "robot":
            joints = draw(st.sampled_from([6, 7]))
            item = robot(f"{host}/robot/r{number}", _SITES[host], joints=joints, tags=tags)
        else:
            item = gpu(f"{host}/gpu/g{number}", draw(st.sampled_from([10, 80])), _SITES[host])
        resources.append(item)
    ids = [item.id for item in resources]
    some = st.sets(st.sampled_from(ids), max_size=2) if ids else st.just(set())
    return Situation(
        resources,
        blocked=dict.fromkeys(sorted(draw(some)), HELD),
        shared=dict.fromkeys(sorted(draw(some)), HELD),
        warm_hosts=frozenset(draw(st.sets(st.sampled_from(sorted(_SITES))))),
        costs={item: draw(st.integers(0, 20)) for item in sorted(draw(some))},
    )


@st.composite
def _experiments(draw) -> Experiment:
    def requirement():
        if draw(st.booleans()):
            return {
                "kind": "robot",
                "count": draw(st.integers(1, 3)),
                "together": draw(st.sampled_from([None, None, True])),
                "joints": draw(st.sampled_from([[], [7], [6, 7]])),
                "tags": draw(st.sampled_from([[], ["a"], ["b"]])),
            }
        return {
            "kind": "gpu",
            "count": draw(st.integers(1, 2)),
            "together": draw(st.sampled_from([None, False])),
            "memory_gb": draw(st.sampled_from([0, 40])),
        }

    roles = {
        f"role{number}": {
            "first_of": [requirement() for _ in range(draw(st.integers(1, 2)))],
            "share": draw(st.booleans()),
        }
        for number in range(draw(st.integers(1, 3)))
    }
    weights = st.sampled_from([0, 1, 3, 10])
    preferences = {"data_at_site": draw(weights), "spread": draw(weights), "warm": draw(weights)}
    return Experiment(name="e", roles=roles, preferences=preferences)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(_experiments(), _situations())
def test_a_plan_is_valid_exact_and_found_whenever_there_is_one(experiment, situation):
    found = plan(experiment, situation)
    best = brute_force(experiment, situation, now=True)
    if best is not None:
        assert found.verdict == "now"
        assert found.cost == best
        assert not why_invalid(experiment, situation, found.roles, found.options)
        return
    assert found.verdict != "now"
    ever = brute_force(experiment, situation, now=False)
    assert (found.verdict == "later") == (ever is not None)
    if ever is not None:
        assert not why_invalid(experiment, situation, found.roles, found.options, now=False)
        assert found.waits_for.keys() <= {item for ids in found.roles.values() for item in ids}
        assert found.waits_for
    else:
        assert found.obstacle


LAB = [
    robot("h1/robot/a", "north", cameras=("image_wrist",), tags=("cell-a",)),
    robot("h1/robot/b", "north", cameras=("image_wrist",), tags=("cell-a",)),
    robot("h2/robot/c", "north", joints=6, cameras=("image_wrist",), tags=("cell-a",)),
    robot("h3/robot/d", "south", cameras=("image_front",), tags=("cell-a",)),
    gpu("h3/gpu/x", 80, "south"),
    gpu("h4/gpu/y", 24, "north"),
    cpu("h1", 8, "north"),
    cpu("h4", 16, "north"),
]
ARMS = {"kind": "robot", "count": 2, "joints": [6, 7], "cameras": ["wrist"], "tags": ["cell-a"]}
LEARNER = {
    "first_of": [
        {"kind": "gpu", "count": 2, "memory_gb": 40},
        {"kind": "gpu"},
        {"kind": "cpu", "cores": 4},
    ]
}


def test_the_first_requirement_that_can_be_met_counts_and_preferences_choose():
    found = plan(asks(robots=ARMS, learner=LEARNER), Situation(LAB))
    assert (found.verdict, found.home, found.options) == (
        "now",
        "north",
        {"robots": 0, "learner": 1},
    )
    # Not the larger GPU, which is elsewhere; not both robots of one host.
    assert found.roles["learner"] == ("h4/gpu/y",)
    assert found.roles["robots"] in [("h1/robot/a", "h2/robot/c"), ("h1/robot/b", "h2/robot/c")]


def test_every_other_candidate_is_told_why_not():
    situation = Situation(LAB, blocked={"h1/robot/b": HELD})
    why = {(item, role): text for item, role, text in plan(asks(robots=ARMS, learner=LEARNER), situation).why_not()}  # fmt: skip
    assert why["h1/robot/b", "robots"] == "held by another"
    assert why["h3/robot/d", "robots"] == "no wrist camera"
    assert "not at north" in why["h3/gpu/x", "learner"]


def test_later_says_what_must_become_free():
    blocked = {"h1/robot/a": HELD, "h1/robot/b": HELD}
    found = plan(asks(robots=ARMS), Situation(LAB, blocked=blocked))
    assert found.verdict == "later"
    assert len(found.waits_for) == 1  # not more than needed
    assert set(found.waits_for.values()) == {HELD}
    broken = [LAB[0].unwell("faulty", Reason("device", "no bus")), LAB[2]]
    assert [w.text for w in plan(asks(robots=ARMS), Situation(broken)).waits_for.values()] == [
        "no bus"
    ]


def test_never_names_the_nearest_candidate_and_what_it_lacks():
    three = {**ARMS, "count": 4}
    found = plan(asks(robots=three, learner=LEARNER), Situation(LAB))
    assert found.verdict == "never"
    assert found.nearest == {"robots": (("h3/robot/d", "no wrist camera"),)}
    assert "3 fit" in found.obstacle
    nobody = plan(asks(robots={"kind": "robot", "joints": [5]}), Situation(LAB))
    assert nobody.nearest["robots"][0][1] == "7 joints, asked for 5"


def test_roles_that_only_clash_together_are_named():
    found = plan(
        asks(
            one={"kind": "robot", "tags": ["cell-a"], "cameras": ["front"]},
            two={"kind": "robot", "cameras": ["front"]},
            learner={"kind": "gpu"},
        ),
        Situation(LAB),
    )
    assert found.verdict == "never"
    assert found.obstacle == "one and two together need at least 2; 1 fit any of them"


def test_gpus_of_one_process_are_of_one_host():
    two = {"kind": "gpu", "count": 2}
    assert plan(asks(learner=two), Situation(LAB)).verdict == "never"
    assert "not on one host" in plan(asks(learner=two), Situation(LAB)).obstacle
    apart = plan(asks(learner={**two, "together": False}), Situation(LAB))
    assert apart.roles["learner"] == ("h3/gpu/x", "h4/gpu/y")


def test_what_is_used_with_others_is_given_to_those_that_share():
    situation = Situation(LAB, shared={"h1/cpu/cpu": HELD, "h4/cpu/cpu": HELD})
    want = {"kind": "cpu", "cores": 10}
    assert plan(asks(store=want), situation).verdict == "later"
    assert plan(asks(store={**want, "share": True}), situation).roles["store"] == ("h4/cpu/cpu",)


def test_warm_hosts_are_preferred():
    situation = Situation(LAB, warm_hosts=frozenset(["h4"]))
    assert plan(asks(store={"kind": "cpu"}), situation).roles["store"] == ("h4/cpu/cpu",)


def test_a_large_fleet_is_planned_for_as_a_small_one_is():
    resources = []
    for number in range(100):
        host, site = f"h{number:03}", f"s{number % 8}"
        resources += [
            robot(
                f"{host}/robot/r", site, joints=6 + number % 2, cameras=("wrist",), tags=("cell-a",)
            ),
            gpu(f"{host}/gpu/g", 24 if number % 2 else 80, site),
            cpu(host, 8, site),
        ]
    experiment = asks(robots={**ARMS, "count": 4}, learner=LEARNER, store={"kind": "cpu"})
    found = plan(experiment, Situation(resources))
    assert (found.verdict, found.options["learner"]) == ("now", 1)
    used = list(found.chosen)
    assert len({next(r.site for r in resources if r.id == item) for item in used}) == 1
    assert len({item.partition("/")[0] for item in found.roles["robots"]}) == 4
    # No preference but that six resources come from hosts that are not warm.
    assert found.cost == 10**9 + 6
    assert WAIT_COST > 300 * 1000


def test_an_experiment_is_read_with_lines_in_its_faults(tmp_path):
    file = tmp_path / "peg insertion.yaml"
    file.write_text(
        "priority: 10\n"
        "deadline: 2026-12-01T06:00:00\n"
        "roles:\n"
        "  robots: {kind: robot, count: 2, share: true}\n"
        "  learner: {first_of: [{kind: gpu}, {kind: cpu}]}\n"
    )
    found = load_experiment(file)
    assert found.name == "peg_insertion"
    assert found.roles["robots"].share and found.roles["robots"].first_of[0].count == 2
    assert found.deadline_s() is not None
    file.write_text("name: x\nroles:\n  robots:\n    kind: robot\n    jionts: [6]\n")
    with pytest.raises(ConfigError, match=r"insertion\.yaml:5.*did you mean 'joints'"):
        load_experiment(file)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "a b"}, "name"),
        ({"roles": {}}, "roles"),
        ({"after": ["e"]}, "after"),
        ({"deadline": "soon"}, "deadline"),
        ({"roles": {f"r{i}": {"kind": "cpu"} for i in range(17)}}, "roles"),
    ],
)
def test_experiments_that_make_no_sense_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        Experiment(**{"name": "e", "roles": {"r": {"kind": "cpu"}}, **changes})
