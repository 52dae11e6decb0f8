"""The exceptions that end a command with a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake in the command or the configuration: the message says what, where and what to do. Exit code 2."""

    exit_code = 2


def os_error_sentence(error: OSError) -> str:
    """An error of the operating system as what it concerns and why."""
    return f"{error.filename or 'the operating system'}: {error.strerror or error}"


class CheckFailed(UserError):
    """A check ran to its end and the answer is no: a mismatch, a broken file, a failed proof. Exit code 1."""

    exit_code = 1
