"""One foreign producer: KIND BROKER TOPIC; messages as JSON lines in, confirmed numbers out.

KIND is confluent, aiokafka or kafka-python. A message is tried until the broker has confirmed it,
as any at-least-once producer does.
"""

import asyncio
import base64
import json
import queue
import sys
import threading
import time
from typing import Any

PAUSE_S = 0.2
TIMEOUT_S = 5.0


class Mail:
    """Messages still to be confirmed, read from stdin by a thread of their own."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=5000)
        self.ended = threading.Event()
        self.open = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.waiting.put(json.loads(line))
        self.ended.set()

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """Give the next message to send, or None."""
        try:
            return self.waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def confirmed(self, message: dict[str, Any]) -> None:
        """Tell that the broker has it."""
        sys.stdout.write(f"{message['n']}\n")
        sys.stdout.flush()

    @property
    def done(self) -> bool:
        """Whether nothing is left to send."""
        return self.ended.is_set() and self.waiting.empty() and self.open == 0

    def again(self, message: dict[str, Any]) -> None:
        """Send it once more."""
        self.waiting.put(message)


def parts(message: dict[str, Any]) -> tuple[bytes | None, bytes]:
    """Give key and value of a message."""
    key = message["key"]
    return None if key is None else key.encode(), base64.b64decode(message["value"])


def confluent(broker: str, topic: str, mail: Mail) -> None:
    """Send with confluent-kafka."""
    from confluent_kafka import Producer

    producer = Producer({
        "bootstrap.servers": broker, "message.timeout.ms": int(TIMEOUT_S * 1000), "acks": "all",
        "message.max.bytes": 16_000_000, "reconnect.backoff.max.ms": 500, "log_level": 0,
    })  # fmt: skip

    def report(message: dict[str, Any], error: object) -> None:
        mail.open -= 1
        (mail.again if error else mail.confirmed)(message)

    while not mail.done:
        message = mail.next(0.01)
        if message is not None:
            key, value = parts(message)
            mail.open += 1
            producer.produce(
                topic, value, key, on_delivery=lambda error, _, m=message: report(m, error)
            )
        producer.poll(0)


def kafka_python(broker: str, topic: str, mail: Mail) -> None:
    """Send with kafka-python."""
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    producer = None
    while not mail.done:
        message = mail.next(0.05)
        if message is None:
            continue
        key, value = parts(message)
        try:
            producer = producer or KafkaProducer(
                bootstrap_servers=broker, acks="all", max_block_ms=3000, request_timeout_ms=3000,
                delivery_timeout_ms=5000, max_request_size=16_000_000, linger_ms=0,
            )  # fmt: skip
            producer.send(topic, value, key).get(TIMEOUT_S)
            mail.confirmed(message)
        except (KafkaError, OSError, ValueError, AssertionError):
            mail.again(message)
            if producer is not None:
                old, producer = producer, None
                threading.Thread(target=old.close, args=(0,), daemon=True).start()
            time.sleep(PAUSE_S)


def aiokafka(broker: str, topic: str, mail: Mail) -> None:
    """Send with aiokafka."""
    asyncio.run(_aiokafka(broker, topic, mail))


async def _aiokafka(broker: str, topic: str, mail: Mail) -> None:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    producer: AIOKafkaProducer | None = None
    while not mail.done:
        message = await asyncio.to_thread(mail.next, 0.05)
        if message is None:
            continue
        key, value = parts(message)
        try:
            if producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=broker, acks="all", request_timeout_ms=3000,
                    max_request_size=16_000_000,
                )  # fmt: skip
                await producer.start()
            await asyncio.wait_for(producer.send_and_wait(topic, value, key), TIMEOUT_S)
            mail.confirmed(message)
        except (KafkaError, OSError, TimeoutError):
            mail.again(message)
            if producer is not None:
                old, producer = producer, None
                with_limit = asyncio.wait_for(old.stop(), 2)
                await asyncio.gather(with_limit, return_exceptions=True)
            await asyncio.sleep(PAUSE_S)


KINDS = {"confluent": confluent, "aiokafka": aiokafka, "kafka-python": kafka_python}


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)
    KINDS[sys.argv[1]](sys.argv[2], sys.argv[3], Mail())
