"""`python -m launcher` is `megamodel`."""

from launcher.cli.main import main

main()
