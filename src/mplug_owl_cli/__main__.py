"""`python -m mplug_owl_cli`: the command, for launchers that start modules."""

from mplug_owl_cli import main

main()
