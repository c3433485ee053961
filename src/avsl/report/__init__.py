"""Tables and figures over all evaluated models."""
