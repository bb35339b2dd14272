"""The one error tree of Headwater: what was found, what was expected, what to do. Not a place for messages without a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterable

import msgspec

FOUND_CHARS = 80
"""Most characters of a found value that an error repeats: enough to recognise it, too few to flood a log."""


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One thing that is wrong with one field of a record or with one setting.

    ``field`` is the field's path (``items[3]``), or ``key`` or ``record`` for a record's parts; ``code`` is stable and of small
    number, so that it can be a metric's label; ``found`` has at most 80 characters.
    """

    field: str
    code: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """Read as one line.

        >>> print(Problem("k", "out_of_range", "0", "an integer from 1 to 1000", "ask for at least one item"))
        k: found 0, expected an integer from 1 to 1000 (ask for at least one item)
        """
        return f"{self.field}: found {self.found}, expected {self.expected} ({self.remedy})"


def shorten(text: str, limit: int = FOUND_CHARS) -> str:
    r"""Cut a text to `limit` characters, the last of them an ellipsis, and make it printable on one line.

    >>> shorten("a" * 10, limit=4)
    'aaa…'
    >>> shorten("two\nlines")
    'two\\nlines'
    """
    head = text[: limit + 1]
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in head)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


class HeadwaterError(Exception):
    """The root: every error that Headwater raises on purpose.

    ``code`` is stable; ``found``, ``expected`` and ``remedy`` are for the operator; ``retryable`` says whether the same call may
    succeed later without anybody changing anything. Code decides by type and ``retryable``, never by text.
    """

    def __init__(self, code: str, found: str, expected: str, remedy: str, retryable: bool = False) -> None:
        super().__init__(code, found, expected, remedy, retryable)  # all arguments: so that it survives pickling
        self.code = code
        self.found = found
        self.expected = expected
        self.remedy = remedy
        self.retryable = retryable

    def __str__(self) -> str:
        """Read as one line.

        >>> print(ArtefactError("sha256_mismatch", "ab12", "cd34", "publish the generation again"))
        sha256_mismatch: found ab12, expected cd34 (publish the generation again)
        """
        return f"{self.code}: found {self.found}, expected {self.expected} ({self.remedy})"


class ProblemsError(HeadwaterError):
    """Several problems found in one pass; the first one gives the code, so the most important stands first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        listed = tuple(problems)
        if not listed:
            raise ValueError(f"{type(self).__name__} needs at least one problem")
        first = listed[0]
        super().__init__(first.code, first.found, first.expected, first.remedy)
        self.args = (listed,)
        self.problems: tuple[Problem, ...] = listed

    def __str__(self) -> str:
        """Name every problem in one line.

        >>> print(BadSettings([Problem("a", "missing", "nothing", "a URL", "set A"), Problem("b", "missing", "nothing", "bytes", "set B")]))
        2 problems: a: found nothing, expected a URL (set A); b: found nothing, expected bytes (set B)
        """
        count = len(self.problems)
        lines = "; ".join(str(problem) for problem in self.problems)
        return lines if count == 1 else f"{count} problems: {lines}"


class BadRecord(ProblemsError):  # noqa: N818 - it is the record that is bad
    """A record that cannot be used: it goes to `dead-letters` with ``code`` as the reason, and the worker goes on."""


class BadSettings(ProblemsError):  # noqa: N818 - as above
    """Settings that cannot be used: all problems at once, and the process does not start."""


class ArtefactError(HeadwaterError):
    """A generation, encoder or other artefact that is missing, damaged or unfit to be served."""


class DatasetError(HeadwaterError):
    """A data-set folder that does not follow the last section of the contract."""


class StateError(HeadwaterError):
    """Stored state that this release cannot read."""


class TopicError(HeadwaterError):
    """Topics or partitions that are not as the contract says."""


class BrokerError(HeadwaterError):
    """The broker cannot be reached or refused what was asked; often worth trying again."""


_NO_ROOM = ("disk_full", "room on the disk", "make room there, or name another folder (`headwater config` shows them), and run it again")
_NOT_ALLOWED = ("not_writable", "a place that this user may write to", "give it to this user, or name another one (`headwater config`)")
_TAKEN = ("address_taken", "a port that nobody listens on", "see who does (`ss -ltnp`), or set another port (`headwater config`)")
_OF_SYSTEM = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EROFS: _NOT_ALLOWED,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EADDRINUSE: _TAKEN,
}


def of_system(error: OSError) -> HeadwaterError | None:
    """What the machine refuses, as one of ours; None for what only a defect explains.

    >>> error = of_system(PermissionError(errno.EACCES, "Permission denied", "registry/g-000002"))
    >>> error.code, error.found, error.expected
    ('not_writable', 'Permission denied: registry/g-000002', 'a place that this user may write to')
    """
    known = _OF_SYSTEM.get(error.errno or 0)
    if known is None:
        return None
    code, expected, remedy = known
    place = f": {error.filename}" if error.filename else ""
    return HeadwaterError(code, f"{error.strerror}{place}", expected, remedy)
