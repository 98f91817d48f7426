"""The HTTP service: `resnest serve`, its API and its page."""
