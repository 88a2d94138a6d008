"""The command line: `main.py` reads the words and gives exit codes, and each other file is one command or what commands share."""
