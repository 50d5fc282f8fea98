"""The error that commands report as a message instead of a traceback."""


class UserError(ValueError):
    """Input that the user can fix; the message says how. Commands print it without a traceback and exit with code 2."""
