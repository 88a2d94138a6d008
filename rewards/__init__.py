"""What is said about completions: comparisons, data, reward model, labelers, rules, selector, evaluation."""
