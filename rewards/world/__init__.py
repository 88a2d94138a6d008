"""The embedded world: its facts, a writer of prompts and answers, and the true reward. Its rules are in `rewards/rules`."""
