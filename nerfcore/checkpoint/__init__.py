"""Checkpoints: one folder a step, safetensors files and a JSON manifest, written atomically."""

from nerfcore.checkpoint.files import (
    load_checkpoint,
    load_optimiser,
    read_manifest,
    save_checkpoint,
)
from nerfcore.checkpoint.store import CheckpointStore, announce, resolve_checkpoint

__all__ = [
    "CheckpointStore",
    "announce",
    "load_checkpoint",
    "load_optimiser",
    "read_manifest",
    "resolve_checkpoint",
    "save_checkpoint",
]
