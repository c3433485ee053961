"""The stages of the workflow, one `run` each."""
