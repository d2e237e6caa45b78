"""The mediator: takes jobs from a Kafka topic into a durable ledger and runs each as a process.

It never imports torch, the engine or the runner: a job is `python -m runner` in its own session.
"""
