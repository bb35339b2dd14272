"""The gateway under load, by clients on the same machine that send the next request when the last one was answered."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench.measure import Say
from bench.subject import Subject
from streams.processes import Children, free_port

CLIENTS = 8
USERS = 1_000
BATCH = 100
WARM_S = 3.0
FOLLOW_S = 60.0
"""The worker may still have events of what was measured before."""
Call = Callable[[aiohttp.ClientSession, int], Awaitable[None]]


def measured(subject: Subject, items: Sequence[str], seconds: float, say: Say) -> dict[str, float]:
    """p50 and p99 of GET of a standing list in ms, GETs per second, events per second in, one by one and in batches of 100."""
    port = free_port()
    environ = subject.environ | {"HEADWATER_GATEWAY_PORT": str(port), "HEADWATER_GATEWAY_RATE_PER_S": "0"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="headwater-bench-gateway-") as folder, Children() as children:
        children.start("the gateway", ["gateway"], environ, Path(folder) / "gateway.log").until_ready(f"{url}/readyz")
        return asyncio.run(_measured(url, items, seconds, say))


async def _measured(url: str, items: Sequence[str], seconds: float, say: Say) -> dict[str, float]:
    mark = f"{time.time_ns()}"

    def event(number: int) -> dict[str, Any]:
        at = round(time.time() * 1000)
        kind = {"event_id": f"{mark}-{number}", "type": "click", "timestamp": at}
        return {**kind, "user_id": f"g{number % USERS}", "item_id": items[number % len(items)]}

    async def post(session: aiohttp.ClientSession, body: Any) -> None:
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{url}/v1/events", data=json.dumps(body).encode(), headers=headers) as answer:
            await _whole(answer, 202)

    async def single(session: aiohttp.ClientSession, number: int) -> None:
        await post(session, event(number))

    async def batch(session: aiohttp.ClientSession, number: int) -> None:
        await post(session, [event(10**7 + number * BATCH + n) for n in range(BATCH)])

    async def stands(session: aiohttp.ClientSession, number: int) -> bool:
        async with session.get(f"{url}/v1/users/g{number * 7 % USERS}/lists/home") as answer:
            await _whole(answer, 200)
            return answer.headers["headwater-source"] == "standing"

    async def get(session: aiohttp.ClientSession, number: int) -> None:
        if not await stands(session, number):
            raise RuntimeError("a list that does not stand: the worker has not followed")

    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(connector=connector) as session:
        await post(session, [event(-1 - n) for n in range(USERS)])  # everybody has a list
        until = time.monotonic() + FOLLOW_S
        for number in range(USERS):
            while not await stands(session, number) and time.monotonic() < until:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.1)
        await _loop(session, get, WARM_S)
        took = await _loop(session, get, seconds)
        out = {"get_p50_ms": _quantile_ms(took, 0.5), "get_p99_ms": _quantile_ms(took, 0.99), "gets_per_s": round(len(took) / seconds)}
        say(f"  GET list   p50 {out['get_p50_ms']} ms  p99 {out['get_p99_ms']} ms  {out['gets_per_s']:,}/s")
        for name, call, each in (("single", single, 1), ("batched", batch, BATCH)):
            took = await _loop(session, call, seconds)
            out[f"events_{name}_per_s"] = round(len(took) * each / seconds)
            out[f"post_{name}_p50_ms"], out[f"post_{name}_p99_ms"] = _quantile_ms(took, 0.5), _quantile_ms(took, 0.99)
            figures = f"p50 {out[f'post_{name}_p50_ms']} ms  p99 {out[f'post_{name}_p99_ms']} ms"
            say(f"  POST {name:7} {out[f'events_{name}_per_s']:,} events/s  {figures}")
        status = await _status(session, url)
    out["memory_mb"] = round(status["memory_bytes"] / 2**20, 1)
    return out


async def _loop(session: aiohttp.ClientSession, call: Call, seconds: float) -> list[float]:
    """Seconds that each request took, of all clients together."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    numbers = iter(range(10**9))

    async def client() -> None:
        while (began := time.perf_counter()) < until:
            await call(session, next(numbers))
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return took


async def _status(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(f"{url}/v1/status") as answer:
        return await answer.json()


async def _whole(answer: aiohttp.ClientResponse, status: int) -> None:
    body = await answer.read()
    if answer.status != status:
        raise RuntimeError(f"{answer.status}: {body[:300]!r}")


def _quantile_ms(took: list[float], q: float) -> float:
    ordered = sorted(took)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000, 2)
