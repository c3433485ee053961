"""Configuration: Hydra composes it, params.yaml gives its defaults, pydantic models validate it."""
