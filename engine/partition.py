"""Where a key belongs, and the number a name has inside. Not a partitioner of a client: those come with the clients."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_CACHED_KEYS = 65_536
"""Keys whose hash is remembered: about 200 bytes each with a key of 20 bytes, so 13 MB; a miss costs 1-2 µs, a hit 0.1 µs."""


def murmur2(data: bytes) -> int:
    """Hash as Kafka's Java client does, as an unsigned 32-bit number.

    Source: Austin Appleby's MurmurHash2 with the seed of `org.apache.kafka.common.utils.Utils.murmur2`, whose own test has these values.

    >>> murmur2(b"foobar") - 2**32, murmur2(b"21") - 2**32, murmur2(b"abc")
    (-790332482, -973932308, 479470107)
    """
    length = len(data)
    h = _SEED ^ length
    whole = length >> 2
    for k in unpack_from(f"<{whole}I", data):
        k = (k * _M) & _MASK  # noqa: PLW2901 - the block's own mixing
        h = ((h * _M) ^ ((k ^ (k >> 24)) * _M)) & _MASK
    if length & 3:
        h = ((h ^ int.from_bytes(data[whole << 2 :], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=_CACHED_KEYS)
def _positive(key: bytes) -> int:
    """Give murmur2 without its sign bit: what Java calls `toPositive`. Remembered, since the same users come again."""
    return murmur2(key) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Give the partition, from 0, where the record with this raw key belongs: the default of Java clients and kafka-python.

    >>> [partition_of(key, 4) for key in (b"u1", b"u2", "élodie".encode())]
    [0, 2, 0]

    Raises:
        ZeroDivisionError: there are no partitions.
    """
    return _positive(key) % partitions


def hash64(text: str) -> int:
    """Give the unsigned 64-bit number by which a name (of an item, event or session) is known inside: BLAKE2b, 8 bytes, little endian.

    Two of a million names share a number with a probability of 3e-8 (n² / 2^65).

    >>> hash64("i1")
    778860755400141486
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


item_key = lru_cache(maxsize=262_144)(hash64)
"""`hash64`, remembered: for item ids, which come again and again. A full cache takes some 40 MB."""
