"""MLflow: tracked runs and the registry of best models."""
