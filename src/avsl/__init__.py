"""Semi-supervised audio-visual source localization."""
