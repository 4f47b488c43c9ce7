"""Candidate pool refinement (paper, section 4.1): which pins may be recommended."""

import polars as pl


def exclusions(pins: pl.DataFrame, minimal_side_pixels: int, maximal_text_fraction: float) -> pl.DataFrame:
    """Pins that may not be recommended: of low quality, or repeating an earlier pin that may be.

    A group of near-duplicates is represented by its earliest eligible pin, in the order of (dt, pin_id). A pin whose
    size or text share is null is not judged by it.

    Args:
        pins: whole groups of near-duplicates: dt, pin_id, canonical_pin_id (what names the group), width and height in
            pixels, text_fraction.
        minimal_side_pixels: a shorter side below this is ``low_resolution``.
        maximal_text_fraction: a larger share of text is ``mostly_text``.

    Returns:
        pin_id, reason.
    """
    quality = (
        pl.when(pl.min_horizontal("width", "height") < minimal_side_pixels)
        .then(pl.lit("low_resolution"))
        .when(pl.col("text_fraction") > maximal_text_fraction)
        .then(pl.lit("mostly_text"))
    )
    eligible_so_far = pl.col("reason").is_null().cum_sum().over("canonical_pin_id")
    return (
        pins.sort("dt", "pin_id")
        .with_columns(reason=quality)
        .with_columns(
            reason=pl.when(pl.col("reason").is_null() & (eligible_so_far > 1))
            .then(pl.lit("near_duplicate"))
            .otherwise("reason")
        )
        .filter(pl.col("reason").is_not_null())
        .select("pin_id", "reason")
    )
