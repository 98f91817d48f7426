"""Images as vectors: embed, similar, duplicates, wrong labels."""
