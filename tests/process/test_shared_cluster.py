"""The cluster that tests of a file share: each of them finds it as it was made."""

from collections.abc import Callable

from tests.support.shared import SharedCluster


def test_a_changed_cluster_is_restored_an_altered_one_replaced(
    share_cluster: Callable[..., SharedCluster],
) -> None:
    shared = share_cluster(worker=1, pool=1, runtime="process")
    first = shared.lend()
    pids = {name: row["pid"] for name, row in first.replicas().items()}
    config = (first.folder / "config.yaml").read_text()

    assert first.comet("faults", "all", "--failure", "100").returncode == 0
    first.write(retries=0)
    assert first.comet("reload").returncode == 0
    first.kill_supervisor()
    assert shared.lend() is first
    assert {name: row["pid"] for name, row in first.replicas().items()} == pids
    assert (first.folder / "config.yaml").read_text() == config
    assert "retries" not in first.config
    assert first.hello().status_code == 200

    assert first.comet("drain", "worker-0").returncode == 0
    second = shared.lend()
    assert second.folder != first.folder
    assert first.processes() == []
    assert second.hello().status_code == 200
