"""What is around a simulated arm: table, floor, light, and two cameras that stand there."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from user_hal.sim.mjcf_parts import SEEN, WORLD, look_at, numbers
from user_hal.sim.palette import PALETTE


def add_looks(root: ET.Element) -> None:
    """Add picture quality, sky and the materials of the palette to a document."""
    visual = ET.SubElement(root, "visual")
    ET.SubElement(visual, "global", offwidth="1920", offheight="1440", fovy="40")
    ET.SubElement(visual, "quality", shadowsize="0", offsamples="0", numslices="20", numstacks="10")
    ET.SubElement(
        visual, "headlight", ambient="0.38 0.38 0.40", diffuse="0.16 0.16 0.16", specular="0 0 0"
    )
    ET.SubElement(visual, "map", znear="0.01", zfar="20", shadowclip="0.8", shadowscale="0.8")
    asset = ET.SubElement(root, "asset")
    sky = {"type": "skybox", "builtin": "gradient", "width": "32", "height": "192"}
    ET.SubElement(asset, "texture", sky, rgb1="0.80 0.86 0.92", rgb2="0.30 0.35 0.42")
    for name, rgba in PALETTE.items():
        shine = "0.5" if name in ("white", "silver", "steel", "peg") else "0.15"
        ET.SubElement(
            asset, "material", name=name, rgba=numbers(rgba), specular=shine, shininess="0.5"
        )


def add_surroundings(world: ET.Element) -> None:
    """Add lights, floor, table and the cameras ``front`` and ``overview`` to the world."""
    for position, direction, strength, shadow in (
        ("0.9 -0.9 1.8", "-0.30 0.50 -1", "0.60 0.59 0.56", "true"),
        ("-0.6 1.2 1.6", "0.5 -0.6 -1", "0.22 0.23 0.26", "false"),
    ):
        ET.SubElement(
            world,
            "light",
            {"type": "directional"},
            pos=position,
            dir=direction,
            diffuse=strength,
            specular="0.3 0.3 0.3",
            castshadow=shadow,
        )
    floor = SEEN | {"type": "plane", "size": "12 12 0.1", "pos": "0 0 -0.74", "material": "floor"}
    ET.SubElement(world, "geom", floor)
    top = {"type": "box", "pos": "0.36 0 -0.015", "size": "0.50 0.48 0.015"}
    touch = WORLD | {"group": "2", "friction": "0.6 0.01 0.0001"}
    ET.SubElement(world, "geom", top | touch, name="table", material="table")
    frame = {"type": "box", "pos": "0.36 0 -0.055", "size": "0.47 0.45 0.025"}
    ET.SubElement(world, "geom", frame | SEEN, material="table_edge")
    for x in (-0.06, 0.78):
        for y in (-0.40, 0.40):
            leg = {"type": "box", "pos": f"{x} {y} -0.41", "size": "0.03 0.03 0.33"}
            ET.SubElement(world, "geom", leg | SEEN, material="table_edge")
    for name, eye, target, fovy in (
        ("front", (1.08, -0.12, 0.50), (0.40, 0.0, 0.155), "42"),
        ("overview", (1.32, -1.02, 0.86), (0.27, 0.0, 0.27), "37"),
    ):
        ET.SubElement(
            world,
            "camera",
            name=name,
            pos=numbers(eye),
            xyaxes=look_at(eye, target, (0, 0, 1)),
            fovy=fovy,
        )
