"""What happens to each original pair, and why: kept, removed or moved. `ledger.py` counts it, `deciding.py` decides it."""
