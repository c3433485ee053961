"""Pictures of maps and figures of scores, for training and for the report."""
