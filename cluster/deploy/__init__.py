"""Manifests, images, policies, alerts and a dashboard, rendered from one config: see docs/deploy.md."""
