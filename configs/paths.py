"""Owns where jobs may read and write: every path of a job is resolved and held inside the roots.

Symbolic links are followed before the check, so a link that leads out of the roots is refused.
"""

from dataclasses import dataclass
from pathlib import Path

from configs.errors import JobRefused


@dataclass(frozen=True)
class Roots:
    """The folders that jobs may touch.

    Attributes:
        project: what relative paths in jobs start from.
        data: where datasets lie.
        logs: where job folders lie.
        more_data: further data roots.
    """

    project: Path
    data: Path
    logs: Path
    more_data: tuple[Path, ...] = ()

    @classmethod
    def below(
        cls, project: Path, data: list[Path] | None = None, logs: Path | None = None
    ) -> "Roots":
        """Return roots with the defaults `<project>/data` and `<project>/logs` filled in."""
        first, *more = data or [project / "data"]
        return cls(project, first, logs or project / "logs", tuple(more))

    @property
    def data_roots(self) -> tuple[Path, ...]:
        """Every data root, resolved."""
        return tuple(root.resolve() for root in (self.data, *self.more_data))

    def describe_data(self) -> str:
        """Return the data roots as one text for messages."""
        return ", ".join(str(root) for root in self.data_roots)


def resolve_data(roots: Roots, data_path: str, data_dirname: str) -> Path:
    """Return the dataset's folder `<data_path>/out/<data_dirname>`; it need not exist.

    Raises:
        JobRefused: the folder lies outside the data roots.
    """
    base = _resolved(roots.project / data_path, "data_path", data_path)
    _require_inside(base, roots.data_roots, "data_path", data_path)
    folder = _resolved(base / "out" / data_dirname, "data_dirname", data_dirname)
    _require_inside(folder, roots.data_roots, "data_dirname", data_dirname)
    return folder


def resolve_partition(roots: Roots, dataset: Path, mask_dirname: str) -> Path:
    """Return the partition's folder `<dataset>/masks/<mask_dirname>`; it need not exist.

    Raises:
        JobRefused: the folder lies outside the data roots.
    """
    folder = _resolved(dataset / "masks" / mask_dirname, "mask_dirname", mask_dirname)
    _require_inside(folder, roots.data_roots, "mask_dirname", mask_dirname)
    return folder


def resolve_checkpoint(roots: Roots, value: str) -> Path:
    """Return the folder that `checkpoint_path` names; it need not exist.

    Args:
        roots: the folders a checkpoint may lie in.
        value: a job id, a path below the log root (with or without its name in front, such as
            "logs/example" and "example"), or an absolute path inside the log or data roots.

    Raises:
        JobRefused: the path leaves the roots.
    """
    return _below_logs(roots, value, "checkpoint_path")


def resolve_camera_path(roots: Roots, value: str) -> Path:
    """Return the file that `camera_path` names; it need not exist.

    Args:
        roots: the folders it may lie in.
        value: as for `resolve_checkpoint`; no preset's name.

    Raises:
        JobRefused: the path leaves the roots.
    """
    return _below_logs(roots, value, "camera_path")


def _below_logs(roots: Roots, value: str, field: str) -> Path:
    logs = roots.logs.resolve()
    relative = Path(value)
    if relative.is_absolute():
        path = _resolved(relative, field, value)
    else:
        named = relative.parts[:1] == (roots.logs.name,)
        below = Path(*relative.parts[1:]) if named and len(relative.parts) > 1 else relative
        path = _resolved(logs / below, field, value)
    _require_inside(path, (logs, *roots.data_roots), field, value)
    return path


def _resolved(path: Path, field: str, value: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise JobRefused.because(f"cannot be resolved: {error}", field, value) from error


def _require_inside(path: Path, roots: tuple[Path, ...], field: str, value: str) -> None:
    if any(path.is_relative_to(root) for root in roots):
        return
    allowed = ", ".join(str(root) for root in roots)
    raise JobRefused.because(
        f"leads to {path}, outside {allowed}; move it inside, or start the mediator with that "
        "folder as --data-root",
        field,
        value,
    )
