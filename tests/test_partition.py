"""Partitions must be those of every producer's client; numbers of names must never change, since state holds them."""

from __future__ import annotations

import confluent_kafka
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.partition import hash64, murmur2, partition_of

UNHURRIED = settings(deadline=None)


@pytest.mark.parametrize(
    "data,signed",
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_the_values_of_kafkas_own_test(data: bytes, signed: int) -> None:
    """murmur2 is that of Kafka's Java client: the values of its UtilsTest, which are signed there."""
    assert murmur2(data) == signed % 2**32


@pytest.mark.parametrize(
    "data,expected",
    [
        (b"kafka", 0xD067CF64),
        (b"giberish123456789", 0x8F552B0C),
        (b"1234", 0x9FC97B14),
        (b"234", 0xE7C009CA),
        (b"34", 0x873930DA),
        (b"4", 0x5A4B5CA1),
        (b"PreAmbleWillBeRemoved,ThePrePartThatIs", 0x78424F1C),
    ],
)
def test_murmur2_gives_the_values_of_librdkafkas_own_test(data: bytes, expected: int) -> None:
    """murmur2 is that of librdkafka's murmur2_random partitioner too: the values of its unit test."""
    assert murmur2(data) == expected


# kafka-python reads its schemas with a call that Python 3.11 deprecates
@pytest.mark.filterwarnings("ignore:(open|read)_text is deprecated:DeprecationWarning")
@UNHURRIED
@given(st.binary(max_size=300))
def test_murmur2_is_that_of_kafka_python(data: bytes) -> None:
    """Any key hashes as in kafka-python, bytes above 127 and odd lengths included."""
    from kafka.partitioner.default import murmur2 as kafka_python_murmur2

    assert murmur2(data) == kafka_python_murmur2(data)


@UNHURRIED
@given(st.text(min_size=1, max_size=256), st.integers(1, 1000))
def test_a_key_belongs_where_the_clients_put_it(user_id: str, partitions: int) -> None:
    """The partition is the one that librdkafka computes, asked twice: remembered hashes change nothing."""
    key = user_id.encode()
    expected = confluent_kafka.murmur2(key, partitions)
    assert partition_of(key, partitions) == expected
    assert partition_of(key, partitions) == expected


@pytest.mark.parametrize(
    "text,expected",
    [("", 13020603013274838756), ("i1", 778860755400141486), ("élodie", 7585098309213826023), ("e" * 128, 12593710125525223496)],
)
def test_hash64_never_changes(text: str, expected: int) -> None:
    """The number of a name is stored in state and logs: these values are for ever."""
    assert hash64(text) == expected


@UNHURRIED
@given(st.text(), st.text())
def test_hash64_tells_names_apart(one: str, other: str) -> None:
    """Equal names have equal numbers of 64 bits, other names others."""
    assert 0 <= hash64(one) < 2**64
    assert (hash64(one) == hash64(other)) == (one == other)
