"""`python -m seaway` is the command `seaway`."""

from seaway.cli import main

if __name__ == "__main__":
    main()
