"""One run in partitions, by any number of processes: manifest, partitions, shares, merge."""
