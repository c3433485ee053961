"""Weights made elsewhere: published checkpoints of whole models, and pretrained encoders."""
