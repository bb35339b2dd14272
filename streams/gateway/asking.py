"""Asks the workers for a list: a record on `requests`, and its answer from `responses`. It makes no list and keeps none."""

from __future__ import annotations

import asyncio

import msgspec

from streams.gateway.metrics import Metrics
from streams.gateway.problems import Refused
from streams.gateway.sender import Record, Sender


class _Head(msgspec.Struct):
    request_id: str


_head = msgspec.json.Decoder(_Head).decode


class Asking:
    """The requests that wait for their answers.

    Args:
        sender: the way to Kafka.
        topic: full name of `requests`.
        most: requests that may wait at once.
        metrics: counts outcomes.
    """

    def __init__(self, sender: Sender, topic: str, most: int, metrics: Metrics) -> None:
        self._sender, self._topic, self._most, self._metrics = sender, topic, most, metrics
        self._waiting: dict[tuple[bytes, str], asyncio.Future[bytes]] = {}

    async def ask(self, user_id: str, request_id: str, request: bytes, deadline_s: float) -> bytes:
        """Send a request and give the answer as it stands on `responses`.

        Raises:
            Refused: 409 when this id waits already, 429 when too many do, 503 or 504 when Kafka or the workers did not answer in time.
            BrokerError: Kafka did not take it.
        """
        key = (user_id.encode(), request_id)
        if key in self._waiting:
            raise Refused(
                409, "request_waits", f"request_id {request_id!r} twice", "an id of its own", "leave request_id out, or draw a new one"
            )
        if len(self._waiting) >= self._most:
            found = f"{len(self._waiting)} requests that wait"
            raise Refused(429, "busy", found, f"at most {self._most}", "try again a little later, or start more workers", retry_after_s=1)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[key] = answer
        sent, outcome = False, "failed"
        try:
            async with asyncio.timeout(deadline_s):
                await self._sender.send([Record(self._topic, key[0], request)])
                sent = True
                value = await answer
            outcome = "answered"
            return value
        except TimeoutError:
            outcome = "late" if sent else "failed"
            raise _late(deadline_s, sent=sent) from None
        finally:
            del self._waiting[key]
            self._metrics.asked.labels(outcome).inc()

    def answered(self, key: bytes | None, value: bytes | None) -> None:
        """A record of `responses`: also those that another gateway asked for."""
        if not self._waiting or key is None or value is None:
            return
        waiting = self._waiting.get((key, _head(value).request_id))
        if waiting is not None and not waiting.done():
            waiting.set_result(value)


def _late(deadline_s: float, *, sent: bool) -> Refused:
    if not sent:
        found = f"no acknowledgement within {deadline_s:g} s"
        return Refused(
            503, "not_acknowledged", found, "an acknowledgement by Kafka", "see whether Kafka runs, and try again", retry_after_s=1
        )
    remedy = "see whether workers run (their /readyz), ask with a longer deadline_ms, or ask again"
    return Refused(504, "no_answer", f"no answer within {deadline_s:g} s", "a list made by a worker", remedy)
