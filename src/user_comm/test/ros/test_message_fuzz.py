"""Some thousand mutated messages; ``benchmarks/links/fuzz_messages.py`` throws a hundred thousand."""

from __future__ import annotations

from user_testing.programs import message_fuzz


def test_no_mutated_message_crashes_or_takes_much_memory() -> None:
    total = message_fuzz.fuzz(first=0, count=4000)
    assert not total["crashes"]
    assert total["ends"]["taken"] > 100, "mutations of payload bytes are no errors"
    assert total["ends"]["codec"] > 1000, "mutations of structure are"
    assert sum(total["ends"].values()) == 4000
    assert total["peak_mb"] < 300


def test_a_crash_is_seen_and_the_run_goes_on_behind_it() -> None:
    total = message_fuzz.fuzz(first=0, count=50, crash_at=20)
    assert list(total["crashes"]) == [20]
    assert sum(total["ends"].values()) == 29, "those before it are lost with the child's counts"
