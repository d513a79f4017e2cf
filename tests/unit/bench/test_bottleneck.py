"""What is taken for the bottleneck."""

from dataclasses import replace

from scripts.bench.bottleneck import Figures, bottleneck

CALM = Figures({"lb-0": 10.0, "lb-1": 12.0}, 40.0, 15.0, {"a": 500.0, "b": 505.0, "c": 498.0}, 510.0)


def test_nothing_saturated_means_the_injected_delay() -> None:
    assert bottleneck(CALM).startswith("the injected delay")


def test_a_slowed_worker_is_named() -> None:
    assert bottleneck(replace(CALM, worker_ms={"a": 500.0, "b": 1500.0, "c": 498.0})).startswith("worker b")


def test_a_saturated_lb_is_named() -> None:
    assert bottleneck(replace(CALM, lb_cpu={"lb-0": 97.0, "lb-1": 12.0})).startswith("lb-0")


def test_a_saturated_generator_is_blamed_before_the_lbs() -> None:
    assert bottleneck(replace(CALM, generator_cpu=99.0, lb_cpu={"lb-0": 97.0})).startswith("the load generator")


def test_a_busy_machine() -> None:
    assert bottleneck(replace(CALM, machine_cpu=99.0)).startswith("the machine")


def test_latency_that_is_not_spent_in_the_worker_is_queueing() -> None:
    assert bottleneck(replace(CALM, client_ms=900.0)).startswith("waiting for a worker")


def test_a_single_worker_has_no_others_to_be_slower_than() -> None:
    assert bottleneck(replace(CALM, worker_ms={"a": 5000.0}, client_ms=5001.0)).startswith("the injected delay")


def test_workers_at_the_end_of_their_core_are_named() -> None:
    assert bottleneck(replace(CALM, worker_cpu={"worker-0": 99.0, "worker-1": 20.0})).startswith(
        "the workers' CPU: worker-0"
    )


def test_a_machine_that_others_use_is_said_to_be() -> None:
    assert "other programs use the machine" in bottleneck(replace(CALM, machine_cpu=99.0, own_cpu=20.0))
    assert "others" not in bottleneck(replace(CALM, machine_cpu=99.0, own_cpu=95.0))


def test_an_open_model_has_no_more_clients_to_offer() -> None:
    assert "more clients" not in bottleneck(replace(CALM, open_=True))


def test_without_the_workers_counts_no_time_share_is_claimed() -> None:
    assert bottleneck(replace(CALM, worker_ms={})).startswith("none visible")


def test_no_part_is_larger_than_the_whole() -> None:
    found = bottleneck(replace(CALM, worker_ms={"a": 405.0, "b": 405.0, "c": 390.0}, client_ms=403.0))
    assert found.startswith("the injected delay: 403 of 403 ms are spent in the worker")
