from __future__ import annotations

import re
from pathlib import Path

from user_core import reasons
from user_core.errors import StoreFull
from user_core.reasons import CODES, NO_LEASE, NO_REASON, Reason


def test_a_reason_is_true_and_none_is_false():
    reason = Reason(NO_LEASE, "no lease of the robot: it is actor_2's")
    assert reason and str(reason) == "no lease of the robot: it is actor_2's"
    assert not NO_REASON and not Reason() and str(NO_REASON) == ""
    assert (NO_REASON or reason) is reason


def test_an_error_becomes_a_reason_with_its_code():
    assert Reason.of(StoreFull("outbox", got="0 B free")).code == "store_full"
    other = Reason.of(ValueError("seven"))
    assert (other.code, other.text) == (reasons.INTERNAL, "ValueError: seven")


def test_every_constant_is_listed_with_its_meaning():
    constants = {n: v for n, v in vars(reasons).items() if n.isupper() and isinstance(v, str)}
    assert set(constants.values()) == set(CODES)
    for name, code in constants.items():
        assert code == name.lower() and re.fullmatch(r"[a-z_]+", code)
        assert CODES[code].endswith(".")


def test_the_reference_of_codes_is_the_one_that_is_written():
    from user_core.error_reference import reference

    page = Path(__file__).parents[3] / "docs/reference/errors.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "python -m user_core.error_reference > docs/reference/errors.md"
    )
    assert "| `schema_mismatch` | `SchemaMismatch` | no |" in reference()
    assert "| `no_lease` |" in reference()
