"""`python -m loop`."""

import sys

try:
    from loop.commands.main import program
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed in {sys.executable}: run `make install`, then .venv/bin/python -m loop")

if __name__ == "__main__":
    program()
