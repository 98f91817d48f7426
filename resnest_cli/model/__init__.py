"""The network: split attention, ResNeSt, and its checkpoints."""
