"""Reads a source of rows as the data stage does, for several tests."""

import json

from configs.data import DataConfig, SourceConfig
from rewards.data.reading import read_source
from rewards.data.sources import find_sources

ROWS = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(300)]


def read(path, normalize=False, **settings):
    """All rows of one source."""
    (source,) = find_sources(DataConfig(sources=[SourceConfig(path=str(path), **settings)]))
    return list(read_source(source, normalize))


def records(path, **settings):
    return [record for row in read(path, **settings) for record in row.records]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
