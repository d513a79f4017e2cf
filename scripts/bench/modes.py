"""The list of benches, from which the command line, `all` and the page are made. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bench:
    """One bench.

    `module` of scripts.bench has `add_options` and `run`; `short` are the arguments with which `all` runs it, `planned`
    the seconds that this takes. `title` is its heading in the page. `mode` is its name on the command line if that
    differs: one mode may be in the page more than once.
    """

    name: str
    help: str
    title: str
    module: str
    short: tuple[str, ...] = ()
    planned: float = 0.0
    mode: str = ""

    @property
    def limit(self) -> float:
        """Seconds after which it counts as hung."""
        return 3 * self.planned

    @property
    def command(self) -> str:
        """The command that repeats it as `all` runs it."""
        return " ".join(["scripts/bench.sh", self.mode or self.name, *self.short])


BENCHES = (
    Bench("lb", "cost of a request in Comet's LB next to HAProxy, nginx, Envoy, Traefik and Caddy",
          "What a request costs", "lb", ("--rounds", "5", "--seconds", "1"), 290),
    Bench("recovery", "time from kill to the next answer, next to supervisord, circus, docker, systemd", "Recovery",
          "recovery", ("--kills", "20"), 260),
    Bench("chaos", "random kills under load, accounting for every request", "Chaos", "chaos", ("60",), 80),
    Bench("swarm", "a node of a Docker Swarm powered off under load: requests lost, failover next to the swarm's "
                   "own", "A node dies",
          "swarm", ("--rounds", "2"), 210),
    Bench("features", "each feature of the load balancer next to HAProxy's or Envoy's, on the same traffic",
          "Features of the load balancer", "features.bench", (), 120),
    Bench("load", "load-test the running cluster, or a temporary one; the default mode",
          "A cluster under load, closed model",
          "load", ("--seconds", "30"), 45),
    Bench("open", "", "A cluster under load, open model", "load", ("--rate", "120", "--seconds", "30"), 45, "load"),
)  # fmt: skip
TOOLS = (
    Bench("diff", "compare two result files: which differences exceed the noise", "", "diff"),
    Bench("all", "run all benches, shortened, and write docs/benchmarks.md: under 20 minutes", "", "everything"),
)
DEFAULT = "load"
MODES = {each.name: each for each in (*BENCHES, *TOOLS) if not each.mode}
