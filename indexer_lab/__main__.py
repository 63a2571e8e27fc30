"""python -m indexer_lab"""

from indexer_lab.cli import main

main(prog_name="indexer-lab")
