"""The colours of arms, tools and tasks: red, green, blue, opacity from 0 to 1."""

from __future__ import annotations

PALETTE: dict[str, tuple[float, float, float, float]] = {
    "white": (0.93, 0.94, 0.95, 1.0),
    "silver": (0.72, 0.75, 0.78, 1.0),
    "steel": (0.58, 0.61, 0.65, 1.0),
    "graphite": (0.22, 0.24, 0.27, 1.0),
    "black": (0.10, 0.11, 0.12, 1.0),
    "blue": (0.33, 0.62, 0.84, 1.0),
    "teal": (0.16, 0.55, 0.60, 1.0),
    "rubber": (0.16, 0.17, 0.18, 1.0),
    "table": (0.74, 0.66, 0.55, 1.0),
    "table_edge": (0.45, 0.36, 0.28, 1.0),
    "floor": (0.40, 0.44, 0.50, 1.0),
    "block": (0.24, 0.42, 0.62, 1.0),
    "peg": (0.95, 0.60, 0.12, 1.0),
    "cube": (0.86, 0.22, 0.20, 1.0),
    "goal": (0.15, 0.78, 0.38, 0.55),
    "guide": (0.15, 0.78, 0.38, 1.0),
}
