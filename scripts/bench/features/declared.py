"""The features, each declared once: its traffic, its settings for Comet and for HAProxy, and what may differ."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

from scripts.bench.features import cases
from scripts.bench.features.cases import Outcome, Stage
from scripts.bench.features.fronts import Settings

TRUST = """acl trusted src 127.0.0.2
http-request del-header X-Forwarded-For unless trusted
http-request del-header X-Real-IP unless trusted
http-request del-header Forwarded unless trusted"""
L7_RETRY = """retry-on conn-failure empty-response
http-request disable-l7-retry if METH_POST"""
WEIGHTS = {"worker-0": 1, "worker-1": 2, "worker-2": 3}
EJECT = {"eject-time": 3600, "eject-time-max": 3600, "eject-interval": 3600}
NEW_PROCESS = "HAProxy's reload is a new process, Comet's a message"
RING = "hash-type consistent sdbm avalanche"


@dataclass(frozen=True)
class Feature:
    """A feature. `tolerance` is how far values of a name may lie apart, `differs` why those of a name do."""

    name: str
    traffic: str
    run: Callable[[Stage], Awaitable[Outcome]]
    settings: Settings
    other: Settings = field(default_factory=lambda: Settings({}))
    tolerance: Mapping[str, float] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)


def features(folder: Path, requests: int, ramp: float) -> tuple[Feature, ...]:
    """Return all of them; `folder` has the certificate."""
    pem = f"{folder}/used.pem"
    third = 4.5 * sqrt(2 * requests * 2 / 9)  # between two counts of a third each, drawn at random
    weighted = Settings({"weights": WEIGHTS}, {"server": "weight {next}"})
    return (
        Feature("round-robin", "requests one after the other", cases.in_turn, Settings({})),
        Feature("weights 1, 2, 3", "requests one after the other", cases.in_turn, weighted,
                tolerance={"requests per worker": 2}),
        Feature("slow start", f"load; worker-2 fails its checks and passes them again; {ramp:g} s", cases.slow_start,
                Settings({"slow-start": ramp}, {"server": f"weight 100 slowstart {round(ramp * 1000)}ms"}),
                tolerance={"its share in % in both halves and later": 12}),
        Feature("least-connections", "6 requests are held; those of worker-1 end; 2 more", cases.least_connections,
                Settings({"balance": "least-connections"}, {"backend": "balance leastconn"})),
        Feature("power of two choices", "worker-0 answers nothing", cases.two_choices,
                Settings({"balance": "power-of-two-choices"}, {"backend": "balance random(2)", "server": "weight 100"}),
                differs={"requests that a stuck worker gets": "HAProxy may draw the same worker twice"}),
        Feature("consistent hash", "a key each; drain worker-2; again; undrain; again", cases.consistent_hash,
                Settings({"balance": "consistent-hash", "balance-key": "header:X-User"},
                         {"backend": f"balance hdr(X-User)\n{RING}", "server": "weight 100"}),
                tolerance={"keys per worker": third},
                differs={"moved of worker-2": ""}),
        Feature("its bound of 150 %", "12 requests of one key are held", cases.bounded_hash,
                Settings({"balance": "consistent-hash", "balance-key": "header:X-User", "hash-balance-factor": 150},
                         {"backend": f"balance hdr(X-User)\n{RING}\nhash-balance-factor 150", "server": "weight 100"}),
                tolerance={"most at one worker": 1}),
        Feature("sticky cookie", "30 clients ask; again; drain worker-1 (HAProxy: maint); again", cases.sticky_cookie,
                Settings({"balance": "sticky-cookie"},
                         {"backend": "cookie comet-worker insert indirect nocache", "server": "cookie worker-{n}",
                          "drain": "maint"})),
        Feature("drain and undrain", "load; drain worker-0; undrain", cases.drain, Settings({}),
                tolerance={"share of each in % after undrain": 5}),
        Feature("ejection after 3 5xx", "worker-0 answers 500", cases.ejection,
                Settings(EJECT | {"eject-after-5xx": 3},
                         {"server": "inter 60s observe layer7 error-limit 3 on-error mark-down"}),
                tolerance={"requests per worker": 1}),
        Feature("retry of a refused connection", "worker-0 no longer listens; GET and POST", cases.refused,
                Settings({})),
        Feature("retry of a closed one", "worker-0 reads requests and closes; GET, then POST", cases.closed,
                Settings({}, {"backend": L7_RETRY}), tolerance={"failed POSTs": 2}),
        Feature("trusted-proxies", "forged fields from a stranger and from a trusted proxy", cases.trusted_proxies,
                Settings({"trusted-proxies": ["127.0.0.2"]}, {"backend": TRUST})),
        Feature("PROXY protocol", "a header from a trusted proxy and from a stranger", cases.proxy_protocol,
                Settings({"trusted-proxies": ["127.0.0.2"]},
                         {"frontend": "tcp-request connection expect-proxy layer4 if { src 127.0.0.2 }"})),
        Feature("TLS certificate renewed", "load over TLS; another certificate", cases.renewal,
                Settings({"tls-certificate": pem, "tls-key": pem}, {"bind": f"ssl crt {pem}"})),
        Feature("reload", "load; weights 1, 2, 3 instead of 1, 1, 1", cases.reload, Settings({}), other=weighted,
                tolerance={"share of each in % afterwards": 3},
                differs=dict.fromkeys(("connections replaced", "errors"), NEW_PROCESS)),
    )  # fmt: skip
