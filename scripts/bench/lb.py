"""`bench.sh lb`: measures the cost of a request in Comet's load balancer, next to those of `scripts.bench.rivals`.

All proxies run all the time in front of the same workers. Each round gives every case to every proxy in turn, so that a
disturbance of the machine affects neighbors alike. The comparison is of CPU time per completed request, over the
proxy's whole process tree.
"""

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comet.report.model import Bars, Cell, Table
from scripts.bench import machine, system_calls
from scripts.bench.cases import CASES, Case
from scripts.bench.proc import (
    BenchError,
    accepts,
    free_ports,
    memory,
    reset_peak,
    running,
    serving,
    tree_cpu,
    tree_kernel_cpu,
    wait_for,
)
from scripts.bench.report import ROOT, Result, Samples, begin, finish, say
from scripts.bench.rivals import OTHERS, Rival, backends, contestants
from scripts.bench.stats import best_rival, median, ratios_to_best, spread
from scripts.bench.wrk import TIMES, Burst, burst

REFERENCE_RIVALS = ("haproxy", "nginx")  # the rivals that the goals refer to


@dataclass
class Series:
    """All bursts of one case at one proxy."""

    bursts: list[Burst] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    kernel_us: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(each.errors for each in self.bursts)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="three rounds of short bursts: under a minute, coarser")
    parser.add_argument(
        "--only",
        action="append",
        choices=[case.key for case in CASES],
        metavar="CASE",
        help="run only this case (repeatable)",
    )
    known = (*REFERENCE_RIVALS, *(name for name, *_ in OTHERS))
    meaning = f"measure only this proxy next to Comet (repeatable): {', '.join(known)}"
    parser.add_argument("--rival", action="append", choices=known, metavar="NAME", help=meaning)
    parser.add_argument("--rounds", type=int, metavar="N", help="default 5, quick 3")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a burst; default 1.5, quick 0.5")
    parser.add_argument("--calls", action="store_true", help="count system calls, too, with strace")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")


class Arena:
    """The running proxies, and the measurements of them."""

    def __init__(self, stack: ExitStack, rivals: list[Rival]) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comet-bench-")))
        self.folder.chmod(0o755)
        ports = free_ports(3 + len(rivals))
        self.workers, own = ports[:3], ports[3:]
        log = self.folder / "workers.log"
        process = stack.enter_context(running(backends(self.folder, self.workers), log))
        serving(process, self.workers[-1], log, "nginx as workers")
        self.port = dict(zip([rival.name for rival in rivals], own, strict=True))
        self.pid: dict[str, int] = {}
        for rival in rivals:
            log = self.folder / f"{rival.name}.log"
            command = rival.command(self.folder, self.port[rival.name], self.workers)
            process = stack.enter_context(running(command, log, cwd=ROOT))
            try:
                serving(process, self.port[rival.name], log, rival.name)
                self.pid[rival.name] = process.pid
            except BenchError as error:
                if rival.name in ("comet", *REFERENCE_RIVALS):
                    raise
                say(f"left out: {error}")

    def measure(self, name: str, case: Case, seconds: float, into: Series) -> None:
        pid = self.pid[name]
        reset_peak(pid)
        before = tree_cpu(pid), tree_kernel_cpu(pid)
        done = self.load(name, case, seconds)
        total, kernel = tree_cpu(pid) - before[0], tree_kernel_cpu(pid) - before[1]
        into.bursts.append(done)
        into.cpu_us.append(total / max(1, done.requests) * 1e6)
        into.kernel_us.append(kernel / max(1, done.requests) * 1e6)
        into.peak_bytes.append(memory(pid, "VmHWM"))

    def load(self, name: str, case: Case, seconds: float) -> Burst:
        script = self.folder / f"{case.key}.lua"
        if not script.exists():
            script.write_text(case.lua)
        wait_for(lambda: accepts(self.port[name]), 5, f"{name} still accepts")
        return burst(self.port[name], script, case.connections, seconds, case.path)

    def calls(self, name: str, case: Case) -> list[Cell]:
        """Return the row of the system calls of one proxy in one case."""
        with system_calls.counted(self.pid[name]) as found:
            done = self.load(name, case, 0.7)
        return [case.title, name, found.total() / max(1, done.requests), system_calls.shown(found, done.requests)]


def run(options: argparse.Namespace) -> int:
    rounds = options.rounds or (3 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 1.5)
    cases = [case for case in CASES if not options.only or case.key in options.only]
    rivals = contestants(options.rival)
    with ExitStack() as stack:
        arena = Arena(stack, rivals)
        rivals = [rival for rival in rivals if rival.name in arena.pid]
        names = [rival.name for rival in rivals]
        series = {case.key: {name: Series() for name in names} for case in cases}
        planned = len(cases) * rounds * len(rivals) * (seconds + 0.15)
        say(f"{len(cases)} cases, {rounds} rounds, {len(rivals)} proxies: about {planned:.0f} s")
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for case in cases:
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    arena.measure(name, case, seconds, series[case.key][name])
        calls = [arena.calls(name, case) for case in cases for name in names] if options.calls else []
    versions = {rival.name: rival.version for rival in rivals} | {"wrk": machine.number("wrk", "-v")}
    report = begin("lb", versions)
    report.settings = {rival.name: rival.setting for rival in rivals}
    report.settings["load"] = f"wrk, 1 thread, {rounds} rounds of {seconds:g} s a case, 3 nginx workers, loopback"
    report.settings["p50, p99, p99.9"] = TIMES
    fill(report, cases, names, series)
    if calls:
        report.parts.append(Table("System calls per request", ("case", "proxy", "all", "each"), calls))
    if options.check and not report.data["goals_met"]:
        report.passed = False
    return finish(report, options.json)


FULL = (
    "case",
    "proxy",
    "CPU us/request",
    "+-%",
    "in the kernel",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "peak MiB",
    "errors",
)
VERDICT = ("best rival", "ratio", "lowest", "highest", "goal", "met", "kernel alone", "p99 ratio")


def fill(report: Result, cases: list[Case], names: list[str], series: dict[str, dict[str, Series]]) -> None:
    """Make tables, picture and raw data from the measurements."""
    full = Table("CPU time per request and more (medians of the rounds)", FULL)
    title = "Comet to the best of HAProxy and nginx (CPU time per request, median of the rounds' ratios)"
    short = Table(title, ["case", *[f"{name} us" for name in names], *VERDICT])
    costs = []
    for case in cases:
        of = series[case.key]
        costs.append([median(of[name].cpu_us) for name in names])
        full.rows.extend(_row(case, name, of[name]) for name in names)
        short.rows.append([case.title, *costs[-1], *_verdict(case, of)])
    report.parts += [full, short]
    failed = {
        f"{case.key}/{name}": count for case in cases for name in names if (count := series[case.key][name].errors)
    }
    report.notes.append(f"failed requests: {failed}" if failed else "no failed request in any burst")
    report.notes.append(
        "ratio: to whichever rival was cheaper in each round; p99 ratio: to the rival with the smaller median p99; "
        "kernel alone: Comet's time in the kernel to that rival's whole, the ratio if its own code cost nothing"
    )
    met = all(row[short.columns.index("met")] != "NO" for row in short.rows)
    report.data = {
        "goals_met": met,
        "series": {key: {name: _raw(each) for name, each in of.items()} for key, of in series.items()},
    }
    costs_of = {f"{case.title}: {name}": series[case.key][name].cpu_us for case in cases for name in names}
    report.samples = {name: Samples("CPU us/request", "less", values) for name, values in costs_of.items()}
    note = "less is better; each case has its own scale"
    report.parts.append(Bars("CPU time per request, microseconds", note, names, [case.title for case in cases], costs))


def _verdict(case: Case, of: dict[str, Series]) -> list[str | float | None]:
    reference = [name for name in REFERENCE_RIVALS if name in of]
    ratios = ratios_to_best(of["comet"].cpu_us, {name: of[name].cpu_us for name in reference})
    latest = {name: _p99(of[name]) for name in reference}
    p99 = [
        ratio
        for name in (best_rival(latest),)
        if name
        for ratio in ratios_to_best(_p99(of["comet"]), {name: latest[name]})
    ]
    if not ratios:
        return [None] * len(VERDICT)
    ratio = median(ratios)
    met = None if case.goal is None else "yes" if round(ratio, 2) <= case.goal else "NO"
    best = best_rival({name: of[name].cpu_us for name in reference})
    # Of a short burst the kernel may have counted no tick of its own.
    kernel = ratios_to_best(of["comet"].kernel_us, {name: of[name].cpu_us for name in reference})
    shares = [median(each) if each else None for each in (kernel, p99)]
    return [best, ratio, min(ratios), max(ratios), case.goal, met, *shares]


def _p99(series: Series) -> list[float]:
    return [float(each.p99_us) for each in series.bursts]


def _row(case: Case, name: str, series: Series) -> list[str | int | float | None]:
    def middle(values: list[float]) -> float:
        return median(values)

    times = [middle([getattr(each, key) / 1000 for each in series.bursts]) for key in ("p50_us", "p99_us", "p999_us")]
    rate = middle([each.rate for each in series.bursts])
    peak = max(series.peak_bytes) / (1 << 20)
    costs = (middle(series.cpu_us), spread(series.cpu_us) * 100, middle(series.kernel_us))
    return [case.title, name, *costs, rate, *times, peak, series.errors]


def _raw(series: Series) -> dict[str, Any]:
    return {
        "cpu_us": series.cpu_us,
        "kernel_us": series.kernel_us,
        "peak_bytes": series.peak_bytes,
        "bursts": [asdict(each) for each in series.bursts],
    }
