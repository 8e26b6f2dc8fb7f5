"""`python -m edgetune`."""

from edgetune.cli.app import main

if __name__ == "__main__":
    main()
