"""Lines of JSON behind a checksum."""

from __future__ import annotations

import pytest

from user_core.codecs.lines import decode_line, encode_line


def test_a_line_is_what_stores_have_always_written():
    line = encode_line({"a": [1, "ä"], "b": None})
    assert line == b'0acb62cb {"a":[1,"\\u00e4"],"b":null}\n'
    assert decode_line(line[:-1]) == {"a": [1, "ä"], "b": None}


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s[1:], lambda s: s + b" ",
                                    lambda s: s.replace(b"1", b"2"), lambda s: b"",
                                    lambda s: s.replace(b" ", b"_", 1)])  # fmt: skip
def test_a_line_that_is_not_whole_is_refused(change):
    line = encode_line({"a": 1})[:-1]
    with pytest.raises(ValueError, match="checksum"):
        decode_line(change(line))


def test_what_json_cannot_say_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        encode_line({"a": float("nan")})
