"""``python -m edgewise`` is the command line."""

from edgewise.cli import main

main()
