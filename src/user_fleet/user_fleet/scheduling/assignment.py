"""The cheapest way to give each role its resources: exact, and quick where thousands are offered.

The cost of an assignment is the sum of

- the penalty of the option that each role is given (its first is free),
- a cost of each resource that is used,
- for each resource that is not at the experiment's home, the site that makes this sum least, ``away``,
- for the second, third, ... robot of one host, ``spread`` times 1, 2, ...

For a home, and an option for each role, this is a minimum-cost flow (roles, resources, hosts), which successive
shortest paths solve exactly, since the costs of a host are convex. Options, and the hosts of roles that want all from
one host, are tried by depth-first search, where the flow of the roles so far is the lower bound.

Few of what is offered can matter. With N resources asked for in all, others use at most N - 1 hosts: of
each role the N cheapest resources of its N cheapest hosts suffice, since whatever else a solution uses can be exchanged
for one of these that is free, at no cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Offer:
    """A resource as this problem sees it. Offers of one host are at one site."""

    host: Hashable
    site: Hashable
    spreads: bool = False


@dataclass(frozen=True)
class Option:
    """One way to fill a role.

    Attributes:
        penalty: Its cost.
        count: How many it takes.
        together: All of one host.
        costs: Which offers fit (their numbers), with the cost of each, >= 0.
    """

    penalty: int
    count: int
    together: bool
    costs: Mapping[int, int]


@dataclass(frozen=True)
class Assignment:
    """A solution.

    Attributes:
        cost: What it costs.
        options: For each role, the number of its option.
        offers: For each role, the numbers of its offers, sorted.
        home: Its site.
    """

    cost: int
    options: tuple[int, ...]
    offers: tuple[tuple[int, ...], ...]
    home: Hashable


@dataclass
class _Prepared:
    """An option with its offers in order: by host, the cheapest first."""

    option: Option
    hosts: dict[Hashable, list[int]] = field(default_factory=dict)
    of_site: dict[Hashable, list[Hashable]] = field(default_factory=dict)
    all_hosts: list[Hashable] = field(default_factory=list)
    at_site: dict[Hashable, int] = field(default_factory=dict)


class AssignmentProblem:
    """Roles, and what is offered.

    Args:
        offers: What there is.
        roles: The options of each role.
        away: Cost of each resource that is not at the home.
        spread: Cost of further robots of one host.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        roles: Sequence[Sequence[Option]],
        away: int = 0,
        spread: int = 0,
    ) -> None:
        self._offers, self._roles = offers, roles
        self._away, self._spread = away, spread
        self._most = sum(max((o.count for o in options), default=0) for options in roles)
        self._prepared = [[self._prepare(option) for option in options] for options in roles]

    def solve(self) -> Assignment | None:
        """The cheapest assignment; None where there is none. The same for the same problem."""
        best = self._search(None, None)  # as if everything were at home: a lower bound
        if best is None or not self._away:
            return best
        least, found = best.cost, None
        homes = sorted(
            self._homes(), key=lambda item: (item[1], str(item[0]))
        )  # those that have most of it
        for home, away in homes:
            if found is not None and least + away * self._away >= found.cost:
                break
            better = self._search(home, found)
            found = better if better is not None else found
        return found

    def _prepare(self, option: Option) -> _Prepared:
        made = _Prepared(option)
        groups: dict[Hashable, list[int]] = {}
        for number in sorted(option.costs):
            groups.setdefault(self._offers[number].host, []).append(number)
        cheap: dict[Hashable, int] = {}
        for key, numbers in groups.items():
            site = self._offers[numbers[0]].site
            made.at_site[site] = made.at_site.get(site, 0) + len(numbers)
            if option.together and len(numbers) < option.count:
                continue
            numbers.sort(key=lambda number: option.costs[number])
            del numbers[self._most :]
            made.hosts[key] = numbers
            taken = option.count if option.together else 1
            cheap[key] = sum(option.costs[number] for number in numbers[:taken])
        made.all_hosts = sorted(made.hosts, key=lambda key: (cheap[key], str(key)))
        for key in made.all_hosts:
            of_site = made.of_site.setdefault(self._offers[made.hosts[key][0]].site, [])
            if len(of_site) < self._most:
                of_site.append(key)
        return made

    def _homes(self) -> Iterator[tuple[Hashable, int]]:
        """Sites, each with how many resources at least would not be there."""
        sites = {offer.site for offer in self._offers}
        used = [
            site
            for site in sites
            if any(site in made.at_site for options in self._prepared for made in options)
        ]
        for site in used:
            yield (
                site,
                sum(
                    min(
                        made.option.count - min(made.option.count, made.at_site.get(site, 0))
                        for made in options
                    )
                    for options in self._prepared
                ),
            )

    def _search(self, home: Hashable | None, best: Assignment | None) -> Assignment | None:
        """The cheapest with this home that is cheaper than ``best``; without a home none is away."""
        limit = best.cost if best is not None else None
        least = [min((o.penalty for o in options), default=0) for options in self._roles]
        remaining = [sum(least[number:]) for number in range(len(least) + 1)]
        found: Assignment | None = None
        chosen: list[tuple[int, dict[int, int]]] = []

        def visit(role: int, penalty: int) -> None:
            nonlocal found, limit
            if role == len(self._prepared):
                return
            for number, costs in self._choices(role, home):
                total = penalty + self._roles[role][number].penalty
                if limit is not None and total + remaining[role + 1] >= limit:
                    continue
                chosen.append((number, costs))
                flow = _Flow(
                    [(self._roles[r][n].count, c) for r, (n, c) in enumerate(chosen)],
                    self._offers, self._spread,
                )  # fmt: skip
                cost = flow.solve()
                if cost is not None and (
                    limit is None or total + cost + remaining[role + 1] < limit
                ):
                    if role + 1 == len(self._prepared):
                        limit = total + cost
                        options = tuple(n for n, _ in chosen)
                        found = Assignment(limit, options, flow.used(), home)
                    else:
                        visit(role + 1, total)
                chosen.pop()

        visit(0, 0)
        return found

    def _choices(self, role: int, home: Hashable | None) -> Iterator[tuple[int, dict[int, int]]]:
        """Options of a role, each with the costs of the offers that can matter."""
        order = sorted(
            range(len(self._roles[role])), key=lambda number: self._roles[role][number].penalty
        )
        for number in order:
            made = self._prepared[role][number]
            keys = self._near(made, home)
            if made.option.together:
                keys.sort(key=lambda key: self._sum(made, key, home))
                for key in keys:
                    yield number, self._costs(made, [key], home)
            else:
                yield number, self._costs(made, keys, home)

    def _near(self, made: _Prepared, home: Hashable | None) -> list[Hashable]:
        """The cheapest hosts, at home and elsewhere."""
        at_home = made.of_site.get(home, []) if home is not None else []
        known, found = set(at_home), list(at_home)
        for key in made.all_hosts:
            if len(found) >= self._most + len(at_home):
                break
            if key not in known:
                found.append(key)
        return found

    def _sum(self, made: _Prepared, key: Hashable, home: Hashable | None) -> int:
        return sum(sorted(self._costs(made, [key], home).values())[: made.option.count])

    def _costs(
        self, made: _Prepared, keys: Sequence[Hashable], home: Hashable | None
    ) -> dict[int, int]:
        costs = {}
        for key in keys:
            for number in made.hosts[key]:
                away = home is not None and self._offers[number].site != home
                costs[number] = made.option.costs[number] + (self._away if away else 0)
        return costs


#: A role, an offer or a host, each with its name; or the sink.
_Node = tuple[str, Any]
_SINK: _Node = ("sink", None)


class _Flow:
    """Minimum-cost flow from roles over offers and hosts to a sink, by successive shortest paths."""

    def __init__(
        self, roles: Sequence[tuple[int, Mapping[int, int]]], offers: Sequence[Offer], spread: int
    ) -> None:
        self._roles, self._offers, self._spread = roles, offers, spread
        self._user: dict[int, int] = {}  # offer, to the role that uses it
        self._load: dict[Hashable, int] = {}  # host, to how many of its offers that spread are used
        self._fits = {number for _, costs in roles for number in costs}
        self._spreading = {n for n in self._fits if spread and offers[n].spreads}
        self._on_host: dict[Hashable, list[int]] = {}
        for number in sorted(self._spreading):
            self._on_host.setdefault(offers[number].host, []).append(number)

    def solve(self) -> int | None:
        """The least cost; None where not every role can have its count."""
        if len(self._fits) < sum(count for count, _ in self._roles):
            return None
        total = 0
        for role, (count, _) in enumerate(self._roles):
            for _ in range(count):
                step = self._augment(role)
                if step is None:
                    return None
                total += step
        return total

    def used(self) -> tuple[tuple[int, ...], ...]:
        """The offers of each role."""
        found: list[list[int]] = [[] for _ in self._roles]
        for number, role in self._user.items():
            found[role].append(number)
        return tuple(tuple(sorted(numbers)) for numbers in found)

    def _augment(self, start: int) -> int | None:
        """One more offer for a role, by the cheapest chain of exchanges; its cost.

        From an offer that is used, a chain goes on with its user, who takes another; from a
        host, with one of its offers that are used, which is given back.
        """
        source: _Node = ("role", start)
        cost: dict[_Node, int] = {source: 0}
        before: dict[_Node, _Node] = {}
        waiting, queued = deque([source]), {source}
        while waiting:
            node = waiting.popleft()
            queued.discard(node)
            for to, price in self._edges(node):
                value = cost[node] + price
                if to not in cost or value < cost[to]:
                    cost[to], before[to] = value, node
                    if to not in queued and to is not _SINK:
                        queued.add(to)
                        waiting.append(to)
        if _SINK not in cost:
            return None
        node = _SINK
        while node != source:
            by = before[node]
            if node[0] == "offer":
                if by[0] == "role":
                    self._user[node[1]] = by[1]
                else:
                    del self._user[node[1]]
            elif node is _SINK and by[0] == "host":
                self._load[by[1]] = self._load.get(by[1], 0) + 1
            node = by
        return cost[_SINK]

    def _edges(self, node: _Node) -> Iterator[tuple[_Node, int]]:
        """Where a chain may go on, with the cost of each step."""
        kind, name = node
        if kind == "role":
            for number, price in self._roles[name][1].items():
                if self._user.get(number) != name:
                    yield ("offer", number), price
        elif kind == "offer":
            user = self._user.get(name)
            if user is not None:
                yield ("role", user), -self._roles[user][1][name]
            elif name in self._spreading:
                yield ("host", self._offers[name].host), 0
            else:
                yield _SINK, 0
        else:
            yield _SINK, self._spread * self._load.get(name, 0)
            for number in self._on_host[name]:
                if number in self._user:
                    yield ("offer", number), 0
