"""Which parameters hold on a day: the settings as they stand, the paper's, or what was calibrated before the day."""

import datetime

from pinnersage_assets.model.calibration import variant_of
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import EARLIER, SETTINGS, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# What an asset reads that asks for the parameters in force. Without calibration that is nothing.
READS = reads(EARLIER, "evaluation.calibration") if SETTINGS.calibration.use == "calibrated" else []

_NEWEST_CHOICES = """
    SELECT family, alpha, decay_per_day, embeddings, shares, representation FROM evaluation.calibration
    WHERE chosen AND dt < $day QUALIFY row_number() OVER (PARTITION BY family ORDER BY dt DESC) = 1
"""


def newest_choices(warehouse: Warehouse, day: datetime.date) -> dict[str, Variant]:
    """What was chosen last before a day, by family; nothing where nothing was."""
    return {
        family: variant_of(family, *choice)
        for family, *choice in warehouse.read(_NEWEST_CHOICES, {"day": day}).iter_rows()
    }


def in_force(warehouse: Warehouse, settings: Settings, day: datetime.date) -> Settings:
    """The settings with the α, λ, number of medoids and shares that hold on a day.

    The paper does not say its α (that belongs to the embeddings), so `paper` leaves the setting's.
    """
    use = settings.calibration.use
    if use == "paper":
        chosen = Variant(refill=False)
    else:
        chosen = newest_choices(warehouse, day).get("pinnersage") if use == "calibrated" else None
    if chosen is None:
        return settings
    alpha = settings.clustering.alpha if chosen.alpha is None else chosen.alpha
    clustering = {
        "alpha": alpha,
        "decay_per_day": chosen.decay_per_day,
        "decayed_medoids": chosen.representation == "decayed_medoid",
        "actions_per_medoid": 0,
    }
    # With many medoids sets overlap much; candidates of the grid were judged refilled.
    retrieval = {"sampled_medoids": chosen.embeddings, "shares": chosen.shares, "refill": chosen.refill}
    return settings.model_copy(
        update={
            "clustering": settings.clustering.model_copy(update=clustering),
            "retrieval": settings.retrieval.model_copy(update=retrieval),
        }
    )
