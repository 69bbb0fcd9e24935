"""The verbs of `mlake`: each with the first line of its help, and an example."""

from __future__ import annotations

# Each verb with its summary, which is the first line of its help, and an example.
VERBS = {
    "demo": ("Embed, index, measure and search real data that pip installs.", "mlake demo --set limit=500"),
    "embed": (
        "Embed shards into a table; the same command resumes.",
        "mlake embed photos.toml --set encoder.batch=64 --dry-run",
    ),
    "plan": (
        "Say what an embed job needs of a fleet: time, cores, memory, network, storage and money.",
        "mlake plan photos.toml --machines 4 --cpus 16 --gpus 1 --price 2.50 --rows-per-s 800",
    ),
    "funnel": (
        "Tune a funnel to a recall target at the lowest measured cost.",
        "mlake funnel lake/demo/glosses.lance --recall 0.99 --home codes",
    ),
    "shortlist": (
        "Add prefix columns and their indexes; list the nearest rows of every query at every dim.",
        "mlake shortlist jobs/configs/shortlist.toml --plot agreement.svg",
    ),
    "train": (
        "Train a Matryoshka model on shards, or a head on the vectors of a table; the same command resumes.",
        "mlake train jobs/configs/train/head-from-pairs.toml --set run.epochs=5",
    ),
    "evaluate": (
        "Measure tables or encoders at every dim, beside baselines, with intervals and a report.",
        "mlake evaluate jobs/configs/evaluate/tables.toml",
    ),
    "search": (
        "Search a table by words, by an image, or by each line of stdin.",
        'mlake search lake/demo/glosses.lance "fear of closed spaces" --k 5 --columns words gloss',
    ),
    "inspect": (
        "Say what a table is, whether its indexes and funnels hold, and what to do next.",
        "mlake inspect lake/demo/glosses.lance --html glosses.html",
    ),
    "explore": (
        "Explore a table on a local page: ask it, and move sliders for dims and candidates.",
        "mlake explore lake/demo/pictures.lance --port 0",
    ),
    "encoders": (
        "List the encoders with their Matryoshka rules, describe one, or check that one keeps its promises.",
        "mlake encoders check wordllama",
    ),
    "rotate": (
        "Rotate a table's vectors so that their prefixes can be searched; nothing is encoded again.",
        "mlake rotate lake/photos.lance",
    ),
    "rejects": (
        "Count and list the samples that could not be embedded.",
        "mlake rejects lake/photos.lance --reason bad_image --limit 100",
    ),
    "nightly": (
        "Embed what is new, bring what is derived up to date, audit the result, and publish it.",
        "mlake nightly photos.toml --set budget.minutes=90 --dry-run",
    ),
    "submit": (
        "Run a verb on a cluster, follow it here, and end with its exit code.",
        "mlake submit --address http://head:8265 embed photos.toml --set encoder.batch=64",
    ),
    "jobs": (
        "List the jobs of a cluster, print what one has printed, or stop one.",
        "mlake jobs list --address http://head:8265",
    ),
    "deploy": (
        "Render manifests, images, policies, alerts and a dashboard for Kubernetes.",
        "mlake deploy jobs/configs/cluster/deploy.toml --out deploy",
    ),
    "publish": (
        "Publish a version of a table to the readers of prod.",
        'mlake publish lake/photos.lance --note "new captions"',
    ),
    "rollback": ("Show the readers of prod an earlier publication again.", "mlake rollback lake/photos.lance --to 12"),
    "prod": ("Print the address and version of what is published.", "mlake prod lake/photos.lance --json"),
    "history": ("List the publications and the nights of a table.", "mlake history lake/photos.lance --limit 5"),
    "delete": (
        "Erase rows from every generation of a table, and say when their last byte is gone.",
        "mlake delete lake/photos.lance --where \"author = 'jo'\" --dry-run",
    ),
    "lift": (
        "Let erased samples in again, or count them by file.",
        "mlake lift lake/photos.lance --id a-17",
    ),
    "clean": ("Remove files that no version of a table needs.", "mlake clean lake/photos.lance --compact --dry-run"),
}
