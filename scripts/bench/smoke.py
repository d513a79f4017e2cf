"""The smoke phase of a load test: checks the first promises of docs/http.md at every load balancer."""

import warnings

import requests
from urllib3.exceptions import InsecureRequestWarning

from comet.load.closed_model import INJECTED

PATH = "/api/v1/hello"
STATS = ("SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime")
TRIES, ANSWER_TIMEOUT = 6, 60.0


def smoke(ports: dict[str, int], own: bool, base: str) -> list[str]:
    """Return the first promises of docs/http.md that a load balancer does not keep, after several tries (one try may
    meet an injected fault). `base` is what their URLs begin with.
    """
    warnings.simplefilter("ignore", InsecureRequestWarning)
    wrong: list[str] = []
    for name, port in ports.items():
        for check in (
            (_check_lb_header,) if own else (_check_lb_header, _check_greeting, _check_statistics, _check_unknown_path)
        ):
            errors = ""
            for _ in range(TRIES):
                try:
                    errors = check(f"{base}:{port}", name)
                except (requests.RequestException, ValueError) as error:
                    errors = str(error)
                if not errors:
                    break
            wrong += [f"{name}: {errors}"] if errors else []
    return wrong


def _get(url: str) -> requests.Response:
    """Return the answer of a load balancer, whose certificate may be one for development."""
    return requests.get(url, timeout=ANSWER_TIMEOUT, verify=False)  # nosec B501


def _check_lb_header(base: str, name: str) -> str:
    answer = _get(base + "/healthz")
    named = answer.headers.get("X-Comet-LB") == name and "X-Comet-Worker" in answer.headers
    return (
        "" if named else f"answers without its own name or a worker's ({answer.status_code} {answer.text.strip()[:80]})"
    )


def _check_greeting(base: str, _name: str) -> str:
    answer = _get(base + PATH)
    return (
        ""
        if answer.status_code == 200 or answer.content == INJECTED
        else f"{PATH} answers {answer.status_code} {answer.text.strip()[:80]}"
    )


def _check_statistics(base: str, _name: str) -> str:
    return "" if tuple(_get(base + "/worker/stats").json()) == STATS else "/worker/stats lacks its four lists"


def _check_unknown_path(base: str, _name: str) -> str:
    return "" if _get(base + "/no/such/path").status_code == 404 else "an unknown path is not 404"
