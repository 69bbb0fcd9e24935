"""Entry points: config -> pipelines through cluster -> report. `python -m jobs <verb> …`."""
