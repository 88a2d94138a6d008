"""The original preference pairs: where they come from, what rows look like, and how they are split. `preference_data.py` loads them."""
