"""The smoke phase of a load test: checks the first promises of docs/http.md at every load balancer."""

import requests

from comet.load.closed_model import INJECTED

PATH = "/api/v1/hello"
STATS = ("SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime")
TRIES, ANSWER_TIMEOUT = 6, 60.0


def smoke(ports: dict[str, int], own: bool) -> list[str]:
    """Return the first promises of docs/http.md that a load balancer does not keep, after several tries (one try may
    meet an injected fault).
    """
    wrong: list[str] = []
    for name, port in ports.items():
        for check in (
            (_check_lb_header,) if own else (_check_lb_header, _check_greeting, _check_statistics, _check_unknown_path)
        ):
            errors = ""
            for _ in range(TRIES):
                try:
                    errors = check(f"http://127.0.0.1:{port}", name)
                except (requests.RequestException, ValueError) as error:
                    errors = str(error)
                if not errors:
                    break
            wrong += [f"{name}: {errors}"] if errors else []
    return wrong


def _check_lb_header(base: str, name: str) -> str:
    answer = requests.get(base + "/healthz", timeout=ANSWER_TIMEOUT)
    named = answer.headers.get("X-Comet-LB") == name and "X-Comet-Worker" in answer.headers
    return (
        "" if named else f"answers without its own name or a worker's ({answer.status_code} {answer.text.strip()[:80]})"
    )


def _check_greeting(base: str, _name: str) -> str:
    answer = requests.get(base + PATH, timeout=ANSWER_TIMEOUT)
    return (
        ""
        if answer.status_code == 200 or answer.content == INJECTED
        else f"{PATH} answers {answer.status_code} {answer.text.strip()[:80]}"
    )


def _check_statistics(base: str, _name: str) -> str:
    return (
        ""
        if tuple(requests.get(base + "/worker/stats", timeout=ANSWER_TIMEOUT).json()) == STATS
        else "/worker/stats lacks its four lists"
    )


def _check_unknown_path(base: str, _name: str) -> str:
    return (
        ""
        if requests.get(base + "/no/such/path", timeout=ANSWER_TIMEOUT).status_code == 404
        else "an unknown path is not 404"
    )
