"""The proxies to compare, each configured as its manual recommends for a reverse proxy with keep-alive, and the workers
behind them.

All do the same work on one thread: round robin over three workers, keep-alive on both sides, X-Forwarded-For appended,
X-Forwarded-Proto and X-Forwarded-Host set, Via both ways, X-Comet-Worker and X-Comet-LB on the response (Traefik does
not know the worker's address there: it sets a fixed one), no access log. Active health checks where available
(open-source nginx has only passive ones). Limits that would close connections during a burst are raised.
"""

import getpass
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb.system.compiled import in_use
from scripts.bench import machine, programs
from scripts.bench.cases import HELLO
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


ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          via: "1.1 envoy"
          generate_request_id: false
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
          route_config:
            response_headers_to_add:
            - header: {{ key: X-Comet-Worker, value: "%UPSTREAM_HOST%" }}
            - header: {{ key: X-Comet-LB, value: envoy }}
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add:
              - header: {{ key: X-Forwarded-Host, value: "%REQ(:AUTHORITY)%" }}
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: workers }}
  clusters:
  - name: workers
    type: STATIC
    connect_timeout: 3s
    lb_policy: ROUND_ROBIN
    circuit_breakers: {{ thresholds: [{{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }}] }}
    health_checks:
    - timeout: 2s
      interval: 5s
      unhealthy_threshold: 2
      healthy_threshold: 2
      http_health_check: {{ path: /healthz }}
    load_assignment:
      cluster_name: workers
      endpoints:
      - lb_endpoints: [{servers}]
"""
TRAEFIK = """
http:
  routers:
    all: {{ rule: "PathPrefix(`/`)", entryPoints: [front], middlewares: [fields], service: workers }}
  middlewares:
    fields:
      headers:
        customRequestHeaders: {{ Via: "1.1 traefik" }}
        customResponseHeaders: {{ Via: "1.1 traefik", X-Comet-Worker: worker, X-Comet-LB: traefik }}
  serversTransports:
    kept: {{ maxIdleConnsPerHost: 512 }}
  services:
    workers:
      loadBalancer:
        serversTransport: kept
        healthCheck: {{ path: /healthz, interval: 5s, timeout: 2s }}
        servers: [{servers}]
"""
CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy {servers} {{
    lb_policy round_robin
    health_uri /healthz
    health_interval 5s
    header_down X-Comet-Worker {{http.reverse_proxy.upstream.hostport}}
    header_down X-Comet-LB caddy
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"""
ONE_THREAD = ("env", "GOMAXPROCS=1")


@dataclass(frozen=True)
class Rival:
    """A proxy: the command that starts it on `port` in front of `workers`, and its description."""

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
    """Return the command of the workers: one nginx with one process on all the ports."""
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
    return [
        sys.executable,
        "-m",
        "lb",
        "--listen",
        f"127.0.0.1:{port}",
        *upstreams,
        "--counters",
        str(folder / "counters"),
    ]


def _haproxy(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    servers = "\n  ".join(
        f"server worker-{n} 127.0.0.1:{worker} check inter 5s fall 2 rise 2" for n, worker in enumerate(workers)
    )
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, servers=servers))
    return ["haproxy", "-db", "-f", str(path)]


def _nginx_proxy(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    servers = "\n    ".join(f"server 127.0.0.1:{worker} max_fails=2 fail_timeout=5s;" for worker in workers)
    names = "\n    ".join(f'"127.0.0.1:{worker}" worker-{n};' for n, worker in enumerate(workers))
    return _nginx(folder, "nginx", NGINX_PROXY.format(port=port, servers=servers, names=names))


def envoy(folder: Path, port: int, workers: Sequence[int], config: str = ENVOY) -> list[str]:
    """Return the command that starts Envoy with a configuration."""
    socket = "{socket_address: {address: 127.0.0.1, port_value: %d}}"
    servers = ", ".join(f"{{endpoint: {{address: {socket % worker}}}}}" for worker in workers)
    path = folder / "envoy.yaml"
    path.write_text(config.format(port=port, servers=servers))
    words = ["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
    return [str(programs.VENV / "bin" / "envoy"), "-c", str(path), *words]


def _traefik(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    path = folder / "traefik-routes.yaml"
    path.write_text(TRAEFIK.format(servers=", ".join(f"{{ url: 'http://127.0.0.1:{each}' }}" for each in workers)))
    words = [f"--entryPoints.front.address=127.0.0.1:{port}", f"--providers.file.filename={path}"]
    quiet = ["--global.checkNewVersion=false", "--global.sendAnonymousUsage=false", "--log.level=WARN"]
    return [*ONE_THREAD, str(programs.VENV / "bin" / "traefik"), *words, *quiet]


def _caddy(folder: Path, port: int, workers: Sequence[int]) -> list[str]:
    path = folder / "Caddyfile"
    path.write_text(CADDY.format(port=port, servers=" ".join(f"127.0.0.1:{each}" for each in workers)))
    homes = [f"{name}={folder}" for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")]
    return [*ONE_THREAD, *homes, str(programs.VENV / "bin" / "caddy"), "run", "--adapter", "caddyfile", "-c", str(path)]


OTHERS = (
    ("envoy", envoy, "--concurrency 1, use_remote_address, active checks"),
    ("traefik", _traefik, "GOMAXPROCS=1, file provider, maxIdleConnsPerHost 512, active checks"),
    ("caddy", _caddy, "GOMAXPROCS=1, reverse_proxy, keepalive_idle_conns_per_host 512, active checks"),
)
"""The rivals from PyPI (`scripts.bench.programs`): name, command, setting."""


def contestants(only: Sequence[str] | None = None) -> list[Rival]:
    """Return the proxies, Comet first; those from PyPI if they can be had. `only` names the rivals wanted."""
    wanted = only or ("haproxy", "nginx", *(name for name, *_ in OTHERS))
    own = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import comet, uvloop; print(comet.__version__, "
        "'uvloop', uvloop.__version__)"
    )
    path = "compiled" if in_use() else "interpreted"
    setting = f"python -m lb, one process, defaults, data path {path}, {machine.interpreter()}"
    versions = {name: machine.number(name, "-v") for name in ("haproxy", "nginx")}
    known = [
        Rival("haproxy", _haproxy, versions["haproxy"], "nbthread 1, http-reuse always, splice-auto"),
        Rival("nginx", _nginx_proxy, versions["nginx"], "worker_processes 1, upstream keepalive 512, passive checks"),
    ]
    there = [each for each in OTHERS if each[0] in wanted and programs.find(each[0])]
    known += [Rival(name, run, programs.version(name), options) for name, run, options in there]
    own_version = machine.version(sys.executable, "-c", own)
    return [Rival("comet", _comet, own_version, setting), *(each for each in known if each.name in wanted)]
