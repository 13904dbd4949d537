"""``python -m xreal.cli``."""

from xreal.cli import main

if __name__ == "__main__":
    main()
