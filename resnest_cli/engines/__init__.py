"""What runs a network: one protocol, one module an engine."""
