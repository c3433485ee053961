"""A trained model on new frames, sounds and videos."""
