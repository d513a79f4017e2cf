"""A database server's URL as a user writes it: checked, shown without its password, given another address (pure).

libpq's rules (https://www.postgresql.org/docs/current/libpq-connect.html): several hosts are separated by commas, a host that begins
with a slash is the directory of a UNIX socket, parameters after `?` outdo what stands before. No error text here repeats a URL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

ALLOWED = "the path of a file, or postgresql://user:password@host:port/database"
SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
DEFAULT_PORT = "5432"

_URL = re.compile(
    r"(?P<scheme>[^:]+)://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?(?P<hosts>[^@/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>\d*))?")


@dataclass(frozen=True)
class Location:
    """libpq's parameters by name, decoded; `host` and `port` may be lists with commas. Its text and its repr keep the password back."""

    parameters: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Location({self})"

    def __str__(self) -> str:
        known = self.parameters
        user = f"{quote(known['user'])}@" if known.get("user") else ""
        address = ",".join(_address(host, port) for host, port in self.addresses)
        return f"postgresql://{user}{address}/{quote(known.get('dbname', ''))}"

    @property
    def url(self) -> str:
        """For libpq, whatever the values hold. It contains the password."""
        return "postgresql:///?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in self.parameters.items())

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """(host, port) of every server that may be tried; a port of '' is the default."""
        hosts = (self.parameters.get("hostaddr") or self.parameters.get("host") or "").split(",")
        ports = self.parameters.get("port", "").split(",")
        return [(host, ports[0] if len(ports) == 1 else ports[number]) for number, host in enumerate(hosts)]

    def with_defaults(self, user: str | None, sockets: str) -> "Location":
        """With the user and the socket directory that libpq would have found for itself on the host."""
        known = dict(self.parameters)
        if not known.get("user") and user:
            known["user"] = user
        if not known.get("host") and not known.get("hostaddr"):
            known["host"] = sockets
        return Location(known)

    def at(self, host: str, port: str) -> "Location":
        """The same database at another address."""
        kept = {key: value for key, value in self.parameters.items() if key not in ("host", "hostaddr", "port")}
        return Location(kept | {"host": host, "port": port})


def parse(url: str) -> Location:
    """Read a URL; ValueError says what is wrong with it, without repeating it."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("it is not of the form of a URL; percent-encode special characters in user and password")
    if match["scheme"] not in SCHEMES:
        raise ValueError(f"{match['scheme']} databases are not supported")
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00|\s", url):
        raise ValueError("it has a space, or a % that begins no percent-encoded character")
    hosts, ports = [], []
    for part in match["hosts"].split(","):
        address = _HOST.fullmatch(part)
        if address is None or int(address["port"] or 0) > 65535:
            raise ValueError("one of its hosts is not of the form host or host:port")
        hosts.append(unquote(address["host"].strip("[]")))
        ports.append(address["port"] or "")
    known = {key: unquote(match[key]) for key in ("user", "password", "dbname") if match[key]}
    known |= {"host": ",".join(hosts)} if any(hosts) else {}
    known |= {"port": ",".join(ports)} if any(ports) else {}
    try:
        known |= dict(parse_qsl((match["query"] or "").replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(match["query"])))
    except ValueError:
        raise ValueError("what follows its ? is not of the form name=value&name=value") from None
    location = Location(known)
    if len(known.get("port", "").split(",")) not in (1, len(location.addresses)):
        raise ValueError("it has more ports than hosts")
    return location


def is_url(text: str) -> bool:
    """Whether this is meant as a server's URL, and not as a path."""
    return "://" in text or text.startswith(tuple(f"{scheme}{mark}" for scheme in SCHEMES for mark in (":", "//")))


def without_password(text: str) -> str:
    """A stats-dir as it may be shown to anybody; a path stays as it is."""
    if not is_url(text):
        return text
    try:
        return str(parse(text))
    except ValueError:
        return f"{text.partition(':')[0]}://…"


def _address(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}" if port else shown
