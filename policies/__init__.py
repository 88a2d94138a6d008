"""The language model and how reinforcement learning trains it. Knows nothing of comparisons or rounds."""
