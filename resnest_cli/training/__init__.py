"""Training: the recipe, augmented pictures, the loop, several processes, and the record of it."""
