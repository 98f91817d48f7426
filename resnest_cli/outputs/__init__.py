"""Where results go: formats, files that a later run can resume, the terminal, charts."""
