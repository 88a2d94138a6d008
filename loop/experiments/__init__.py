"""Experiments: the same run with different settings (arms), on several seeds, compared seed by seed. `plan.py` reads the file of one."""
