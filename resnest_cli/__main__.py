"""The `resnest` command, and `python -m resnest_cli`, which is the same."""

import os


def main() -> None:
    """Run the command line and end the process."""
    try:
        from resnest_cli.cli import main as run

        run()
    except KeyboardInterrupt:  # before there was anything to interrupt
        os._exit(130)


if __name__ == "__main__":
    main()
