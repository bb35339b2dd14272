"""Brokers for tests: the embedded one always, a durable one where KAFKA_HOME or HEADWATER_TEST_BROKER names it. Not for the product."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.embedded import EmbeddedBroker

KAFKA_START_S = 60


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """host:port of the embedded broker: every topic has 4 partitions, nothing is durable."""
    with EmbeddedBroker() as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a durable broker: HEADWATER_TEST_BROKER, else one that $KAFKA_HOME/kafka starts for this session."""
    if given := os.environ.get("HEADWATER_TEST_BROKER"):
        yield given.removeprefix("kafka://")
        return
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("wants a durable broker: set KAFKA_HOME or HEADWATER_TEST_BROKER")
    script = str(Path(home) / "kafka")
    for _ in range(3):  # the script draws a cluster id, and Kafka takes none that begins with "-": one start in 64
        folder = str(tmp_path_factory.mktemp("kafka"))
        command = [script, "start", "--dir", folder]
        started = subprocess.run(command, check=False, capture_output=True, text=True, timeout=KAFKA_START_S)
        if started.returncode == 0:
            break
    try:
        assert started.returncode == 0, f"Apache Kafka did not start: {started.stdout}{started.stderr}"
        yield started.stdout.split()[-1]
    finally:
        subprocess.run([script, "stop", "--dir", folder], check=False, capture_output=True, timeout=KAFKA_START_S)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def cluster(request: pytest.FixtureRequest) -> str:
    """Each broker in turn, host:port: for tests that hold on both."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def prefix() -> str:
    """A topic prefix of this test's own, as the brokers are shared."""
    return f"t{uuid.uuid4().hex[:8]}."
