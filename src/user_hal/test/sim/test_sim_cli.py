"""``user sim`` as a person types it."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest

from user_hal.cli.sim import main
from user_testing.rendering import needs_gl


def test_without_options_it_says_what_the_robot_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peg_insertion", "--robot", "ur5e"]) == 0
    text = capsys.readouterr().out
    assert "peg_to_hole" in text and "shoulder_pan_joint" in text and "dx dy dz" in text


def test_documents_can_be_written_and_read(tmp_path: Path) -> None:
    mjcf, urdf = tmp_path / "scene.xml", tmp_path / "arm.urdf"
    assert main(["pick_place", "--mjcf", str(mjcf), "--urdf", str(urdf)]) == 0
    model = mujoco.MjModel.from_xml_path(str(mjcf))
    assert model.joint("panda_joint7").id == 6
    assert mujoco.MjModel.from_xml_path(str(urdf)).njnt == 9


@needs_gl
def test_images_and_films_are_written_and_progress_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, film = tmp_path / "out" / "scene.png", tmp_path / "film.gif"
    size = ["--size", "64x48"]
    assert main(["reach", "--render", str(image), *size]) == 0
    assert imageio.imread(image).shape == (48, 64, 3)
    assert main(["reach", "--expert", "--render", str(film), "--fast", *size]) == 0
    frames = np.stack([np.asarray(frame)[..., :3] for frame in imageio.mimread(film)])
    assert len(frames) > 10 and frames[0].shape == (48, 64, 3)
    assert not np.array_equal(frames[0], frames[-1])
    captured = capsys.readouterr()
    assert "frames" in captured.err and str(film) in captured.out


@needs_gl
def test_an_mp4_is_written(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    words = ["--expert", "--fast", "--camera", "front", "--size", "64x48"]
    assert main(["reach", "--render", str(film), *words]) == 0
    with imageio.get_reader(film) as reader:
        assert reader.count_frames() > 10
        assert reader.get_data(0).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--render", "film.avi"], "ending"),
        (["--render", "x.png", "--size", "9x9"], "WIDTHxHEIGHT"),
        (["--render", "x.png", "--size", "big"], "WIDTHxHEIGHT"),
        (["--view"], "--render film.mp4"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(
    words: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["reach", *words]) == 1
    assert reason in capsys.readouterr().err
