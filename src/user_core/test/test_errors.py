"""Errors of other people's code in words, whatever they are."""

from __future__ import annotations

import pytest

from user_core.errors import in_words


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no arm"), "ValueError: no arm"),
        (AssertionError(), "AssertionError"),
        (KeyError("arm"), "KeyError: 'arm'"),
        (ValueError("  \n "), "ValueError"),
        (OSError("bad name \udcff"), "OSError: bad name \\udcff"),
        (OSError("\nno port.\n  Try another\n\n"), "OSError: no port. Try another"),
        (SystemExit(3), "SystemExit: 3"),
        (
            Mute(),
            "Mute: an error whose text cannot be had: its __str__ raised RuntimeError",
        ),
    ],
)
def test_whatever_was_raised_has_words_that_can_be_sent(error: BaseException, words: str) -> None:
    assert in_words(error) == words
    in_words(error).encode("utf-8")


def test_an_endless_text_is_cut_in_its_middle() -> None:
    said = in_words(ValueError(f"first {'x' * 1_000_000} last"))
    assert said.startswith("ValueError: first xxx") and said.endswith("xxx last")
    assert len(said) < 2100 and " ... " in said
