"""A cluster for all tests of a process, a stage on it for each."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from load import add_history
from stage import ServedOn, Stage
from test_sync import execute
from watch import AUDIT, SHARED, leads

from conftest import SOURCE_TABLES, Databases, fast_folder
from testbed.cluster import Cluster, running
from testbed.servers import Server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with fast_folder() as folder, running(folder, workers=2) as cluster:
        yield cluster


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path) -> Iterator[Stage]:
    servers = (Server(s.url("postgres")) for s in (cluster.source, cluster.analytics))
    databases = Databases(*servers)
    source_url, analytics_url = databases.create("source"), databases.create_store()
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
    with cluster.valkey.client() as redis:
        redis.flushall()
    stage = Stage(cluster, source_url, analytics_url, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
        databases.drop()


@pytest.fixture
def two(stage: Stage) -> Iterator[tuple[ServedOn, ServedOn]]:
    """The one that leads, and one that stands by. In no epoch has more than one written."""
    add_history(stage.source_url, 3000)
    both = stage.serve(), stage.serve()
    for served in both:
        served.start(wait=False)
    url = stage.analytics_url
    first = both[0].until(lambda: next((s for s in both if leads(s, url)), None), "one leads")
    second = next(served for served in both if served is not first)
    execute(url, AUDIT)
    for served in both:
        served.until(served.is_live, "answers")
    yield first, second
    assert execute(url, SHARED) == []
