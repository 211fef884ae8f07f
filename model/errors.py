"""The error a user can mend: one clear line, exit code 2, never a traceback."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input; the message is one line that names what was given, what is allowed, and the remedy where there is one."""
