"""The robot that the console draws: places of links beside those of MuJoCo's reader of URDF, and what is drawn."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import time

import numpy as np
import pytest

from user_bringup.console.arm_model import ArmModel, Visual, mesh_as_glb
from user_core.errors import ConfigError
from user_hal.sim.arms import ARMS
from user_hal.sim.urdf import arm_urdf

_ODD = """<robot name="odd">
  <material name="red"><color rgba="1 0 0 1"/></material>
  <link name="a"><visual><geometry><box size="0.1 0.2 0.3"/></geometry><material name="red"/></visual></link>
  <link name="b">
    <visual><origin xyz="0 0 1" rpy="0 0 1.5707963"/><geometry><cylinder radius="0.1" length="2"/></geometry></visual>
    <visual><geometry><sphere radius="0.4"/></geometry></visual>
    <visual><geometry><mesh filename="package://nothing/b.stl" scale="2 2 2"/></geometry></visual>
    <visual/>
  </link>
  <link name="c"/>
  <joint name="turn" type="continuous">
    <origin xyz="0 0 0.5"/><axis xyz="0 0 2"/><parent link="a"/><child link="b"/>
  </joint>
  <joint name="slide" type="prismatic">
    <mimic joint="turn" multiplier="-2" offset="0.1"/><axis xyz="1 0 0"/><parent link="b"/><child link="c"/>
  </joint>
</robot>"""


@pytest.mark.parametrize("name", sorted(ARMS))
def test_links_are_where_mujocos_own_reader_of_urdf_has_them(name):
    mujoco = pytest.importorskip("mujoco")
    text = arm_urdf(ARMS[name])
    keep = '<robot name="{0}"><mujoco><compiler fusestatic="false"/></mujoco>'
    other = mujoco.MjModel.from_xml_string(
        text.replace(f'<robot name="{name}">', keep.format(name))
    )
    state, model = mujoco.MjData(other), ArmModel(text)
    rng, compared = np.random.default_rng(0), 0
    for _ in range(5):
        positions = {}
        for number in range(other.njnt):
            low, high = other.jnt_range[number]
            value = rng.uniform(low, high) if other.jnt_limited[number] else rng.uniform(-3, 3)
            state.qpos[other.jnt_qposadr[number]] = value
            positions[mujoco.mj_id2name(other, mujoco.mjtObj.mjOBJ_JOINT, number)] = float(value)
        for joint in model.urdf.joints.values():  # MuJoCo's reader knows no mimicking joints
            if joint.mimics:
                address = other.jnt_qposadr[
                    mujoco.mj_name2id(other, mujoco.mjtObj.mjOBJ_JOINT, joint.name)
                ]
                state.qpos[address] = positions[joint.mimics]
        mujoco.mj_kinematics(other, state)
        poses = model.poses(positions)
        for body in range(1, other.nbody):
            link = mujoco.mj_id2name(other, mujoco.mjtObj.mjOBJ_BODY, body)
            assert np.allclose(poses[link][:3, 3], state.xpos[body], atol=1e-5), link
            assert np.allclose(poses[link][:3, :3], state.xmat[body].reshape(3, 3), atol=1e-5), link
            compared += 1
    assert compared > 5 * 8


def test_shapes_colours_and_joints_that_follow_others():
    model = ArmModel(_ODD)
    assert [(v.link, v.kind, v.size, v.colour) for v in model.visuals] == [
        ("a", "box", (0.1, 0.2, 0.3), "#ff0000"),
        ("b", "cylinder", (0.1, 2.0), "#b8bcc2"),
        ("b", "sphere", (0.4,), "#b8bcc2"),
        ("b", "mesh", (2.0, 2.0, 2.0), ""),
    ]
    assert np.allclose(model.visuals[1].pose[:3, :3] @ [1, 0, 0], [0, 1, 0], atol=1e-6)
    poses = model.poses({"turn": np.pi / 2})
    assert np.allclose(poses["b"][:3, 3], [0, 0, 0.5])
    assert np.allclose(poses["c"][:3, 3], [0, 0.1 - np.pi, 0.5])
    assert np.allclose(model.poses({}, base="b")["a"][:3, 3], [0, 0, -0.5])


@pytest.mark.parametrize(
    "text",
    ["<robot", "<other/>", '<!DOCTYPE robot><robot name="a"/>',
     '<robot name="a"><link name="l"><visual><geometry><box size="1 nan 1"/></geometry></visual></link></robot>',
     '<robot name="a"><link name="l"><visual><geometry><cylinder radius="wide"/></geometry></visual></link></robot>'],
)  # fmt: skip
def test_what_is_no_urdf_is_said_so(text):
    with pytest.raises(ConfigError, match="robot description"):
        ArmModel(text)


def test_a_mesh_becomes_gltf_and_no_other_file_is_opened(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    file = tmp_path / "box.stl"
    trimesh.creation.box((1, 2, 3)).export(file)
    glb = mesh_as_glb(Visual("l", "mesh", (1, 1, 1), np.eye(4), mesh=f"file://{file}"))
    (found,) = trimesh.load(io.BytesIO(glb), file_type="glb").geometry.values()
    assert np.allclose(found.extents, (1, 2, 3))
    coloured = tmp_path / "box.obj"
    coloured.write_text("mtllib m.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 1 0.5 0\n")
    glb = mesh_as_glb(Visual("l", "mesh", (1, 1, 1), np.eye(4), mesh=str(coloured)))
    (length,) = struct.unpack_from("<I", glb, 12)
    (material,) = json.loads(glb[20 : 20 + length])["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert material["pbrMetallicRoughness"]["baseColorFactor"][0] == pytest.approx(1.0)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    damaged = tmp_path / "damaged.obj"
    damaged.write_bytes(b"\x00\xff" * 20)
    for name, why in (
        (secret, "one of"),
        (tmp_path / "no.stl", "a file"),
        ("package://nothing/a.stl", "not installed"),
    ):
        with pytest.raises(ConfigError, match=why):
            mesh_as_glb(Visual("l", "mesh", (1, 1, 1), np.eye(4), mesh=str(name)))


def _mesh_of(name):
    return mesh_as_glb(Visual("l", "mesh", (1, 1, 1), np.eye(4), mesh=str(name)))


def _triangle(folder, uri, name="a.gltf"):
    """A glTF whose numbers stand in another file."""
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
    file = folder / name
    file.write_text(json.dumps({
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [accessor], "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36, "uri": uri}],
    }))  # fmt: skip
    return file


def test_a_mesh_names_no_file_outside_its_folder(tmp_path):
    pytest.importorskip("trimesh")
    corners = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0]], np.float32)
    folder, outside = tmp_path / "arm", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    for place in (folder, outside):
        (place / "numbers.bin").write_bytes(corners.tobytes())
    assert _mesh_of(_triangle(folder, "numbers.bin"))
    (folder / "linked.bin").symlink_to(outside / "numbers.bin")  # as --symlink-install does
    assert _mesh_of(_triangle(folder, "linked.bin"))
    for uri in (
        "../outside/numbers.bin",
        str(outside / "numbers.bin"),
        f"file://{outside}/numbers.bin",
    ):
        with pytest.raises(ConfigError, match="mesh of a robot"):
            _mesh_of(_triangle(folder, uri))
    (outside / "m.mtl").write_text("newmtl m\nKd 1 0.5 0\n")
    obj = folder / "b.obj"
    obj.write_text("mtllib ../outside/m.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    glb = _mesh_of(obj)  # shown, without the colour that lies elsewhere
    (length,) = struct.unpack_from("<I", glb, 12)
    for material in json.loads(glb[20 : 20 + length]).get("materials", []):
        colour = material.get("pbrMetallicRoughness", {}).get("baseColorFactor", [0, 0, 0])
        assert colour[:2] != pytest.approx([1.0, 0.5], abs=0.01)


def test_a_mesh_of_a_package_names_files_of_the_package_only(tmp_path, monkeypatch):
    pytest.importorskip("trimesh")
    corners = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0]], np.float32)
    share = tmp_path / "share"
    for part in ("arm/meshes", "arm/buffers", "other"):
        (share / part).mkdir(parents=True)
    for part in ("arm/buffers", "other"):
        (share / part / "numbers.bin").write_bytes(corners.tobytes())
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    _triangle(share / "arm" / "meshes", "../buffers/numbers.bin")  # of the same package
    assert _mesh_of("package://arm/meshes/a.gltf")
    _triangle(share / "arm" / "meshes", "../../other/numbers.bin", "b.gltf")
    _triangle(share / "other", "numbers.bin", "c.gltf")
    for name in ("meshes/b.gltf", "../other/c.gltf", "meshes/../../other/c.gltf"):
        with pytest.raises(ConfigError, match="mesh of a robot"):
            _mesh_of(f"package://arm/{name}")


def test_meshes_are_made_one_at_a_time_and_kept_by_browsers(monkeypatch):
    routes = pytest.importorskip("user_bringup.console.routes", reason="nicegui is not installed")
    httpx = pytest.importorskip("httpx")
    now, most = [0], [0]

    def slow(console, robot, number):
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.02)
        now[0] -= 1
        if number > 4:
            raise ConfigError("mesh", got=number, expected="one that is there")
        return b"glTF"

    monkeypatch.setattr(routes, "_mesh", slow)

    async def ask():
        transport = httpx.ASGITransport(app=routes.make_app(None))
        async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
            asked = [client.get(f"/robot_mesh?robot=/r&of=1&number={n}") for n in range(6)]
            return await asyncio.gather(*asked)

    *found, missing = asyncio.run(ask())
    assert [one.content for one in found] == [b"glTF"] * 5
    assert all("max-age" in one.headers["cache-control"] for one in found)
    assert missing.status_code == 404
    assert "cache-control" not in missing.headers
    assert most == [1]
