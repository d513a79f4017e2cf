"""What a comparison tells of its figures, and that it tells nothing else."""

import re

import pytest

from comet.compare import words
from comet.compare.report import made
from comet.compare.results import grown
from comet.compare.results.findings import Attempt, Findings, Grown, Recovery, Seen
from comet.report import page, terminal
from tests.support.pages import ROOT


def findings(difference: float = 300.0, noise: float = 5.0, outlier: int | None = None) -> Findings:
    found = Findings(
        machine={"cpu": "<b>quick</b> & small", "cores": 2}, versions={"comet": "1"}, rounds=4, seconds=60.0
    )
    for number in range(4):
        wobble = noise * (-1) ** number
        late = 400.0 if number == outlier else 0.0
        for kind, value in (("process", 300.0), ("container", 300.0 + difference + wobble + late)):
            found.measure("life", "kill -9 to first answer", "ms").note(kind, number, value)
            found.measure("cost", "latency p50, 16 in flight", "ms").note(kind, number, value / 100)
    found.recoveries = [
        Recovery("process", 0, False, {"died": 0, "noticed": 4, "ready": 290}),
        Recovery("container", 0, False, {"died": 0, "ready": 700}),
    ]
    found.seen = [
        Seen("kill -9", kind, 0, 1000, failed, 2, 12.0, 40.0)
        for kind, failed in (("process", {"reset": 3}), ("container", {}))
    ]  # type: ignore[arg-type]
    for number in range(4):
        for kind, size in (("process", 20), ("container", 30)):
            found.growth += [
                Grown(kind, number, n, None, (n * size << 20) + (number << 20), 0, 0, None) for n in (1, 20)
            ]  # type: ignore[arg-type]
        grown.note(found, number, (1, 20))
        found.attempts.append(Attempt("memory hog", "process", number, False, "got it all"))
        found.attempts.append(Attempt("memory hog", "container", number, True, "was ended"))
    return found


def test_the_summary_is_made_of_the_figures() -> None:
    told = "\n".join(words.summary(findings()))
    both = "answers again after 300 ms on average as a process and 600 ms as a container"
    assert f"{both}; the difference is 300 ms (95 %: 291 to 309 ms)." in told
    assert (
        "What each replica from 1 to 20 adds in memory (PSS, a container with what the engine keeps for it), mean of "
        "the rounds:"
    ) in told
    assert (
        "20.0 MiB for the process, 30.0 MiB for the container; the difference is 10.0 MiB (95 %: 10.0 to 10.0 MiB)."
        in told
    )
    assert "Of 1 attack on its neighbours, each tried 4 times, the process contained 0; not: memory hog." in told
    assert "Of 1 attack on its neighbours, each tried 4 times, the container contained 1 every time." in told
    assert "process 3 of 1,000 requests failed" in told


def test_the_difference_told_is_that_of_the_figures_told() -> None:
    told = "\n".join(words.summary(findings(outlier=3, noise=60.0, difference=900.0)))
    pattern = (
        r"answers again after ([\d.]+) ms on average as a process and ([\d.]+) s as a container; the "
        r"difference is ([\d.]+) s"
    )
    found = re.search(pattern, told)
    assert found is not None, told
    process, container, difference = float(found[1]) / 1000, float(found[2]), float(found[3])
    assert difference == pytest.approx(container - process, abs=0.011)
    assert container == pytest.approx(1.3)


def test_an_incomplete_round_says_nothing_of_growth() -> None:
    found = Findings(rounds=3)
    for number in range(3):
        for kind, size, reached in (
            ("process", 20 + number, (1, 5, 20)),
            ("container", 30, (1, 5) if number == 0 else (1, 5, 20)),
        ):
            found.growth += [Grown(kind, number, n, None, n * size << 20, 0, 0, None) for n in reached]  # type: ignore[arg-type]
        grown.note(found, number, (1, 5, 20))
    adds = found.measure("growth", grown.SLOPES[grown.MEMORY], "MiB")
    assert adds.values["process"] == pytest.approx([20.0, 21.0, 22.0])
    assert adds.values["container"] == [None, pytest.approx(30.0), pytest.approx(30.0)]
    assert adds.paired is not None
    assert (adds.paired.rounds, adds.paired.difference) == (2, pytest.approx(8.5))


def test_the_time_per_added_replica_counts_from_the_first() -> None:
    found = Findings(rounds=1)
    found.growth = [Grown("process", 0, n, None if n == 1 else (n - 1) * 150.0, 0, 0, 0, None) for n in (1, 5, 20)]
    grown.note(found, 0, (1, 5, 20))
    assert found.measure("growth", grown.SLOPES[grown.TIME], "ms").values["process"] == [pytest.approx(150.0)]


def test_memory_of_a_worker_is_told_with_its_interval() -> None:
    found = findings()
    for number in range(4):
        for kind, value in (("process", 40.0), ("container", 50.0 + number % 2)):
            found.measure("memory", "PSS of a worker", "MiB").note(kind, number, value)
    told = "\n".join(words.summary(found))
    both = "A worker's memory (PSS), mean of the rounds: 40.0 MiB for the process, 50.5 MiB for the container"
    assert f"{both}; the difference is 10.5 MiB (95 %:" in told


def test_others_at_work_during_a_block_are_told() -> None:
    found = findings()
    found.foreign = [0.1, 0.2]
    assert words.warnings(found) == []
    found.foreign = [0.1, 1.24, 0.7]
    assert words.warnings(found) == [
        "other programs used the machine meanwhile: in 2 of 3 blocks under load more than 0.5 cores, at most 1.2"
    ]


@pytest.mark.slow
def test_the_terminal_tells_all_tables_and_all_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings()
    terminal.show(made(found))
    told = " ".join(capsys.readouterr().out.split())
    for sentence in (
        *words.summary(found),
        "kill -9 to first answer",
        "Mean difference",
        "memory hog",
        "growth, medians",
        "RSS",
    ):
        assert sentence in told
    terminal.show(made(Findings(rounds=1, notes=["nothing was measured"])))
    assert "! nothing was measured" in capsys.readouterr().out


def test_an_attack_of_unknown_outcome_is_not_contained() -> None:
    found = findings()
    for number, during in enumerate((2.0, 30.0, 2.0, 60.0)):
        neighbours: dict[str, dict[str, float | None]] = {
            "process": {"before_p99_ms": 2.0, "during_p99_ms": during, "failures": 0}
        }
        found.attempts.append(Attempt("CPU burner", "container", number, None, "it burned", True, neighbours))
    found.attempts.append(Attempt("fork bomb", "container", 0, None, "no memory for it"))
    often = (
        "each tried 4 times, the container contained 1 every time; within the noise: CPU burner; not tried: fork bomb."
    )
    assert f"Of 3 attacks on its neighbours, {often}" in words.summary(found)
    assert (
        "isolation: the noise is larger than the effect in 1 of 1 changes of a neighbour's p99: the table marks them"
        in words.warnings(found)
    )


def test_what_is_noise_is_called_noise() -> None:
    noisy = findings(difference=1.0, noise=50.0)
    assert "the difference is within the noise here" in "\n".join(words.summary(noisy))
    assert words.warnings(noisy)[:2] == [
        "life: the noise is larger than the effect in 1 of 1: kill -9 to first answer",
        "cost: the noise is larger than the effect in 1 of 1: latency p50, 16 in flight",
    ]
    assert words.warnings(findings()) == []


@pytest.mark.parametrize("section", ["life", "cost", "memory", "growth", "clients"])
def test_noise_is_told_of_every_section_and_wherever_it_is_read(
    section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Findings(rounds=3)
    for number, value in enumerate((5.0, 20.0, 8.0)):
        found.measure(section, "what is asked", "ms").note("process", number, 10.0)
        found.measure(section, "what is asked", "ms").note("container", number, value)
        found.measure(section, "what never differs", "ms").note("process", number, 10.0)
        found.measure(section, "what never differs", "ms").note("container", number, 10.0)
    warning = f"{section}: the noise is larger than the effect in 1 of 2: what is asked"
    assert words.document(found)["warnings"] == [warning]
    terminal.show(made(found))
    told = " ".join(capsys.readouterr().out.split())
    assert f"! {warning}" in told
    stands = section != "clients"  # Those of each round stand in the JSON alone.
    assert told.count("within the noise") == told.count("the same") == stands
    html = page.render(made(found, "today"))
    assert f"{warning[0].upper()}{warning[1:]}." in html
    assert html.count("within the noise") == stands


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert words.summary(Findings(rounds=3)) == []
    assert "In words" in page.render(made(Findings(rounds=3), "today"))


def test_a_busy_machine_is_told() -> None:
    found = findings()
    found.machine["load_before"] = 0.9
    assert words.warnings(found) == []
    found.machine["load_before"] = 9.26
    assert words.warnings(found) == [
        "the machine was busy before it began (load 9.3 on 2 cores): times and CPU are larger than on a quiet one"
    ]


def test_a_question_that_fails_is_told_and_ends_nothing() -> None:
    found = findings()
    with found.excused("round 1: container, freeze under load"):
        raise OSError("Cannot pause container:\n unable to freeze")
    told = "round 1: container, freeze under load: not measured (Cannot pause container: unable to freeze)"
    assert words.warnings(found) == [told]
    assert told[1:] in page.render(made(found, "today"))


def test_the_page_says_where_the_raw_data_is() -> None:
    html = page.render(made(findings(), "today"))
    assert "compare --json FILE" in html
    assert "<pre>" not in html


def test_the_report_of_the_documentation_is_small() -> None:
    assert (ROOT / "docs/compare.html").stat().st_size < 60_000
