"""The embedded world: its facts, a writer of prompts and answers, its defects, and the true reward."""
