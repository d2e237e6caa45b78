"""Makes what the clients of a chaos run publish: jobs, copies, requests about them, and garbage."""

import json
import random
from dataclasses import dataclass

from chaos_garbage import garbage

COPIED, CANCELLED, RETRIED = 0.2, 0.05, 0.6  # shares: of the jobs, of the jobs, of the cancelled
LATE = 0.7  # where in the mail requests to retry begin


@dataclass
class Mail:
    """One message and what is known of it.

    Attributes:
        job_id: the job it brings or means; None for garbage.
        op: "cancel" or "retry" for a request; "" for all else.
    """

    key: str | None
    value: bytes
    job_id: str | None
    op: str = ""
    sent_at: float = 0.0
    life: int = 0
    answered: bool = False


def make_mail(jobs: int, rng: random.Random, garbage_count: int) -> list[Mail]:
    """Make the jobs, copies of a fifth of them, requests about some, and garbage, shuffled."""
    mail: list[Mail] = []
    retries: list[Mail] = []
    for number in range(jobs):
        job_id = f"job-{number:05d}"
        spec = {"op": "train", "data_dirname": "city", "mask_dirname": "g22", "job_id": job_id,
                "dataset": f"work:{rng.uniform(0.0, 0.4):.2f}"}  # fmt: skip
        key = job_id if rng.random() < 0.5 else None
        mail.append(Mail(key, json.dumps(spec).encode(), job_id))
        if rng.random() < COPIED:
            again = rng.choice((key, None, f"other-{number}"))
            mail.append(Mail(again, json.dumps(spec, indent=1).encode(), job_id))
        if rng.random() < CANCELLED:
            mail.append(_request("cancel", rng.choice((key, None)), job_id))
            if rng.random() < RETRIED:
                retries.append(_request("retry", rng.choice((key, None)), job_id))
    mail += [Mail(None, garbage(rng, number), None) for number in range(garbage_count)]
    rng.shuffle(mail)
    for retry in retries:  # the job should have had its end by then
        mail.insert(rng.randrange(int(LATE * len(mail)), len(mail) + 1), retry)
    return mail


def _request(op: str, key: str | None, job_id: str) -> Mail:
    return Mail(key, json.dumps({"op": op, "job_id": job_id}).encode(), job_id, op)
