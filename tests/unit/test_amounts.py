"""Amounts leave the house as canonical decimal strings, however long they are."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetape.present import amount


@pytest.mark.parametrize(
    ("value", "shift", "said"),
    [
        (Decimal("0"), 0, "0"),
        (Decimal("-0.000"), 0, "0"),
        (Decimal("1E+3"), 0, "1000"),
        (Decimal("1.500"), 0, "1.5"),
        (Decimal("1E-7"), 0, "0.0000001"),
        (Decimal("200000000000000000000000000"), 24, "200"),
        (Decimal("2000000000"), 6, "2000"),
        (Decimal("-5"), 1, "-0.5"),
        (Decimal(10**78 - 1), 18, "9" * 60 + "." + "9" * 18),
        (Decimal("1E-16383"), 0, "0." + "0" * 16382 + "1"),
        (Decimal("1E+131071"), 24, "1" + "0" * 131047),
        (None, 6, None),
    ],
)
def test_canonical(value: Decimal | None, shift: int, said: str | None) -> None:
    assert amount(value, shift) == said


@given(st.integers(-(10**156), 10**156), st.integers(0, 40))
def test_no_digit_is_lost(number: int, shift: int) -> None:
    said = amount(Decimal(number), shift) or ""
    whole, _, fraction = said.lstrip("-").partition(".")
    assert not fraction.endswith("0")
    assert int(whole + fraction.ljust(shift, "0")) == abs(number)
    assert said.startswith("-") == (number < 0)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        amount(Decimal("NaN"))
