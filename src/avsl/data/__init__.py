"""Prepared data sets: the benchmark generator, readers of published sets, shards and splits."""
