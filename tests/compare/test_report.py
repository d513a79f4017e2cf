"""What a comparison tells of its figures, and that it tells nothing else."""

import json
import re

from comet.compare import words
from comet.compare.findings import Attempt, Findings, Grown, Recovery, Seen
from comet.compare.page import render


def findings(difference: float = 300.0, noise: float = 5.0) -> Findings:
    found = Findings(machine={"cpu": "<b>quick</b> & small", "cores": 2}, versions={"comet": "1"}, rounds=4, seconds=60.0)
    for number in range(4):
        wobble = noise * (-1) ** number
        for kind, value in (("process", 300.0), ("container", 300.0 + difference + wobble)):
            found.measure("life", "kill -9 to first answer", "ms").note(kind, number, value)
            found.measure("cost", "latency p50, 16 in flight", "ms").note(kind, number, value / 100)
    found.recoveries = [
        Recovery("process", 0, False, {"died": 0, "noticed": 4, "ready": 290}),
        Recovery("container", 0, False, {"died": 0, "ready": 700}),
    ]
    found.seen = [Seen("kill -9", kind, 0, 1000, failed, 2, 12.0, 40.0) for kind, failed in (("process", {"reset": 3}), ("container", {}))]  # type: ignore[arg-type]
    found.growth = [
        Grown(kind, n, None, n * size << 20, 0, 0, None) for kind, size in (("process", 20), ("container", 30)) for n in (1, 20)
    ]  # type: ignore[arg-type]
    found.attempts = [Attempt("memory hog", "process", False, "got it all"), Attempt("memory hog", "container", True, "was ended")]
    return found


def test_the_summary_is_made_of_the_figures() -> None:
    told = "\n".join(words.summary(findings()))
    assert "answers again after 300 ms as a process and 600 ms as a container: 300 ms (95 %: 291 ms to 309 ms) more." in told
    assert "each one adds 20.0 MiB of memory (PSS) as a process and 30.0 MiB as a container" in told
    assert "Of 1 attacks on its neighbours the process contained 0; not: memory hog." in told
    assert "process 3 of 1,000 requests failed" in told


def test_what_is_noise_is_called_noise() -> None:
    noisy = findings(difference=1.0, noise=50.0)
    assert "the difference is not told from noise here" in "\n".join(words.summary(noisy))
    assert words.warnings(noisy)[0] == "the noise is larger than the effect in: kill -9 to first answer, latency p50, 16 in flight"
    assert words.warnings(findings()) == []


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert words.summary(Findings(rounds=3)) == []
    assert "In words" in render(Findings(rounds=3), "today")


def test_the_page_stands_alone() -> None:
    html = render(findings(), "today")
    assert re.findall(r"""(?:src|href)\s*=\s*["']?[^"'>\s]+""", html) == []
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert html.count("<svg") == html.count("</svg>") >= 4
    assert "&lt;b&gt;quick&lt;/b&gt; &amp; small" in html


def test_the_page_holds_the_raw_data() -> None:
    found = findings()
    raw = re.search(r"<pre>(.*?)</pre>", render(found, "today"), re.DOTALL)
    assert raw is not None
    text = raw.group(1).replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&#39;", "'")
    assert json.loads(text) == json.loads(json.dumps(found.as_dict()))
