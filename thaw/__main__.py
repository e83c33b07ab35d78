"""`python -m thaw` is the same as `thaw`."""

from thaw.cli import main

if __name__ == "__main__":
    main()
