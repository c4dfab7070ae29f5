"""Runs the command line as `python -m runner`."""

from runner.cli.main import main

main()
