"""Evaluation: maps of a model, the threshold, and scores."""
