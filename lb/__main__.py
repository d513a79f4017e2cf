"""Runs one load balancer alone, without supervisor, Docker or config file: `python -m lb`."""

import argparse
import contextlib
import signal
import socket
import sys
from dataclasses import MISSING, fields

from lb.interface.settings import ACCESS_LOG_FORMATS, BALANCES, Settings, UpstreamSpec, changed
from lb.process import tls
from lb.process.admission import BACKLOG
from lb.process.server import serve
from lb.system import log
from lb.system.process_setup import not_ignored, prepare_process

_OPTIONAL_NUMBERS = ("max_body", "max_in_flight", "hash_balance_factor")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 1 if it cannot listen, 2 after wrong usage."""
    prepare_process()
    options = _parser().parse_args(arguments)
    values = {field.name: value for field in fields(Settings) if (value := getattr(options, field.name)) is not None}
    try:
        changed(Settings(), values)
        if values.get("access_log_format", "json") not in ACCESS_LOG_FORMATS:
            raise ValueError(f"setting access_log_format: not one of {', '.join(ACCESS_LOG_FORMATS)}")
        if not values.get("name", "lb-0").isprintable() or not values.get("name", "lb-0").isascii():
            raise ValueError("setting name: not printable ASCII")
        tls.context(Settings(**values))
    except OSError as error:
        _parser().error(f"the certificate cannot be used: {error}")
    except ValueError as error:
        _parser().error(str(error))
    try:
        upstreams = tuple(_resolve(index, host, port) for index, (host, port) in enumerate(options.upstream))
        listener = _listen(*options.listen)
    except OSError as error:
        print(f"lb: {error}", file=sys.stderr)
        return 1
    log.start(None)
    serve(
        Settings(**values),
        listener,
        upstreams,
        counters_path=options.counters,
        signals=not_ignored(signal.SIGTERM, signal.SIGINT),
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lb", description="HTTP load balancer.")
    parser.add_argument("--listen", required=True, type=_address, metavar="HOST:PORT")
    parser.add_argument("--upstream", required=True, type=_address, action="append", metavar="HOST:PORT")
    parser.add_argument("--counters", metavar="FILE", help="keep the counters in this file")
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        default = None if field.default is MISSING else field.default
        if field.name == "balance":
            parser.add_argument(flag, choices=BALANCES, help=f"default {default}")
        elif isinstance(default, bool):
            parser.add_argument(flag, type=_flag, metavar="true|false", help=f"default {str(default).lower()}")
        else:
            kind = int if field.name in _OPTIONAL_NUMBERS else str if default is None else type(default)
            parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=f"default {default}")
    return parser


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


def _resolve(index: int, host: str, port: int) -> UpstreamSpec:
    """Refuse a name that cannot be resolved; `lb.proxy.dialer` resolves it again while the load balancer runs."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot resolve {host}: {getattr(error, 'strerror', None) or error}") from error
    return UpstreamSpec(f"worker-{index}", host, port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen(BACKLOG)
    return listener


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
