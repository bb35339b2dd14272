"""RFC 3339 texts and integer milliseconds. Not a clock: what time it is comes in as an argument."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,30}))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_HOUR, _MINUTE, _LEAP_SECOND = 23, 59, 60


def rfc3339_ms(text: str) -> int:
    """Turn an RFC 3339 date-time into milliseconds since 1970 UTC, negative before; digits beyond the millisecond are cut.

    A leap second counts as the first second of the next minute, as POSIX has it.

    >>> rfc3339_ms("2024-11-21T14:40:00.1239Z"), rfc3339_ms("2024-11-21T15:40:00+01:00")
    (1732200000123, 1732200000000)

    Raises:
        ValueError: the text is no RFC 3339 date-time (a date alone is none), or its day or time does not exist.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 date-time")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, sign, offset_hour, offset_minute = found.groups()[6:]
    if hour > _HOUR or minute > _MINUTE or second > _LEAP_SECOND:
        raise ValueError("no such time of the day")
    days = date(year, month, day).toordinal() - _EPOCH_DAY
    minutes = (days * 24 + hour) * 60 + minute
    if sign:
        if int(offset_hour) > _HOUR or int(offset_minute) > _MINUTE:
            raise ValueError("no such offset from UTC")
        offset = int(offset_hour) * 60 + int(offset_minute)
        minutes -= offset if sign == "+" else -offset
    return (minutes * 60 + second) * 1000 + int((fraction or "").ljust(3, "0")[:3])


def ms_rfc3339(ms: int) -> str:
    """Write milliseconds since 1970 as an RFC 3339 text in UTC.

    >>> ms_rfc3339(1732200000123)
    '2024-11-21T14:40:00.123Z'

    Raises:
        OverflowError: the year is not between 1 and 9999.
    """
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.strftime(f"{moment.year:04d}-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
