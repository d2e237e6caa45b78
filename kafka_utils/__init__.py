"""Kafka transport: settings, producer, consumer, admin, discovery and the embedded broker.

Owns every contact with Kafka and knows nothing of jobs: it imports none of the other packages.
Times are seconds (`_s`) unless a name says `_ms`; a deadline is a reading of `time.monotonic()`.
"""
