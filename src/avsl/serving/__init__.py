"""Inference: the predictor and the model that MLflow registers."""
