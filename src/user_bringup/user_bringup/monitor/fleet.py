"""What the file of a scheduler says of the fleet: resources and who has them, experiments, who had what when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from user_core.errors import CodecError
from user_core.reasons import Reason
from user_fleet.resources.model import HostReport, Resource
from user_fleet.scheduling.experiment import Role
from user_fleet.scheduling.scheduler import FleetView
from user_fleet.scheduling.store import FleetStore, Grant

#: Colours of experiments, told apart also by those who see red and green alike (Okabe and Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
#: A scheduler that has said nothing for this long is not working.
QUIET_S = 10.0
#: Codes of endings that a person should look at.
FAILURES = frozenset(("resource_failed", "experiment_failed"))


def view_of(store: FleetStore) -> FleetView:
    """What the store knows of the hosts."""
    resources: list[Resource] = []
    away: dict[str, Reason] = {}
    for known in store.hosts():
        if known.report is not None:
            try:
                resources += HostReport.from_json(known.report).resources
            except CodecError as error:
                away[known.name] = Reason.of(error)
        if known.state not in ("here", "two_agents"):
            away[known.name] = Reason(known.state, known.text)
    return FleetView(resources, away)


@dataclass(frozen=True)
class Used:
    """A resource, and what people are told of it.

    Attributes:
        item: The resource.
        use: Who has it, or why it is held back; empty: nobody.
        now: `ready`, or why not.
    """

    item: Resource
    use: str
    now: str

    @property
    def is_hidden(self) -> bool:
        """Whether it is a simulated robot that a driver offers and nobody uses."""
        simulated = self.item.source.startswith("driver ") and "simulated" in self.item.tags
        return simulated and not self.use


def resources_of(store: FleetStore) -> list[Used]:
    """The resources of all hosts, with who has what."""
    view, held_back = view_of(store), store.held_back()
    holders: dict[str, list[Grant]] = {}
    for grant in store.grants():
        holders.setdefault(grant.resource, []).append(grant)

    def use(item: Resource) -> str:
        words = [f"{g.experiment} ({g.role})" + (", asked back" if g.yields else "") for g in holders.get(item.id, ())]  # fmt: skip
        words += [held_back[item.id].text] if item.id in held_back else []
        return "; ".join(words)

    def health(item: Resource) -> str:
        why = view.away.get(item.host) or item.because()
        return f"{why.code}: {why.text}" if why else "ready"

    return [Used(item, use(item), health(item)) for item in view.resources]


def experiments_of(store: FleetStore) -> list[dict[str, Any]]:
    """The experiments as plain data: what they have, and what they wait for."""
    grants = store.grants()
    rows: list[dict[str, Any]] = []
    for entry in store.entries():
        name = entry.experiment.name
        rows.append(
            {
                "name": name,
                "state": entry.state,
                "goes_to": entry.goes_to,
                "priority": entry.experiment.priority,
                "deadline": entry.experiment.deadline,
                "after": list(entry.experiment.after),
                "home": entry.home,
                "code": entry.reason.code,
                "text": entry.reason.text,
                "has": {g.resource: g.fencing for g in grants if g.experiment == name},
                "roles": {
                    role: _role(spec, [g for g in grants if (g.experiment, g.role) == (name, role)])
                    for role, spec in entry.experiment.roles.items()
                },
            }
        )
    return rows


def _role(role: Role, grants: Sequence[Grant]) -> dict[str, Any]:
    """What a role has, as plain data."""
    return {
        "engine": role.run.engine if role.run is not None else "",
        "grants": [
            {
                "resource": g.resource, "fencing": g.fencing, "begun_ns": g.begun_ns,
                "asked_back": g.yields, "shared": g.share,
            }
            for g in grants
        ],
    }  # fmt: skip


def colours_of(grants: Sequence[Grant]) -> dict[str, str]:
    """A colour for each experiment, in the order in which they come."""
    names = dict.fromkeys(grant.experiment for grant in grants)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def grants_since(store: FleetStore, hours: float, now_ns: int) -> tuple[list[Grant], int]:
    """Grants that were in force in the last hours, and where a timeline of them begins."""
    since_ns = now_ns - int(hours * 3600e9)
    grants = [g for g in store.grants(ended=True) if (g.ended_ns or now_ns) >= since_ns]
    return grants, max(since_ns, min((g.begun_ns for g in grants), default=since_ns))
