"""The result of a load test as sentences, and its thresholds. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.bench.bottleneck import Figures, bottleneck, outlier
from scripts.bench.hdr import percentile_ms
from scripts.bench.observed import BY_LB, ORDERED, RESET, TIMEOUT, Observed
from scripts.bench.paced import LATE, Sending
from scripts.bench.stats import evenness

LIKE_INJECTED = (RESET, TIMEOUT, BY_LB)
"""What a client sees of an injected hang, reset or truncated response, possibly after retries of the load balancer."""

POINTS = (50.0, 90.0, 99.0, 99.9, 100.0)
"""The percentiles that are reported."""

OPEN = {"raw": "raw, from when it was sent", "corrected": "corrected, from when it was due"}
CLOSED = {"raw": "as measured", "corrected": "corrected, an estimate with what stalled clients did not ask"}
"""The names of the two times of an answer, by model."""

ESTIMATE = (
    "corrected times of a closed model are an estimate, made of the measured ones: an answer that took n times as "
    "long as is usual between"
    " a client's requests stands for n - 1 more that it would have asked for (which can lower a percentile, too); "
    "only --rate times every"
    " request from when it was due"
)

UNLIKE = (
    "; where some answers are slow by nature, as here, it takes them for stalls: the measured times are the better ones"
)

BALANCED = 5.0  # percent by which a share may lie from the fair one


@dataclass(frozen=True)
class Limits:
    """Thresholds (ms, failures beyond the injected ones, percent); None: no threshold."""

    p99_ms: float | None = None
    errors: int | None = None
    uneven: float | None = None


@dataclass(frozen=True)
class Answers:
    """`hidden` is the number of injected hangs, resets and the like, which a client cannot tell from real ones; `kinds`
    is the number of different requests.
    """

    seen: Observed
    shares: Mapping[str, int]
    hidden: int
    figures: Figures
    kinds: int = 1

    @property
    def uneven(self) -> float:
        """The largest deviation of a share from the fair share, in percent."""
        return evenness(list(self.shares.values())) * 100

    @property
    def p99_ms(self) -> float:
        """The p99 that the threshold applies to: of an open model from when requests were due, of a closed one
        corrected for coordinated omission. 0 without answers.
        """
        return percentile_ms(self.seen.corrected, 99) or 0.0

    @property
    def time_names(self) -> dict[str, str]:
        """The names of the raw and the corrected times."""
        return OPEN if self.figures.open_ else CLOSED

    @property
    def percentiles_ms(self) -> dict[str, dict[float, float | None]]:
        """Raw and corrected percentiles at POINTS; None without answers."""
        return {
            way: {point: percentile_ms(getattr(self.seen, way), point) for point in POINTS} for way in self.time_names
        }

    @property
    def estimate(self) -> str:
        """Explain the corrected times of a closed model, and whether they are usable here."""
        unlike = self.kinds > 1 or outlier(self.figures.worker_ms) is not None
        return ESTIMATE + (UNLIKE if unlike else "")

    @property
    def beyond(self) -> int:
        """Failures beyond the injected ones."""
        failures = self.seen.failures
        like = sum(failures[kind] for kind in LIKE_INJECTED)
        return max(0, like - self.hidden) + failures.total() - like

    def sentences(self) -> list[str]:
        """Return the answers to the four questions."""
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
        text = [f"how fast? {self.seen.rate:,.0f} requests/s"]
        for way, times in self.percentiles_ms.items():
            p50, p99, p999 = (f"{times[point] or 0.0:,.1f} ms" for point in (50.0, 99.0, 99.9))
            text.append(f"{self.time_names[way]}: half within {p50}, 99 % within {p99}, 99.9 % within {p999}")
        return "; ".join(text)

    def _failures(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.seen.failures.most_common())
        text = f"failures beyond the {self.seen.kinds[ORDERED]:,} injected: {self.beyond:,}" + (
            f" ({kinds})" if kinds else ""
        )
        return text + (
            f"; {self.hidden:,} hangs, resets and cut answers were injected too" if self.hidden and kinds else ""
        )


def missed_thresholds(limits: Limits, answers: Answers) -> list[str]:
    """Return a sentence for each threshold that is missed."""
    found = []
    if limits.p99_ms is not None and answers.p99_ms > limits.p99_ms:
        raw = answers.percentiles_ms["raw"][99.0] or 0.0
        text = (
            f"{answers.p99_ms:,.1f} ms ({answers.time_names['corrected']}; {answers.time_names['raw']} {raw:,.1f} ms)"
        )
        found.append(f"p99 is {text}, above --max-p99 {limits.p99_ms:g}")
    if limits.errors is not None and answers.beyond > limits.errors:
        found.append(f"{answers.beyond:,} failures beyond the injected, above --max-errors {limits.errors}")
    if limits.uneven is not None and answers.uneven > limits.uneven:
        found.append(f"a share lies {answers.uneven:.1f} % from the fair one, above --max-uneven {limits.uneven:g}")
    if limits != Limits() and not answers.seen.answered:
        found.append("nothing was answered")
    return found


def rate_sentence(rate: float, sending: Sending, clients: int) -> str:
    """Describe how well the rate was kept, and the cause if it was not."""
    usage = f"the generator used {sending.cpu:.0f} % of a core"
    if sending.kept:
        return f"the rate was kept: {sending.due:,} requests at {rate:g} a second; {usage}"
    missed_ = (
        f"{sending.late:,} of {sending.due:,} requests were sent more than {LATE * 1000:.0f} ms late (at "
        f"most {sending.latest_ms:,.0f} ms)"
    )
    if sending.unsent:
        missed_ += f" and {sending.unsent:,} not at all"
    if sending.unsent or sending.waited > sending.late / 2:
        why = (
            f"all {clients} connections waited for answers: the cluster is slower than this rate (or --clients too few)"
        )
        if sending.cpu > 85:
            why = "it has no CPU left: the figures are its own, not the cluster's; ask for less"
    else:
        why = (
            "the generator was kept from running (a busy machine): corrected times hold that against the "
            "cluster, raw ones do not"
        )
    return f"the rate of {rate:g}/s was NOT kept: {missed_}; {why}; {usage}"
