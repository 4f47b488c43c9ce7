"""Which models are judged on a day."""

from pinnersage_assets.lineage.evaluation.knowledge import Knowledge
from pinnersage_assets.lineage.parameters import newest_choices
from pinnersage_assets.model.calibration import FAMILIES
from pinnersage_assets.model.variants import VARIANTS, Variant
from pinnersage_assets.partitions import EARLIER, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

READS = reads(EARLIER, "evaluation.calibration")


def models_to_judge(warehouse: Warehouse, settings: Settings, known: Knowledge) -> dict[str, Variant]:
    """The paper's rows and ours, those of the settings, and of each family what was calibrated before the known day."""
    chosen = newest_choices(warehouse, known.day)
    return (
        VARIANTS
        | {name: model.variant() for name, model in settings.models.items()}
        | {FAMILIES[family]: variant for family, variant in chosen.items()}
    )
