"""Orchestration of a run: command line, rounds, journal, artifacts, fleet. Read `round.py` first."""

__version__ = "0.1.0"
