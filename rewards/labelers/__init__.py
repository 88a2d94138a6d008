"""Labelers: from a round's samples to comparisons. registry.py names them all.

This file imports nothing, because the labeling page uses the parts that read label files and compare raters, and must not import torch.
"""
