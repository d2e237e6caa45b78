"""The engine's error tree.

Every error a user can cause is one line: what (field or file), the value, the limit, the mend.
"""


class NerfcoreError(Exception):
    """Root of every error the engine raises on purpose."""


class DataError(NerfcoreError):
    """Input data (COLMAP model, photographs, prepared dataset, partition) is missing or wrong."""


class CheckpointError(NerfcoreError):
    """A checkpoint is missing, truncated, or of another architecture or scene."""


class BackendUnavailableError(NerfcoreError):
    """A hash-grid backend or device named by the user cannot be used here."""


class SettingsError(NerfcoreError):
    """A setting is out of its range or contradicts another."""


class NonFiniteError(NerfcoreError):
    """Training or adaptation produced NaN or infinity too often to go on, or diverged."""


class PortInUseError(NerfcoreError):
    """The viewer's port is taken."""
