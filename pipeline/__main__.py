"""`python -m pipeline`: the same program as the console script `hounsfield`."""

from pipeline.cli import main

main()
