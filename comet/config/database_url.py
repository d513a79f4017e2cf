"""Parses a database server's URL, shows it without its password, and changes its address.

libpq's rules hold (https://www.postgresql.org/docs/current/libpq-connect.html): commas separate several hosts, a host
that begins with a slash is the directory of a UNIX socket, and parameters after `?` override what stands before. No
error text repeats a URL. The functions have no side effects.
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
    """libpq's parameters by name, decoded; `host` and `port` may be lists with commas.

    Its str and repr do not contain the password.
    """

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
        """The URL for libpq with any parameter values; it contains the password."""
        return "postgresql:///?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in self.parameters.items())

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """The (host, port) of every server that may be tried; a port of '' is the default."""
        hosts = (self.parameters.get("hostaddr") or self.parameters.get("host") or "").split(",")
        ports = self.parameters.get("port", "").split(",")
        return [(host, ports[0] if len(ports) == 1 else ports[number]) for number, host in enumerate(hosts)]

    def with_defaults(self, user: str | None, sockets: str) -> "Location":
        """Return a location with the user and the socket directory that libpq would use by default on the host."""
        known = dict(self.parameters)
        if not known.get("user") and user:
            known["user"] = user
        if not known.get("host") and not known.get("hostaddr"):
            known["host"] = sockets
        return Location(known)

    def at(self, host: str, port: str) -> "Location":
        """Return the same database at another address."""
        kept = {key: value for key, value in self.parameters.items() if key not in ("host", "hostaddr", "port")}
        return Location(kept | {"host": host, "port": port})


def parse(url: str) -> Location:
    """Parse a URL; raise ValueError that says what is wrong without repeating the URL."""
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
        known |= dict(
            parse_qsl(
                (match["query"] or "").replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(match["query"])
            )
        )
    except ValueError:
        raise ValueError("what follows its ? is not of the form name=value&name=value") from None
    location = Location(known)
    if len(known.get("port", "").split(",")) not in (1, len(location.addresses)):
        raise ValueError("it has more ports than hosts")
    return location


def is_url(text: str) -> bool:
    """Return whether a text is meant as a server's URL and not as a path.

    A text that begins like a path is one, whatever it contains.
    """
    return (not text.startswith(("/", "./", "../")) and "://" in text) or text.startswith(
        tuple(f"{scheme}{mark}" for scheme in SCHEMES for mark in (":", "//"))
    )


def without_password(text: str) -> str:
    """Return a stats-dir without a password, so that anybody may see it; a path stays as it is."""
    if not is_url(text):
        return text
    try:
        return str(parse(text))
    except ValueError:
        return f"{text.partition(':')[0]}://…"


def _address(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{shown}:{port}" if port else shown
