"""The `resnest` command, and `python -m resnest_cli`, which is the same."""

import os


def main() -> None:
    """Run the command line and end the process."""
    try:
        from resnest_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:  # before anything was started
        os._exit(130)


if __name__ == "__main__":
    main()
