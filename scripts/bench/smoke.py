"""The smoke phase of a load test: what the contract promises first, asked of every LB."""

import requests

from comet.crowd import INJECTED

PATH = "/api/v1/hello"
STATS = ("SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime")
TRIES, PATIENCE = 6, 60.0


def smoke(ports: dict[str, int], own: bool) -> list[str]:
    """What of the contract's first promises does not hold at an LB, told by the last of some tries: faults may be injected into any one."""
    wrong: list[str] = []
    for name, port in ports.items():
        for check in (_names_itself,) if own else (_names_itself, _greets, _has_statistics, _knows_its_paths):
            said = ""
            for _ in range(TRIES):
                try:
                    said = check(f"http://127.0.0.1:{port}", name)
                except (requests.RequestException, ValueError) as error:
                    said = str(error)
                if not said:
                    break
            wrong += [f"{name}: {said}"] if said else []
    return wrong


def _names_itself(base: str, name: str) -> str:
    answer = requests.get(base + "/healthz", timeout=PATIENCE)
    named = answer.headers.get("X-Comet-LB") == name and "X-Comet-Worker" in answer.headers
    return "" if named else f"answers without its own name or a worker's ({answer.status_code} {answer.text.strip()[:80]})"


def _greets(base: str, _name: str) -> str:
    answer = requests.get(base + PATH, timeout=PATIENCE)
    return (
        "" if answer.status_code == 200 or answer.content == INJECTED else f"{PATH} answers {answer.status_code} {answer.text.strip()[:80]}"
    )


def _has_statistics(base: str, _name: str) -> str:
    return "" if tuple(requests.get(base + "/worker/stats", timeout=PATIENCE).json()) == STATS else "/worker/stats lacks its four lists"


def _knows_its_paths(base: str, _name: str) -> str:
    return "" if requests.get(base + "/no/such/path", timeout=PATIENCE).status_code == 404 else "an unknown path is not 404"
