"""A Grafana dashboard for the questions that people ask of a run: is it fast, what bounds it, is it right, is it fresh.

Every name of a metric comes from `schemas.run_metrics`.
"""

from __future__ import annotations

from typing import Any

from schemas.run_metrics import METRICS


def _m(name: str) -> str:
    return METRICS[f"lake_{name}"].exported


def _rate(name: str) -> str:
    return f"sum(rate({_m(name)}[5m]))"


def _of_live_runs(name: str) -> str:
    # Ray exports a counter until its node ends, and a gauge only while its run sets it.
    return f"sum by (run) ({_m(name)}) and sum by (run) ({_m('planned_shards')})"


def _share(name: str) -> str:
    return f"{_rate(name)} / {_rate('actor_up_seconds')}"


_ROWS: tuple[tuple[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]], ...] = (
    (
        "Is it fast?",
        (
            ("Rows per second", "short", ((_rate("rows"), "encoded"), (_rate("committed_rows"), "committed"))),
            ("Tokens or images per second", "short", ((_rate("units"), "units"),)),
            (
                "Share of the shards that is done",
                "percentunit",
                ((f"sum by (run) ({_m('committed_shards')}) / sum by (run) ({_m('planned_shards')})", "{{run}}"),),
            ),
        ),
    ),
    (
        "What bounds it?",
        (
            (
                "Where the actors' time goes",
                "percentunit",
                (
                    (_share("encoder_busy_seconds"), "encoding"),
                    (_share("encoder_wait_seconds"), "waiting for input"),
                    (_share("actor_idle_seconds"), "without a lease"),
                ),
            ),
            ("Seconds per commit", "s", ((f"{_rate('commit_seconds')} / {_rate('commits')}", "commit"),)),
            ("Share of padding", "percentunit", ((f"{_rate('padding_units')} / {_rate('units')}", "padding"),)),
            (
                "Actors and leases",
                "short",
                (
                    (f"sum({_m('actors')})", "actors"),
                    (f"sum({_m('pending_actors')})", "not up"),
                    (f"sum({_m('open_leases')})", "open leases"),
                ),
            ),
        ),
    ),
    (
        "Is it right?",
        (
            (
                "Rejects by reason, and texts cut, per second",
                "short",
                (
                    (f"sum by (reason) (rate({_m('rejects')}[5m]))", "{{reason}}"),
                    (_rate("cut_texts"), "texts cut"),
                    (_rate("cut_tokens"), "tokens left out"),
                ),
            ),
            (
                "Failures",
                "short",
                (
                    (_of_live_runs("failed_leases"), "{{run}}: failed tries"),
                    (_of_live_runs("given_up_shards"), "{{run}}: shards given up"),
                ),
            ),
        ),
    ),
    (
        "What does it move?",
        (
            ("Bytes per second", "Bps", ((_rate("read_bytes"), "read"), (_rate("written_bytes"), "written"))),
            ("Tokens asked of servers, per second", "short", ((_rate("served_tokens"), "tokens"),)),
            ("Paid to servers", "short", ((f"sum({_m('served_cost')})", "cost"),)),
        ),
    ),
    ("Is it fresh?", (("Age of prod", "s", (("lake_prod_age_seconds", "{{table}}"),)),)),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in _ROWS:
        panels.append(_panel(len(panels), title, "row", {"h": 1, "w": 24, "x": 0, "y": top}))
        width = 24 // len(row)
        for place, (name, unit, queries) in enumerate(row):
            panel = _panel(len(panels), name, "timeseries", {"h": 8, "w": width, "x": place * width, "y": top + 1})
            panel["fieldConfig"] = {"defaults": {"unit": unit, "min": 0}, "overrides": []}
            panel["datasource"] = {"type": "prometheus", "uid": "${source}"}
            panel["targets"] = [
                {"refId": chr(65 + number), "expr": query, "legendFormat": legend}
                for number, (query, legend) in enumerate(queries)
            ]
            panels.append(panel)
        top += 9
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "Matryoshka Lake",
        "uid": "matryoshka-lake",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel(number: int, title: str, kind: str, place: dict[str, int]) -> dict[str, Any]:
    return {"id": number + 1, "title": title, "type": kind, "gridPos": place}
