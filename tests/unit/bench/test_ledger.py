"""The ledger of a chaos run: what it must find, and what it must not hold against anybody."""

from scripts.bench.ledger import ClientBook, Death, Failure, LbBook, WorkerBook, explains, settle, unexplained_repeats


def client(sent: int, served: dict[str, int], injected: int = 0, *failures: Failure) -> ClientBook:
    return ClientBook(sent, injected, served, list(failures))


def failure(kind: str = "broken", began: float = 10.0, ended: float = 10.2) -> Failure:
    return Failure(1, "lb-0", kind, began, ended, reused=True)


DEATH = Death("lb-0", "kill -9", 10.1, 10.12)
WORKER_DEATH = Death("worker-1", "docker kill", 20.0, 21.0)


def test_books_that_agree_are_clean() -> None:
    verdict = settle(
        {"lb-0": client(12, {"a": 6, "b": 4}, 2)}, {"lb-0": LbBook(12, 12, 0, 0)}, WorkerBook({"a": 6, "b": 4}, 2), []
    )
    assert verdict.clean
    assert (verdict.repeated, verdict.broken) == (0, 0)


def test_an_answer_that_no_worker_counted_is_lost() -> None:
    verdict = settle({"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(10, 10, 0, 0)}, WorkerBook({"a": 9}, 0), [])
    assert verdict.lost == 1


def test_a_loss_at_one_worker_is_not_made_up_for_by_another() -> None:
    books = {"lb-0": client(10, {"a": 5, "b": 5})}
    verdict = settle(books, {"lb-0": LbBook(10, 10, 0, 5)}, WorkerBook({"a": 3, "b": 7}, 0), [WORKER_DEATH])
    assert verdict.lost == 2


def test_a_surplus_without_a_repeat_is_counted_twice() -> None:
    verdict = settle({"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(10, 10, 0, 0)}, WorkerBook({"a": 12}, 0), [])
    assert verdict.doubled == 2


def test_a_repeat_explains_a_surplus() -> None:
    verdict = settle(
        {"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(10, 10, 0, 2)}, WorkerBook({"a": 12}, 0), [WORKER_DEATH]
    )
    assert verdict.clean
    assert verdict.repeated == 2


def test_an_exchange_may_break_with_its_own_lb_only() -> None:
    assert explains(failure(), [DEATH])
    assert not explains(failure(), [Death("lb-1", "kill -9", 10.1)])
    assert not explains(failure(), [Death("lb-0", "kill -9", 12.0)])
    assert not explains(failure("refused"), [DEATH])
    assert not explains(failure("status 502 bad gateway"), [DEATH])


def test_a_process_takes_in_requests_until_it_is_really_dead() -> None:
    slow = Death("lb-0", "kill -9", 9.5, gone=10.1)
    assert explains(failure(began=10.0, ended=10.2), [slow])
    assert not explains(failure(began=10.3, ended=10.4), [slow])


def test_a_broken_exchange_is_explained_in_all_books() -> None:
    books = {"lb-0": client(11, {"a": 10}, 0, failure())}
    verdict = settle(books, {"lb-0": LbBook(11, 10, 0, 0)}, WorkerBook({"a": 11}, 0), [DEATH])
    assert verdict.clean
    assert verdict.broken == 1


def test_a_refused_connection_is_unexplained_though_an_lb_died() -> None:
    books = {"lb-0": client(11, {"a": 10}, 0, failure("refused"))}
    verdict = settle(books, {"lb-0": LbBook(10, 10, 0, 0)}, WorkerBook({"a": 10}, 0), [DEATH])
    assert verdict.unexplained == 1
    assert "refused" in verdict.reasons[0]
    assert "0.10 s behind kill -9 of lb-0" in verdict.reasons[0]


def test_an_error_of_the_lb_is_unexplained() -> None:
    books = {"lb-0": client(11, {"a": 10}, 0, failure("status 503 no worker"))}
    verdict = settle(books, {"lb-0": LbBook(11, 11, 0, 0)}, WorkerBook({"a": 10}, 0), [DEATH])
    assert (verdict.unexplained, verdict.broken) == (1, 0)


def test_an_lb_killed_between_writing_and_counting_is_not_blamed() -> None:
    verdict = settle({"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(10, 9, 0, 0)}, WorkerBook({"a": 10}, 0), [DEATH])
    assert verdict.clean


def test_an_lb_must_have_counted_what_it_answered() -> None:
    verdict = settle({"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(7, 7, 0, 0)}, WorkerBook({"a": 10}, 0), [])
    assert verdict.unexplained == 3


def test_an_lb_must_not_count_what_was_never_sent() -> None:
    verdict = settle({"lb-0": client(10, {"a": 10})}, {"lb-0": LbBook(12, 12, 0, 0)}, WorkerBook({"a": 10}, 0), [])
    assert verdict.unexplained == 4  # Two requests, and their two responses.


def test_retries_belong_to_the_death_of_a_worker_still_down() -> None:
    samples = [(19.9, 0), (20.1, 3), (20.9, 4), (25.0, 4), (25.1, 5)]
    over, shares = unexplained_repeats(samples, [WORKER_DEATH])
    assert shares == {"worker-1 docker kill": 4}
    assert over == 1


def test_the_death_of_an_lb_explains_no_repeat() -> None:
    assert unexplained_repeats([(10.0, 0), (10.2, 1)], [DEATH]) == (1, {})
