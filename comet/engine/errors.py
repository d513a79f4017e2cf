"""Names the errors that calls to an engine raise, and describes each in one line.

The SDK is imported when an error is named or described, not before: a cluster of processes never needs it, and its
import costs more than the rest of a command.
"""

import functools

UNREACHABLE = "the Docker engine does not answer"


@functools.cache
def engine_errors() -> tuple[type[Exception], ...]:
    """Return the classes of all errors of calls to an engine, for an `except` clause."""
    import docker.errors
    import requests.exceptions

    return (docker.errors.DockerException, requests.exceptions.RequestException, OSError)


def error_text(error: Exception) -> str:
    """Return an engine's error in one line."""
    import docker.errors
    import requests.exceptions

    if isinstance(error, docker.errors.APIError) and error.explanation:
        return " ".join(str(error.explanation).split())
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout | ConnectionError):
        return UNREACHABLE
    return " ".join(str(error).split()) or type(error).__name__
