"""``python -m reid_da``: the command line."""

from reid_da.cli import main

if __name__ == "__main__":
    main()
