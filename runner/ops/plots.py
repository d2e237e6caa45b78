"""Owns the TensorBoard plots of a training run."""

from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

NAMES = {
    "loss": "train/loss",
    "train_psnr": "train/psnr_db",
    "rays_per_s": "speed/rays_per_s",
    "samples_per_ray": "speed/samples_per_ray",
    "occupied": "scene/occupied_share",
}


class Plots:
    """Writes a run's numbers as TensorBoard scalars; use as a context manager."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open the folder.

        Args:
            folder: the job's tensorboard/.
            first_step: plots of an earlier attempt from here on are hidden.
        """
        purge = first_step + 1 if first_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def __enter__(self) -> "Plots":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, record: dict[str, Any]) -> None:
        """Plot what one progress record of the engine tells."""
        step = int(record.get("step", 0))
        if record["event"] == "validation":
            self._writer.add_scalar("val/psnr_db", record["psnr"], step)
            return
        for name, tag in NAMES.items():
            if record.get(name) is not None:
                self._writer.add_scalar(tag, record[name], step)
