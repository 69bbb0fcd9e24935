"""From shards to fragments: read, prepare, encode, write, commit. Read this room first."""
