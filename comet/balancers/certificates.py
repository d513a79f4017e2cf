"""Finds the certificate of the load balancers, and makes one for development.

The files are read at a start and at a reload, and at no other time. What is not usable is refused before anything
changes. Load balancers get a copy of what is in use, which is written when it is applied: one that starts later has
the certificate of the others, also where the files were replaced meanwhile, or a reload was refused. The copy holds
the key, so it goes when TLS is turned off.
"""

import os
import re
import ssl
import stat
import subprocess
from hashlib import blake2b
from pathlib import Path
from typing import Any

from comet.common.errors import UserError, os_error_text
from comet.config.schema import Config
from comet.host import files
from comet.state.directory import Cluster

SELF_SIGNED_DAYS = 365
RENEWED_BEFORE = 86400
"""Seconds before its end at which a self-signed certificate is replaced by the next `run` or `reload`."""

COMMAND_TIMEOUT = 30.0
"""Seconds."""

MAX_BYTES = 1 << 20
"""Bytes that a certificate or a key has at most."""

USED = "tls/used.pem"
"""File in the cluster's folder with the key and the certificate in use."""

_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----\s*", re.DOTALL)
_REASONS = {"KEY_VALUES_MISMATCH": "the key belongs to another certificate"}


def files_of(config: Config, cluster: Cluster) -> tuple[Path, Path] | None:
    """Return certificate and key, None for plain HTTP."""
    if config.tls == "self-signed":
        return cluster.path("tls", "certificate.pem"), cluster.path("tls", "key.pem")
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return config.folder / config.tls_certificate, config.folder / config.tls_key


def settings_of(digest: str | None, cluster: Cluster) -> dict[str, Any]:
    """Return the settings of load balancers about TLS, with the certificate of this digest (None: plain HTTP)."""
    used = str(cluster.path(USED))
    return {} if digest is None else {"tls_certificate": used, "tls_key": used, "tls_digest": digest}


def digest(content: bytes | None) -> str | None:
    """Return what tells certificates apart; None for plain HTTP."""
    return None if content is None else blake2b(content, digest_size=8).hexdigest()


def require(config: Config, cluster: Cluster, make: bool = True) -> bytes | None:
    """Return key and certificate as one text in PEM form, None for plain HTTP; raise UserError where they are unusable.

    A self-signed one that is missing or ends soon is made; without `make` it is not looked at. To be called on a
    thread.
    """
    found = files_of(config, cluster)
    if found is None or (config.tls == "self-signed" and not make):
        return None
    if config.tls == "self-signed":
        _ensure_self_signed(*found)
    where = f"{config.path.name}:{config.lines.get('tls-certificate', config.lines.get('tls', 1))}: tls-certificate"
    try:
        certificate, key = map(_read, found)
        content = b"\n".join([*(each[0] for each in _KEY.finditer(key)), _KEY.sub(b"", certificate)])
        _require_usable(content)
    except ssl.SSLError as error:
        reason = _REASONS.get(error.reason or "", "not a certificate and its key in PEM form, without a password")
        raise UserError(f"{where}: {found[0]} and {found[1].name}: {reason}", 2) from None
    except OSError as error:
        raise UserError(f"{where}: {found[0]} or {found[1].name} cannot be read: {os_error_text(error)}", 2) from None
    return content


def _read(path: Path) -> bytes:
    """Return the content of a file that the user named; raise OSError, also for what is no file: it could block."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is no regular file")
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(0, f"it has more than {MAX_BYTES >> 20} MiB")
        return content


def _require_usable(content: bytes) -> None:
    """Raise OSError (SSLError included) unless this is a certificate and its key."""
    with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
        file.write(content)
        path = Path(f"/proc/self/fd/{file.fileno()}")
        # Without a password, even an empty one, OpenSSL would ask the terminal for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, path, password="")  # nosec B106


def use(content: bytes | None, cluster: Cluster) -> None:
    """Write the copy that load balancers load, or remove it where they speak plain HTTP; UserError if it is refused."""
    used = cluster.path(USED)
    if content is None:
        files.discard(used)
        return
    try:
        used.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(used, content)
    except OSError as error:
        raise UserError(f"{used}: cannot be written: {os_error_text(error)}") from None


def restore(content: bytes | None, cluster: Cluster) -> bool:
    """Write the copy again where it is missing; return whether it was."""
    if content is None or files.is_there(cluster.path(USED)):
        return False
    use(content, cluster)
    return True


def _ensure_self_signed(certificate: Path, key: Path) -> None:
    check = ["openssl", "x509", "-noout", "-checkend", str(RENEWED_BEFORE), "-in", str(certificate)]
    if certificate.exists() and key.exists() and _openssl(check).returncode == 0:
        return
    certificate.parent.mkdir(mode=0o700, exist_ok=True)
    done = _openssl(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", str(SELF_SIGNED_DAYS), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"),
        ]
    )
    if done.returncode:
        raise UserError(f"tls: self-signed: openssl failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    key.chmod(0o600)


def _openssl(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except FileNotFoundError:
        raise UserError(
            "tls: self-signed needs the program openssl (install it, or name tls-certificate and tls-key)"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"tls: self-signed: openssl failed: {error}") from None
