"""From a configuration to a trained, evaluated model; the only package that knows Lightning."""
