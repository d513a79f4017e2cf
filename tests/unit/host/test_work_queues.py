import threading

from comet.concurrency.work_queues import KeyedWorkQueues


def test_work_is_ordered_within_a_name_and_parallel_across() -> None:
    done: list[str] = []
    gate, finished = threading.Event(), threading.Event()
    lanes = KeyedWorkQueues(2, lambda name, error: None)

    def wait_for_the_gate() -> None:
        gate.wait(120)
        done.append("slow 1")

    lanes.put("slow", wait_for_the_gate)
    lanes.put("slow", lambda: (done.append("slow 2"), finished.set())[0])
    lanes.put("quick", lambda: (done.append("quick"), gate.set())[0])
    assert finished.wait(120)
    assert done == ["quick", "slow 1", "slow 2"]
    lanes.close()


def test_failed_work_is_reported_and_the_lane_goes_on() -> None:
    failed: list[tuple[str, str]] = []
    finished = threading.Event()
    lanes = KeyedWorkQueues(1, lambda name, error: failed.append((name, str(error))))

    def fail() -> None:
        raise OSError("the engine hung up")

    lanes.put("worker-0", fail)
    lanes.put("worker-0", finished.set)
    assert finished.wait(120)
    assert failed == [("worker-0", "the engine hung up")]
    lanes.close()
