"""Prints the last line of scripts/test.sh, `N passed, N failed, N skipped`, and returns its exit code.

python tally.py PYTEST_STATUS CHECKS_STATUS REPORT... Each REPORT is pytest's JUnit XML. The exit code is zero only if
the checks and pytest succeeded, something ran, nothing failed and nothing was skipped (an expected failure is a skip
here).
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(report: Path) -> tuple[int, int, int]:
    """Return the numbers of passed, failed (including errors of fixtures and collection) and skipped tests; all zero
    without a report.
    """
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return 0, 0, 0
    passed = failed = skipped = 0
    for case in (case for suite in suites for case in suite.iter("testcase")):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed += 1
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def verdict(counts: tuple[int, int, int], pytest_status: int, checks_status: int) -> list[str]:
    """Return what is wrong, as text; empty if nothing is."""
    passed, failed, skipped = counts
    wrong = []
    if checks_status:
        wrong.append("the checks failed (see above)")
    if skipped:
        wrong.append("a skipped test counts as a failure")
    if pytest_status and not failed:
        wrong.append(f"pytest ended with exit code {pytest_status}")
    if not passed and not failed and not pytest_status:
        wrong.append("no test ran")
    return wrong


def main() -> int:
    pytest_status, checks_status = int(sys.argv[1]), int(sys.argv[2])
    passed, failed, skipped = (
        sum(each) for each in zip(*(count(Path(report)) for report in sys.argv[3:]), strict=True)
    )
    counts = passed, failed, skipped
    wrong = verdict(counts, pytest_status, checks_status)
    for line in wrong:
        print(f"test.sh: {line}")
    print("{} passed, {} failed, {} skipped".format(*counts))
    return 1 if wrong or counts[1] or pytest_status else 0


if __name__ == "__main__":
    sys.exit(main())
