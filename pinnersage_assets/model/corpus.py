"""Candidate pool refinement (paper, section 4.1): which pins may be recommended."""

import polars as pl


def exclusions(
    pins: pl.DataFrame, minimal_side_pixels: int, maximal_text_fraction: float, minimal_actions: int
) -> pl.DataFrame:
    """Pins that may not be recommended: of low quality, of little interest, or repeating an earlier pin that may be.

    A pin with several reasons has the first of those below. A group of near-duplicates shows one picture: actions on
    any of its pins speak for all, and its earliest eligible pin, in the order of (dt, pin_id), represents it. What is
    null is not judged: of a pin with one side known that side is the shorter one.

    Args:
        pins: whole groups of near-duplicates: dt, pin_id, canonical_pin_id (what names the group), width and height in
            pixels, text_fraction (NaN is as null), actions (how many on the pin itself).
        minimal_side_pixels: a shorter side below this is ``low_resolution``; 0 is off.
        maximal_text_fraction: a larger share of text is ``mostly_text``; 1 is off.
        minimal_actions: fewer actions on the group than this is ``low_engagement``; 0 is off.

    Returns:
        pin_id, reason. What is left of a group but its representative is ``near_duplicate``.
    """
    # Widths that are negative and shares beyond 1 do come, and off is off for them too.
    has_low_resolution = (pl.min_horizontal("width", "height") < minimal_side_pixels) & (minimal_side_pixels > 0)
    is_mostly_text = (pl.col("text_fraction").fill_nan(None) > maximal_text_fraction) & (maximal_text_fraction < 1)
    has_low_engagement = pl.col("actions").sum().over("canonical_pin_id") < minimal_actions
    reason = (
        pl.when(has_low_resolution)
        .then(pl.lit("low_resolution"))
        .when(is_mostly_text)
        .then(pl.lit("mostly_text"))
        .when(has_low_engagement)
        .then(pl.lit("low_engagement"))
    )
    eligible_so_far = pl.col("reason").is_null().cum_sum().over("canonical_pin_id")
    return (
        pins.sort("dt", "pin_id")
        .with_columns(reason=reason)
        .with_columns(
            reason=pl.when(pl.col("reason").is_null() & (eligible_so_far > 1))
            .then(pl.lit("near_duplicate"))
            .otherwise("reason")
        )
        .filter(pl.col("reason").is_not_null())
        .select("pin_id", "reason")
    )
