"""Chaos trials: drivers, actors, nodes and the network fail at random moments; afterwards the table must be exact.

__main__.py         the command line: `make chaos TRIALS=500 SEED=7`
trial.py            one trial: write a corpus, run with one fault, run until complete, compare every row
faults.py           the faults, and the exit codes that each allows
shared_cluster.py   what all trials share: a Ray cluster, an S3 server, drivers that have imported everything
processes.py        find and end processes by their ids
driver.py           the program of a driver process
"""
