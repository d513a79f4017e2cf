"""Renders the findings of a chaos run as tables, without access to the system."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comet.report.model import Bars, Table
from scripts.bench.ids import Account
from scripts.bench.ledger import ClientBook, Death, LbBook, Verdict, WorkerBook, unexplained_repeats
from scripts.bench.report import Result, Samples
from scripts.bench.stats import median

MAX_SHOWN = 20
"""Maximum number of reasons of one kind that are shown; the JSON has all."""


@dataclass(frozen=True)
class Parties:
    """The counts of all parties, and the kills."""

    clients: Mapping[str, ClientBook]
    lbs: Mapping[str, LbBook]
    workers: WorkerBook
    deaths: Sequence[Death]


def fill(
    report: Result, parties: Parties, verdict: Verdict, by_id: Account, complaints: Sequence[str],
    repeats: Sequence[tuple[float, int]], seconds: float,
) -> None:  # fmt: skip
    """Fill the report. `repeats` are samples of time and the load balancers' running total of retries."""
    over, shares = unexplained_repeats(repeats, parties.deaths)
    unexplained = [*verdict.reasons, *complaints, *["a repeat while no worker was dead"] * over, *by_id.unexplained]
    sent = sum(each.sent for each in parties.clients.values())
    explained = Table(
        "Repeats by the death that explains them", ["death", "repeats"], [[key, value] for key, value in shares.items()]
    )
    report.parts += [
        _ledger(verdict, len(unexplained), over, sent),
        _single(by_id),
        *_books(parties),
        _killed(parties.deaths),
        explained,
    ]
    report.notes.append(f"{sent / seconds:,.0f} requests/s over {seconds:.0f} s, {len(parties.deaths)} kills")
    report.notes.extend(unexplained[:MAX_SHOWN])
    report.notes.extend(f"request {id} was answered and not counted" for id in by_id.lost[:MAX_SHOWN])
    report.notes.extend(f"request {id} was counted more often than it was sent" for id in by_id.doubled[:MAX_SHOWN])
    report.passed = verdict.clean and by_id.clean and not unexplained
    report.notes.append("all zero" if report.passed else "NOT all zero")
    deaths = [vars(death) for death in parties.deaths]
    report.data = {"deaths": deaths, "unexplained": unexplained, "verdict": vars(verdict), "by_id": vars(by_id)}
    back = [death.back - death.at for death in parties.deaths if death.back is not None]
    report.samples = {
        "requests": Samples("1/s", "more", [sent / seconds]),
        "kill until ready": Samples("s", "less", back),
    }
    counts = [
        [float(value)] for value in (verdict.lost, verdict.doubled, len(unexplained), verdict.repeated, verdict.broken)
    ]
    labels = ["lost", "counted twice", "unexplained", "repeated", "broken with their LB"]
    caption = f"{sent:,} requests, {len(parties.deaths)} kills; the first three must be zero"
    report.parts.append(Bars("Chaos", caption, ["requests"], labels, counts))


def _ledger(verdict: Verdict, unexplained: int, over: int, sent: int) -> Table:
    rows = [
        ["lost (seen by a client, missing at the workers)", verdict.lost, "0"],
        ["counted twice without a repeat", verdict.doubled, "0"],
        ["unexplained", unexplained, "0"],
        ["repeated by an LB, each near a worker's death", verdict.repeated - over, ""],
        ["broken with their LB's death", verdict.broken, ""],
        ["requests in all", sent, ""],
    ]  # fmt: skip
    return Table("The ledger", ["what", "count", "must be"], rows)


def _single(by_id: Account) -> Table:
    rows = [
        ["sent by clients", by_id.requests, ""],
        ["lines in the LBs' access logs", by_id.lines, ""],
        ["counted by workers", by_id.entries, ""],
        ["answered, and not counted by the worker that answered", len(by_id.lost), "0"],
        ["counted more often than its LB sent it", len(by_id.doubled), "0"],
        ["otherwise unexplained", len(by_id.unexplained), "0"],
        ["repeated, while a worker was dead", by_id.repeated, ""],
        ["counted more than once, each repeated", by_id.counted_again - len(by_id.doubled), ""],
        ["not logged: its LB died before the line was written", by_id.unwritten, ""],
    ]  # fmt: skip
    return Table("Every request by its id", ["what", "count", "must be"], rows)


def _books(parties: Parties) -> tuple[Table, Table]:
    """Tabulate what clients and load balancers counted, and clients and workers."""
    columns = [
        "LB",
        "sent",
        "200",
        "injected",
        "broken",
        "LB requests",
        "LB responses",
        "LB aborted",
        "LB repeats",
        "kills",
    ]
    by_lb = Table("Client and LB", columns)
    for name, each in parties.clients.items():
        lb = parties.lbs[name]
        kills = sum(death.replica == name for death in parties.deaths)
        seen = (each.sent, sum(each.served.values()), each.injected, each.broken)
        by_lb.rows.append([name, *seen, lb.requests, lb.responses, lb.aborted, lb.retries, kills])
    by_row = Table("Client and worker", ["row", "200 at the client", "successes at the worker"])
    for name in sorted(parties.workers.successes):
        by_row.rows.append(
            [name, sum(each.served.get(name, 0) for each in parties.clients.values()), parties.workers.successes[name]]
        )
    injected = sum(each.injected for each in parties.clients.values())
    by_row.rows.append(["injected failures, all", injected, parties.workers.failures])
    return by_lb, by_row


def _killed(deaths: Sequence[Death]) -> Table:
    table = Table("Kills", ["replica", "how", "times", "median s until ready"])
    grouped: dict[tuple[str, str], list[Death]] = {}
    for death in deaths:
        grouped.setdefault((death.replica, death.how), []).append(death)
    for (replica, how), found in sorted(grouped.items()):
        back = [death.back - death.at for death in found if death.back is not None]
        table.rows.append([replica, how, len(found), median(back) if back else None])
    return table
