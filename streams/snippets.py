"""The ten lines that produce and the ten that consume, as README.md shows and the demo prints them. Headwater itself uses neither."""

from __future__ import annotations

ADDRESS = '"127.0.0.1:9092"'
PRODUCER = """\
import json, time, uuid
from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers="127.0.0.1:9092")
event = {"event_id": str(uuid.uuid4()), "type": "click", "user_id": "u1", "item_id": "i1", "timestamp": int(time.time() * 1000)}
producer.send("events", key=b"u1", value=json.dumps(event).encode())
producer.flush()
"""
CONSUMER = """\
import json
from kafka import KafkaConsumer

consumer = KafkaConsumer("recommendations", bootstrap_servers="127.0.0.1:9092", auto_offset_reset="earliest")
for record in consumer:
    made = json.loads(record.value)
    print(made["user_id"], "at", made["generated_at"], "after", made["trigger"], flush=True)
    for item in made["items"]:
        reason = item["reasons"][0] if item["reasons"] else {}
        print(f"{item['rank'] + 1:4}  {item['item_id']}  {item['score']:.3f}  {reason}", flush=True)
"""


def filled(snippet: str, address: str, *, prefix: str = "", item_id: str = "i1", mock: bool = False) -> str:
    """A snippet for one installation; `mock`: librdkafka's mock cluster, which kafka-python must be told the version of.

    >>> 'KafkaProducer(bootstrap_servers="a:1", api_version=(2, 3))' in filled(PRODUCER, "a:1", mock=True)
    True
    >>> '"shop.events", key=b"u1"' in filled(PRODUCER, "a:1", prefix="shop.")
    True
    """
    text = snippet.replace(ADDRESS, f'"{address}"' + (", api_version=(2, 3)" if mock else ""))
    for topic in ("events", "recommendations"):
        text = text.replace(f'("{topic}"', f'("{prefix}{topic}"')
    return text.replace('"i1"', f'"{item_id}"')
