"""Observations for a policy that is elsewhere: pictures coded, the rest as it is.

Arrays keep their names. A picture (H, W) or (H, W, C), uint8, travels as ``name@coding``, in one
of the codings of :mod:`user_core.codecs.images`. The array ``@deterministic`` says that the
policy shall act without noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from user_core.codecs.images import (
    coded_name,
    decode_images,
    encode_images,
    is_image_column,
    split_coded_name,
)
from user_core.errors import CodecError
from user_core.specs import Array, Arrays, ArraySpec, check_arrays

DETERMINISTIC = "@deterministic"
_WHERE = "observation for a policy elsewhere"


def encode_observation(
    arrays: Arrays, coding: str = "", *, deterministic: bool = False
) -> dict[str, Array]:
    """Arrays as they travel; ``coding`` of the pictures, empty: none.

    Raises:
        ConfigError: There is no such coding, or OpenCV is needed and not there.
        CodecError: A lossy coding of what is no picture of one or three channels.
    """
    coded: dict[str, Array] = {DETERMINISTIC: np.array(deterministic)}
    for name, array in arrays.items():
        if coding and is_image_column(array[None]):
            coded[coded_name(name, coding)] = encode_images(array[None], coding)
        else:
            coded[coded_name(name)] = array
    return coded


def decode_observation(
    coded: Arrays, specs: Mapping[str, ArraySpec]
) -> tuple[dict[str, Array], bool]:
    """The arrays of these specs, and whether to act without noise.

    Raises:
        CodecError: What came does not hold together.
        SpecError: The arrays do not fit ``specs``.
    """
    flag = coded.get(DETERMINISTIC)
    if flag is None or flag.dtype != np.bool_ or flag.ndim:
        raise CodecError(f"{_WHERE}: {DETERMINISTIC}", got=flag, expected="one bool")
    arrays: dict[str, Array] = {}
    for came, array in coded.items():
        name, coding = split_coded_name(came)
        if came == DETERMINISTIC:
            continue
        spec = specs.get(name)
        if coding and spec is not None:
            array = decode_images(array, coding, spec.nbytes)[0]
        if name in arrays:
            raise CodecError(f"{_WHERE}: {name[:80]!r}", got="there twice", expected="once")
        arrays[name] = array
    check_arrays(arrays, specs, _WHERE)
    return arrays, bool(flag)
