"""What is said about completions: data, comparisons, labelers, rules, reward models, selectors, evaluation."""
