"""Writes what a scenario found as a JUnit report, which test tools read. Pure."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from comet.events.event import visible

_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
"""Characters that XML does not allow, apart from control characters; surrogates come from a command's odd bytes."""


def junit(report: Mapping[str, Any]) -> str:
    """Return the XML: a case per expectation, one for the client, one for the scenario's being complete."""
    cases = [
        _case(
            finding["step"] or "total",
            f"{finding['what']} {finding['expected']}",
            None if finding["holds"] else f"{finding['what']} is {finding['found']}, expected {finding['expected']}",
        )
        for finding in report["expectations"]
    ]
    client = report.get("client")
    if client is not None:
        code = client["exit_code"]
        cases.append(_case("client", client["command"], None if code == 0 else f"exit code {code}"))
    cases.append(_case("scenario", "played to its end", None if report["complete"] else "broken off"))
    failures = sum("<failure" in case for case in cases)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name={_quoted(report["scenario"])} tests="{len(cases)}" failures="{failures}" errors="0" '
        f'time="{report["total"]["seconds"]:.1f}">\n{"".join(cases)}</testsuite>\n'
    )


def _case(step: str, name: str, failure: str | None) -> str:
    inside = "" if failure is None else f"<failure message={_quoted(failure)}/>"
    return f"  <testcase classname={_quoted(step)} name={_quoted(name)}>{inside}</testcase>\n"


def _quoted(text: str) -> str:
    return f'"{escape(_NOT_XML.sub(lambda match: ascii(match[0])[1:-1], visible(text)))}"'
