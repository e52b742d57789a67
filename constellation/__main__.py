"""``python -m constellation`` is the command ``constellation``."""

from constellation.cli.main import main

if __name__ == "__main__":
    main()
