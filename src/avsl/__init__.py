"""Semi-supervised audio-visual source localisation."""
