"""What a run is on disk: paths (`layout.py`), journal, committed stages (`artifacts.py`), lock, config, base model, and metrics."""
