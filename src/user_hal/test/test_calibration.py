"""The calibration of an image that was cropped, turned and scaled projects as the image shows."""

from types import SimpleNamespace

import numpy as np
import pytest

from user_hal.cameras.calibration import Calibration, info_topic
from user_hal.cameras.images import ImageConfig, Region, fit

#: Seen by a camera of 64 x 48, at different depths, in its optical frame, metres.
POINTS = np.array([[0.1, -0.05, 1.0], [-0.2, 0.12, 1.5], [0.0, 0.0, 2.0]])
D = np.array([0.1, -0.02, 0.003, -0.004, 0.01])
K = np.array([[60.0, 0, 31.0], [0, 62.0, 22.0], [0, 0, 1]])
CAMERA = Calibration(64, 48, K, "plumb_bob", D, np.eye(3), np.hstack([K, np.zeros((3, 1))]))


def project(calibration, points):
    """By the formula of plumb_bob."""
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    k1, k2, p1, p2, k3 = calibration.d
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return (calibration.k @ np.array([u, v, np.ones_like(u)]))[:2].T


def turned(points, quarters):
    """In the optical frame of an image that was turned clockwise."""
    for _ in range(quarters):
        points = np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)
    return points


@pytest.mark.parametrize(
    ("crop", "rotate", "size"),
    [
        ("none", 0, (64, 48)),
        ("none", 0, (128, 96)),
        ("none", 90, (48, 64)),
        ("none", 180, (64, 48)),
        ("none", 270, (96, 128)),
        ("centre", 0, (48, 48)),
        ("centre", 90, (96, 96)),
        (Region(left=4, top=6, width=56, height=40), 0, (56, 40)),
        (Region(left=4, top=6, width=56, height=40), 270, (40, 56)),
    ],
)
def test_a_point_is_where_the_image_shows_it(crop, rotate, size):
    config = ImageConfig(width=size[0], height=size[1], crop=crop, rotate=rotate)
    fitted = CAMERA.fitted(config)
    assert (fitted.width, fitted.height) == size
    for point in POINTS:
        x, y = project(CAMERA, point[None])[0]
        rows, columns = np.mgrid[:48, :64]
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0)
        image = np.repeat((255 * spot)[..., None], 3, axis=2).astype(np.uint8)
        shown = fit(image, config, "a test")[..., 0].astype(float)
        rows, columns = np.mgrid[: size[1], : size[0]]
        seen = np.array([(columns * shown).sum(), (rows * shown).sum()]) / shown.sum()
        expected = project(fitted, turned(point[None], rotate // 90))[0]
        np.testing.assert_allclose(seen, expected, atol=0.35 * max(1, size[0] / 64))


def test_rectified_projections_go_along():
    config = ImageConfig(width=32, height=24, rotate=0)
    fitted = CAMERA.fitted(config)
    point = np.append(POINTS[0], 1.0)
    u, v, w = CAMERA.p @ point
    x, y, z = fitted.p @ point
    assert (x / z + 0.5, y / z + 0.5) == pytest.approx(((u / w + 0.5) / 2, (v / w + 0.5) / 2))


def test_what_is_not_calibrated_is_none_and_what_gives_k_only_has_a_projection():
    message = SimpleNamespace(
        width=64, height=48, k=[0.0] * 9, d=[], distortion_model="", r=[0.0] * 9, p=[0.0] * 12
    )
    assert Calibration.of(message) is None
    message.k = K.ravel().tolist()
    found = Calibration.of(message)
    assert found is not None
    np.testing.assert_array_equal(found.p[:, :3], K)
    np.testing.assert_array_equal(found.r, np.eye(3))


def test_an_ideal_camera_sees_its_field_of_view():
    camera = Calibration.ideal(100, 80, 60.0)
    top = camera.k @ np.array([0.0, -np.tan(np.radians(30)), 1.0])
    assert top[1] == pytest.approx(-0.5), "the upper edge of the first row"


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/wrist/color/image_raw", "/wrist/color/camera_info"),
        ("/wrist/color/image_raw/compressed", "/wrist/color/camera_info"),
        ("/cam/depth/image_rect_raw/compressedDepth", "/cam/depth/camera_info"),
        ("image", "camera_info"),
        ("front/image", "front/camera_info"),
    ],
)
def test_where_the_calibration_is(image, info):
    assert info_topic(image) == info
