"""The proxies side by side, each as its manual recommends for a reverse proxy with keep-alive, and the workers behind them.

All do the same work: round robin over three workers, keep-alive on both sides, X-Forwarded-For appended, X-Forwarded-Proto and
X-Forwarded-Host set, Via both ways, X-Comet-Worker and X-Comet-LB on the response, no access log. Active health checks where there are any
(nginx in its open-source form has passive ones only). Limits that would close connections in the middle of a burst are raised.
"""

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb.compiled import in_use
from scripts.bench import machine
from scripts.bench.cases import HELLO
from scripts.bench.proc import BenchError
from scripts.bench.report import ROOT

NGINX_COMMON = """
{user}worker_processes 1;
daemon off;
pid {folder}/{name}.pid;
error_log {folder}/{name}.error.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  default_type application/json;
  client_body_temp_path {folder}/{name}-body;
  proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-fastcgi;
  uwsgi_temp_path {folder}/{name}-uwsgi;
  scgi_temp_path {folder}/{name}-scgi;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 65s;
  keepalive_requests 1000000000;
"""
NGINX_PROXY = """
  upstream workers {{
    {servers}
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
  }}
  map $upstream_addr $worker {{
    default "";
    {names}
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_body_buffer_size 16k;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header Via "1.1 nginx";
      add_header Via "1.1 nginx" always;
      add_header X-Comet-Worker $worker always;
      add_header X-Comet-LB nginx always;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 7500
defaults
  mode http
  balance roundrobin
  option forwardfor
  option redispatch
  option splice-auto
  retries 2
  timeout connect 3s
  timeout client 60s
  timeout server 30s
  timeout http-request 10s
  timeout http-keep-alive 60s
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend workers
backend workers
  http-reuse always
  option httpchk GET /healthz
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request add-header Via "1.1 haproxy"
  http-response add-header Via "1.1 haproxy"
  http-response set-header X-Comet-Worker %s
  http-response set-header X-Comet-LB haproxy
  {servers}
"""


@dataclass(frozen=True)
class Rival:
    """A proxy: how to start it before `workers` on `port`, and what to say of it."""

    name: str
    command: Callable[[Path, int, Sequence[int]], list[str]]
    version: str
    setting: str


def _nginx(folder: Path, name: str, body: str) -> list[str]:
    path = folder / f"{name}.conf"
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    path.write_text(NGINX_COMMON.format(folder=folder, name=name, user=user) + body)
    return ["nginx", "-p", str(folder), "-e", str(folder / f"{name}.error.log"), "-c", str(path)]


def backends(folder: Path, ports: Sequence[int]) -> list[str]:
    """The command of the workers: one nginx with one process on all the ports."""
    (folder / "16k").write_bytes(b"x" * 16384)
    (folder / "1m").write_bytes(b"x" * (1 << 20))
    listen = "\n    ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    body = f"""
  open_file_cache max=10;
  server {{
    {listen}
    location / {{ return 200 '{HELLO}'; }}
    location = /healthz {{ return 200 '{{"status":"ok"}}'; }}
    location = /16k {{ root {folder}; }}
    location = /1m {{ root {folder}; }}
  }}
}}
"""
    return _nginx(folder, "workers", body)


def _comet(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    upstreams = [word for worker in workers for word in ("--upstream", f"127.0.0.1:{worker}")]
    return [sys.executable, "-m", "lb", "--listen", f"127.0.0.1:{port}", *upstreams, "--counters", str(folder / "counters")]


def _haproxy(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    servers = "\n  ".join(f"server worker-{n} 127.0.0.1:{worker} check inter 5s fall 2 rise 2" for n, worker in enumerate(workers))
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, servers=servers))
    return ["haproxy", "-db", "-f", str(path)]


def _nginx_proxy(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    servers = "\n    ".join(f"server 127.0.0.1:{worker} max_fails=2 fail_timeout=5s;" for worker in workers)
    names = "\n    ".join(f'"127.0.0.1:{worker}" worker-{n};' for n, worker in enumerate(workers))
    return _nginx(folder, "nginx", NGINX_PROXY.format(port=port, servers=servers, names=names))


def _go(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    binary = folder / "goproxy"
    if not binary.exists():
        source = Path(__file__).with_name("goproxy.go")
        env = os.environ | {"GO111MODULE": "off", "CGO_ENABLED": "0", "GOCACHE": str(folder / "gocache")}
        done = subprocess.run(["go", "build", "-o", str(binary), str(source)], capture_output=True, text=True, env=env, check=False)
        if done.returncode:
            raise BenchError(f"go build failed: {done.stderr.strip().splitlines()[-1]}")
    return [str(binary), str(port), *map(str, workers)]


def contestants() -> list[Rival]:
    """Comet first; the others where they are installed."""
    own = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import comet, uvloop; print(comet.__version__, 'uvloop', uvloop.__version__)"
    data_path = "compiled" if in_use() else "interpreted"
    found = [
        Rival(
            "comet",
            _comet,
            machine.version(sys.executable, "-c", own),
            f"python -m lb, one process, defaults, data path {data_path}, {machine.interpreter()}",
        )
    ]
    found.append(Rival("haproxy", _haproxy, machine.number("haproxy", "-v"), "nbthread 1, http-reuse always, splice-auto"))
    found.append(Rival("nginx", _nginx_proxy, machine.number("nginx", "-v"), "worker_processes 1, upstream keepalive 512, passive checks"))
    if shutil.which("go"):
        found.append(
            Rival("go", _go, machine.number("go", "version"), "httputil.ReverseProxy per request on the default transport, GOMAXPROCS=1")
        )
    return found
