"""`bench.sh` without a mode: load-test the running cluster, or one of its own, and answer four questions in a minute.

Is it balanced, how fast is it, does anything fail beyond what was injected, and what is the bottleneck? First a smoke phase asks every LB
for what the contract promises; then all LBs are loaded at once; then the books of clients, LBs and workers are compared.
"""

import argparse
import contextlib
from pathlib import Path

import psutil

from comet.config import load as read_config
from comet.crowd import Ask
from scripts.bench import machine
from scripts.bench.answers import POINTS, Answers, Limits, missed, of_sending
from scripts.bench.books import UNSEEN, Growth, Look, growth, look, quiet, settle, total
from scripts.bench.bottleneck import Figures
from scripts.bench.chart import Chart
from scripts.bench.cluster import BenchCluster
from scripts.bench.curve import Curve
from scripts.bench.hdr import curve, percentile_ms
from scripts.bench.observed import BY_LB, BY_WORKER, CLIENT_ERROR, OK, ORDERED, REFUSED, RESET, TIMEOUT
from scripts.bench.offered import Load, Seen, offer
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.report import Report, Samples, finish, say
from scripts.bench.smoke import PATH, smoke
from scripts.bench.subject import subject
from scripts.bench.table import Table

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
CLIENTS, MOST = 64, 1000  # of a closed model; of an open one at a time
SLICE = 3.0  # seconds, about


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="of the cluster to load; default ./config.yaml, else the project's")
    parser.add_argument(
        "--runtime", choices=("docker", "process"), help="of the cluster that is started where none runs; default as configured"
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="length of the load; default 30")
    parser.add_argument(
        "--clients", type=int, metavar="N",
        help=f"all LBs together: closed model, how many ask at a time, default {CLIENTS}; open model, the most at a time, default {MOST}",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, metavar="R", help="open model: so many requests a second in all, whatever the answers do")
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
        help="exit 1 when the corrected p99 is above it: open model, from when a request was due; closed model, an estimate",
    )
    parser.add_argument("--max-errors", type=int, metavar="N", help="exit 1 with more failures than this beyond the injected")
    parser.add_argument("--max-uneven", type=float, metavar="PCT", help="exit 1 when a worker's share is further from the fair one")


def load_of(options: argparse.Namespace) -> Load:
    """What the options ask for. ValueError: they make no sense, in words."""
    clients = options.clients if options.clients is not None else MOST if options.rate is not None else CLIENTS
    for name, value in (("--seconds", options.seconds), ("--clients", clients), ("--rate", 1.0 if options.rate is None else options.rate)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above zero")
    if options.body < 0:
        raise ValueError("--body must not be negative")
    paths, methods = options.path or [PATH], options.method or ["GET"]
    if wrong := [
        path for path in paths if not path.startswith("/") or not path.isascii() or any(c in path for c in ' "\\') or not path.isprintable()
    ]:
        raise ValueError(
            f"--path {wrong[0]!r}: a path begins with / and has no spaces, quotes or backslashes (write them as %20, %22, %5C)"
        )
    asks = [Ask(path, method, b"x" * options.body) for path in paths for method in methods]
    slices = max(4, min(12, round(options.seconds / SLICE)))
    return Load(asks, options.seconds, slices, clients, options.rate)


def run(options: argparse.Namespace) -> int:
    try:
        load = load_of(options)
    except ValueError as error:
        say(str(error))
        return 2
    report = Report("load", versions={} if load.rate else {"wrk": machine.number("wrk", "-v")})
    with subject(options.config, options.runtime) as (of, told):
        rows = of.rows()
        ports = {name: int(row["port"]) for name, row in rows.items() if row["role"] == "lb"}
        workers = [name for name, row in rows.items() if row["role"] == "worker" and row["state"] == "ready"]
        report.settings = {"cluster": told, "load": f"{load}, over {len(ports)} LBs and {len(workers)} workers"}
        wrong = smoke(ports, own=read_config(of.path).own_service)
        say(f"smoke phase: {'; '.join(wrong) or 'passed'}; loading for {options.seconds:g} s")
        before = look(of)
        psutil.cpu_percent()
        seen = offer(load, ports, lambda: total(of, list(ports)))
        busy = psutil.cpu_percent()
        wait_for(lambda: quiet(of, list(ports)), 40, "the LBs have nothing in flight")
        grown = _settled(of, before, seen, load)
    answers = _answers(seen, grown, workers, busy, load)
    fill(report, load, seen, grown, answers)
    judge(report, load, wrong, seen, grown, answers, Limits(options.max_p99, options.max_errors, options.max_uneven))
    return finish(report, options.json)


def counted(load: Load) -> bool:
    """Whether the workers count all that is asked."""
    return all(ask.method == "GET" and ask.path.partition("?")[0] == PATH for ask in load.asks)


def _settled(of: BenchCluster, before: Look, seen: Seen, load: Load) -> Growth:
    """What was counted, once the workers are done with what nobody waits for any more: for at most 5 s until the books agree."""
    grown: list[Growth] = []

    def agree() -> bool:
        grown[:] = [growth(before, look(of))]
        return not settle(seen.whole(), grown[0], counted(load)).wrong

    with contextlib.suppress(BenchError):  # That they do not, the ledger says.
        wait_for(agree, 5, "the books agree", pause=0.5)
    return grown[0]


def _answers(seen: Seen, grown: Growth, workers: list[str], busy: float, load: Load) -> Answers:
    whole = seen.whole()
    # Not of what clients had: whom a client left waiting as it went would be missing, and that is mostly the slowest.
    shares = {name: grown.shares.get(name, 0) for name in sorted({*workers, *grown.shares}, key=_by_number)}
    requests_ = max(1, grown.responses)
    times = {name: row.micros / row.count / 1000 for name, row in grown.workers.items() if row.count}
    cpu = {role: {name: share for name, share in grown.cpu.items() if name.startswith(role)} for role in ("lb", "worker")}
    mean = grown.all_lbs("latency_us") / requests_ / 1000
    own = (sum(grown.cpu.values()) + seen.generator_cpu * seen.generators) / (psutil.cpu_count() or 1)
    figures = Figures(cpu["lb"], busy, seen.generator_cpu, times, mean, cpu["worker"], load.rate is not None, own)
    hidden = sum(grown.injected.get(kind, 0) for kind in UNSEEN)
    return Answers(whole, shares, hidden, figures, len(load.asks))


def _by_number(name: str) -> tuple[str, int]:
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)


FAILURES = (REFUSED, RESET, TIMEOUT, BY_LB, BY_WORKER, CLIENT_ERROR)


def fill(report: Report, load: Load, seen: Seen, grown: Growth, answers: Answers) -> None:
    """Tables, plots, samples."""
    whole, by_lb = seen.whole(), seen.by_lb()
    balancers = Table("Requests by load balancer", ["LB", "requests", "requests/s", "ok", "injected", *FAILURES, "CPU % of a core"])
    for name, each in [*by_lb.items(), ("all", whole)]:
        failed = [each.kinds[kind] for kind in FAILURES]
        row = [each.answered + each.unanswered, each.rate, each.kinds[OK], each.kinds[ORDERED], *failed]
        balancers.rows.append([name, *row, answers.figures.lb_cpu.get(name)])
    latency = Table("Latency, ms (HDR histogram, all kinds of answers)", ["times", "LB", "p50", "p90", "p99", "p99.9", "highest"])
    for field, way in answers.ways.items():
        for name, each in [*by_lb.items(), ("all", whole)]:
            latency.rows.append([way, name, *[percentile_ms(getattr(each, field), point) for point in POINTS]])
    workers = Table("Workers", ["worker", "answers", "share %", "from the fair share %", "mean ms in the worker", "CPU % of a core"])
    total, fair = sum(answers.shares.values()), sum(answers.shares.values()) / max(1, len(answers.shares))
    for name, count in answers.shares.items():
        off = f"{round((count / fair - 1) * 100, 1) + 0.0:+.1f}" if fair else "-"
        share = count / total * 100 if total else None
        workers.rows.append([name, count, share, off, answers.figures.worker_ms.get(name), answers.figures.worker_cpu.get(name)])
    report.tables += [balancers, latency, workers]
    lines = [(way, curve(getattr(whole, field))) for field, way in answers.ways.items()]
    report.charts.append(Curve("Latency by percentile", str(report.settings.get("load", "")), lines))
    report.charts.append(
        Chart("Answers by worker", "even is good", ["answers"], list(answers.shares), [[float(n)] for n in answers.shares.values()])
    )
    report.samples = samples(load, seen)
    report.data = {
        "whole": whole.as_dict(),
        "lbs": {name: each.as_dict() for name, each in by_lb.items()},
        "figures": vars(answers.figures),
    }
    report.data |= {"shares": answers.shares, "injected": dict(grown.injected), "sending": vars(seen.sending) if seen.sending else None}
    report.data |= {"uneven_percent": answers.uneven, "beyond_injected": answers.beyond, "p99_ms": answers.p99_ms}
    report.data |= {"percentiles_ms": answers.percentiles_ms, "percentiles_are": answers.ways}


def samples(load: Load, seen: Seen) -> dict[str, Samples]:
    """The slices: an open model's as its clients saw them, a closed one's as the LBs did."""
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


def judge(report: Report, load: Load, wrong: list[str], seen: Seen, grown: Growth, answers: Answers, limits: Limits) -> None:
    """The sentences, and whether the test passed."""
    settled = settle(seen.whole(), grown, counted(load))
    report.notes += answers.sentences()
    if seen.sending and load.rate:
        report.notes.append(of_sending(load.rate, seen.sending, load.clients))
    else:
        report.notes.append(answers.estimate)
        report.notes.append(f"the generators used {seen.generator_cpu:.0f} % of a core each ({seen.generators} wrk)")
    report.notes.append(f"ledger: {settled}")
    report.notes.append(f"smoke phase: {'; '.join(wrong) or 'passed'}")
    broken = missed(limits, answers)
    report.notes += [f"threshold MISSED: {each}" for each in broken]
    if limits != Limits() and not broken:
        report.notes.append("all thresholds hold")
    report.data["ledger"] = vars(settled)
    report.passed = not wrong and not settled.wrong and not broken
