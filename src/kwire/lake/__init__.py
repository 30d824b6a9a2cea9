"""A lake: the events of many captures as Parquet, partitioned by probe, day and host."""
