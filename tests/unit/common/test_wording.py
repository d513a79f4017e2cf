"""What a mistyped word probably means, and how many of something there are."""

from comet.common.wording import counted, hint, nearest

NAMES = ["lb-0", "worker-0", "worker-1"]


def test_a_mistyped_name_is_found() -> None:
    assert nearest("wroker-1", NAMES) == "worker-1"
    assert nearest("Wroker_1", NAMES) == "worker-1"
    assert nearest("x" * 10_000, NAMES) is None


def test_another_number_is_no_mistyped_name() -> None:
    assert nearest("worker-9", NAMES) is None
    assert hint("worker-9", NAMES, "there are") == "there are: lb-0, worker-0, worker-1"


def test_numbers_and_nouns_agree() -> None:
    assert [counted(number, "workers") for number in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
