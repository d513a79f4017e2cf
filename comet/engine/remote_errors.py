"""Says in plain words why an engine on another machine, reached by TCP or TLS, cannot be used.

The SDK passes on what urllib3 and ssl say, wrapped in the texts of their objects; the reason is at the inner end.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
"""The files of DOCKER_CERT_PATH."""


def reason(error: BaseException, timeout: float) -> str:
    """Return the reason of an error of the SDK in one line; calls had `timeout` seconds."""
    text = str(error)
    for inner in _chain(error):
        if isinstance(inner, TimeoutError) or type(inner).__name__.endswith("TimeoutError"):
            return f"no answer within {timeout:g} s"
        if isinstance(inner, OSError) and inner.strerror:
            text = inner.strerror
    return " ".join(text.split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those within it, from the outside to the inside."""
    seen: list[BaseException] = []
    found: object = error
    while isinstance(found, BaseException) and found not in seen:
        yield found
        seen.append(found)
        inner = (getattr(found, "reason", None), *found.args[:1], found.__cause__, found.__context__)
        found = next((each for each in inner if isinstance(each, BaseException)), None)


def certificate_error(environ: Mapping[str, str]) -> str | None:
    """Return what is wrong with the files that DOCKER_CERT_PATH names, as one line; None if TLS can use them.

    As in `docker.utils.kwargs_from_env`, an empty DOCKER_TLS_VERIFY turns TLS off, any other value on, with the server
    verified. Without it, DOCKER_CERT_PATH turns TLS on alone.
    """
    folder, verify = environ.get("DOCKER_CERT_PATH"), environ.get("DOCKER_TLS_VERIFY")
    if verify == "" or (verify is None and not folder):
        return None
    files = Path(folder) if folder else Path("~/.docker").expanduser()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    advice = f"for TLS, DOCKER_CERT_PATH names the folder of {AUTHORITY}, {CERTIFICATE} and {KEY}"
    for name in (CERTIFICATE, KEY) if verify is None else (AUTHORITY, CERTIFICATE, KEY):
        try:
            (files / name).open("rb").close()
        except OSError as error:
            return f"{files / name}: {error.strerror}; {advice}"
    try:
        named = f"{files / AUTHORITY} holds"
        if verify is not None:
            context.load_verify_locations(files / AUTHORITY)
        named = f"{files / CERTIFICATE} and {files / KEY} hold"
        context.load_cert_chain(files / CERTIFICATE, files / KEY, password="")  # nosec B106 - asks nobody
    except (ssl.SSLError, OSError) as error:
        return f"{named} no certificate or key that TLS can use: {error.strerror or error}; {advice}"
    return None
