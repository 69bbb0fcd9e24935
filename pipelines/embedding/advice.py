"""Say what bounded a run of `mlake embed`, with the measured share, and which setting to change.

Owns the rules. They read only the run's summary, so the journal of an old run gives the same advice. Owns no
measurement: those come from the actors (`Embedder.progress`), from the leases and from the driver.

The wall-clock of a run is planning, start-up, work, and the commits after the last lease. During the work an actor's
encoder works, waits for a lease's input or for the writer, or has no lease; the three add up to the actor's time. The
largest of all these shares bounded the run.
"""

from __future__ import annotations

from schemas.config import EmbedConfig
from schemas.journal import Advice, EmbedSummary
from schemas.printable import counted
from schemas.records import StageSeconds

_WORTH_SAYING = 0.1
# A shorter run is not worth tuning; most of it is the start.
_WORTH_TUNING_S = 60.0
_MANY_REJECTS = 0.01
_MOST_BOUNDS = 2

# What the run did in that time, the setting to change, and how.
_BOUNDS = {
    "list": ("listed shards and planned", "shards", "name them by narrower patterns, or in a file of addresses"),
    "start": (
        "started actors and loaded encoders",
        "cluster.actors",
        "a run over more shards pays this once; ask for no more actors than find room",
    ),
    "encode": ("had its encoders at work", "cluster.actors", "add actors on more machines, or use a GPU"),
    "read": ("had encoders wait for shards to be read", "cluster.leases_per_actor", "raise it to read more at once"),
    "prepare": (
        "had encoders wait for samples to be decoded or tokenised",
        "cluster.feeders",
        "raise it to prepare on the CPUs of other machines",
    ),
    "write": (
        "had encoders wait for fragments to be written",
        "cluster.leases_per_actor",
        "raise it to write one lease while another is encoded, or use a faster store",
    ),
    "idle": ("had actors without a lease", "limits.lease_bytes", "lower it for more leases, or ask for fewer actors"),
    "commit": (
        "committed after the last lease",
        "limits.commit_age_s",
        "lower it, so that less is left to commit at the end",
    ),
}


def advise(summary: EmbedSummary, config: EmbedConfig) -> tuple[Advice, ...]:
    """Return what bounded a run, the largest share first, and what else was wasted.

    Args:
        summary: Of a run that went to its end; one without seconds has no bounds.
        config: Of the run; decides which setting is named.

    Returns:
        One or two bounds, then notes on padding, rejects and failed leases where they matter.
    """
    shares = time_shares(summary)
    is_short = summary.plan_s + summary.total_s < _WORTH_TUNING_S
    largest = sorted(shares, key=lambda bound: -shares[bound])[:_MOST_BOUNDS]
    bounds = [
        _bound(bound, shares[bound], config)
        for place, bound in enumerate(() if is_short else largest)
        if shares[bound] >= _WORTH_SAYING or (place == 0 and shares[bound] > 0)
    ]
    return (*bounds, *_notes(summary, config))


def time_shares(summary: EmbedSummary) -> dict[str, float]:
    """Return the share of the wall-clock that each part of a run took; they add up to 1, or are all 0."""
    total_s = summary.plan_s + summary.total_s
    if summary.seconds <= 0:
        return dict.fromkeys(_BOUNDS, 0.0)
    work = max(0.0, summary.seconds - summary.flush_s) / total_s
    in_actors = {"encode": summary.busy_s, "idle": summary.idle_s}
    waited_s = max(0.0, summary.actor_s - summary.busy_s - summary.idle_s)
    in_actors |= {stage: waited_s * part for stage, part in _waits(summary.stages or StageSeconds()).items()}
    actor_s = sum(in_actors.values())
    shares = {bound: work * seconds / actor_s if actor_s else 0.0 for bound, seconds in in_actors.items()}
    driver_s = {"list": summary.plan_s, "start": summary.start_s, "commit": min(summary.flush_s, summary.seconds)}
    return {bound: seconds / total_s for bound, seconds in driver_s.items()} | shares


def _waits(stages: StageSeconds) -> dict[str, float]:
    """Split the time in which encoders waited: for the reader, for preparation, for the writer."""
    fed_s = stages.read + stages.prepare
    for_input = {
        "read": stages.encoder_waited * (stages.read / fed_s if fed_s else 1.0),
        "prepare": stages.encoder_waited * (stages.prepare / fed_s if fed_s else 0.0),
        "write": stages.write,
    }
    total_s = sum(for_input.values())
    return {stage: seconds / total_s if total_s else 1 / 3 for stage, seconds in for_input.items()}


def _bound(bound: str, share: float, config: EmbedConfig) -> Advice:
    did, setting, how = _BOUNDS[bound]
    if bound == "prepare" and config.input.modality == "image":
        setting, how = "cluster.decode_threads", "raise it, or set cluster.feeders to decode on other machines as well"
    if bound == "encode" and isinstance(config.encoder.batch, int):
        setting, how = "encoder.batch", 'set "auto" to find the fastest size; then add actors, or use a GPU'
    return Advice(bound, share, setting, f"{share:.0%} of the time the run {did}; {setting}: {how}")


def _notes(summary: EmbedSummary, config: EmbedConfig) -> list[Advice]:
    notes = []
    padding = summary.padding_units / max(1, summary.padding_units + summary.units)
    if padding >= _WORTH_SAYING:
        is_fixed = isinstance(config.encoder.batch, int)
        setting = "encoder.batch" if is_fixed else "limits.lease_bytes"
        how = 'set "auto", which sorts by length' if is_fixed else "raise it, so that more texts are sorted together"
        notes.append(
            Advice("padding", padding, setting, f"{padding:.0%} of the encoded tokens were padding; {setting}: {how}")
        )
    notes += _cuts(summary, config)
    rejects = summary.rejects / max(1, summary.rejects + summary.rows)
    if rejects >= _MANY_REJECTS:
        how = f"`mlake rejects {config.table}` counts the reasons"
        notes.append(Advice("rejects", rejects, "", f"{rejects:.1%} of the samples were rejected; {how}"))
    if summary.failed_leases:
        tries = f"{summary.failed_leases} tries of leases failed and were done again"
        share = summary.failed_leases / max(1, summary.failed_leases + summary.leases)
        notes.append(Advice("failures", share, "", f"{tries}; the log names the errors"))
    return notes


def _cuts(summary: EmbedSummary, config: EmbedConfig) -> list[Advice]:
    """Say what of the texts was cut, or that it is not known."""
    if config.input.modality == "text" and summary.units and not summary.text_tokens:
        text = f"{config.encoder.name} tokenises texts itself, so whether it cut some is not known"
        return [Advice("cut", 0.0, "", text)]
    if not summary.cut_texts:
        return []
    share = min(1.0, summary.cut_texts / max(1, summary.rows + summary.rejects - summary.reused))
    texts = f"{counted(summary.cut_texts, 'text')} ({share:.1%})"
    tokens = f"{counted(summary.cut_tokens, 'token')} ({summary.cut_tokens / max(1, summary.text_tokens):.1%})"
    said = f"cut, since longer than the encoder takes: {texts}; it did not get {tokens}"
    how = "[chunk] cuts them into passages, each a row, in a new table; or choose an encoder that takes more"
    return [Advice("cut", share, "chunk", f"{said}; {how}")]
