"""Who waits for whom, and whether they wait for each other for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def waiting_cycles(waits_for: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Groups of those that can never go on, because each waits for another of the group.

    Args:
        waits_for: Name, to the names of all that must end before it can begin. Names that are
            no key wait for nobody.

    Returns:
        Each cycle once, as it goes: each waits for the next, and the last for the first. It begins with the
        name that is first in the alphabet. Of a group in which several cycles meet, a shortest one.
    """
    edges = {name: sorted(set(others)) for name, others in waits_for.items()}
    found = []
    for group in _groups(edges):
        inside = set(group)
        cycles = [
            cycle
            for name in sorted(inside)
            if (cycle := _shortest(name, edges, inside)) is not None
        ]
        if cycles:
            shortest = min(cycles, key=lambda cycle: (len(cycle), cycle))
            first = shortest.index(min(shortest))
            found.append((*shortest[first:], *shortest[:first]))
    return sorted(found)


def _groups(edges: Mapping[str, list[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan, 1972), without recursion."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    groups: list[list[str]] = []
    for start in sorted(edges):
        if start in number:
            continue
        work = [(start, iter(edges[start]))]
        number[start] = low[start] = len(number)
        stack.append(start)
        on_stack.add(start)
        while work:
            name, others = work[-1]
            for other in others:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(edges.get(other, ()))))
                    break
                if other in on_stack:
                    low[name] = min(low[name], number[other])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[name])
                if low[name] == number[name]:
                    group = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        group.append(member)
                        if member == name:
                            break
                    groups.append(group)
    return groups


def _shortest(
    name: str, edges: Mapping[str, list[str]], inside: set[str]
) -> tuple[str, ...] | None:
    """The shortest way from a name back to itself within a group."""
    ways: list[tuple[str, ...]] = [(name,)]
    seen: set[str] = set()
    while ways:
        longer: list[tuple[str, ...]] = []
        for way in ways:
            for other in edges.get(way[-1], ()):
                if other == name:
                    return way
                if other in inside and other not in seen:
                    seen.add(other)
                    longer.append((*way, other))
        ways = longer
    return None
