"""`python -m resnest_cli` is `resnest`."""

from resnest_cli.cli import main

if __name__ == "__main__":
    main()
