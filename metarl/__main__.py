"""`python -m metarl` and `torchrun -m metarl`: the command `metarl`."""

from metarl.commands import main

if __name__ == "__main__":
    main()
