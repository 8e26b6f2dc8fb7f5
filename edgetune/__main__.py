"""`python -m edgetune`."""

from edgetune.cli import main

if __name__ == "__main__":
    main()
