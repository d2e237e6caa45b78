#!/usr/bin/env python3
"""Runs jobs while everything that can be killed is killed, and counts what became of them.

    scripts/chaos.py [--jobs 1000] [--seconds 600] [--seed 0] [--out chaos.json]

Two mediators with log roots of their own share an embedded broker; three foreign clients publish
jobs, duplicates of them, requests to cancel and to retry some, and garbage. At random moments a
mediator, a runner or the broker gets kill -9, or the broker or a mediator is stopped for a while.
With --machines a mediator also vanishes with its runners for longer than its lease: a job that it
had done and could not tell of is then rightly run again elsewhere, and `run_twice` counts it.
Without it the lease is longer than several kills in a row take on a slow machine.

The embedded broker loses its log when it is killed, so the clients publish again what was not
answered, as any at-least-once producer would; `republished` counts that.

Every number is counted from the topics, as a reader of their own saw them, the two ledgers, the job
folders and /proc. Exit code 0 when nothing was lost, told twice, run twice or left over, else 1.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from chaos_actors import CLIENTS, Actor, Client, broker_answers, free_port, kill_runners, runners
from chaos_count import Collector, Requested, slots_at_work, unfinished, verdict, zombie_rows
from chaos_mail import Mail, make_mail
from rich.console import Console
from rich.table import Table

from kafka_utils.settings import KafkaSettings

SLOTS, WAVES = 2, 4
LEASE_S, MACHINES_LEASE_S = 60.0, 10.0
MEET_S, END_S = 120.0, 90.0
RARE_DEEDS = ("broker", "broker stop", "mediator stop")
DEEDS = ("runner",) * 6 + ("mediator",) * 4 + RARE_DEEDS
WINDOW = 400
AGAIN_S = 20.0
MUST_BE_ZERO = (
    "lost", "double_terminal", "run_twice", "repeated_events", "orphans", "zombie_slots",
    "unanswered_garbage", "unanswered_probes", "unfinished",
)  # fmt: skip


@dataclass
class World:
    """Everything that takes part.

    Attributes:
        folder: project folder of the run.
        rng: chooses what happens when.
        port: the broker's port.
        topic: the jobs topic.
        broker: its process.
        mediators: theirs.
        life: how often the broker began anew.
        counts: what was done.
    """

    folder: Path
    rng: random.Random
    port: int
    topic: str
    broker: Actor
    mediators: list[Actor]
    life: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("kills", "mediator_kills", "runner_kills", "broker_kills", "broker_stops",
         "mediator_stops", "machines_lost", "republished", "confirmed"), 0))  # fmt: skip
    wake_at: dict[str, float] = field(default_factory=dict)

    def keep(self) -> None:
        """Start what is due again and wake what was stopped."""
        for actor in (self.broker, *self.mediators):
            if self.wake_at.get(actor.name, float("inf")) <= time.monotonic():
                del self.wake_at[actor.name]
                actor.signal(signal.SIGCONT)
            actor.keep()

    def count(self, *names: str, number: int = 1) -> None:
        """Count what was done."""
        for name in names:
            self.counts[name] += number


def make_world(folder: Path, seed: int, lease_s: float) -> World:
    """Make the project folder and the processes, none of them started."""
    dataset = folder / "data/drz/out/city"
    (dataset / "masks/g22").mkdir(parents=True)
    (dataset / "dataset.json").write_text("{}")
    (dataset / "masks/g22/partition.json").write_text("{}")
    port, topic = free_port(), "chaosConfigs"
    address = f"127.0.0.1:{port}"
    broker = Actor(
        "broker",
        [sys.executable, "-m", "kafka_utils.broker", "--port", str(port),
         "--state", str(folder / "broker.json")],
        folder / "broker.log",
    )  # fmt: skip
    program = str(Path(__file__).with_name("chaos_mediator.py"))
    mediators = [
        Actor(
            name,
            [
                sys.executable,
                program,
                str(folder),
                str(folder / name),
                address,
                topic,
                str(SLOTS),
                str(lease_s),
            ],
            folder / f"{name}.log",
        )
        for name in ("a", "b")
    ]
    return World(folder, random.Random(seed), port, topic, broker, mediators)


def harm(world: World, deed: str) -> None:
    """Do one bad thing."""
    rng = world.rng
    victim = rng.choice(world.mediators)
    if deed == "runner":
        killed = kill_runners(world.folder, rng)
        world.count("kills", "runner_kills", number=killed)
    elif deed == "mediator":
        victim.kill(rng.uniform(0.1, 4.0))
        world.count("kills", "mediator_kills")
    elif deed == "machine" and all(m.due is None for m in world.mediators):
        victim.kill(15.0)
        killed = kill_runners(world.folder / victim.name, rng, everything=True)
        world.count("kills", number=killed + 1)
        world.count("machines_lost")
    elif deed == "broker":
        world.broker.kill(rng.uniform(0.1, 3.0))
        world.life += 1
        world.count("kills", "broker_kills")
    elif deed == "broker stop":
        world.broker.signal(signal.SIGSTOP)
        world.wake_at["broker"] = time.monotonic() + rng.uniform(0.5, 5.0)
        world.count("broker_stops")
    elif deed == "mediator stop":
        victim.signal(signal.SIGSTOP)
        world.wake_at[victim.name] = time.monotonic() + rng.uniform(0.5, 4.0)
        world.count("mediator_stops")


class Post:
    """Publishes the mail through the clients, and again what was not answered."""

    def __init__(self, world: World, mail: list[Mail], collector: Collector) -> None:
        self._world = world
        self._mail = mail
        self._collector = collector
        self._next = 0
        self._open: set[int] = set()
        address = f"127.0.0.1:{world.port}"
        self._clients = [Client(kind, address, world.topic, self._confirmed) for kind in CLIENTS]

    def _confirmed(self, number: int) -> None:
        self._mail[number].sent_at = time.monotonic()
        self._world.counts["confirmed"] += 1

    @property
    def done(self) -> bool:
        """Whether everything was published and answered."""
        return self._next == len(self._mail) and not self._open

    def pump(self, up_to: int) -> None:
        """Publish some more, and again what was lost or has waited for long."""
        for number in list(self._open):
            item = self._mail[number]
            if self._collector.answered(item.value, item.job_id):
                item.answered = True
                self._open.discard(number)
            elif item.sent_at and self._is_due_again(item):
                self._world.count("republished")
                self._send(number)
        while self._next < min(up_to, len(self._mail)) and len(self._open) < WINDOW:
            self._open.add(self._next)
            self._send(self._next)
            self._next += 1

    def _is_due_again(self, item: Mail) -> bool:
        waited_s = time.monotonic() - item.sent_at
        return waited_s > AGAIN_S or (item.life != self._world.life and waited_s > 1.0)

    def _send(self, number: int) -> None:
        item = self._mail[number]
        item.sent_at, item.life = 0.0, self._world.life
        self._clients[number % len(self._clients)].send(number, item.key, item.value)

    def unanswered(self) -> list[Mail]:
        """Give the messages without an outcome."""
        return [item for item in self._mail if not item.answered]

    def end(self) -> None:
        """End the clients."""
        for client in self._clients:
            client.end()


def await_acquaintance(world: World) -> None:
    """Let the mediators meet: who has met nobody cannot know what a broker's lost log held.

    Raises:
        TimeoutError: they did not within `MEET_S`.
    """
    until = time.monotonic() + MEET_S
    while time.monotonic() < until:
        world.keep()
        logs = [m.log.read_text() if m.log.exists() else "" for m in world.mediators]
        if all("jobs are shared with it" in log for log in logs):
            return
        time.sleep(0.05)
    raise TimeoutError(f"the mediators did not meet within {MEET_S:g} s; see {world.folder}")


def run(
    world: World, mail: list[Mail], seconds: float, collector: Collector, *, machines: bool
) -> Post:
    """Publish and harm for three fifths of the time, then let everything come to its end.

    A slow machine may need longer for the end; it is given up after twice the time.
    """
    post = Post(world, mail, collector)
    began = time.monotonic()
    calm_at, end_at = began + 0.6 * seconds, began + 2 * seconds
    next_harm = began + 2.0
    deck = ["runner", "mediator", *RARE_DEEDS]
    world.rng.shuffle(deck)
    while time.monotonic() < end_at and not (post.done and time.monotonic() > calm_at):
        now = time.monotonic()
        world.keep()
        if now < calm_at and now >= next_harm:
            more = ("machine",) if machines and now < calm_at - 30 else ()
            harm(world, deck.pop() if deck else world.rng.choice((*DEEDS, *more)))
            next_harm = now + world.rng.expovariate(1.0 / min(4.0, seconds / 20))
        share = min(1.0, (now - began) / (0.5 * seconds))
        post.pump(max(1, int(share * len(mail))))
        time.sleep(0.02)
    return post


def await_end(world: World, ledgers: list[Path]) -> int:
    """Let the jobs that were queued anew come to their end too; give how many did not."""
    until = time.monotonic() + END_S
    while (left := unfinished(ledgers)) and time.monotonic() < until:
        world.keep()
        time.sleep(0.2)
    return left


def probe(world: World, collector: Collector) -> tuple[int, int]:
    """Fill every slot once more: give the slots that stayed empty, and the jobs not answered.

    A mediator that has just come back has no partition yet, so there is more than one wave.
    """
    ledgers = [world.folder / m.name / "ledger.sqlite3" for m in world.mediators]
    seen: set[tuple[str, str]] = set()
    silent = 0
    for wave in range(WAVES):
        silent += _probe_wave(world, collector, wave, ledgers, seen)
        if len(seen) == len(ledgers) * SLOTS:
            break
    return len(ledgers) * SLOTS - len(seen), silent


def _probe_wave(
    world: World,
    collector: Collector,
    wave: int,
    ledgers: list[Path],
    seen: set[tuple[str, str]],
) -> int:
    mail = []
    for number in range(8 * SLOTS):
        job_id = f"probe-{wave}-{number}"
        spec = {"op": "train", "data_dirname": "city", "mask_dirname": "g22", "job_id": job_id,
                "dataset": "work:0.7"}  # fmt: skip
        mail.append(Mail(job_id, json.dumps(spec).encode(), job_id))
    post = Post(world, mail, collector)
    until = time.monotonic() + 60
    while time.monotonic() < until and not post.done:
        world.keep()
        post.pump(len(mail))
        seen |= slots_at_work(ledgers, 0.3)
    post.end()
    return len(post.unanswered())


def chaos(
    jobs: int, seconds: float, seed: int, garbage_count: int, folder: Path, *, machines: bool
) -> dict[str, int]:
    """Run it all and return the numbers."""
    world = make_world(folder, seed, MACHINES_LEASE_S if machines else LEASE_S)
    mail = make_mail(jobs, random.Random(seed), garbage_count)
    job_ids = sorted({item.job_id for item in mail if item.job_id is not None})
    requested = Requested.of(mail)
    world.broker.start()
    while not broker_answers(world.port):
        time.sleep(0.05)
    settings = KafkaSettings(f"127.0.0.1:{world.port}", jobs_topic=world.topic, embedded=True)
    collector = Collector(settings)
    began = time.monotonic()
    try:
        await_acquaintance(world)
        post = run(world, mail, seconds, collector, machines=machines)
        for actor in (world.broker, *world.mediators):
            actor.signal(signal.SIGCONT)
        world.keep()
        ledgers = [folder / m.name / "ledger.sqlite3" for m in world.mediators]
        undone = await_end(world, ledgers)
        zombies = zombie_rows(ledgers)
        empty, silent = probe(world, collector)
        codes = [mediator.end(30) for mediator in world.mediators]
        post.end()
    finally:
        collector.end()
        for actor in (*world.mediators, world.broker):
            actor.end(10)
    if collector.repeats:
        (folder / "repeats.json").write_text(json.dumps(collector.repeats, indent=1) + "\n")
    left = [item for item in post.unanswered() if item.job_id is None]
    numbers = {"jobs": len(job_ids), **verdict(collector, job_ids, ledgers, requested)}
    numbers |= {"orphans": len(list(runners(folder))), "zombie_slots": zombies + empty}
    numbers |= {**world.counts, "garbage": garbage_count, "unanswered_garbage": len(left)}
    numbers |= {"unanswered_probes": silent, "unfinished": undone}
    numbers |= {"cancels_sent": len(requested.cancelled), "retries_sent": len(requested.retried)}
    asked = len(requested.cancelled) + len(requested.retried)
    numbers |= {"duplicates_sent": len(mail) - jobs - asked - garbage_count}
    numbers |= {"bad_exits": sum(code != 0 for code in codes), "seed": seed}
    return numbers | {"seconds": round(time.monotonic() - began)}


def main(
    jobs: Annotated[int, typer.Option(min=1)] = 1000,
    seconds: Annotated[float, typer.Option(min=10, help="about how long it takes, s")] = 600,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="where the numbers go")] = Path("chaos.json"),
    garbage_count: Annotated[
        int | None, typer.Option("--garbage", min=0, help="default 100 a job")
    ] = None,
    machines: Annotated[
        bool, typer.Option("--machines", help="whole machines vanish beyond their lease too")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep the folder of the run")] = False,
) -> None:
    """Run jobs under kill -9 and count what became of them."""
    folder = Path(tempfile.mkdtemp(prefix="skyline-chaos-"))
    wanted = 100 * jobs if garbage_count is None else garbage_count
    numbers = chaos(jobs, seconds, seed, wanted, folder, machines=machines)
    table = Table("number", "value", title="chaos")
    for name, value in numbers.items():
        mark = " <- must be 0" if name in MUST_BE_ZERO and value else ""
        table.add_row(name, f"{value}{mark}")
    Console().print(table)
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    failed = any(numbers[name] for name in MUST_BE_ZERO)
    if keep or failed:
        print(f"logs and ledgers: {folder}")
    else:
        shutil.rmtree(folder)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
