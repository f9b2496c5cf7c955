"""Figures and texts as they are shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgewise.report.words import clean, show_ms, show_ratio, show_scaled, show_share


def test_figures_are_written_with_their_intervals() -> None:
    assert show_share(0.978, 0.966, 0.99) == "97.8 ±1.2"
    assert show_share(-0.004, -0.02, 0.01, sign=True) == "−0.4 ±1.6"
    assert show_share(-0.0001, sign=True) == "0.0"
    assert show_share(0.012, sign=True) == "+1.2"
    assert show_share(None) == "–"
    assert [show_ms(value) for value in (0.0123, 4.314, 43.14, 431.4, None)] == ["0.012", "4.31", "43.1", "431", "–"]
    assert show_ms(4.31, 4.309, 4.3101) == "4.31 ±0.01"  # rounded up: never a false ±0.00
    assert show_ms(4.31, 4.31, 4.31) == "4.31 ±0.00"
    assert show_ratio(0.31, 0.30, 0.33) == "0.31 ±0.02"
    assert show_ratio(0.141) == "0.141"
    shown = [show_scaled(value, "B") for value in (0, 999, 1_000, 12_345, 999_499, 999_500, 165_150_976, 2e9)]
    assert shown == ["0 B", "999 B", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "165 MB", "2.00 GB"]


@given(st.floats(0.001, 500), st.floats(0, 100), st.floats(0, 100))
def test_the_shown_interval_covers_the_measured_one(value: float, below: float, above: float) -> None:
    shown = show_ms(value, value - below, value + above)
    middle, half = (float(part) for part in shown.split(" ±"))
    rounding = 0.5 * 10.0 ** -len(shown.split(" ±")[0].partition(".")[2])
    assert half + 1e-5 >= max(below, above)
    assert abs(middle - value) <= rounding + 1e-9


def test_unprintable_and_direction_changing_characters_are_written_out() -> None:
    assert clean("a\x1b[31m\u202eb\udc80\nc") == "a\\x1b[31m\\u202eb\\udc80\nc"
