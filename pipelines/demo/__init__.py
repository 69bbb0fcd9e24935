"""The demo's own data; the demo itself is `jobs demo`, its page is in `pipelines.reports`."""
