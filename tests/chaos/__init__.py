"""Chaos trials: drivers, actors, nodes and the network fail at random moments; afterwards the table must be exact.

__main__.py         the command line: `make chaos TRIALS=500 SEED=7`
trial.py            one trial: write a corpus, run with one fault, run until complete, compare every row
faults.py           the faults
shares.py           which faults there are, how often, and what exit codes each allows
nights.py           nights of a small lake, quiet and disturbed ones; `prod` and its readers are compared every morning
lake.py             that lake: shards that come, change and go, models that get better or worse
shared_cluster.py   what all trials share: a Ray cluster, an S3 server, drivers that have imported everything
processes.py        find and end processes by their ids
driver.py           the program of a driver process
"""
