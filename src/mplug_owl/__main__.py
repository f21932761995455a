"""`python -m mplug_owl`: the command `owl`."""

from mplug_owl_cli import main

main()
