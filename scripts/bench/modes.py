"""What benches there are: the one list that the command line, `all` and the page are made from. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bench:
    """`module` of scripts.bench has `add_options` and `run`; `short` are the arguments with which `all` runs it, `limit` the seconds after
    which it is taken to hang there (about three times what it needs). In the page it stands under `title`. `mode` is what the command line
    calls it, where that is not its name: one mode may stand in the page more than once."""

    name: str
    told: str
    title: str
    module: str
    short: tuple[str, ...] = ()
    limit: float = 300.0
    mode: str = ""

    @property
    def command(self) -> str:
        """How to repeat it as `all` runs it."""
        return " ".join(["scripts/bench.sh", self.mode or self.name, *self.short])


BENCHES = (
    Bench("lb", "cost of a request in Comet's LB next to HAProxy and nginx", "What a request costs",
          "lb", ("--rounds", "5", "--seconds", "1"), 600),
    Bench("idle", "memory per idle connection, CPU at idle", "Idle connections", "idle", ("--seconds", "3"), 300),
    Bench("recovery", "time from kill to the next answer, next to supervisord, circus, docker, systemd", "Recovery",
          "recovery", ("--kills", "20"), 500),
    Bench("chaos", "random kills under load, with a ledger of every request", "Chaos", "chaos", ("60",), 300),
    Bench("stats", "cost of exact statistics next to none, 1 to 500 in flight, and the kill -9 ledger", "What exact statistics cost",
          "worker_stats", ("--rounds", "4", "--kills", "12"), 300),
    Bench("inflight", "clients x workers at a delay of 500 ms: throughput, latency, CPU per request, and what limited each",
          "Thousands in flight", "inflight", ("--seconds", "5"), 300),
    Bench("swarm", "a node of a Docker Swarm powered off under load: requests lost, failover beside the swarm's own", "A node dies",
          "swarm", ("--rounds", "2"), 400),
    Bench("load", "load-test the running cluster, or one of its own; the mode when none is named", "A cluster under load, closed model",
          "load", ("--seconds", "30"), 180),
    Bench("open", "", "A cluster under load, open model", "load", ("--rate", "120", "--seconds", "30"), 180, "load"),
)  # fmt: skip
TOOLS = (
    Bench("diff", "compare two result files: which differences exceed the noise", "", "diff"),
    Bench("page", "write docs/benchmarks.md from the latest results", "", "page"),
    Bench("all", "run every bench, briefer, and write docs/benchmarks.md: under 20 minutes", "", "everything"),
)
DEFAULT = "load"
MODES = {each.name: each for each in (*BENCHES, *TOOLS) if not each.mode}
