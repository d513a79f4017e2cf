"""The cases of `bench.sh lb`: what clients send, what workers answer, and the goal for each.

Identical and unique heads have the same fields of the same lengths; in unique heads, path, query and three fields
differ in every request.
"""

from dataclasses import dataclass

from scripts.bench.wrk import DONE

HELLO = '{"message":"hello from container: fdbaa57c12d3"}'
FIELDS = """
wrk.headers["User-Agent"] = "python-requests/2.32.3"
wrk.headers["Accept"] = "*/*"
wrk.headers["Accept-Encoding"] = "gzip, deflate"
"""
IDENTICAL = """
wrk.headers["X-Request-Id"] = "5f0c9a3e00000001"
wrk.headers["Cookie"] = "session=91b2c6d400000001"
wrk.headers["Traceparent"] = "00-4bf92f3577b34da6a3ce929d00000001-00f067aa0ba902b7-01"
"""
UNIQUE = """
local n, host = 0, nil
init = function(args)
  math.randomseed(os.time())
  n = math.random(1, 9) * 10000000
  host = wrk.headers["Host"]
end
request = function()
  n = n + 1
  local id = string.format("%08x", n)
  return "GET /item/" .. id .. "?page=" .. id .. " HTTP/1.1\\r\\nHost: " .. host ..
    "\\r\\nUser-Agent: python-requests/2.32.3\\r\\nAccept: */*\\r\\nAccept-Encoding: gzip, deflate" ..
    "\\r\\nX-Request-Id: 5f0c9a3e" .. id ..
    "\\r\\nCookie: session=91b2c6d4" .. id ..
    "\\r\\nTraceparent: 00-4bf92f3577b34da6a3ce929d" .. id .. "-00f067aa0ba902b7-01\\r\\n\\r\\n"
end
"""


@dataclass(frozen=True)
class Case:
    """`goal` is the highest acceptable median ratio of CPU time per request to the best rival; None: reported only."""

    key: str
    title: str
    script: str
    path: str = "/item/00000001?page=00000001"
    connections: int = 64
    goal: float | None = None

    @property
    def lua(self) -> str:
        """The complete script for wrk."""
        return self.script + DONE


PLAIN = FIELDS + IDENTICAL
CASES = (
    Case("identical", "identical heads, 64 connections", PLAIN, goal=0.9),
    Case("unique", "unique heads, 64 connections", UNIQUE, goal=0.9),
    Case("16k", "16 KiB responses, 64 connections", PLAIN, path="/16k", goal=0.9),
    Case(
        "post",
        "4 KiB POSTs, 64 connections",
        PLAIN + 'wrk.method = "POST"\nwrk.body = string.rep("x", 4096)\n',
        goal=0.9,
    ),
    Case("stream", "1 MiB responses, 16 connections", PLAIN, path="/1m", connections=16),
    Case(
        "new", "a new connection per request, 64 at a time", PLAIN + 'wrk.headers["Connection"] = "close"\n', goal=1.1
    ),
    Case("c1", "identical heads, 1 connection", PLAIN, connections=1),
    Case("c512", "identical heads, 512 connections", PLAIN, connections=512),
)
