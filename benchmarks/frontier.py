"""Results of `benchmarks.funnel` as a Markdown table and as one picture of all frontiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGETS = (0.95, 0.99, 0.999)
FUNNEL = "lake funnel"
CODES = "lake funnel, vectors read"
OURS = (FUNNEL, CODES)


def best_at(result: dict[str, Any], target: float, cost: str) -> dict[str, Any] | None:
    """Return the cheapest point of a system that reaches a recall."""
    reaching = [point for point in result["points"] if point["recall"] >= target]
    return min(reaching, key=lambda point: point[cost]) if reaching else None


def summary(results: list[dict[str, Any]]) -> str:
    """Lay results out as a Markdown table, and the two ratios that the goals are about."""
    lines = [
        "| system | build s | RAM B/vec | disk B/vec |" + "".join(f" {t} single µs | {t} batch q/s |" for t in TARGETS)
    ]
    lines.append("|---" * (4 + 2 * len(TARGETS)) + "|")
    for result in results:
        if result.get("failed"):
            lines.append(f"| {result['system']} | failed: {result['failed']} |")
            continue
        cells = [result["system"], f"{result['build_s']:.0f}", f"{result['ram_bytes_per_vector']:.0f}"]
        cells.append(f"{result['disk_bytes_per_vector']:.0f}")
        for target in TARGETS:
            single, batch = best_at(result, target, "single_us"), best_at(result, target, "batched_us")
            cells += [
                f"{single['single_us']:,.0f}" if single else "–",
                f"{1e6 / batch['batched_us']:,.0f}" if batch else "–",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_ratios(results)])


def _ratios(results: list[dict[str, Any]]) -> Iterator[str]:
    by_name = {result["system"]: result for result in results if result["points"]}
    ours, exact = by_name.get(FUNNEL), by_name.get("torch-f32")
    if not ours:
        return
    for target in TARGETS:
        single, batch = best_at(ours, target, "single_us"), best_at(ours, target, "batched_us")
        if not single or not batch:
            yield f"recall ≥ {target}: not reached"
            continue
        words = [f"recall ≥ {target}:"]
        if exact:
            words.append(
                f"single query {exact['points'][0]['single_us'] / single['single_us']:.1f}x as fast as exact f32;"
            )
        peers = {n: p for n, r in by_name.items() if n not in OURS and (p := best_at(r, target, "batched_us"))}
        if peers:
            name, peer = min(peers.items(), key=lambda item: item[1]["batched_us"])
            words.append(f"{peer['batched_us'] / batch['batched_us']:.2f}x the queries/s of the best peer ({name})")
        yield " ".join(words)


def growth_table(grown: list[dict[str, Any]]) -> str:
    """Lay out what more rows cost the funnel, at the plans it was tuned to."""
    lines = ["| rows | tuned for | recall | single µs | batch µs | tuning s | plan |", "|---|---|---|---|---|---|---|"]
    for result in grown:
        seconds = {one["goal"]: one["tune_s"] for one in result["tuned"]}
        lines += [
            f"| {result['rows']:,} | {goal} | {point['recall']:.4f} | {point['single_us']:,.0f} | "
            f"{point['batched_us']:,.0f} | {seconds[goal]:.0f} | {point['setting']} |"
            for point in result["points"]
            if (goal := point["chosen_for"])
        ]
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw recall against queries a second, batched and single, all systems in one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6), sharey=True, layout="constrained")
    for axis, cost, title in zip(
        axes, ("batched_us", "single_us"), ("many queries a call", "one at a time"), strict=True
    ):
        for place, result in enumerate(results):
            points = sorted((p["recall"], 1e6 / p[cost]) for p in result["points"] if p["recall"] >= 0.8)
            frontier = [(r, q) for r, q in points if not any(r2 >= r and q2 > q for r2, q2 in points)]
            is_ours = result["system"] in OURS
            axis.plot(
                [max(1 - recall, 2e-4) for recall, _ in frontier],
                [rate for _, rate in frontier],
                "o-" if len(result["points"]) > 1 else "*",
                label=result["system"],
                color={FUNNEL: "black", CODES: "dimgray"}.get(result["system"], plt.colormaps["tab20"](place)),
                linewidth=3 if is_ours else 1,
                markersize=6 if len(result["points"]) > 1 else 14,
                zorder=3 if is_ours else 2,
            )
        axis.set(
            xscale="log", yscale="log", title=title, xlabel="share of the true 10 nearest missed (log; right is worse)"
        )
        axis.grid(visible=True, which="both", alpha=0.2)
    axes[0].set_ylabel("queries a second")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
