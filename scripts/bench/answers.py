"""The answers of a load test, in sentences, and whether its thresholds hold. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.bench.bottleneck import Figures, bottleneck, outlier
from scripts.bench.hdr import percentile_ms
from scripts.bench.observed import BY_LB, ORDERED, RESET, TIMEOUT, Observed
from scripts.bench.paced import LATE, Sending
from scripts.bench.stats import evenness

LIKE_INJECTED = (RESET, TIMEOUT, BY_LB)
"""What a client sees of a hang, a reset or a cut answer that was injected, through an LB that may have repeated the request in vain."""

POINTS = (50.0, 90.0, 99.0, 99.9, 100.0)
"""The percentiles that are told."""

OPEN = {"raw": "raw, from when it was sent", "corrected": "corrected, from when it was due"}
CLOSED = {"raw": "as measured", "corrected": "corrected, an estimate with what stalled clients did not ask"}
"""What the two times of an answer are called, by model."""

ESTIMATE = (
    "corrected times of a closed model are an estimate, made of the measured ones: an answer that took n times as long as is usual between"
    " a client's requests stands for n - 1 more that it would have asked for (which can lower a percentile, too); only --rate times every"
    " request from when it was due"
)

UNLIKE = "; where some answers are slow by nature, as here, it takes them for stalls: the measured times are the better ones"

BALANCED = 5.0  # percent by which a share may lie from the fair one


@dataclass(frozen=True)
class Limits:
    """Thresholds: ms, failures beyond the injected, percent; None: none."""

    p99_ms: float | None = None
    errors: int | None = None
    uneven: float | None = None


@dataclass(frozen=True)
class Answers:
    """`hidden` is how many hangs, resets and the like were injected, which a client cannot tell from real ones; `kinds` is how many
    different requests were asked."""

    seen: Observed
    shares: Mapping[str, int]
    hidden: int
    figures: Figures
    kinds: int = 1

    @property
    def uneven(self) -> float:
        """Percent by which the furthest share lies from the fair one."""
        return evenness(list(self.shares.values())) * 100

    @property
    def p99_ms(self) -> float:
        """As it counts: of an open model from when a request was due, of a closed one with what stalled clients did not ask. 0 where
        nothing ended."""
        return percentile_ms(self.seen.corrected, 99) or 0.0

    @property
    def ways(self) -> dict[str, str]:
        """What raw and corrected times are called."""
        return OPEN if self.figures.open_ else CLOSED

    @property
    def percentiles_ms(self) -> dict[str, dict[float, float | None]]:
        """Raw and corrected, at POINTS; None where nothing ended."""
        return {way: {point: percentile_ms(getattr(self.seen, way), point) for point in POINTS} for way in self.ways}

    @property
    def estimate(self) -> str:
        """What the corrected times of a closed model are, and whether they are any good here."""
        unlike = self.kinds > 1 or outlier(self.figures.worker_ms) is not None
        return ESTIMATE + (UNLIKE if unlike else "")

    @property
    def beyond(self) -> int:
        """Failures beyond what was injected."""
        failures = self.seen.failures
        like = sum(failures[kind] for kind in LIKE_INJECTED)
        return max(0, like - self.hidden) + failures.total() - like

    def sentences(self) -> list[str]:
        """The four questions."""
        return [self._balance(), self._speed(), self._failures(), f"bottleneck: {bottleneck(self.figures)}"]

    def _balance(self) -> str:
        if len(self.shares) < 2 or not sum(self.shares.values()):
            return "balanced? there is nothing to share out: " + (
                f"one worker ({next(iter(self.shares))})" if self.shares else "no answers"
            )
        fair = sum(self.shares.values()) / len(self.shares)
        name = max(self.shares, key=lambda each: abs(self.shares[each] - fair))
        more = "above" if self.shares[name] > fair else "below"
        # One request too many of few is no imbalance.
        if not self.uneven:
            return "balanced? yes: every share is the fair one"
        even = self.uneven <= BALANCED or abs(self.shares[name] - fair) <= 2
        verdict = "yes" if even else "NO"
        return f"balanced? {verdict}: the furthest share ({name}) lies {self.uneven:.1f} % {more} the fair one"

    def _speed(self) -> str:
        if not self.seen.answered:
            return "how fast? nothing was answered"
        told = [f"how fast? {self.seen.rate:,.0f} requests/s"]
        for way, times in self.percentiles_ms.items():
            p50, p99, p999 = (f"{times[point] or 0.0:,.1f} ms" for point in (50.0, 99.0, 99.9))
            told.append(f"{self.ways[way]}: half within {p50}, 99 % within {p99}, 99.9 % within {p999}")
        return "; ".join(told)

    def _failures(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.seen.failures.most_common())
        told = f"failures beyond the {self.seen.kinds[ORDERED]:,} injected: {self.beyond:,}" + (f" ({kinds})" if kinds else "")
        return told + (f"; {self.hidden:,} hangs, resets and cut answers were injected too" if self.hidden and kinds else "")


def missed(limits: Limits, of: Answers) -> list[str]:
    """Each threshold that does not hold, in words."""
    found = []
    if limits.p99_ms is not None and of.p99_ms > limits.p99_ms:
        raw = of.percentiles_ms["raw"][99.0] or 0.0
        told = f"{of.p99_ms:,.1f} ms ({of.ways['corrected']}; {of.ways['raw']} {raw:,.1f} ms)"
        found.append(f"p99 is {told}, above --max-p99 {limits.p99_ms:g}")
    if limits.errors is not None and of.beyond > limits.errors:
        found.append(f"{of.beyond:,} failures beyond the injected, above --max-errors {limits.errors}")
    if limits.uneven is not None and of.uneven > limits.uneven:
        found.append(f"a share lies {of.uneven:.1f} % from the fair one, above --max-uneven {limits.uneven:g}")
    if limits != Limits() and not of.seen.answered:
        found.append("nothing was answered")
    return found


def of_sending(rate: float, sending: Sending, clients: int) -> str:
    """How the rate was kept, and whose fault it was where it was not."""
    used = f"the generator used {sending.cpu:.0f} % of a core"
    if sending.kept:
        return f"the rate was kept: {sending.due:,} requests at {rate:g} a second; {used}"
    missed_ = (
        f"{sending.late:,} of {sending.due:,} requests were sent more than {LATE * 1000:.0f} ms late (at most {sending.latest_ms:,.0f} ms)"
    )
    if sending.unsent:
        missed_ += f" and {sending.unsent:,} not at all"
    if sending.unsent or sending.waited > sending.late / 2:
        why = f"all {clients} connections waited for answers: the cluster is slower than this rate (or --clients too few)"
        if sending.cpu > 85:
            why = "it has no CPU left: the figures are its own, not the cluster's; ask for less"
    else:
        why = "the generator was kept from running (a busy machine): corrected times hold that against the cluster, raw ones do not"
    return f"the rate of {rate:g}/s was NOT kept: {missed_}; {why}; {used}"
