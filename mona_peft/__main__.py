"""`python -m mona_peft ...` is `mona-peft ...`."""

from mona_peft.cli import main

if __name__ == "__main__":
    main()
