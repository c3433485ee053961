"""Inference with a trained model on new frames, sounds and videos."""
