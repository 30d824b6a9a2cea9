"""Other engines read the directory of a lake as it is: pyarrow, DuckDB, Spark, ClickHouse.

Spark (`pip install pyspark`, Java) and chdb are large and no part of the extras: where they are not installed
their tests are skipped by name.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from tests.analyze.conftest import Kit
from tests.lake.conftest import Waters

from kwire.lake.compact import compact
from kwire.lake.directory import Lake

FIRST, LAST = "2023-11-14", "2023-11-16"
WIDER = (("pid", "u32", 1, ""), ("comm", "str", 1, ""), ("count", "s64", 1, ""), ("big", "u64", 1, ""))


@pytest.fixture
def probe(waters: Waters, kit: Kit) -> str:
    """The directory of a probe of three hosts, whose schema grew; the files of one day are joined."""
    waters.add(kit.capture(waters.folder / "rich.pcapng"))
    probes = ["kprobe:x"]
    for number in range(2):
        waters.add(
            waters.capture(f"{number}.pcapng", hosts=["web1", "a/b"], later=number, probes=probes, events=10)
        )
    compact(Lake(waters.path))
    waters.add(waters.capture("c.pcapng", hosts=["7"], day=2, probes=probes, fields=WIDER, events=10))
    return f"{waters.path}/probe=kprobe_x"


def by_host(rows: list[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in sorted(rows, key=str)}


#: Of each host: events, those with the field that was added, the sum of pids.
EXPECTED = {"7": (10, 10, 55), "a/b": (20, 0, 110), "web1": (20, 0, 110)}


def test_pyarrow(probe: str) -> None:
    from pyarrow import dataset, parquet

    schema = parquet.read_schema(f"{probe}/_common_metadata")
    hive = dataset.partitioning(flavor="hive")
    found = dataset.dataset(probe, format="parquet", partitioning=hive)
    assert found.count_rows() == 50
    table = dataset.dataset(probe, schema, partitioning=None).to_table()
    assert table.column("big").null_count == 40
    day = dataset.field("day") == LAST
    assert found.to_table(filter=day).num_rows == 10


def test_duckdb(probe: str, waters: Waters) -> None:
    import duckdb

    sql = """
        SELECT host, count(*), count(big), sum(pid)::BIGINT
        FROM read_parquet(?, hive_partitioning = true, union_by_name = true, hive_types = {'host': VARCHAR})
        GROUP BY host
    """
    with duckdb.connect() as connection:
        assert by_host(connection.execute(sql, [f"{probe}/**/*.parquet"]).fetchall()) == EXPECTED
        whole = f"SELECT probe, count(*) FROM '{waters.path}/**/*.parquet' GROUP BY probe"
        assert dict(connection.execute(whole).fetchall()) == {
            "kprobe_x": 50,
            "kprobe_vfs_open_path": 30,
            "tracepoint_syscalls_sys_enter_openat": 30,
        }


def test_clickhouse(probe: str) -> None:
    chdb = pytest.importorskip("chdb", reason="ClickHouse: chdb is not installed")
    sql = f"""
        SELECT decodeURLComponent(host), count(), count(big), sum(pid)
        FROM file('{probe}/*/*/*.parquet', Parquet) GROUP BY host
        SETTINGS schema_inference_mode = 'union', use_hive_partitioning = 1
        FORMAT CSV
    """
    import csv

    rows = list(csv.reader(str(chdb.query(sql)).splitlines()))
    assert by_host([(host, *map(int, rest)) for host, *rest in rows]) == EXPECTED
    only = f"SELECT count() FROM file('{probe}/*/*/*.parquet', Parquet) WHERE day = '{LAST}'"
    assert str(chdb.query(only)).strip() == "10"


def test_spark(probe: str, waters: Waters) -> None:
    pyspark = pytest.importorskip("pyspark.sql", reason="Spark: pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark: there is no Java")
    builder = pyspark.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    builder = builder.config("spark.sql.warehouse.dir", str(waters.folder / "warehouse"))
    spark = builder.getOrCreate()
    try:
        frame = spark.read.parquet(probe)
        assert "big" in frame.columns
        frame.createOrReplaceTempView("x")
        sql = "SELECT host, count(*), count(big), sum(pid) FROM x GROUP BY host"
        assert by_host([tuple(row) for row in spark.sql(sql).collect()]) == EXPECTED
        assert frame.where(f"day = '{LAST}'").count() == 10
        rich = spark.read.parquet(f"{waters.path}/probe=kprobe_vfs_open_path").orderBy("time_ns").first()
        assert int(rich["big"]) == 2**64 - 1
        assert rich["numbers"] == [0, -1, 3]
        assert spark.read.option("mergeSchema", "true").parquet(waters.path).count() == 110
    finally:
        spark.stop()
