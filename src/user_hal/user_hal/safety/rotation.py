"""Quaternions (x y z w) and rotation vectors, in plain floats: quick for one at a time."""

from __future__ import annotations

import math

Quaternion = tuple[float, float, float, float]
Vector = tuple[float, float, float]


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """The rotation ``b`` followed by ``a``."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def conjugate(q: Quaternion) -> Quaternion:
    """The inverse of a unit quaternion."""
    return (-q[0], -q[1], -q[2], q[3])


def to_vector(q: Quaternion) -> Vector:
    """Rotation vector (axis times angle, rad, the short way round) of a unit quaternion."""
    x, y, z, w = q if q[3] >= 0 else (-q[0], -q[1], -q[2], -q[3])
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < 1e-12:
        return (2 * x, 2 * y, 2 * z)
    scale = 2 * math.atan2(sine, w) / sine
    return (x * scale, y * scale, z * scale)


def from_vector(v: Vector) -> Quaternion:
    """Unit quaternion of a rotation vector, rad."""
    angle = math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    scale = 0.5 if angle < 1e-12 else math.sin(angle / 2) / angle
    return (v[0] * scale, v[1] * scale, v[2] * scale, math.cos(angle / 2))
