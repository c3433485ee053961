"""The prepared data set: shards on disk, their writer and reader."""
