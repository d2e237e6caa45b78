"""Makes messages that no mediator can accept, each of them different."""

import json
import random

TEXTS = ("../../x", "a\u202eb", "\u0430dmin", "x" * 70, "", "a/b", ".hidden", "con\u0000", "ﬀ")


def garbage(rng: random.Random, number: int) -> bytes:
    """Give the n-th message: broken bytes, broken JSON, or JSON that is no job.

    Args:
        rng: chooses.
        number: put into the message, so that no two are the same.
    """
    mark = f"garbage {number}"
    base = {"op": "train", "data_dirname": "city", "mask_dirname": "g22", "dataset": mark}
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 300)) + b"\xff" + mark.encode()
    if kind == 1:
        return mark.encode()
    if kind == 2:
        return json.dumps([base]).encode()
    if kind == 3:
        return b"[" * rng.randrange(20, 3000) + mark.encode()
    if kind == 4:
        return json.dumps({**base, "near": float(rng.choice(("nan", "inf", "-inf")))}).encode()
    if kind == 5:
        return json.dumps(
            {**base, "op": rng.choice(("trian", "evil", "cancle", "", "TRAIN"))}
        ).encode()
    if kind == 6:
        return json.dumps({**base, rng.choice(("batch_ray", "exec", "__class__")): 1}).encode()
    if kind == 7:
        return json.dumps({**base, "job_id": rng.choice(TEXTS)}).encode()
    if kind == 8:
        return json.dumps({**base, "seed": rng.choice(("1", 1.5, [], {}, None, 10**30))}).encode()
    if kind == 9:
        path = rng.choice(("/etc", "../../..", "/proc/self/root", "data/../../../tmp"))
        return json.dumps({**base, "data_path": path}).encode()
    if kind == 10:
        return json.dumps(base).encode()[: rng.randrange(1, 40)] + mark.encode()
    return json.dumps({**base, "mask_dirname": f"none-{number}"}).encode()
