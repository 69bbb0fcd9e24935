"""Entry points: config -> pipelines through cluster -> report. `python -m jobs <verb> CONFIG --set key=value`."""
