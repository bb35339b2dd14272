"""Times in texts: RFC 3339 as written, no more and no less."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.timestamps import ms_rfc3339, rfc3339_ms

UNHURRIED = settings(deadline=None)


@UNHURRIED
@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-1439, 1439))  # noqa: DTZ001 - the offset is added below
def test_rfc_3339_agrees_with_pythons_calendar(moment: datetime, offset_minutes: int) -> None:
    """A text with any offset gives the milliseconds that datetime computes, cut and not rounded; writing and reading gives them back."""
    there = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    expected = (there - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert rfc3339_ms(there.isoformat()) == expected
    assert rfc3339_ms(ms_rfc3339(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2024-11-21", "2024-11-21T14:40Z", "2024-11-21T14:40:00", "2024-02-30T00:00:00Z", "2024-11-21T24:00:00Z",
        "2024-11-21T14:60:00Z", "2024-11-21T14:40:61Z", "2024-11-21T14:40:00+24:00", "2024-11-21T14:40:00.Z", "0000-01-01T00:00:00Z",
        "2024-11-21T14:40:00Z\n", "٢٠٢٤-11-21T14:40:00Z", "20241121T144000Z", "2024-11-21T14:40:00,5Z", "2024-W47-4T14:40:00Z",
    ],
)  # fmt: skip
def test_other_texts_are_no_times(text: str) -> None:
    """What RFC 3339 does not allow is refused, even where Python's own reader takes it."""
    with pytest.raises(ValueError, match=r"."):
        rfc3339_ms(text)


def test_rfc_3339_variants_are_read() -> None:
    """Small letters, a blank for the T and leap seconds are RFC 3339."""
    assert rfc3339_ms("2024-11-21t14:40:00.1z") == rfc3339_ms("2024-11-21 14:40:00.100Z") == 1732200000100
    assert rfc3339_ms("2016-12-31T23:59:60Z") == rfc3339_ms("2017-01-01T00:00:00Z")
