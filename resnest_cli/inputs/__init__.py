"""What to classify: files, folders, globs, URLs, standard input and lists of them."""
