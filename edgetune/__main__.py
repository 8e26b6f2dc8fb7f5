"""`edgetune` and `python -m edgetune`."""

import sys

from edgetune.utils.errors import Interrupted
from edgetune.utils.signals import remembering_interrupts


def main() -> None:
    """Import the command line, which takes a moment, and run a command; Ctrl-C ends it with one sentence."""
    try:
        with remembering_interrupts():
            from edgetune.cli.app import main as run_command

            run_command()
    except KeyboardInterrupt:
        print("edgetune: stopped.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)


if __name__ == "__main__":
    main()
