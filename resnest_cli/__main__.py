"""The `resnest` command, and `python -m resnest_cli`, which is the same."""

import os


def main() -> None:
    """Run the command line and end the process."""
    _open_descriptors()
    try:
        from resnest_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:  # before anything was started
        os._exit(130)


def _open_descriptors() -> None:
    """Open the standard streams' descriptors that are closed on the null device.

    Else a results file would get one of them, and whatever a library writes to standard error.
    Standard output is opened for reading: results that are written to it are not lost silently.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)


if __name__ == "__main__":
    main()
