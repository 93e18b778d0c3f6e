"""Who would get what: :func:`plan` matches the roles of an experiment with resources, and explains.

The answer is one of three. ``now``: this is what it gets. ``later``: what there is would do, and these
must become free first. ``never``: it would not do even if all were free, and this is what comes nearest, and
what it lacks.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from user_core.reasons import Reason
from user_fleet.resources.model import Resource
from user_fleet.scheduling.assignment import Assignment, AssignmentProblem, Offer, Option
from user_fleet.scheduling.experiment import Experiment, Requirement

Verdict = Literal["now", "later", "never"]
#: An option that comes later in ``first_of`` outweighs all preferences together.
OPTION_COST = 10**9
#: What is to be waited for outweighs preferences, but no option.
WAIT_COST = 10**6
_NEAREST = 3


@dataclass(frozen=True)
class Situation:
    """What there is, and what is not to be had now.

    Attributes:
        resources: All that is known; ids are unique.
        blocked: Ids of resources that cannot be given now, with the reason. Those that are not
            ready need not be named.
        shared: Ids of resources that only roles that share may be given now, with the reason.
        warm_hosts: Hosts that hold what the experiment needs.
        costs: Ids, to what using them costs besides (for instance that somebody must yield).
    """

    resources: Sequence[Resource]
    blocked: Mapping[str, Reason] = field(default_factory=dict)
    shared: Mapping[str, Reason] = field(default_factory=dict)
    warm_hosts: frozenset[str] = frozenset()
    costs: Mapping[str, int] = field(default_factory=dict)

    def why_not_now(self, item: Resource, shares: bool) -> Reason:
        """Why a resource cannot be given now to a role that shares, or does not."""
        if item.id in self.blocked:
            return self.blocked[item.id]
        if not shares and item.id in self.shared:
            return self.shared[item.id]
        return item.because()


@dataclass(frozen=True)
class Plan:
    """What an experiment would be given.

    Attributes:
        experiment: What was asked.
        situation: What there was.
        verdict: Whether it can be had.
        roles: For each role the ids of what it gets (``later``: would get); empty for ``never``.
        options: For each role, which of its requirements is met.
        home: Site where most of it is.
        cost: By the experiment's preferences; comparable within one situation only.
        waits_for: Of a plan for later, ids of what must become free, with why it is not.
        nearest: Of a plan for never, for each role that cannot be filled, what comes nearest and
            what it lacks.
        obstacle: Of a plan for never, why, in one line.
    """

    experiment: Experiment
    situation: Situation
    verdict: Verdict
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)
    home: str = ""
    cost: int = 0
    waits_for: Mapping[str, Reason] = field(default_factory=dict)
    nearest: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def chosen(self) -> dict[str, str]:
        """Id of each chosen resource, to its role."""
        return {item: role for role, items in self.roles.items() for item in items}

    def why_not(self) -> Iterator[tuple[str, str, str]]:
        """For each resource that is not chosen, of a kind that a role wants: its id, the role, and why."""
        chosen = self.chosen
        wanted = {
            name: self._requirement(name) for name in self.experiment.roles
        }  # of the option that was taken
        at = _site_of_hosts(self.situation.resources)
        used_hosts = Counter(item.partition("/")[0] for item in chosen)
        for item in self.situation.resources:
            if item.id in chosen:
                continue
            for name, requirement in wanted.items():
                if item.kind == requirement.kind:
                    yield item.id, name, self._why(item, name, requirement, at, used_hosts)

    def _requirement(self, role: str) -> Requirement:
        options = self.experiment.roles[role].first_of
        return options[self.options.get(role, 0)]

    def _why(
        self,
        item: Resource,
        role: str,
        requirement: Requirement,
        at: Mapping[str, str],
        used_hosts: Mapping[str, int],
    ) -> str:
        if lacks := requirement.lacks(item):
            return "; ".join(lacks)
        if why := self.situation.why_not_now(item, self.experiment.roles[role].share):
            return why.text
        if self.verdict != "now":
            return "it fits, but not all that is asked for is there"
        preferences, worse = self.experiment.preferences, []
        if preferences.data_at_site and at[item.host] != self.home:
            worse.append(f"not at {self.home}")
        if preferences.spread and item.kind == "robot" and used_hosts[item.host]:
            worse.append(f"{item.host} already gives {used_hosts[item.host]}")
        if preferences.warm and item.host not in self.situation.warm_hosts:
            worse.append("its host has not run this before")
        if item.id in self.situation.costs:
            worse.append("somebody would have to yield")
        return f"it fits; what was chosen is as good or better ({', '.join(worse) or 'equal'})"

    def in_words(self) -> list[str]:
        """What is decided, line by line, for people."""
        name = self.experiment.name
        if self.verdict == "never":
            lines = [f"{name}: never with what there is: {self.obstacle}"]
            for role, near in self.nearest.items():
                lines += [f"  {role}: nearest is {item}: {lacks}" for item, lacks in near]
            return lines
        when = "now" if self.verdict == "now" else "later, it waits"
        lines = [f"{name}: {when}" + (f", at {self.home}" if self.home else "")]
        for role, items in self.roles.items():
            lines.append(f"  {role} ({self._requirement(role).in_words()}): {', '.join(items)}")
        lines += [f"  waits for {item}: {why.text}" for item, why in self.waits_for.items()]
        return lines


def plan(experiment: Experiment, situation: Situation) -> Plan:
    """Match the roles of an experiment with what there is; see :class:`Plan`."""
    fits = _Fits(experiment, situation)
    found = fits.solve(now=True)
    if found is not None:
        return fits.plan(found, "now")
    found = fits.solve(now=False)
    if found is not None:
        return fits.plan(found, "later")
    nearest, obstacle = fits.nearest()
    return Plan(experiment, situation, "never", nearest=nearest, obstacle=obstacle)


def cost_of(
    experiment: Experiment,
    situation: Situation,
    roles: Mapping[str, Sequence[str]],
    options: Mapping[str, int],
) -> int:
    """What a choice costs by the preferences of the experiment; the measure that a plan makes least."""
    by_id = {item.id: item for item in situation.resources}
    preferences = experiment.preferences
    at = _site_of_hosts(situation.resources)
    used = [by_id[name] for names in roles.values() for name in names]
    cost = sum(OPTION_COST * number for number in options.values())
    cost += sum(_own_cost(item, experiment, situation) for item in used)
    sites = Counter(at[item.host] for item in used)
    cost += preferences.data_at_site * (len(used) - max(sites.values(), default=0))
    robots = Counter(item.host for item in used if item.kind == "robot")
    return cost + preferences.spread * sum(n * (n - 1) // 2 for n in robots.values())


class _Fits:
    """Which resources fit which option of which role, worked out once."""

    def __init__(self, experiment: Experiment, situation: Situation) -> None:
        self.experiment, self.situation = experiment, situation
        at = _site_of_hosts(situation.resources)
        of_kind: dict[str, list[int]] = {}
        for number, item in enumerate(situation.resources):
            of_kind.setdefault(item.kind, []).append(number)
        self._offers = [
            Offer(item.host, at[item.host], item.kind == "robot") for item in situation.resources
        ]
        self._own = [_own_cost(item, experiment, situation) for item in situation.resources]
        self._fitting = {
            name: [
                [
                    number
                    for number in of_kind.get(option.kind, ())
                    if not option.lacks(situation.resources[number])
                ]
                for option in role.first_of
            ]
            for name, role in experiment.roles.items()
        }

    def solve(self, now: bool, roles: Sequence[str] | None = None) -> Assignment | None:
        """The cheapest assignment of what is free now, or of all as if it were."""
        options = []
        for name in roles or self.experiment.roles:
            role = self.experiment.roles[name]
            options.append(
                [
                    Option(
                        OPTION_COST * number,
                        requirement.count,
                        requirement.on_one_host,
                        self._costs(self._fitting[name][number], role.share, now),
                    )
                    for number, requirement in enumerate(role.first_of)
                ]
            )
        preferences = self.experiment.preferences
        problem = AssignmentProblem(
            self._offers, options, preferences.data_at_site, preferences.spread
        )
        return problem.solve()

    def _costs(self, numbers: Sequence[int], shares: bool, now: bool) -> dict[int, int]:
        resources, situation = self.situation.resources, self.situation
        if now:
            return {
                number: self._own[number]
                for number in numbers
                if not situation.why_not_now(resources[number], shares)
            }
        return {
            number: self._own[number]
            + (WAIT_COST if situation.why_not_now(resources[number], shares) else 0)
            for number in numbers
        }

    def plan(self, found: Assignment, verdict: Verdict) -> Plan:
        """An assignment as a plan."""
        resources = self.situation.resources
        roles, options, waits = {}, {}, {}
        for name, numbers, option in zip(self.experiment.roles, found.offers, found.options):
            roles[name] = tuple(resources[number].id for number in numbers)
            options[name] = option
            for number in numbers:
                why = self.situation.why_not_now(
                    resources[number], self.experiment.roles[name].share
                )
                if why:
                    waits[resources[number].id] = why
        sites = Counter(str(self._offers[n].site) for numbers in found.offers for n in numbers)
        home = (
            str(found.home) if found.home is not None else max(sorted(sites), key=sites.__getitem__)
        )
        cost = cost_of(self.experiment, self.situation, roles, options)
        return Plan(
            self.experiment, self.situation, verdict, roles, options, home, cost, waits_for=waits
        )

    def nearest(self) -> tuple[dict[str, tuple[tuple[str, str], ...]], str]:
        """Of roles that cannot be filled, what comes nearest; and why not, in one line."""
        alone = [name for name in self.experiment.roles if self.solve(False, [name]) is None]
        if not alone:
            return {}, self._too_few_together()
        obstacles, nearest = [], {}
        for name in alone:
            role = self.experiment.roles[name]
            lines = []
            for option, fitting in zip(role.first_of, self._fitting[name]):
                there = f"{len(fitting)} fit" if len(fitting) != 1 else "1 fits"
                lines.append(f"{option.in_words()}: {there}")
                if option.on_one_host and len(fitting) >= option.count:
                    lines[-1] += ", not on one host"
            obstacles.append(f"{name} needs {'; else '.join(lines)}")
            nearest[name] = self._near(role.first_of[-1], set(self._fitting[name][-1]))
        return nearest, "; ".join(obstacles)

    def _near(self, option: Requirement, fitting: set[int]) -> tuple[tuple[str, str], ...]:
        others = (
            item
            for number, item in enumerate(self.situation.resources)
            if number not in fitting and item.kind == option.kind
        )
        best = heapq.nsmallest(
            _NEAREST, others, key=lambda item: (len(option.lacks(item)), item.id)
        )
        return tuple((item.id, "; ".join(option.lacks(item))) for item in best)

    def _too_few_together(self) -> str:
        """The fewest roles that cannot be filled at the same time."""
        roles = list(self.experiment.roles)
        for name in list(roles):  # leave out what is not needed for it to be impossible
            rest = [other for other in roles if other != name]
            if rest and self.solve(False, rest) is None:
                roles = rest
        wanted = sum(min(o.count for o in self.experiment.roles[name].first_of) for name in roles)
        fitting = {n for name in roles for option in self._fitting[name] for n in option}
        there = f"{len(fitting)} fit any of them"
        return f"{' and '.join(roles)} together need at least {wanted}; {there}"


def _own_cost(item: Resource, experiment: Experiment, situation: Situation) -> int:
    cold = experiment.preferences.warm if item.host not in situation.warm_hosts else 0
    return cold + situation.costs.get(item.id, 0)


def _site_of_hosts(resources: Sequence[Resource]) -> dict[str, str]:
    """Site of each host; a host without one is a site of its own."""
    found: dict[str, str] = {}
    for item in resources:
        found.setdefault(item.host, item.site or item.host)
    return found
