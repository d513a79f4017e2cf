"""Who may change a cluster through its admin server: its user and root, whoever holds the token or opens a one-time
link, nobody else.
"""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from comet.admin.access import peers, sessions, write_access
from comet.admin.app import create_app
from comet.host import sock_diag
from comet.host.sock_diag import Entry
from tests.support.admin_samples import TOKEN, services, view_model
from tests.support.cluster import free_ports
from tests.support.user_clients import ALICE, BOB

pytestmark = pytest.mark.slow

SELF = {"Host": "localhost:5040", "Origin": "http://localhost:5040"}


class Page:
    """The application, asked by a client of any uid."""

    def __init__(self) -> None:
        self.uid: int | None = os.getuid()
        self.keys = write_access.new_keys()
        self.client = self.served()

    def served(self) -> FlaskClient:
        """The application as a server that is started now has it."""
        served = services(view_model(), lambda name, fields: {}, peer=lambda: self.uid, keys=self.keys)
        return create_app(served).test_client(use_cookies=False)

    def get(self, path: str = "/", method: str = "GET", protocol: str = "HTTP/1.1", **headers: str) -> TestResponse:
        sent = {"Host": "localhost:5040"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open(path, method=method, headers=sent, environ_overrides={"SERVER_PROTOCOL": protocol})

    def write(self, cookie: str, **headers: str) -> int:
        sent = {**SELF, "Cookie": cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/api/v1/reload", json={}, headers=sent).status_code

    def link(self) -> str:
        return f"/?token={write_access.new_link(self.keys)}"


@pytest.fixture
def page() -> Page:
    return Page()


def cookie(answer: TestResponse) -> str:
    return answer.headers["Set-Cookie"].partition(";")[0]


def test_the_clusters_user_and_root_get_a_session_by_the_page(page: Page) -> None:
    for page.uid in {0, os.getuid()}:
        assert page.write(cookie(page.get())) == 200


@pytest.mark.parametrize("uid", [ALICE, 10001, 65534, None])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_stranger_reads_the_page_and_gets_no_session(page: Page, uid: int | None, method: str) -> None:
    page.uid = uid
    answer = page.get(method=method)
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert page.write("") == 401
    told = page.client.post("/api/v1/stop", json={}, headers=SELF).get_json()
    assert "supervisor.py dashboard" in told["error"]


def test_the_page_is_told_whether_it_may_write(page: Page) -> None:
    given = cookie(page.get())
    assert page.get("/api/v1/cluster", Cookie=given).get_json()["writable"] is True
    assert page.get("/api/v1/cluster", Authorization=f"Bearer {TOKEN}").get_json()["writable"] is True
    assert page.get("/api/v1/cluster").get_json()["writable"] is False
    assert page.get("/api/v1/cluster", Cookie=given, Sec_Fetch_Site="same-site").get_json()["writable"] is False
    page.uid = ALICE
    assert page.get("/api/v1/cluster", Cookie=given).get_json()["writable"] is False


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "x-forwarded-for",
        "Forwarded",
        "Via",
        "X-Real-IP",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "CF-Connecting-IP",
    ],
)
def test_what_a_proxy_sends_is_not_judged_by_the_proxys_user(page: Page, name: str) -> None:
    page.uid = 0
    answer = page.client.get("/", headers={"Host": "localhost:5040", name: ""})
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (200, False)


def test_what_speaks_http_1_0_is_taken_for_a_proxy(page: Page) -> None:
    assert "Set-Cookie" not in page.get(protocol="HTTP/1.0").headers


def test_a_link_gives_its_first_user_a_session_without_a_trace(page: Page) -> None:
    page.uid = ALICE
    link = page.link()
    opened = page.get(link)
    assert (opened.status_code, opened.headers["Location"]) == (303, "/")
    assert opened.headers["Cache-Control"] == "no-store"
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    assert "HttpOnly" in opened.headers["Set-Cookie"]
    assert "SameSite=Strict" in opened.headers["Set-Cookie"]
    assert link.partition("=")[2] not in opened.text
    assert page.write(cookie(opened)) == 200
    again = page.get(link)
    assert (again.status_code, "Set-Cookie" in again.headers) == (403, False)
    # Who has a session is led on, by a link of any age.
    assert page.get(link, Cookie=cookie(opened)).status_code == 303


def test_a_link_is_good_through_a_proxy(page: Page) -> None:
    """Of ssh -L, say, or of a reverse proxy: who has the link has been given it."""
    page.uid = BOB
    assert "Set-Cookie" in page.get(page.link(), X_Forwarded_For="10.0.0.1").headers


def test_one_of_many_who_open_a_link_at_once_gets_a_session(page: Page) -> None:
    page.uid, link = ALICE, page.link()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: page.get(link), range(24)))
    assert sorted(answer.status_code for answer in answers) == [303] + [403] * 23


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_looking_at_a_link_does_not_open_it(page: Page, method: str) -> None:
    page.uid, link = ALICE, page.link()
    assert "Set-Cookie" not in page.get(link, method=method).headers
    assert "Set-Cookie" in page.get(link).headers


def test_a_link_ends_with_its_time_and_with_its_server(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.uid, old, other = ALICE, page.link(), f"/?token={write_access.new_link(write_access.new_keys())}"
    began = write_access.now()
    monkeypatch.setattr(write_access, "now", lambda: began + sessions.LINK_LIFE + 1)
    assert page.get(old).status_code == 403
    monkeypatch.undo()
    assert page.get(other).status_code == 403


TAIL = ".aaaaaaaaaaaaaaaaaaaa." + "0" * 64


@pytest.mark.parametrize("token", ["", "x", TOKEN, "1.2.3", "9" * 12 + TAIL, "\u0669" + TAIL, "%00", "a" * 8000])
def test_a_guess_is_no_link(page: Page, token: str) -> None:
    page.uid = ALICE
    answer = page.get(f"/?token={token}")
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)


def test_a_link_is_no_session_and_a_session_no_link(page: Page) -> None:
    given = cookie(page.get()).partition("=")[2]
    page.uid = ALICE
    assert page.get(f"/?token={given}").status_code == 403
    assert page.write(f"comet-session-5040={write_access.new_link(page.keys)}") == 401


def test_a_session_is_of_no_use_to_another_user(page: Page) -> None:
    """Browsers send cookies to every port of a host: another user's server on this machine may be shown one."""
    given = cookie(page.get())
    for page.uid in (ALICE, None):
        assert page.write(given) == 401


def test_a_session_ends_with_its_time_and_its_supervisor(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cookie(page.get())
    began = write_access.now()
    monkeypatch.setattr(write_access, "now", lambda: began + sessions.SESSION_LIFE + 1)
    assert page.write(given) == 401
    monkeypatch.undo()
    assert page.write(given) == 200
    page.client = page.served()  # The server was started again: the supervisor gave it the same key.
    assert page.write(given) == 200
    page.keys = write_access.new_keys()
    page.client = page.served()
    assert page.write(given) == 401


def test_a_cookie_planted_by_another_port_has_no_effect(page: Page) -> None:
    given = cookie(page.get())
    name = given.partition("=")[0]
    assert page.write(f"{name}=planted; {given}") == page.write(f"{given}; {name}=planted") == 200
    page.uid = BOB
    bobs = cookie(page.get(page.link()))
    page.uid = os.getuid()
    assert page.write(bobs) == 401


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:5041", "5041"),
        ("localhost", "80"),
        ("[::1]", "80"),
        ("[::1]:77", "77"),
        ("127.0.0.1", "80"),
        ("LOCALHOST:1", "1"),
    ],
)
def test_two_clusters_on_one_host_have_cookies_of_their_own(page: Page, host: str, name: str) -> None:
    given = cookie(page.get(Host=host))
    assert given.startswith(f"comet-session-{name}=")
    assert page.write(given, Host=host, Origin=f"http://{host}") == 200


def test_a_session_writes_from_the_dashboard_only(page: Page) -> None:
    given = cookie(page.get())
    for headers in (
        {"Origin": "null"},
        {"Origin": "http://localhost:5050"},
        {"Origin": "https://localhost:5040"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert page.write(given, **headers) == 403


# The owner of a connection, as the kernel tells it.

LOCAL, REMOTE = ("127.0.0.1", 47846), ("127.0.0.1", 5040)
LINE = "   5: {} {} {} 00000000:00000000 00:00000000 00000000 {:>5}        0 {} 1 0000000000000000 20 4 30 10 -1\n"


def listed(state: str, uid: int, inode: int) -> list[str]:
    return [
        "  sl  local_address rem_address   st ...\n",
        LINE.format("0100007F:BAE6", "0100007F:13B0", state, uid, inode),
    ]


def test_a_table_of_the_kernel_is_read() -> None:
    assert peers.find(listed("01", 1000, 777), LOCAL, REMOTE) == Entry(1, 1000, 777)
    mapped = [
        LINE.format("0000000000000000FFFF00000100007F:BAE6", "0000000000000000FFFF00000100007F:13B0", "01", 1000, 777)
    ]
    assert peers.find(mapped, LOCAL, REMOTE) == Entry(1, 1000, 777)
    six = [
        LINE.format("00000000000000000000000001000000:BAE6", "00000000000000000000000001000000:13B0", "01", 1000, 777)
    ]
    assert peers.find(six, ("::1", 47846), ("::1", 5040)) == Entry(1, 1000, 777)
    assert peers.find(listed("01", 1000, 777), REMOTE, LOCAL) is None
    assert peers.find([*six, "", "nonsense"], LOCAL, REMOTE) is None


@pytest.mark.parametrize(
    ("state", "uid", "inode"),
    [("06", 0, 0), ("01", 0, 0), ("05", 0, 777), ("08", 0, 777), ("0A", 0, 777), ("01", 65534, 7)],
)
def test_a_closed_or_unowned_socket_is_not_roots(state: str, uid: int, inode: int) -> None:
    entry = peers.find(listed(state, uid, inode), LOCAL, REMOTE)
    assert entry is not None
    assert peers.owner(entry, 65534) is None


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture(params=["sock_diag", "proc"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to ask it; the second is for kernels without the first."""

    def refuse(*_: object) -> None:
        raise OSError(93, "Protocol not supported")

    if request.param == "proc":
        monkeypatch.setattr(sock_diag, "connection", refuse)


@pytest.mark.usefixtures("kernel")
def test_a_connection_that_its_client_has_closed_is_nobodys(listener: socket.socket) -> None:
    address = listener.getsockname()
    for close in ("close", "reset", "half"):
        client = socket.create_connection(address)
        accepted = listener.accept()[0]
        assert peers.peer_uid(accepted) == os.getuid()
        if close == "half":
            client.shutdown(socket.SHUT_WR)
        else:
            if close == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        assert peers.peer_uid(accepted) is None, close
        client.close()
        accepted.close()


@pytest.mark.usefixtures("kernel")
def test_a_later_connection_from_the_same_port_is_not_the_first(listener: socket.socket) -> None:
    """A client that resets its connection frees its port for the next one, which may be somebody else's."""
    address, source = listener.getsockname(), ("127.0.0.1", free_ports(1))
    first = socket.create_connection(address, source_address=source)
    accepted = listener.accept()[0]
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    first.close()
    with accepted, socket.create_connection(address, source_address=source) as second, listener.accept()[0] as fresh:
        assert second.getsockname() == source
        assert peers.peer_uid(accepted) is None
        assert peers.peer_uid(fresh) == os.getuid()
