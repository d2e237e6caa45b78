"""`python -m mediator`; see `mediator.cli`."""

from mediator.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="mediator")


if __name__ == "__main__":
    main()
