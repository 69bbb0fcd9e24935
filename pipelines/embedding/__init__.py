"""From shards to committed rows: read, prepare, encode, write, commit. Read this room first.

plan.py             which shards are embedded, in which leases
run.py              one run: leases to actors, outcomes to the committer, failures to the summary
feeder.py           the CPU half of a lease: read and prepare
embedder.py         the accelerator half: encode and write fragments
batching.py         how large a batch is, and which sample of a failed batch is bad
prepare_pool.py     threads with a time-out
rotation_fitter.py  the rotation of a new table
committer.py        many leases in one commit
rejects.py          when too many samples were rejected
"""
