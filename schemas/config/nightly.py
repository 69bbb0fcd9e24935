"""The config of `mlake nightly`: that of `mlake embed`, and what a night adds to it, all of it with defaults."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.config.blocks import ConfigBlock
from schemas.config.bounds import MAX_COUNT, Count, Dim, Number
from schemas.config.embed import EmbedConfig
from schemas.config.shortlist import PrefixIndexConfig

_Part = Annotated[float, Number, Field(ge=0, le=1)]


class AuditConfig(ConfigBlock):
    """Bounds that a version must keep to be published. Each is a gate of its own.

    Attributes:
        queries: Rows that ask: half of them new ones, where there are any.
        recall_slack: The lower end of a funnel's measured recall may be this far below its target.
        max_rejects: Share of the samples since the last publication that may be rejected.
        max_row_loss: Share of the published rows that may be gone, those not counted that `withdraw` removes.
        max_withdrawn: Share of the published rows that `withdraw` may remove in one night.
        min_overlap: Share of yesterday's answers that must be there still, among rows that both versions hold.
        min_overlap_new_space: The same where the space is another one, or texts are cut into other passages.
        max_mean_shift: Distance between the mean of the rows and that of the published ones, from 0 to 2; in one space.
        max_spectrum_shift: Distance between the two spectra of variance, each with sum 1, from 0 to 2; in one space.
        canary_rows: Rows that are encoded again and compared with what is stored; 0 leaves this out.
        min_canary: Cosine that these must reach.
        label: A kept column with a class. The share of rows whose nearest neighbour has their class is compared.
        max_label_loss: That share may be this far below that of the published version.
        judged: Folder with `queries.jsonl` (`_id` and `text`) and `qrels.tsv` (query, id of a row or document, gain):
            queries in words of your own, at most `queries` of them, whose nDCG@10 is compared.
        max_ndcg_loss: That nDCG may be this far below that of the published version: the upper end of the 95 % interval
            of its change, query by query, must reach it.
        published_path: `encoder.path` of the published version, where it was made by other local files than tonight's.
    """

    queries: Annotated[Count, Field(ge=2, le=100_000)] = 200
    recall_slack: _Part = 0.01
    max_rejects: _Part = 0.01
    max_row_loss: _Part = 0.1
    max_withdrawn: _Part = 0.5
    min_overlap: _Part = 0.9
    min_overlap_new_space: _Part = 0.2
    max_mean_shift: Annotated[float, Number, Field(ge=0, le=2)] = 0.3
    max_spectrum_shift: Annotated[float, Number, Field(ge=0, le=2)] = 0.3
    canary_rows: Annotated[int, Number, Field(ge=0, le=10_000)] = 16
    min_canary: _Part = 0.999
    label: str | None = None
    max_label_loss: _Part = 0.02
    judged: str | None = None
    max_ndcg_loss: _Part = 0.0
    published_path: str | None = None


class BudgetConfig(ConfigBlock):
    """How much one night may encode. What is left over is for the next nights; nothing is published before the end.

    Attributes:
        rows: Most rows.
        minutes: Most minutes, by the rate of the last run.
    """

    rows: Count | None = None
    minutes: Annotated[float, Number, Field(gt=0, le=100_000)] | None = None


class RetainConfig(ConfigBlock):
    """What a night that publishes leaves of older generations and versions. What somebody needs stays in any case.

    Attributes:
        generations: The newest generations that stay; None keeps all.
        versions: The newest versions of each generation that stay; those of the last 7 days stay as well.
    """

    generations: Count | None = None
    versions: Count = 10


class HooksConfig(ConfigBlock):
    """What runs at the end of a night. The record of the night is given as JSON, on standard input or as the body.

    Attributes:
        on_success: A shell command, for a night that published or had nothing to do.
        on_failure: A shell command, for any other night.
        webhook: A URL that gets a POST for every night.
    """

    on_success: str | None = None
    on_failure: str | None = None
    webhook: str | None = None


class NightlyConfig(EmbedConfig):
    """Settings of `mlake nightly`. The config of an embed job is one of them.

    Attributes:
        prefixes: Dims that get a prefix column; None keeps those that the table has.
        index: How prefix columns are indexed.
        withdraw: Remove the rows of shards whose files are gone; otherwise they stay.
        budget: How much one night may encode.
        audit: Bounds for the publication.
        retain: What stays of older generations and versions.
        hooks: What runs at the end.
        price_per_hour: Of the machines, in any currency; the plan then says what the night costs.
    """

    prefixes: tuple[Dim, ...] | None = None
    index: PrefixIndexConfig = PrefixIndexConfig()
    withdraw: bool = False
    budget: BudgetConfig = BudgetConfig()
    audit: AuditConfig = AuditConfig()
    retain: RetainConfig = RetainConfig()
    hooks: HooksConfig = HooksConfig()
    price_per_hour: Annotated[float, Number, Field(ge=0, le=MAX_COUNT)] | None = None

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.audit.judged is not None and self.input.modality == "vector":
            raise ValueError(
                "audit.judged asks in words, and vectors of input.vector have no encoder here; leave it out, and use "
                "audit.label"
            )
        return self

    def embed_config(self, table: str, shards: tuple[str, ...] | None = None) -> EmbedConfig:
        """Return the embed job of this night for one table, of all shards or of some."""
        settings = {name: getattr(self, name) for name in EmbedConfig.model_fields}
        return EmbedConfig(**settings | {"table": table} | ({} if shards is None else {"shards": shards}))
