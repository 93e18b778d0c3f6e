"""What nodes say of their traffic, as a table: flows (what is carried for whom), links and routes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_OVER_S = 5.0
_KINDS = ("flow", "link", "route")
#: Of what :meth:`FlowTable.rows` gives.
HEAD = (
    "node", "what", "goodput", "link", "round trip", "backlog", "oldest", "again", "refused", "state",
)  # fmt: skip


@dataclass
class _Row:
    node: str
    what: str
    values: Mapping[str, str]
    message: str
    at_s: float
    bytes: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def goodput(self) -> float | None:
        """Bytes a second over the last seconds; as the node says, or from its count of bytes."""
        if "goodput_bytes_s" in self.values:
            return _number(self.values, "goodput_bytes_s")
        if len(self.bytes) < 2:
            return None
        (first_s, first), (last_s, last) = self.bytes[0], self.bytes[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None


class FlowTable:
    """Takes diagnostics as they come, and makes lines for people.

    Args:
        forget_s: A row that was not heard of for this long is left out, seconds.
    """

    def __init__(self, forget_s: float = 10.0) -> None:
        self._forget_s = forget_s
        self._rows: dict[tuple[str, str], _Row] = {}

    def take(
        self, node: str, name: str, message: str, values: Mapping[str, str], now_s: float
    ) -> None:
        """One item of a node's diagnostics; those that are no traffic are left out."""
        if name.partition(" ")[0] not in _KINDS:
            return
        row = self._rows.setdefault((node, name), _Row(node, name, values, message, now_s))
        row.values, row.message, row.at_s = values, message, now_s
        if (total := _number(values, "bytes")) is not None:
            row.bytes.append((now_s, int(total)))
            while len(row.bytes) > 2 and row.bytes[1][0] < now_s - _OVER_S:
                row.bytes.popleft()

    def rows(self, now_s: float, kinds: Sequence[str] = _KINDS) -> list[tuple[str, ...]]:
        """What the columns of :data:`HEAD` show, as text; by node, flows before links before routes."""
        rows = [
            (row, kind)
            for row in self._rows.values()
            if now_s - row.at_s < self._forget_s and (kind := row.what.partition(" ")[0]) in kinds
        ]
        rows.sort(key=lambda r: (r[0].node, _KINDS.index(r[1]), r[0].what))
        return [_cells(row) for row, _ in rows]

    def lines(self, now_s: float) -> list[str]:
        """The table, a head first."""
        return _aligned([HEAD, *self.rows(now_s)])

    def by_class(self, now_s: float) -> dict[str, float]:
        """Bytes a second by kind of traffic, all nodes together."""
        found: dict[str, float] = {}
        for row in self._rows.values():
            if row.what.startswith("flow ") and now_s - row.at_s < self._forget_s:
                name = row.what.removeprefix("flow ")
                found[name] = found.get(name, 0.0) + (row.goodput or 0.0)
        return dict(sorted(found.items()))


def _cells(row: _Row) -> tuple[str, ...]:
    values = row.values
    trip, base = _number(values, "round_trip_ms"), _number(values, "base_ms")
    trips = "" if not trip else f"{trip:.0f} ms" + (f" ({base:.0f})" if base else "")
    backlog, age = _number(values, "backlog_bytes"), _number(values, "backlog_age_s")
    state = row.message
    if coding := values.get("coding"):
        state = f"images {coding}" + (f"; {state}" if state else "")
    return (
        row.node,
        row.what,
        _rate(row.goodput),
        _rate(_number(values, "link_bytes_s") or None),
        trips,
        _size(backlog) if backlog else "",
        f"{age:.0f} s" if age else "",
        values.get("again", ""),
        values.get("refused", ""),
        state[:60],
    )


def _number(values: Mapping[str, str], key: str) -> float | None:
    try:
        return float(values[key])
    except (KeyError, ValueError):
        return None


def _rate(per_s: float | None) -> str:
    return "" if per_s is None else f"{_size(per_s)}/s"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    used = [i for i in range(len(HEAD)) if any(row[i] for row in rows[1:])] or [0, 1]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    return ["  ".join(row[i].ljust(widths[i]) for i in used).rstrip() for row in rows]
