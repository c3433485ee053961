"""Decoding of images, audio and video."""
