"""HTTP: checkpoints to files, images within limits, from public addresses only."""
