"""A helper process that holds many idle client connections, so that their cost at the client is not the bench's own.

    python -m scripts.bench.holder PORT COUNT ASK

Opens COUNT connections to 127.0.0.1:PORT, asks one request on each where ASK is 1, says `held N` on stdout,
and closes all when its stdin ends.
"""

import resource
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: idle\r\n\r\n"


def hold(port: int, count: int, ask: bool) -> list[socket.socket]:
    """Open the connections one after the other."""
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        if ask:
            connection.sendall(REQUEST)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                raise OSError("no 200")
        held.append(connection)
    return held


def open_still(held: list[socket.socket]) -> int:
    """How many of them the server has not closed."""
    alive = 0
    for connection in held:
        connection.setblocking(False)
        try:
            alive += connection.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            alive += 1
        except OSError as error:
            print(error, file=sys.stderr)
    return alive


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    connections = hold(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
    print(f"held {len(connections)}", flush=True)
    sys.stdin.readline()
    print(f"open {open_still(connections)}", flush=True)
