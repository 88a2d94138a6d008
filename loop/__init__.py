"""Orchestration of a run: rounds, stages, what is on disk, where stages run, the command line. Read `round.py` first."""

__version__ = "0.1.0"
