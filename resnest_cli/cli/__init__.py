"""The `resnest` command: one module a command, from options to one library call."""
