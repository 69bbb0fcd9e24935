"""The demo's own data; the demo itself is `mlake demo`, its page is in `pipelines.reports`."""
