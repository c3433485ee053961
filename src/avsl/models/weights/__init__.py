"""Weights from elsewhere: published checkpoints of whole models, and pretrained encoders."""
