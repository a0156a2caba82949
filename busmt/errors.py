"""Errors that busmt raises on purpose; the CLI prints them as one line and exits with 2."""


class BusmtError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do."""


class ConfigError(BusmtError):
    """A configuration value or key that busmt does not accept."""


class DataError(BusmtError):
    """A file, folder, catalog or mask that cannot be used."""


class RunError(BusmtError):
    """A run folder that is missing, incomplete or in conflict with what was asked."""


class ExportError(BusmtError):
    """An export that could not be written or that disagrees with the Keras model."""
