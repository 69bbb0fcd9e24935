"""Chaos: drivers, actors, nodes and the network die or go bad at random moments; afterwards the table is exact.

__main__.py   the command line: `make chaos TRIALS=500 SEED=7`
trial.py      one trial: a corpus, one fault, runs until complete, the check
faults.py     what goes wrong, and how
stage.py      what all trials share: a Ray cluster, an S3 server, drivers that have imported everything
processes.py  finding and ending processes by their own ids
driver.py     the process that a driver lives in
"""
