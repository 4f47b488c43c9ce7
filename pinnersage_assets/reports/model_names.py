"""How models are called where people read, and which family each belongs to.

What belongs here: words. What a model does is the business of `model.variants`.
"""

PINNERSAGE, SINGLE_VECTOR, PINS, CONTROL, OWN = "pinnersage", "single", "pins", "control", "own"
# These know more than the others, and are in no ranking with them.
DAY_SO_FAR = "day"
WALKS = "walks"

FAMILIES = {
    PINNERSAGE: "PinnerSage and its variants",
    DAY_SO_FAR: "PinnerSage that knows the day so far",
    SINGLE_VECTOR: "one vector a user",
    PINS: "pins as they are, unclustered",
    WALKS: "walks over pins and boards, alone or with PinnerSage",
    CONTROL: "knows nothing of the user",
    OWN: "named in the settings",
}

_NAMES = {
    "last_pin": (SINGLE_VECTOR, "last pin"),
    "decay_average": (SINGLE_VECTOR, "decay average, λ 0.01"),
    "decay_average_0": (SINGLE_VECTOR, "plain average"),
    "calibrated_single_vector": (SINGLE_VECTOR, "single vector, calibrated"),
    "hier_tcn": (SINGLE_VECTOR, "HierTCN"),
    "pinnersage_hier_tcn": (PINNERSAGE, "PinnerSage, HierTCN as embedding"),
    "lstm": (SINGLE_VECTOR, "LSTM"),
    "gru": (SINGLE_VECTOR, "GRU"),
    "last_20_pins": (PINS, "last 20 pins"),
    "all_pins": (PINS, "all pins"),
    "calibrated_last_pins": (PINS, "last pins, calibrated"),
    "random": (CONTROL, "random pins"),
    "popular": (CONTROL, "most popular pins"),
    # Table 1's: they look into the future.
    "k_means_oracle": (PINS, "oracle over 3 k-means centroids"),
    "oracle": (PINS, "oracle over all past pins"),
    "online": (DAY_SO_FAR, "PinnerSage, updated online"),
    "reclustered": (DAY_SO_FAR, "PinnerSage, clustered anew"),
    "recommended": (PINNERSAGE, "PinnerSage as recommended"),
    "pixie": (WALKS, "Pixie"),
    "blended": (WALKS, "PinnerSage and Pixie, blended"),
    "calibrated": (PINNERSAGE, "PinnerSage, calibrated"),
    "pinnersage": (PINNERSAGE, "PinnerSage, the paper's setting, refilled"),
    "pinnersage_not_refilled": (PINNERSAGE, "PinnerSage, the paper's setting"),
    "pinnersage_sample_1": (PINNERSAGE, "PinnerSage, 1 medoid drawn"),
    "pinnersage_k_means": (PINNERSAGE, "PinnerSage, k-means instead of Ward"),
    "pinnersage_complete_linkage": (PINNERSAGE, "PinnerSage, complete linkage"),
    "pinnersage_centroid": (PINNERSAGE, "PinnerSage, centroids"),
    "pinnersage_decay_0": (PINNERSAGE, "PinnerSage, importance λ 0"),
    "pinnersage_decayed_centroid": (PINNERSAGE, "PinnerSage, decayed centroids"),
    "pinnersage_decayed_medoid": (PINNERSAGE, "PinnerSage, decayed medoids"),
    "pinnersage_top_3": (PINNERSAGE, "PinnerSage, top 3 medoids"),
    "pinnersage_top_3_by_index": (PINNERSAGE, "PinnerSage, top 3 medoids, by the index"),
    "pinnersage_top_20_by_importance": (PINNERSAGE, "PinnerSage, top 20, shares by importance"),
    "pinnersage_top_20_by_importance_decay_0.1": (PINNERSAGE, "PinnerSage, top 20 decayed centroids, λ 0.1"),
}
# What is not listed above is named by its prefix and what follows it.
_PREFIXES = {
    "decay_average_": (SINGLE_VECTOR, "decay average, λ {}"),
    "pinnersage_decay_": (PINNERSAGE, "PinnerSage, importance λ {}"),
    "pinnersage_": (PINNERSAGE, "PinnerSage, {}"),
    "pixie_": (WALKS, "Pixie {}"),
}


def name_of(model: str) -> str:
    """A model in words; a symbol stays with its number."""
    return _found(model)[1].replace("λ ", "λ\N{NO-BREAK SPACE}")


def family_of(model: str) -> str:
    """One of `FAMILIES`."""
    return _found(model)[0]


def _found(model: str) -> tuple[str, str]:
    if (listed := _NAMES.get(model.lower())) is not None:
        return listed
    for prefix, (family, pattern) in _PREFIXES.items():
        if model.startswith(prefix):
            return family, pattern.format(model.removeprefix(prefix).replace("_", " "))
    return OWN, model.replace("_", " ")
