"""Searches for the best settings: Optuna proposes, Ray Tune runs and stops, MLflow records."""
