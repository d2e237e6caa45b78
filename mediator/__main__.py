"""`python -m mediator`; see `mediator.cli`."""

import sys

from mediator.cli import app, arguments_with_command


def main() -> None:
    """Run the command line."""
    app(arguments_with_command(sys.argv[1:]), prog_name="mediator")


if __name__ == "__main__":
    main()
