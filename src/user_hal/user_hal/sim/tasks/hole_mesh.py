"""What one sees of the block with the hole: a mesh, while contacts use boxes."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np

from user_core.specs import Array
from user_hal.sim.mjcf_parts import SEEN, numbers

#: Sides of the block.
SIDES = 6
#: Segments of what looks round; a multiple of the sides.
SEGMENTS = 36


def add_hole_mesh(
    root: ET.Element, body: ET.Element, hole_radius_m: float, inner_m: float, height_m: float
) -> None:
    """Add a hexagonal block with a round hole in its middle, its bottom at the body's origin.

    ``inner_m`` is the distance of its sides from the middle.
    """
    block = hexagonal_ring(hole_radius_m, inner_m, 0.0, height_m)
    _add_mesh(root, body, "hole_block", "block", block)
    # A bright rim and a dark bottom, so that one sees in a small picture where the hole is.
    rim = round_ring(hole_radius_m, hole_radius_m + 0.004, height_m, height_m + 0.0004)
    _add_mesh(root, body, "hole_rim", "guide", rim)
    ET.SubElement(
        body,
        "geom",
        SEEN | {"type": "cylinder", "material": "black"},
        pos="0 0 0.0012",
        size=numbers((hole_radius_m, 0.001)),
    )


def _add_mesh(
    root: ET.Element,
    body: ET.Element,
    name: str,
    material: str,
    mesh: tuple[Array, Array],
) -> None:
    asset = root.find("asset")
    assert asset is not None
    vertices, faces = mesh
    ET.SubElement(
        asset,
        "mesh",
        name=name,
        vertex=numbers(vertices.ravel()),
        face=" ".join(str(i) for i in faces.ravel()),
        inertia="shell",
        smoothnormal="false",
    )
    ET.SubElement(body, "geom", SEEN | {"type": "mesh", "mesh": name, "material": material})


def hexagonal_ring(
    hole_radius_m: float, inner_m: float, low_m: float, high_m: float
) -> tuple[Array, Array]:
    """A hexagonal block with a round hole: vertices (V, 3) and triangles (F, 3)."""
    circle, side_rad = _circle(), 2 * np.pi / SIDES
    off_rad = (2 * np.pi * np.arange(SEGMENTS) / SEGMENTS + side_rad / 2) % side_rad - side_rad / 2
    hexagon = circle * (inner_m / np.cos(off_rad))[:, None]
    return _ring(circle * hole_radius_m, hexagon, low_m, high_m)


def round_ring(
    inner_radius_m: float, outer_radius_m: float, low_m: float, high_m: float
) -> tuple[Array, Array]:
    """A washer: vertices (V, 3) and triangles (F, 3)."""
    circle = _circle()
    return _ring(circle * inner_radius_m, circle * outer_radius_m, low_m, high_m)


def _circle() -> Array:
    angles = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring(inner: Array, outer: Array, low_m: float, high_m: float) -> tuple[Array, Array]:
    """A closed ring between two outlines (SEGMENTS, 2); faces are counter-clockwise outside."""
    rings = [
        np.column_stack([ring, np.full(SEGMENTS, z)])
        for z in (low_m, high_m)
        for ring in (inner, outer)
    ]
    inner_low, outer_low, inner_high, outer_high = (i * SEGMENTS for i in range(4))
    faces: list[tuple[int, int, int]] = []
    for i in range(SEGMENTS):
        j = (i + 1) % SEGMENTS
        for a, b in (
            (inner_high, outer_high),  # top
            (outer_low, inner_low),  # bottom
            (outer_high, outer_low),  # outside
            (inner_low, inner_high),  # inside
        ):
            faces += [(a + i, b + i, b + j), (a + i, b + j, a + j)]
    return np.concatenate(rings), np.array(faces)
