"""What runs a network: one protocol, one place that chooses, one module an engine."""
