"""The model registry: promotion rules, versions, packaging and model cards."""
