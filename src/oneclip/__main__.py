"""Run the `oneclip` command as `python -m oneclip`."""

from oneclip.cli import main

if __name__ == "__main__":
    main()
