"""Decides who gets what, again and again: :meth:`Scheduler.step` compares what is wanted with what there is.

All that it decides is in the store, and nothing else is remembered that matters: a scheduler that is killed and started
again goes on where the other one was. It takes nothing away by itself while something is in use: it asks for it back
(:attr:`Grant.yields`), and ends the grant when the host says that the episode has ended. Only what has failed, or is on
a host that has been silent for longer than a lease lasts, is ended at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from user_core.config import Config, setting
from user_core.errors import ConfigError, StoreError
from user_core.reasons import (
    AFTER_OTHERS,
    DRAINED,
    EXPERIMENT_FAILED,
    GRANT_ENDED,
    NEVER_FITS,
    NO_REASON,
    PREEMPTED,
    QUARANTINED,
    REQUESTED,
    RESERVED,
    RESOURCE_FAILED,
    RESOURCE_HELD,
    WAITS_FOR_RESOURCES,
    WAITS_IN_A_CYCLE,
    Reason,
)
from user_core.runtime.clock import Clock
from user_fleet.resources.model import Resource
from user_fleet.scheduling.experiment import Experiment
from user_fleet.scheduling.plan import Plan, Situation, plan
from user_fleet.scheduling.store import Entry, FleetStore, Grant
from user_fleet.scheduling.waiting import waiting_cycles

#: What it costs a plan that somebody must give something back.
_YIELD_COST = 5000
#: What it costs a plan that a resource has failed of late.
_FAILED_COST = 100
#: Of how many it is tried whether they need not yield.
_MOST_SPARED = 8


class SchedulerConfig(Config):
    """When the scheduler loses patience."""

    lease_s: float = setting(
        30.0, doc="A host that is silent for this long has lost its grants: they are replaced elsewhere; it is told when it is back.",
        unit="s", gt=0,
    )  # fmt: skip
    max_failures: int = setting(
        3,
        doc="Failures after which a resource is given to nobody until a person releases it.",
        ge=1,
    )
    max_restarts: int = setting(
        5, doc="Failures of what an experiment runs, wherever, after which it is ended.", ge=1
    )
    failure_window_s: float = setting(
        3600.0, doc="Failures longer ago do not count.", unit="s", gt=0
    )


@dataclass(frozen=True)
class FleetView:
    """What is known of the hosts at a moment.

    Attributes:
        resources: All that hosts have reported last, those included that are out of reach.
        away: Hosts that cannot be reached, with the reason.
        lost: Those of them whose leases have run out.
    """

    resources: Sequence[Resource]
    away: Mapping[str, Reason] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()


class Scheduler:
    """Works on a store; see the module.

    Args:
        store: What is wanted and given.
        config: When it loses patience.
        clock: Tells the time.
    """

    def __init__(
        self, store: FleetStore, config: SchedulerConfig | None = None, clock: Clock | None = None
    ) -> None:
        self.store, self.config = store, config or SchedulerConfig()
        self._clock = clock or Clock()
        self._settled: object = None

    # --- what people ask for ---

    def submit(self, experiment: Experiment) -> None:
        """Queue an experiment.

        Raises:
            StoreError: One of this name is not over yet.
            ConfigError: It would wait for itself, by way of others.
        """
        with self.store.transaction():
            self.store.add(experiment)
            self.store.forget_failures(f"of {experiment.name}")
            waits = {
                entry.experiment.name: entry.experiment.after
                for entry in self.store.entries("queued", "running", "ending")
            }
            for cycle in waiting_cycles(waits):
                if experiment.name in cycle:
                    raise ConfigError(
                        f"after of {experiment.name!r}", got=" → ".join((*cycle, cycle[0])),
                        expected="no experiment that waits for itself",
                    )  # fmt: skip

    def cancel(self, name: str, at_once: bool = False) -> None:
        """End an experiment: a queued one at once, one that runs at the end of its episodes.

        Args:
            name: Its name.
            at_once: End its grants without waiting for anybody.
        """
        asked = Reason(REQUESTED, "cancelled")
        with self.store.transaction():
            entry = self._require(name)
            if entry.state == "queued" or at_once:
                self.store.end_grants(asked, experiment=name)
                self.store.set_state(name, "cancelled", asked)
            elif entry.state in ("running", "ending"):
                self._end(name, asked, "cancelled")

    def finished(self, name: str, reason: Reason = NO_REASON) -> None:
        """An experiment has ended by itself."""
        with self.store.transaction():
            self._require(name)
            self.store.end_grants(reason or Reason(GRANT_ENDED, "done"), experiment=name)
            self.store.set_state(name, "done", reason)

    def drain(self, resource: str, text: str = "for maintenance") -> None:
        """Give a resource to nobody; who has it gives it back when the episode has ended."""
        with self.store.transaction():
            self.store.hold_back(resource, DRAINED, text)
            self.store.ask_back(resource=resource)

    def release(self, resource: str) -> bool:
        """Give a resource again that was drained or quarantined; false when it was neither."""
        with self.store.transaction():
            return self.store.let_go(resource)

    # --- what hosts say ---

    def given_back(self, fencings: Iterable[int]) -> None:
        """What these grants were for has ended on its host."""
        with self.store.transaction():
            for fencing in fencings:
                for grant in self.store.end_grants(
                    Reason(GRANT_ENDED, "given back"), fencing=fencing
                ):
                    self._move_on(grant.experiment)

    def failed(self, fencing: int, text: str) -> None:
        """What a grant was for has failed on its host: the resource is replaced, and the failure counted."""
        with self.store.transaction():
            for grant in self.store.end_grants(Reason(RESOURCE_FAILED, text), fencing=fencing):
                self._count_failure(grant.resource, grant.experiment, text)
                self._move_on(grant.experiment)
                self._give_up(grant.experiment, text)

    # --- what follows ---

    def step(self, view: FleetView) -> None:
        """Decide anew. Costs little where nothing has changed.

        Raises:
            LeaseError: Another scheduler has taken over.
        """
        with self.store.transaction():
            self._take_from_the_failed(view)
            self._keep_reservations(view)
            key = self._situation_key(view)
            if key != self._settled:
                self._fill(view)
        self._settled = key  # if that changed anything, the next key is another

    def situation(self, view: FleetView, experiment: Experiment) -> Situation:
        """What there is for an experiment, as things stand."""
        return self._situation(view, experiment, {})

    # --- inside: each within a transaction ---

    def _require(self, name: str) -> Entry:
        entry = self.store.find(name)
        if entry is None:
            known = [other.experiment.name for other in self.store.entries()]
            raise StoreError(f"experiment {name!r}", got="no such", expected=f"one of {known}")
        return entry

    def _end(self, name: str, reason: Reason, goes_to: str) -> None:
        """Ask an experiment to give back all that it has."""
        self.store.set_state(name, "ending", reason, goes_to)
        self.store.ask_back(experiment=name)
        self._move_on(name)

    def _move_on(self, name: str) -> None:
        """An experiment that has given everything back goes on to what comes then."""
        entry = self.store.find(name)
        if entry is None or entry.state != "ending":
            return
        if any(grant.experiment == name for grant in self.store.grants()):
            return
        if entry.goes_to == "cancelled":
            self.store.set_state(name, "cancelled", entry.reason)
        else:
            self.store.set_state(name, "queued", entry.reason)

    def _count_failure(self, resource: str, source: str, text: str) -> None:
        """Note a failure. An experiment counts once: what fails again and again may be its own fault."""
        config = self.config
        count = self.store.note_failure(resource, source, text, config.failure_window_s)
        if count >= config.max_failures:
            within = f"{count} failures within {config.failure_window_s:g} s"
            self.store.hold_back(resource, QUARANTINED, f"{within}, the last one: {text}")

    def _give_up(self, name: str, text: str) -> None:
        """End an experiment that fails wherever it is started: the fault is its own."""
        entry, config = self.store.find(name), self.config
        count = self.store.note_failure(f"of {name}", "", text, config.failure_window_s)
        if entry is not None and entry.state == "running" and count >= config.max_restarts:
            within = f"{count} failures within {config.failure_window_s:g} s"
            why = Reason(EXPERIMENT_FAILED, f"{within}, the last one: {text}")
            self._end(name, why, "cancelled")

    def _take_from_the_failed(self, view: FleetView) -> None:
        health = {item.id: item for item in view.resources}
        for grant in self.store.grants():
            host, item = grant.resource.partition("/")[0], health.get(grant.resource)
            if host in view.lost:
                why = Reason(RESOURCE_FAILED, f"host {host} was silent for longer than its lease")
            elif host in view.away or item is None or item.health not in ("faulty", "absent"):
                continue
            else:
                why = Reason(RESOURCE_FAILED, item.reason)
                self._count_failure(grant.resource, "", item.reason)
            self.store.end_grants(why, fencing=grant.fencing)
            self._move_on(grant.experiment)

    def _keep_reservations(self, view: FleetView) -> None:
        for name, why in self._reserved(view).items():
            for grant in self.store.grants():
                if grant.resource != name or grant.yields or grant.experiment in why[1]:
                    continue
                entry = self.store.find(grant.experiment)
                if entry is not None and entry.state == "running":
                    self._end(grant.experiment, Reason(RESERVED, f"{name} {why[0]}"), "queued")

    def _reserved(self, view: FleetView) -> dict[str, tuple[str, frozenset[str]]]:
        """Resources that are reserved now: in words, and who may use them."""
        now_s = self._clock.wall_ns() * 1e-9
        found: dict[str, tuple[str, frozenset[str]]] = {}
        for one in self.store.reservations():
            if not one.holds_at(now_s):
                continue
            text = f"is reserved until {one.end} ({one.name})"
            for item in view.resources:
                if one.covers(item):
                    others = found.get(item.id)
                    may = frozenset(one.experiments)
                    found[item.id] = (text, may & others[1] if others else may)
        return found

    def _situation_key(self, view: FleetView) -> object:
        """What the next plans depend on; the same key, the same plans."""
        return (
            tuple((item.id, item.health, item.site) for item in view.resources),
            tuple(sorted(view.away)),
            self.store.fingerprint(),
            tuple(sorted(self._reserved(view))),
        )

    def _fill(self, view: FleetView) -> None:
        """Replace what running experiments have lost, then begin queued ones, by priority."""
        kept: dict[str, Reason] = {}
        waits: dict[str, set[str]] = {}
        running = self.store.entries("running")
        for entry in sorted(running, key=_urgency):
            self._replace(entry, view, kept, waits)
        for entry in sorted(self.store.entries("queued"), key=_urgency):
            if not self._waits_for_others(entry, waits):
                self._begin(entry, view, kept, waits)
        for cycle in waiting_cycles(waits):
            text = f"each waits for the next: {' → '.join((*cycle, cycle[0]))}"
            for name in cycle:
                waiting = self.store.find(name)
                if waiting is not None:
                    why = Reason(WAITS_IN_A_CYCLE, text)
                    self.store.set_state(name, waiting.state, why, waiting.goes_to)

    def _waits_for_others(self, entry: Entry, waits: dict[str, set[str]]) -> bool:
        name, before = entry.experiment.name, []
        for other in entry.experiment.after:
            found = self.store.find(other)
            if found is None or found.state not in ("done", "cancelled"):
                before.append(other)
        if before:
            waits[name] = set(before)
            unknown = [other for other in before if self.store.find(other) is None]
            more = f"; nobody has submitted {', '.join(unknown)}" if unknown else ""
            why = Reason(AFTER_OTHERS, f"after {', '.join(before)}{more}")
            self.store.set_state(name, "queued", why)
        return bool(before)

    def _begin(
        self, entry: Entry, view: FleetView, kept: dict[str, Reason], waits: dict[str, set[str]]
    ) -> None:
        experiment = entry.experiment
        found = plan(experiment, self._situation(view, experiment, kept))
        if found.verdict == "now":
            self._grant(experiment.name, found)
            self.store.set_plan(experiment.name, dict(found.options), found.home)
            self.store.set_state(experiment.name, "running")
            return
        holders = self._holders()
        yielding = self._with_others_yielding(experiment, view, kept, holders)
        if yielding is not None:
            names = self._preempt(experiment, yielding, holders)
            self._keep(experiment.name, yielding.chosen, kept)
            text = f"waits until {', '.join(sorted(names))} has given back what it needs"
            waits[experiment.name] = names
            self.store.set_state(experiment.name, "queued", Reason(WAITS_FOR_RESOURCES, text))
        elif found.verdict == "later":
            names = self._holders_of(found, holders)
            waits[experiment.name] = names
            if names and all(item in holders or item in kept for item in found.waits_for):
                self._keep(experiment.name, found.chosen, kept)
            text = "; ".join(f"{item}: {why.text}" for item, why in found.waits_for.items())
            why = Reason(WAITS_FOR_RESOURCES, f"waits for {text}")
            self.store.set_state(experiment.name, "queued", why)
        else:
            near = "; ".join(
                f"nearest for {role}: {name} ({lacks})"
                for role, items in found.nearest.items()
                for name, lacks in items[:1]
            )
            text = f"{found.obstacle}{'. ' if near else ''}{near}"
            self.store.set_state(experiment.name, "queued", Reason(NEVER_FITS, text))

    def _replace(
        self, entry: Entry, view: FleetView, kept: dict[str, Reason], waits: dict[str, set[str]]
    ) -> None:
        """Fill the roles of a running experiment that have lost something."""
        experiment, name = entry.experiment, entry.experiment.name
        options = dict(entry.options)
        why = NO_REASON
        for role_name, role in experiment.roles.items():
            requirement = role.first_of[options[role_name]]
            have = [g for g in self.store.grants() if (g.experiment, g.role) == (name, role_name)]
            if len(have) >= requirement.count:
                continue
            if have and requirement.on_one_host:  # the process over all of them ends with one
                self.store.end_grants(
                    Reason(GRANT_ENDED, "moves to another host"), experiment=name, role=role_name
                )
                have = []
            if have:
                missing = requirement.count - len(have)
                wanted = role.replace(first_of=(requirement.replace(count=missing),))
            else:
                wanted = role
            part = experiment.replace(roles={role_name: wanted}, after=())
            mine = {g.resource for g in self.store.grants() if g.experiment == name}
            others = [item for item in view.resources if item.id not in mine]
            rest = replace(view, resources=others)
            found = plan(part, self._situation(rest, part, kept, home=entry.home))
            if found.verdict == "now":
                self._grant(name, found)
                if not have:
                    options[role_name] = found.options[role_name]
            else:
                holders = self._holders()
                waits.setdefault(name, set()).update(self._holders_of(found, holders) - {name})
                text = found.obstacle or "; ".join(
                    f"{item}: {reason.text}" for item, reason in found.waits_for.items()
                )
                why = Reason(WAITS_FOR_RESOURCES, f"{role_name} waits for a replacement: {text}")
        self.store.set_plan(name, options, entry.home)
        if why != entry.reason:
            self.store.set_state(name, "running", why)

    def _grant(self, name: str, found: Plan) -> None:
        for role, items in found.roles.items():
            for item in items:
                self.store.grant(item, name, role, found.experiment.roles[role].share)

    def _situation(
        self,
        view: FleetView,
        experiment: Experiment,
        kept: Mapping[str, Reason],
        yielding: Mapping[str, int] | None = None,
        home: str = "",
    ) -> Situation:
        """What there is for an experiment.

        Args:
            view: What is known of the hosts.
            experiment: Who asks.
            kept: What is kept for others.
            yielding: What others would yield, with what that costs.
            home: Site of the rest of it, for a part of an experiment.
        """
        yielding = yielding or {}
        blocked: dict[str, Reason] = {}
        shared: dict[str, Reason] = {}
        for grant in self.store.grants():
            if grant.resource not in yielding:
                text = f"held by {grant.experiment}, which gives it back" if grant.yields else (
                    f"held by {grant.experiment}"
                )  # fmt: skip
                where = shared if grant.share else blocked
                where[grant.resource] = Reason(RESOURCE_HELD, text)
        for item in view.resources:
            if item.host in view.away:
                blocked[item.id] = view.away[item.host]
        for name, (text, may) in self._reserved(view).items():
            if experiment.name not in may:
                blocked[name] = Reason(RESERVED, text)
        blocked.update({name: why for name, why in kept.items() if name not in blocked})
        blocked.update(self.store.held_back())
        costs = {n: _FAILED_COST * count for n, count in self.store.failures().items()}
        for name, cost in yielding.items():
            costs[name] = costs.get(name, 0) + cost
        if home and (weight := experiment.preferences.data_at_site):
            for item in view.resources:
                if (item.site or item.host) != home:
                    costs[item.id] = costs.get(item.id, 0) + weight
        return Situation(
            view.resources, blocked, shared, self.store.warm_hosts(experiment.name), costs
        )

    def _holders(self) -> dict[str, list[Grant]]:
        found: dict[str, list[Grant]] = {}
        for grant in self.store.grants():
            found.setdefault(grant.resource, []).append(grant)
        return found

    def _holders_of(self, found: Plan, holders: Mapping[str, list[Grant]]) -> set[str]:
        return {g.experiment for item in found.waits_for for g in holders.get(item, ())}

    def _with_others_yielding(
        self,
        experiment: Experiment,
        view: FleetView,
        kept: Mapping[str, Reason],
        holders: Mapping[str, list[Grant]],
    ) -> Plan | None:
        """A plan with what experiments of lower priority would give back; None where that is not
        enough. Those of the lowest priority, and then the youngest, yield first, and no more of
        them than needed."""
        by_name: dict[str, set[str]] = {}
        entries = {
            entry.experiment.name: entry for entry in self.store.entries("running", "ending")
        }
        for resource, grants in holders.items():
            for grant in grants:
                by_name.setdefault(grant.experiment, set()).add(resource)
        lower = [
            entry
            for name, entry in entries.items()
            if name in by_name and entry.experiment.priority < experiment.priority
        ]
        lower.sort(key=lambda entry: (entry.experiment.priority, -entry.number))

        def with_these(some: Sequence[Entry]) -> Plan | None:
            names = {entry.experiment.name for entry in some}
            yielding = {
                resource: _YIELD_COST
                for resource, grants in holders.items()
                if all(grant.experiment in names for grant in grants)
            }
            found = plan(experiment, self._situation(view, experiment, kept, yielding))
            return found if found.verdict == "now" else None

        best = with_these(lower) if lower else None
        if best is None:
            return None
        fewest, enough = 0, len(lower)  # the fewest from the front that are enough
        while enough - fewest > 1:
            middle = (fewest + enough) // 2
            found = with_these(lower[:middle])
            if found is not None:
                best, enough = found, middle
            else:
                fewest = middle
        needed = lower[:enough]
        for entry in list(reversed(needed))[
            1 : _MOST_SPARED + 1
        ]:  # without the last it was not enough
            rest = [other for other in needed if other is not entry]
            found = with_these(rest)
            if found is not None:
                best, needed = found, rest
        return best

    def _preempt(
        self, experiment: Experiment, found: Plan, holders: Mapping[str, list[Grant]]
    ) -> set[str]:
        """Ask those for what they have who must yield; returns their names."""
        names = {g.experiment for item in found.chosen for g in holders.get(item, ())}
        for name in names:
            entry = self.store.find(name)
            if entry is not None and entry.state == "running":
                text = f"yields to {experiment.name} (priority {experiment.priority})"
                self._end(name, Reason(PREEMPTED, text), "queued")
        return names

    def _keep(self, name: str, chosen: Iterable[str], kept: dict[str, Reason]) -> None:
        for item in chosen:
            kept.setdefault(item, Reason(RESOURCE_HELD, f"kept for {name}, which waits for more"))


def _urgency(entry: Entry) -> tuple[int, float, int]:
    """Order of experiments: by priority, then deadline, then submission."""
    deadline_s = entry.experiment.deadline_s()
    late = math.inf if deadline_s is None else deadline_s
    return (-entry.experiment.priority, late, entry.number)
