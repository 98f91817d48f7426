"""Training and fine-tuning: recipe, data, loop, several processes, and the record of a run."""
