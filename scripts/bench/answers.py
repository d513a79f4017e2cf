"""The answers of a load test, in sentences, and whether its thresholds hold. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.bench.bottleneck import Figures, bottleneck
from scripts.bench.hdr import percentile_ms
from scripts.bench.observed import BY_LB, ORDERED, RESET, TIMEOUT, Observed
from scripts.bench.paced import LATE, Sending
from scripts.bench.stats import evenness

LIKE_INJECTED = (RESET, TIMEOUT, BY_LB)
"""What a client sees of a hang, a reset or a cut answer that was injected, through an LB that may have repeated the request in vain."""

BALANCED = 5.0  # percent by which a share may lie from the fair one


@dataclass(frozen=True)
class Limits:
    """Thresholds: ms, failures beyond the injected, percent; None: none."""

    p99_ms: float | None = None
    errors: int | None = None
    uneven: float | None = None


@dataclass(frozen=True)
class Answers:
    """`hidden` is how many hangs, resets and the like were injected, which a client cannot tell from real ones."""

    seen: Observed
    shares: Mapping[str, int]
    hidden: int
    figures: Figures

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
        p50, p999 = percentile_ms(self.seen.corrected, 50), percentile_ms(self.seen.corrected, 99.9)
        if p50 is None or p999 is None or not self.seen.answered:
            return "how fast? nothing was answered"
        times = f"half within {p50:,.1f} ms, 99 % within {self.p99_ms:,.1f} ms, 99.9 % within {p999:,.1f} ms"
        return f"how fast? {self.seen.rate:,.0f} requests/s; {times}"

    def _failures(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.seen.failures.most_common())
        told = f"failures beyond the {self.seen.kinds[ORDERED]:,} injected: {self.beyond:,}" + (f" ({kinds})" if kinds else "")
        return told + (f"; {self.hidden:,} hangs, resets and cut answers were injected too" if self.hidden and kinds else "")


def missed(limits: Limits, of: Answers) -> list[str]:
    """Each threshold that does not hold, in words."""
    found = []
    if limits.p99_ms is not None and of.p99_ms > limits.p99_ms:
        found.append(f"p99 is {of.p99_ms:,.1f} ms, above --max-p99 {limits.p99_ms:g}")
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
