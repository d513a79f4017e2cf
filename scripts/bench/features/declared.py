"""The features, each declared once: its traffic, its settings for Comet and for another proxy, and what may differ."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from pathlib import Path

from scripts.bench.features import cases
from scripts.bench.features.cases import EJECT_TIME, Outcome, Stage
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
DETECTION = """common_lb_config: {{ healthy_panic_threshold: {{ value: %s }} }}
outlier_detection: {{ enforcing_success_rate: 0, enforcing_consecutive_gateway_failure: 0, %s }}"""
FOR_LONG = "interval: 0.2s, base_ejection_time: 3600s, max_ejection_time: 3600s, max_ejection_percent: %s, "
SERIES = "requests one after the other"


def detection(rule: str, most: int = 100, panic: int = 0, times: str = FOR_LONG) -> str:
    """Return Envoy's settings of outlier detection."""
    return DETECTION % (panic, (times % most if "%" in times else times) + rule)


def hashed(key: str, balance: str, more: Mapping[str, int] | None = None) -> Settings:
    """Return the settings of a consistent hash."""
    other = {"backend": f"balance {balance}\n{RING}", "server": "weight 100"}
    return Settings({"balance": "consistent-hash", "balance-key": key, **(more or {})}, other)


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

    @property
    def rival(self) -> str:
        """Return the name of the proxy to compare with."""
        return "envoy" if self.settings.envoy else "haproxy"


def features(folder: Path, requests: int, ramp: float) -> list[Feature]:
    """Return all of them; `folder` has the certificate."""
    return [*choices(requests, ramp), *ejections(), *others(folder)]


def choices(requests: int, ramp: float) -> list[Feature]:
    """Return those about the choice of a worker."""
    third = 4.5 * sqrt(2 * requests * 2 / 9)  # between two counts of a third each, drawn at random
    keys = "a key each; drain worker-2; again; undrain; again"
    kinds = {"header": ("header:X-User", "hdr(X-User)"), "cookie": ("cookie:sid", "hash req.cook(sid)"),
             "path": ("path", "uri"), "address": ("address", "source")}  # fmt: skip
    by_user = hashed(*kinds["header"])
    bound = hashed("header:X-User", "hdr(X-User)\nhash-balance-factor 150", {"hash-balance-factor": 150})
    return [
        Feature("round-robin", SERIES, cases.in_turn, Settings({})),
        Feature("weights 1, 2, 3", SERIES, cases.in_turn, Settings({"weights": WEIGHTS}, {"server": "weight {next}"}),
                tolerance={"requests per worker": 2}),
        Feature("slow start", f"load; worker-2 fails its checks and passes them again; {ramp:g} s", cases.slow_start,
                Settings({"slow-start": ramp}, {"server": f"weight 100 slowstart {round(ramp * 1000)}ms"}),
                tolerance={"its share in % in both halves and later": 12}),
        Feature("least-connections", "6 requests are held; those of worker-1 end; 2 more", cases.least_connections,
                Settings({"balance": "least-connections"}, {"backend": "balance leastconn"})),
        Feature("power of two choices", "worker-0 answers nothing", cases.two_choices,
                Settings({"balance": "power-of-two-choices"}, {"backend": "balance random(2)", "server": "weight 100"}),
                differs={"requests that a stuck worker gets": "HAProxy may draw the same worker twice"}),
        *(Feature(f"consistent hash of {kind}", keys, partial(cases.consistent_hash, kind=kind), hashed(*given),
                  tolerance={"keys per worker": third}, differs={"moved of worker-2": ""})
          for kind, given in kinds.items()),
        Feature("the same without the header", SERIES, cases.in_turn, by_user,
                tolerance={"requests per worker": third}),
        Feature("its bound of 150 %", "12 requests of one key are held", cases.bounded_hash, bound,
                tolerance={"most at one worker": 1}),
        Feature("sticky cookie", "30 clients ask; again; drain worker-1 (HAProxy: maint); again", cases.sticky_cookie,
                Settings({"balance": "sticky-cookie"},
                         {"backend": "cookie comet-worker insert indirect nocache", "server": "cookie worker-{n}",
                          "drain": "maint"})),
        Feature("drain and undrain", "load; drain worker-0; undrain", cases.drain, Settings({}),
                tolerance={"share of each in % when it is back": 5}),
    ]  # fmt: skip


def ejections() -> list[Feature]:
    """Return those about workers with bad answers; HAProxy has but the first."""
    row = "consecutive_5xx: 3"
    growing = f"interval: 1s, base_ejection_time: {EJECT_TIME}s, max_ejection_percent: 100, consecutive_5xx: 1"
    share = ("consecutive_5xx: 1000000, failure_percentage_threshold: 30, failure_percentage_minimum_hosts: 1, "
             "enforcing_failure_percentage: 100")  # fmt: skip
    gateway = "consecutive_5xx: 1000000, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100"
    return [
        Feature("ejection after 3 5xx", "worker-0 answers 500", cases.ejection,
                Settings(EJECT | {"eject-after-5xx": 3},
                         {"server": "inter 60s observe layer7 error-limit 3 on-error mark-down"}),
                tolerance={"requests per worker": 1}),
        Feature("3 gateway errors apart", "worker-0 answers 500, then 503", cases.gateway_errors,
                Settings(EJECT | {"eject-after-gateway-errors": 3}, envoy=detection(gateway))),
        Feature("a share of 30 %", "load; each second answer of worker-0 is 500", cases.error_share,
                Settings(EJECT | {"eject-error-percent": 30, "eject-interval": 0.2}, envoy=detection(share)),
                tolerance={"share of each in % afterwards": 5}, differs={"errors": ""}),
        Feature("its time grows", f"load; worker-0 answers 500; {EJECT_TIME:g} s at first", cases.growing_time,
                Settings({"eject-after-5xx": 1, "eject-time": EJECT_TIME, "eject-interval": 3600},
                         envoy=detection("", times=growing)),
                tolerance={"seconds of the first three": 1}, differs={"errors": ""}),
        Feature("at most 50 % ejected", "load; all answer 500", partial(cases.failing, count=3),
                Settings(EJECT | {"eject-after-5xx": 3, "eject-panic-percent": 0}, envoy=detection(row, 50)),
                tolerance={"share of each in % afterwards": 5}, differs={"errors": ""}),
        Feature("panic below 50 %", "load; two of three answer 500", partial(cases.failing, count=2),
                Settings(EJECT | {"eject-after-5xx": 3, "eject-max-percent": 100}, envoy=detection(row, 100, 50)),
                tolerance={"share of each in % afterwards": 5}, differs={"errors": ""}),
    ]  # fmt: skip


def others(folder: Path) -> list[Feature]:
    """Return those about checks, retries, what is in front, and reloads."""
    pem = f"{folder}/used.pem"
    statuses = Settings({"health-status": "200-299"}, {"backend": "http-check expect status 200-299"})
    return [
        Feature("health-status 200-299", "load; checks of worker-0 get 301, then 204", cases.expected_statuses,
                statuses, tolerance={"share of each in % when it is back": 5}),
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
        Feature("reload", "load; weights 1, 2, 3 instead of 1, 1, 1", cases.reload, Settings({}),
                other=Settings({"weights": WEIGHTS}, {"server": "weight {next}"}),
                tolerance={"share of each in % afterwards": 3},
                differs=dict.fromkeys(("connections replaced", "errors"), NEW_PROCESS)),
    ]  # fmt: skip
