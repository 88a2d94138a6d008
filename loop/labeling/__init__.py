"""The labeling page: a person compares two answers in a browser, and the label file has the answer before the page says so."""
