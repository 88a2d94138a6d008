"""The language model and how reinforcement learning trains it. It does not know of comparisons or rounds."""
