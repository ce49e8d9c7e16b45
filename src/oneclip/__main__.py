"""`python -m oneclip` is the `oneclip` command."""

from oneclip.cli import main

if __name__ == "__main__":
    main()
