"""A real Dask scheduler with two workers, each a process, on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import distributed
import pytest

from spidl.analyse.summary import VERSION
from spidl.diagnostics import LinkError
from spidl.distribution import cluster
from spidl.distribution.cluster import Cluster
from spidl.distribution.objects import Objects
from spidl.distribution.pool import Pool
from spidl.distribution.run import Counts, Run
from spidl.distribution.store import Store
from spidl.distribution.values import Sink
from tests.distribution.analysers import QUICK, TROUBLED
from tests.distribution.conftest import ROOT, deb, elf
from tests.distribution.test_store import content


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
            host="127.0.0.1",
        ) as running:  # fmt: skip
            yield running.scheduler_address


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "t"
    found.mkdir()
    for at in range(12):
        (found / f"lib{at}.so").write_bytes(elf(f"lib{at}.so"))
    (found / "crash").write_bytes(elf("crash"))
    (found / "p.deb").write_bytes(deb("p", {"/usr/lib/libp.so": elf("libp.so")}))
    return found


def run(sink: Sink, workers: Cluster | Pool, folder: Path) -> Counts:
    return Run(sink, workers, lambda _: None).over([str(folder)])


def test_two_workers_give_the_same_store_as_the_pool(
    scheduler: str, folder: Path, tmp_path: Path
) -> None:
    with Store(str(tmp_path / "dask.db")) as store:
        counts = run(store, Cluster(scheduler, 60, analyser=TROUBLED), folder)
    assert (counts.analysed, counts.failed) == (14, 1)
    with Store(str(tmp_path / "pool.db")) as store:
        run(store, Pool(2, 60, TROUBLED), folder)
    assert content(tmp_path / "dask.db") == content(tmp_path / "pool.db")


def test_workers_put_summaries_into_the_shared_folder_themselves(
    scheduler: str, folder: Path, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/shared"
    run(Objects(url), Cluster(scheduler, 60, url, TROUBLED), folder)
    again = run(Objects(url), Cluster(scheduler, 60, url, TROUBLED), folder)
    assert (again.analysed, again.known) == (0, 14)
    with Store(str(tmp_path / "shared.db")) as store:
        assert Objects(url).collect(store) == []
    with Store(str(tmp_path / "pool.db")) as store:
        run(store, Pool(2, 60, TROUBLED), folder)
    assert content(tmp_path / "shared.db") == content(tmp_path / "pool.db")


def test_a_worker_of_another_version(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "VERSIONS", ("0.0.1", 99))
    with pytest.raises(LinkError) as caught:
        Cluster(scheduler, 60, analyser=QUICK)
    assert caught.value.code == "distribution/version"
    assert "Spidl 0.0.1 with analyser 99" in str(caught.value)
    assert "tcp://" in str(caught.value), "the worker's address"


def test_a_worker_of_another_version_that_joins_later(
    scheduler: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Cluster(scheduler, 60, analyser=QUICK)
    monkeypatch.setattr(cluster, "VERSIONS", ("0.0.1", 99))
    with Store(str(tmp_path / "s.db")) as store, pytest.raises(LinkError) as caught:
        run(store, workers, folder)
    assert caught.value.code == "distribution/version"


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECTING", 1)
    with pytest.raises(LinkError) as caught:
        Cluster("tcp://127.0.0.1:1", 60)
    assert caught.value.code == "distribution/scheduler"
    with pytest.raises(LinkError) as caught:
        Cluster("no address", 60)
    assert caught.value.code == "distribution/scheduler"


def test_no_worker_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECTING", 1)
    with distributed.LocalCluster(
        n_workers=0, processes=True, dashboard_address=":0", host="127.0.0.1"
    ) as running, pytest.raises(LinkError) as caught:  # fmt: skip
        Cluster(running.scheduler_address, 60)
    assert caught.value.code == "distribution/scheduler"


def test_a_scheduler_that_is_lost_ends_the_run_and_keeps_what_was_done(
    folder: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "s.db"))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0",
        host="127.0.0.1",
    ) as running:  # fmt: skip
        workers = Cluster(
            running.scheduler_address, 60, analyser="tests.distribution.analysers:slow"
        )

        def lose(counts: Counts) -> None:
            if counts.analysed == 3:
                running.close()

        with pytest.raises(LinkError) as caught:
            Run(store, workers, lose).over([str(folder)])
    assert caught.value.code == "distribution/scheduler"
    done = len(store.known(VERSION))
    assert done >= 3
    counts = run(store, Pool(2, 60, QUICK), folder)
    assert counts.analysed == 14 - done
    store.close()
    assert os.path.exists(tmp_path / "s.db")
