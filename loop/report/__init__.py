"""The report: one HTML file that says what a run did, for people. It only reads what a run has made.

Must never import torch or Ray."""
