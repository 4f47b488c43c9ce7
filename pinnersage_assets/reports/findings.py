"""What the intervals say, in sentences: does PinnerSage help on these data, and by which setting?

What belongs here: from ``evaluation.intervals`` to words that claim no more than the intervals do. What does not: how
the words are laid out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from pinnersage_assets.reports.model_names import DAY_SO_FAR, PINNERSAGE, PINS, SINGLE_VECTOR, family_of, name_of

AHEAD, BEHIND, UNCLEAR = "ahead", "behind", "unclear"

# Relevance is a maximum over a set, so that random sets reach much of it: models are compared by recall.
MAIN_METRIC = "recall"


@dataclass(frozen=True)
class Comparison:
    """A model's mean difference to a baseline and its 95 % interval, which is null for one user alone."""

    model: str
    baseline: str
    difference: float
    low: float | None
    high: float | None
    users: int
    days: int
    """On how many users and days both were judged."""

    @property
    def verdict(self) -> str:
        """Whether the whole interval lies on one side of zero."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return UNCLEAR
        return AHEAD if self.low > 0 else BEHIND

    @property
    def figures(self) -> str:
        """Such as ``+0.152 [0.131, 0.174]``."""
        if self.low is None or self.high is None:
            return f"{signed(self.difference)} (no interval: one user)"
        return f"{signed(self.difference)} [{number(self.low)}, {number(self.high)}]"


def number(value: float, digits: int = 3) -> str:
    """With a real minus sign; zero has none."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def signed(value: float, digits: int = 3) -> str:
    """As `number`, and a plus sign before what is above zero."""
    text = number(value, digits)
    return f"+{text}" if float(text.replace("−", "-")) > 0 else text


@dataclass(frozen=True)
class Findings:
    """What there is to say of a day, by one metric."""

    intervals: pl.DataFrame
    """``evaluation.intervals`` of the day."""
    metric: str = MAIN_METRIC
    own_pinnersage: frozenset[str] = frozenset()
    """Models of the settings that cluster, and so are variants of PinnerSage as those of the list are."""

    @cached_property
    def baselines(self) -> list[str]:
        """What models are compared with: the best single vector and the best pins unclustered that have intervals."""
        compared = self._rows["baseline"].unique().to_list()
        ranked = [baseline for baseline in sorted(compared) if baseline in self._levels]
        of_family = ([b for b in ranked if family_of(b) == family] for family in (SINGLE_VECTOR, PINS))
        return [max(some, key=self._levels.__getitem__) for some in of_family if some]

    @cached_property
    def settings(self) -> list[str]:
        """The PinnerSage models, the best first; what was really recommended is not among them."""
        models = [m for m in self._levels if self._is_pinnersage(m) and m != "recommended"]
        return sorted(models, key=lambda model: (-self._levels[model], model))

    @property
    def best_setting(self) -> str | None:
        """The PinnerSage model with the highest mean."""
        return self.settings[0] if self.settings else None

    @property
    def subjects(self) -> list[str]:
        """The models that the page is about: as recommended, as calibrated, and the best of all settings."""
        wanted = dict.fromkeys(["recommended", "calibrated", self.best_setting])
        return [model for model in wanted if model and self.comparisons(model)]

    def comparisons(self, model: str) -> list[Comparison]:
        """A model with each of the baselines."""
        rows = {row["baseline"]: row for row in self._rows.filter(pl.col("model") == model).to_dicts()}
        fields = ("difference", "low", "high", "users", "days")
        return [
            Comparison(model, baseline, *(rows[baseline][field] for field in fields))
            for baseline in self.baselines
            if baseline in rows
        ]

    def is_best_of_its_family(self, model: str) -> bool:
        """Whether no other model of its family has a higher mean: not all models are baselines with intervals."""
        same = [other for other in self._levels if family_of(other) == family_of(model)]
        return self._levels[model] >= max(self._levels[other] for other in same)

    def beyond(self, model: str) -> dict[str, float]:
        """Models outside of PinnerSage, and not baselines, whose means are higher, and by how much."""
        own = self._levels[model]
        others = [m for m in self._levels if not self._is_pinnersage(m) and m not in self.baselines]
        return {
            m: self._levels[m] - own for m in sorted(others, key=lambda m: -self._levels[m]) if self._levels[m] > own
        }

    def _is_pinnersage(self, model: str) -> bool:
        return family_of(model) == PINNERSAGE or model in self.own_pinnersage

    @cached_property
    def _rows(self) -> pl.DataFrame:
        if self.intervals.is_empty():
            return pl.DataFrame(schema={"baseline": pl.String, "model": pl.String})
        rows = self.intervals.filter(pl.col("metric") == self.metric)
        # What knows more than the others is not better for it.
        known = [model for model in rows["model"].unique() if family_of(model) != DAY_SO_FAR]
        return rows.filter(pl.col("model").is_in(known))

    @cached_property
    def _levels(self) -> dict[str, float]:
        """The mean, up to what all have in common, of each model that was judged on as many days as most were."""
        if self._rows.is_empty():
            return {}
        most = self._rows.filter(pl.col("days") == pl.col("days").max())
        common = min(most["baseline"])
        rows = most.filter(pl.col("baseline") == common)
        return {common: 0.0} | dict(rows.sort("model").select("model", "difference").rows())


def sentences(found: Findings, agreeing: Findings) -> list[str]:
    """What was found, the first sentence being the answer; none where there is nothing to compare.

    Args:
        found: by the metric that decides.
        agreeing: by a second one, which is only asked whether it agrees on the best setting.
    """
    best = found.best_setting
    if best is None or not found.baselines:
        return []
    said = []
    if "recommended" in found.subjects:
        said.append(f"As recommended, PinnerSage {_compared(found, found.comparisons('recommended'))}.")
    if "calibrated" in found.subjects and best != "calibrated":
        said.append(f"Calibrated, it {_compared(found, found.comparisons('calibrated'))}.")
    of_best = found.comparisons(best)
    said.append(f"Its best setting here, “{_short(best)}”, {_compared(found, of_best)}.")
    said.append(_advice(found, best, of_best))
    if beyond := found.beyond(best):
        names = ", ".join(f"{name_of(model)} {signed(lead)}" for model, lead in beyond.items())
        said.append(f"Without an interval, only by their means, others foresee more still: {names}.")
    if agreeing.comparisons(best):
        said.append(_agreement(found, of_best, agreeing.comparisons(best), agreeing.metric))
    return said


def _compared(found: Findings, comparisons: Iterable[Comparison]) -> str:
    """Such as: is ahead of the best single vector (…) and behind the last 20 pins."""
    by_verdict: dict[str, list[str]] = {}
    for one in comparisons:
        by_verdict.setdefault(one.verdict, []).append(_baseline(found, one.baseline))
    words = {AHEAD: "is ahead of", BEHIND: "is behind", UNCLEAR: "cannot be told apart from"}
    parts = [f"{words[verdict]} {' and '.join(names)}" for verdict, names in by_verdict.items()]
    return ", and ".join(parts) or "is not compared with any baseline"


def _baseline(found: Findings, model: str) -> str:
    if family_of(model) != SINGLE_VECTOR:
        return f"the {name_of(model)}"
    return f"the {'best ' * found.is_best_of_its_family(model)}single vector ({name_of(model)})"


def _short(model: str) -> str:
    return name_of(model).removeprefix("PinnerSage").lstrip(", ") or name_of(model)


def _advice(found: Findings, best: str, of_best: list[Comparison]) -> str:
    verdicts = {one.verdict for one in of_best}
    kept = {one.verdict for one in found.comparisons("recommended")} if "recommended" in found.subjects else set()
    chosen = (
        "" if best == "calibrated" else f" It is the best of {len(found.settings)} tried on the same days, so expect "
    )
    chosen += "" if best == "calibrated" else "a little less of it on new ones."
    if verdicts == {AHEAD}:
        if kept == {AHEAD}:
            return f"PinnerSage helps here; the best setting is “{_short(best)}”.{chosen}"
        return f"So PinnerSage helps here with that setting, not with the one in use.{chosen}"
    if BEHIND in verdicts:
        losing = " and ".join(_baseline(found, one.baseline) for one in of_best if one.verdict == BEHIND)
        return f"So no setting of PinnerSage helps here: even the best foresees less than {losing}."
    unclear = " and ".join(_baseline(found, one.baseline) for one in of_best if one.verdict == UNCLEAR)
    return f"So it is not shown that PinnerSage foresees more than {unclear}; more days or users may tell."


def _agreement(found: Findings, main: list[Comparison], other: list[Comparison], metric: str) -> str:
    verdicts = dict(zip((one.baseline for one in other), other, strict=True))
    same = all(one.baseline in verdicts and verdicts[one.baseline].verdict == one.verdict for one in main)
    if same:
        return f"By {metric.replace('_', ' ')} the best setting compares alike."
    return f"By {metric.replace('_', ' ')} it {_compared(found, other)}."
