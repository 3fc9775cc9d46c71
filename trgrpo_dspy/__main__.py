"""`python -m trgrpo_dspy` is the command `trgrpo`."""

from .cli.app import main

if __name__ == "__main__":
    main()
