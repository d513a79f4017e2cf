"""`bench.sh` without a mode: load-test the running cluster, or a temporary one, and answer four questions in a minute.

Is the load balanced, how fast is it, does anything fail beyond what was injected, and what is the bottleneck? A smoke
phase first checks the promises of docs/http.md at every load balancer. Then all load balancers are loaded at once, and
the counts of clients, load balancers and workers are compared.
"""

import argparse
import contextlib
import resource
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from comet.config.schema import Config
from comet.config.schema import load as read_config
from comet.load.closed_model import RequestSpec
from comet.report.model import Bars, Table, percentiles
from comet.workloads.builtin import reachable
from scripts.bench import machine
from scripts.bench.answers import POINTS, Answers, Limits, missed_thresholds, rate_sentence
from scripts.bench.books import UNSEEN, Growth, Reading, compare_counts, growth, is_idle, read_counts, total
from scripts.bench.bottleneck import Figures
from scripts.bench.cluster import BenchCluster
from scripts.bench.hdr import curve, percentile_ms
from scripts.bench.observed import BY_LB, BY_WORKER, CLIENT_ERROR, OK, ORDERED, REFUSED, RESET, TIMEOUT
from scripts.bench.offered import Load, Seen, offer
from scripts.bench.proc import BenchError, memory, wait_for
from scripts.bench.report import Result, Samples, begin, finish, say
from scripts.bench.smoke import PATH, smoke
from scripts.bench.subject import subject

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
CLIENTS, MAX_IN_FLIGHT = 64, 1000  # of a closed model; of an open one at a time
MAX_SECONDS, MAX_CLIENTS, MAX_RATE, MAX_BODY = 86_400, 100_000, 100_000, 64 << 20
SLICE = 3.0  # seconds, about


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config of the cluster; default ./config.yaml, else the project's",
    )
    parser.add_argument(
        "--runtime",
        choices=("docker", "process", "mixed"),
        help="runtime of the cluster that is started if none runs; default as configured",
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="length of the load; default 30")
    parser.add_argument(
        "--clients", type=int, metavar="N",
        help=f"all LBs together: closed model, concurrent clients, default {CLIENTS}; open model, maximum in flight, "
             f"default {MAX_IN_FLIGHT}",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, metavar="R", help="open model: requests a second in total, independent of the answers"
    )
    parser.add_argument("--path", action="append", metavar="PATH", help=f"repeatable, asked in turn; default {PATH}")
    parser.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        metavar="M",
        help=f"repeatable, in turn with the paths: {', '.join(METHODS)}; default GET",
    )
    parser.add_argument("--body", type=int, default=0, metavar="BYTES", help="size of every request's body; default 0")
    parser.add_argument(
        "--max-p99",
        type=float,
        metavar="MS",
        help="exit 1 if the corrected p99 is above this: open model, from when a request was due; closed model, an "
        "estimate",
    )
    parser.add_argument(
        "--max-errors",
        type=int,
        metavar="N",
        help="exit 1 if more failures than this are not injected",
    )
    parser.add_argument(
        "--max-uneven",
        type=float,
        metavar="PCT",
        help="exit 1 if a share deviates more than this from the fair one",
    )


def parse_load(options: argparse.Namespace) -> Load:
    """Return the load that the options describe; ValueError says why they are invalid."""
    clients = options.clients if options.clients is not None else MAX_IN_FLIGHT if options.rate is not None else CLIENTS
    for name, value, most in (
        ("--seconds", options.seconds, MAX_SECONDS),
        ("--clients", clients, MAX_CLIENTS),
        ("--rate", 1.0 if options.rate is None else options.rate, MAX_RATE),
    ):
        if not 0 < value <= most:
            raise ValueError(f"{name} must be above zero and at most {most:,}")
    if not 0 <= options.body <= MAX_BODY:
        raise ValueError(f"--body must be from zero to {MAX_BODY:,}")
    paths, methods = options.path or [PATH], options.method or ["GET"]
    if wrong := [
        path
        for path in paths
        if not path.startswith("/") or not path.isascii() or any(c in path for c in ' "\\') or not path.isprintable()
    ]:
        raise ValueError(
            f"--path {wrong[0]!r}: a path begins with / and has no spaces, quotes or backslashes (write them as %20, "
            "%22, %5C)"
        )
    asks = [RequestSpec(path, method, b"x" * options.body) for path in paths for method in methods]
    slices = max(4, min(12, round(options.seconds / SLICE)))
    return Load(asks, options.seconds, slices, clients, options.rate)


def run(options: argparse.Namespace) -> int:
    try:
        load = parse_load(options)
    except ValueError as error:
        say(str(error))
        return 2
    report = begin("load", {} if load.rate else {"wrk": machine.number("wrk", "-v")})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # The generators inherit it: a file per client.
    with subject(options.config, options.runtime) as (cluster, description, folder):
        rows = cluster.rows()
        ports = {name: int(row["port"]) for name, row in rows.items() if row["role"] == "lb"}
        workers = [name for name, row in rows.items() if row["role"] == "worker" and row["state"] == "ready"]
        report.settings = {"cluster": description, "load": f"{load}, over {len(ports)} LBs and {len(workers)} workers"}
        config = read_config(cluster.path)
        load = to_front(load, config)
        wrong = smoke(ports, own=config.custom_service, base=load.base)
        say(f"smoke phase: {'; '.join(wrong) or 'passed'}; loading for {options.seconds:g} s")
        before = read_counts(cluster)
        psutil.cpu_percent()
        seen = offer(load, ports, lambda: total(cluster, list(ports)))
        busy = psutil.cpu_percent()
        wait_for(lambda: is_idle(cluster, list(ports)), 40, "the LBs have nothing in flight")
        increase = _wait_for_counts(cluster, before, seen, load)
        sizes = {name: memory(int(rows[name]["pid"]), "VmRSS") / (1 << 20) for name in workers}
    answers = _answers(seen, increase, workers, busy, load)
    fill(report, load, seen, increase, answers, sizes)
    add_verdict(
        report, load, wrong, seen, increase, answers, Limits(options.max_p99, options.max_errors, options.max_uneven)
    )
    return finish(report, options.json, folder)


def to_front(load: Load, config: Config) -> Load:
    """Return the load as the load balancers of a cluster with this config take it."""
    asks = [replace(ask, tls=config.speaks_tls) for ask in load.asks]
    return replace(load, asks=asks, host=reachable(config.load_balancer_host))


def counted(load: Load) -> bool:
    """Return whether the workers count all requests of this load."""
    return all(ask.method == "GET" and ask.path.partition("?")[0] == PATH for ask in load.asks)


def _wait_for_counts(cluster: BenchCluster, before: Reading, seen: Seen, load: Load) -> Growth:
    """Return the increase of all counts after the load.

    Wait for at most 5 s until the counts agree: workers may still finish requests whose clients have left.
    """
    increase: list[Growth] = []

    def agree() -> bool:
        increase[:] = [growth(before, read_counts(cluster))]
        return not compare_counts(seen.whole(), increase[0], counted(load)).wrong

    with contextlib.suppress(BenchError):  # A mismatch is reported by the comparison.
        wait_for(agree, 5, "the books agree", pause=0.5)
    return increase[0]


def _answers(seen: Seen, increase: Growth, workers: list[str], busy: float, load: Load) -> Answers:
    whole = seen.whole()
    # Not of what clients had: whom a client left waiting as it went would be missing, and that is mostly the slowest.
    shares = {name: increase.shares.get(name, 0) for name in sorted({*workers, *increase.shares}, key=_by_number)}
    requests_ = max(1, increase.responses)
    times = {name: row.micros / row.count / 1000 for name, row in increase.workers.items() if row.count}
    cpu = {
        role: {name: share for name, share in increase.cpu.items() if name.startswith(role)}
        for role in ("lb", "worker")
    }
    mean = increase.all_lbs("latency_us") / requests_ / 1000
    own = (sum(increase.cpu.values()) + seen.generator_cpu * seen.generators) / (psutil.cpu_count() or 1)
    figures = Figures(cpu["lb"], busy, seen.generator_cpu, times, mean, cpu["worker"], load.rate is not None, own)
    hidden = sum(increase.injected.get(kind, 0) for kind in UNSEEN)
    return Answers(whole, shares, hidden, figures, len(load.asks))


def _by_number(name: str) -> tuple[str, int]:
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)


FAILURES = (REFUSED, RESET, TIMEOUT, BY_LB, BY_WORKER, CLIENT_ERROR)


def fill(
    report: Result, load: Load, seen: Seen, increase: Growth, answers: Answers, sizes: Mapping[str, float]
) -> None:
    """Fill the report: tables, plots, samples."""
    whole, by_lb = seen.whole(), seen.by_lb()
    balancers = Table(
        "Requests by load balancer", ["LB", "requests", "requests/s", "ok", "injected", *FAILURES, "CPU % of a core"]
    )
    for name, each in [*by_lb.items(), ("all", whole)]:
        failed = [each.kinds[kind] for kind in FAILURES]
        row = [each.answered + each.unanswered, each.rate, each.kinds[OK], each.kinds[ORDERED], *failed]
        balancers.rows.append([name, *row, answers.figures.lb_cpu.get(name)])
    latency = Table(
        "Latency, ms (HDR histogram, all kinds of answers)", ["times", "LB", "p50", "p90", "p99", "p99.9", "highest"]
    )
    for field, way in answers.time_names.items():
        for name, each in [*by_lb.items(), ("all", whole)]:
            latency.rows.append([way, name, *[percentile_ms(getattr(each, field), point) for point in POINTS]])
    workers = Table(
        "Workers",
        ["worker", "answers", "share %", "from the fair share %", "mean ms in the worker", "CPU % of a core", "MiB"],
    )
    total, fair = sum(answers.shares.values()), sum(answers.shares.values()) / max(1, len(answers.shares))
    known = answers.figures
    for name, count in answers.shares.items():
        off = f"{round((count / fair - 1) * 100, 1) + 0.0:+.1f}" if fair else "-"
        share = count / total * 100 if total else None
        workers.rows.append(
            [name, count, share, off, *(of.get(name) for of in (known.worker_ms, known.worker_cpu, sizes))]
        )
    report.parts += [balancers, latency, workers]
    lines = {way: curve(getattr(whole, field)) for field, way in answers.time_names.items()}
    report.parts.append(percentiles("Latency by percentile", str(report.settings.get("load", "")), lines))
    report.parts.append(
        Bars(
            "Answers by worker",
            "even is good",
            ["answers"],
            list(answers.shares),
            [[float(n)] for n in answers.shares.values()],
        )
    )
    report.samples = samples(load, seen)
    report.data = {
        "whole": whole.as_dict(),
        "lbs": {name: each.as_dict() for name, each in by_lb.items()},
        "figures": vars(answers.figures),
    }
    report.data |= {
        "shares": answers.shares,
        "injected": dict(increase.injected),
        "sending": vars(seen.sending) if seen.sending else None,
    }
    report.data |= {"uneven_percent": answers.uneven, "beyond_injected": answers.beyond, "p99_ms": answers.p99_ms}
    report.data |= {"percentiles_ms": answers.percentiles_ms, "percentiles_are": answers.time_names}


def samples(load: Load, seen: Seen) -> dict[str, Samples]:
    """Return the samples by slice, as the clients (open model) or the load balancers (closed model) saw them."""
    if load.rate:
        slices = [each for each in seen.by_slice() if each.answered]
        times = {point: [percentile_ms(each.corrected, point) or 0.0 for each in slices] for point in (50.0, 99.0)}
        found = {"requests/s": Samples("1/s", "more", [each.rate for each in slices])}
        found |= {f"latency p{point:g}": Samples("ms", "less", values) for point, values in times.items()}
        return found | {"failures": Samples("per slice", "less", [float(each.failures.total()) for each in slices])}
    passages = seen.passages()
    return {
        "requests/s": Samples("1/s", "more", [each.rate for each in passages]),
        "latency p50 at the LBs": Samples("ms", "less", [each.p50_ms for each in passages]),
        "latency p99 at the LBs": Samples("ms", "less", [each.p99_ms for each in passages]),
        "LBs' own errors": Samples("per slice", "less", [float(each.own_errors) for each in passages]),
    }


def add_verdict(
    report: Result, load: Load, wrong: list[str], seen: Seen, increase: Growth, answers: Answers, limits: Limits
) -> None:
    """Add the sentences, and decide whether the test passed."""
    comparison = compare_counts(seen.whole(), increase, counted(load))
    report.notes += answers.sentences()
    if seen.sending and load.rate:
        report.notes.append(rate_sentence(load.rate, seen.sending, load.clients))
    else:
        report.notes.append(answers.estimate)
        report.notes.append(f"the generators used {seen.generator_cpu:.0f} % of a core each ({seen.generators} wrk)")
    report.notes.append(f"ledger: {comparison}")
    report.notes.append(f"smoke phase: {'; '.join(wrong) or 'passed'}")
    broken = missed_thresholds(limits, answers)
    report.notes += [f"threshold MISSED: {each}" for each in broken]
    if limits != Limits() and not broken:
        report.notes.append("all thresholds are met")
    report.data["ledger"] = vars(comparison)
    report.passed = not wrong and not comparison.wrong and not broken
