"""The private parts of Faust and aiokafka that the batch path replaces or leans on are the ones it was written for."""

from __future__ import annotations

import inspect
from hashlib import blake2b
from importlib.metadata import version
from importlib.resources import files
from typing import Any, cast

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher as AIOKafkaFetcher
from faust.agents.agent import Agent
from faust.app.base import App, BootStrategy
from faust.assignor.partition_assignor import PartitionAssignor
from faust.serializers.schemas import Schema
from faust.stores.rocksdb import RocksDBOptions, Store
from faust.tables.base import Collection
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.conductor import Conductor, ConductorCompiler
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from streams.batch import BatchSchema, HeadlessBoot
from streams.consumer import BackfillAssignor, BatchConsumer, BatchTransport, FetchThread
from streams.table import OFFSET_KEY, CheckpointTable

PINNED: list[tuple[type, str, str, str]] = [
    # replaced
    (Schema, "compile", "fa59f3eddbb54263", "BatchSchema.compile: does create_event still take (key, value, headers, message)?"),
    (Consumer, "getmany", "b3651b6ff09e9d5b", "BatchConsumer.getmany repeats it: what does it do now between fetch and yield?"),
    (
        Consumer,
        "perform_seek",
        "907234e153925494",
        "BatchConsumer.perform_seek: does it still seek all partitions and set _committed_offset?",
    ),
    (Consumer, "force_commit", "46a66c09c294374a", "BatchConsumer.force_commit: is it still the only way to a commit?"),
    (Consumer, "wait_empty", "e6ba6b8dd2510ab0", "BatchConsumer.wait_empty: is it still what a rebalance and the end wait for?"),
    (Consumer, "on_stop", "a794dedd5fd14367", "BatchConsumer.on_stop: does it still call wait_empty?"),
    (Consumer, "on_task_error", "c30f56d8d6c2ae2d", "BatchConsumer.on_task_error: is it still the commit after an agent's error?"),
    (Consumer, "on_buffer_full", "5221a84ed528308f", "BatchConsumer.on_buffer_full: does a partition still have to be paused?"),
    (App, "_new_transport", "656aa2daa28e9ddc", "BatchApp._new_transport"),
    (PartitionAssignor, "name", "ab34d2911ccff561", "BackfillAssignor.name: is it still what the broker compares?"),
    (Consumer, "pause_partitions", "3eb33668adac99fb", "what is paused is fetched no more; getmany drops what is not active"),
    (Consumer, "resume_partitions", "b3e5bf87a488f706", "the other way"),
    (BootStrategy, "web_server", "0d03be2ee6092919", "HeadlessBoot: is enable_web still what decides?"),
    (BootStrategy, "_should_enable_web", "d64fc5fd792069b8", "HeadlessBoot: is enable_web still what decides?"),
    (Collection, "_changelog_topic_name", "8214991d03906fe1", "CheckpointTable._changelog_topic_name"),
    (Collection, "on_rebalance", "cf6bb9e9d0983bd9", "CheckpointTable.on_rebalance"),
    (
        Collection,
        "on_recovery_completed",
        "ccb315e24d48d5e7",
        "CheckpointTable.on_recovery_completed: is it still called before streams resume?",
    ),
    (Collection, "apply_changelog_batch", "7e076860a9a034f5", "CheckpointTable.apply_changelog_batch"),
    (
        Store,
        "apply_changelog_batch",
        "9f2237a7fdd5c014",
        "CheckpointTable.apply_changelog_batch: what does the store write besides rows and offset?",
    ),
    # leaned on
    (Consumer, "commit", "87183690eb528cb9", "commits of the interval, one at a time, through force_commit"),
    (Consumer, "_commit_handler", "61b1f2ff3dee6bef", "the interval's commits"),
    (
        Consumer,
        "_drain_messages",
        "51f5d28b77953a29",
        "the reader: _read_offset is compared and set here, gaps are added for acked topics only",
    ),
    (Consumer, "_wait_next_records", "7d5a17ddae3fee8f", "returns (records, active partitions) for getmany"),
    (Consumer, "on_partitions_revoked", "901b70cdae5c18f3", "forgets offsets of revoked partitions before the app's callback"),
    (
        driver.AIOKafkaConsumerThread,
        "_commit",
        "8db40aa72fa635cc",
        "commits what is assigned; False when the group has rebalanced: the proof in checkpoint step 3",
    ),
    (driver.AIOKafkaConsumerThread, "_create_worker_consumer", "936e53aab137bb69", "FetchThread: is fetch_max_wait_ms still fixed?"),
    (driver.Consumer, "_new_consumer_thread", "89ce55d44796a2e9", "BatchConsumer._new_consumer_thread"),
    (driver.AIOKafkaConsumerThread, "_fetch_records", "dcc2d96f49713c19", "fetches nothing while the flow is stopped"),
    (driver.AIOKafkaConsumerThread, "seek_to_beginning", "b7badf5c7bdd1fba", "perform_seek for partitions without a commit"),
    (App, "_on_partitions_revoked", "99aa6ba163476c6f", "stops the flow, empties queues, then wait_empty"),
    (App, "_stop_consumer", "b6ebffb2c2c1f557", "stops the flow, empties queues, then wait_empty, then the tables"),
    (App, "_consumer_wait_empty", "c9abcc98b11c3775", "calls wait_empty where stream_wait_empty is set"),
    (App, "_update_assignment", "2c9083ee559f1857", "which partitions count as new"),
    (TableManager, "on_rebalance", "adc79c5ca296bb0d", "order of tables and recovery in a rebalance"),
    (Recovery, "_restart_recovery", "59c2f1e87c6fdc8e", "order of recovery, seek and resume"),
    (Recovery, "_resume_streams", "60cc8b191fe8b649", "seek, empty the queues, resume"),
    (Recovery, "on_recovery_completed", "2835f40bae1d8c71", "tables first, then seek, empty the queues, resume"),
    (Recovery, "_slurp_changelogs", "4f248be84a02f98e", "hands changelog events to apply_changelog_batch, by their message's offset"),
    (Store, "_db_for_partition", "c8aff19aef61afd0", "one database a partition"),
    (Store, "persisted_offset", "0a366211daed6bc3", "reads the offset key that checkpoints write"),
    (Store, "on_rebalance", "90d5fba644175714", "closes and opens databases"),
    (RocksDBOptions, "as_options", "f97f20b929046a5f", "what the memory settings mean"),
    (Agent, "_execute_actor", "0fa85257674b3bd7", "what becomes of an agent's exception"),
    (Conductor, "acks_enabled_for", "769854d9e95cd4a9", "acks=False keeps a topic out of Faust's own bookkeeping"),
    (ConductorCompiler, "build", "f0888d8f544fabda", "puts one event a message into the agent's queue"),
    (FlowControlEvent, "resume", "058be0f33dfcdeee", "empties the queues"),
    (ThrowableQueue, "clear", "19dcbbc90ec655c8", "empties the queues"),
    (AIOKafkaConsumer, "seek_to_committed", "1e28ff0b07d7ea1d", "leaves partitions without a commit where they are"),
    (AIOKafkaFetcher, "fetched_records", "6432ce7f8eab840c", "an empty set of partitions means all of them"),
]
COMPILED = {
    ("faust._cython", "streams.pyx"): "ebc85ab454a40510",
    ("faust.transport._cython", "conductor.pyx"): "4698f47e6d66f757",
}


def digest(text: str) -> str:
    """Give a short hash of source text."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def source(owner: type, name: str) -> str:
    """Give the source of a method or a property, also of one that mode has made a task of."""
    part = inspect.getattr_static(owner, name)
    return inspect.getsource(inspect.unwrap(getattr(part, "fun", getattr(part, "fget", part))))


@pytest.mark.parametrize("owner,name,expected,why", PINNED, ids=[f"{owner.__name__}.{name}" for owner, name, _, _ in PINNED])
def test_upstream_source(owner: type, name: str, expected: str, why: str) -> None:
    """An override stands on upstream's exact source: whoever changes the version reads this part again before changing the hash."""
    found = digest(source(owner, name))
    assert found == expected, (
        f"{owner.__name__}.{name} is not the one of faust-streaming 0.15.3: {why}. If all is well, its hash is {found}"
    )


@pytest.mark.parametrize("package,name", COMPILED)
def test_compiled_source(package: str, name: str) -> None:
    """The compiled stream and conductor, which replace the Python ones, are the ones that were read too."""
    found = digest(files(package).joinpath(name).read_text())
    assert found == COMPILED[package, name], f"{package}/{name}: does the stream still leave enable_acks=False alone? Its hash is {found}"


def test_versions() -> None:
    """The pins of the hashes above: another version needs them read again."""
    assert {name: version(name) for name in ("faust-streaming", "aiokafka", "mode-streaming")} == {
        "faust-streaming": "0.15.3",
        "aiokafka": "0.14.0",
        "mode-streaming": "0.7.1",
    }


def test_overrides_have_something_to_replace() -> None:
    """Every method that is overridden exists upstream: a renamed one would be silently ignored."""
    for ours, theirs, names in (
        (
            BatchConsumer,
            driver.Consumer,
            ("getmany", "perform_seek", "force_commit", "wait_empty", "on_stop", "on_task_error", "on_buffer_full", "_new_consumer_thread"),
        ),
        (
            CheckpointTable,
            faust.Table,
            ("on_rebalance", "on_recovery_completed", "apply_changelog_batch", "_changelog_topic_name", "on_stop"),
        ),
        (BatchSchema, Schema, ("compile",)),
        (HeadlessBoot, BootStrategy, ("enable_web",)),
        (BackfillAssignor, PartitionAssignor, ("name",)),
        (BatchTransport, driver.Transport, ("Consumer",)),
        (FetchThread, driver.AIOKafkaConsumerThread, ("_create_worker_consumer",)),
    ):
        for name in names:
            assert name in vars(ours), name
            assert hasattr(cast("Any", theirs), name), name


def test_message_fields() -> None:
    """A message is made of positional arguments: their order is upstream's."""
    assert list(inspect.signature(ConsumerMessage).parameters) == [
        "topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value", "checksum", "serialized_key_size",
        "serialized_value_size", "tp", "time_in", "time_out", "time_total", "generation_id",
    ]  # fmt: skip


def test_offset_key() -> None:
    """Checkpoints write the changelog offset under the key that the store reads."""
    assert Store.offset_key == OFFSET_KEY
