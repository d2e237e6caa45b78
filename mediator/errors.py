"""The mediator's error tree; each message is one line with the file or field, and the mend."""


class MediatorError(Exception):
    """Root of every error the mediator raises on purpose."""


class TransitionError(MediatorError):
    """A job was asked to go from one state to another that the table does not allow."""


class LedgerError(MediatorError):
    """The ledger cannot be used."""


class LedgerLockedError(LedgerError):
    """Another mediator holds the ledger of this log root."""


class LedgerCorruptError(LedgerError):
    """The ledger file is damaged, truncated, or not a ledger."""


class LedgerWriteError(LedgerError):
    """A transaction was rolled back for want of space or permission; it may be tried again."""


class RunnerStartError(MediatorError):
    """A runner process could not be started."""


class SettingsError(MediatorError):
    """A command-line setting is out of its range or names something unusable."""
