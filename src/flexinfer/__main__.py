"""`python -m flexinfer` is the command `flexinfer`."""

from flexinfer.cli import main

main()
