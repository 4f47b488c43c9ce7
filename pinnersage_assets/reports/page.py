"""The page of a day's evaluation: frames in, one HTML file out, the same bytes for the same frames.

It says first what was found, then how it was judged, then shows all figures. A part without data vanishes with a
sentence that says so.

What belongs here: which figures the page has, and what is said of them. What does not: where frames come from, how a
chart is drawn (`figures`), what the intervals say (`findings`), what is shown of a user (`users`).
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from pinnersage_assets.model.calibration import COLUMNS
from pinnersage_assets.model.variants import VARIANTS, Variant
from pinnersage_assets.reports import figures
from pinnersage_assets.reports.figures import Mark
from pinnersage_assets.reports.findings import MAIN_METRIC, Findings, number, sentences, signed
from pinnersage_assets.reports.model_names import (
    CONTROL,
    DAY_SO_FAR,
    FAMILIES,
    PINNERSAGE,
    PINS,
    SINGLE_VECTOR,
    family_of,
    name_of,
)
from pinnersage_assets.reports.users import UserData, views

# Read with the code, so that a long-lived process never meets the templates of another version.
_TEMPLATES = {
    name: (Path(__file__).parent / name).read_text(encoding="utf-8")
    for name in ("page.html.j2", "users.html.j2", "page.css")
}


@dataclass(frozen=True)
class PageData:
    """All that the page is made of; a frame with the columns of its table, empty where there is nothing."""

    day: datetime.date
    intervals: pl.DataFrame = field(default_factory=pl.DataFrame)
    retrieval: pl.DataFrame = field(default_factory=pl.DataFrame)
    """``marts.retrieval_lifts``."""
    ranking: pl.DataFrame = field(default_factory=pl.DataFrame)
    """``marts.ranking_lifts``."""
    next_action: pl.DataFrame = field(default_factory=pl.DataFrame)
    """``marts.next_action_lifts``."""
    index_cost: pl.DataFrame = field(default_factory=pl.DataFrame)
    diversity: pl.DataFrame = field(default_factory=pl.DataFrame)
    clusters_per_user: pl.DataFrame = field(default_factory=pl.DataFrame)
    volumes: pl.DataFrame = field(default_factory=pl.DataFrame)
    """table_name, dt, rows: of the day and the days before it."""
    protocol: pl.DataFrame = field(default_factory=pl.DataFrame)
    variety: pl.DataFrame = field(default_factory=pl.DataFrame)
    online_agreement: pl.DataFrame = field(default_factory=pl.DataFrame)
    merged_vectors: pl.DataFrame = field(default_factory=pl.DataFrame)
    action_ages: pl.DataFrame = field(default_factory=pl.DataFrame)
    calibration: pl.DataFrame = field(default_factory=pl.DataFrame)
    board_holdout: pl.DataFrame = field(default_factory=pl.DataFrame)
    users: UserData | None = None
    own_pinnersage: frozenset[str] = frozenset()
    """As of `Findings`."""
    keep_seen: bool = False
    """Whether pins that users have seen count."""


@dataclass(frozen=True)
class Table:
    """Numbers beside a chart."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = "Numbers"


@dataclass(frozen=True)
class Figure:
    """A chart with what is to be read from it."""

    title: str
    chart: Markup
    caption: str
    source: str
    table: Table | None = None
    legend: Mapping[str, str] = field(default_factory=dict)
    """Colour, and what has it."""


@dataclass(frozen=True)
class Section:
    """A part of the page; ``absent`` says why it has no figures, ``more`` holds those that are folded away."""

    key: str
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    more: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    absent: Sequence[str] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    """As of a figure, for all of them."""


def render(data: PageData) -> str:
    """The page as HTML."""
    by_recall, by_relevance = (
        Findings(data.intervals, metric, data.own_pinnersage) for metric in (MAIN_METRIC, "relevance")
    )
    sections = [
        _retrieval(data, by_recall),
        _ranking(data),
        _settings(data),
        _day_so_far(data),
        _boards(data),
        _insights(data),
    ]
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "count": _count, "signed": signed}
    return environment.get_template("page.html.j2").render(
        data=data,
        known_day=_known_day(data),
        empty=_why_empty(data),
        sentences=sentences(by_recall, by_relevance),
        findings=by_recall,
        name_of=name_of,
        metric=MAIN_METRIC,
        rules=_rules(data),
        facts=_facts(data),
        sections=sections,
        closing=_costs_and_volumes(data),
        users=views(data.users) if data.users else [],
    )


# --- How it was judged


def _known_day(data: PageData) -> datetime.date:
    known = data.protocol["known_day"][0] if len(data.protocol) else None
    return known or data.day - datetime.timedelta(days=1)


def _first_judged(data: PageData) -> datetime.date:
    return _known_day(data) + datetime.timedelta(days=1)


def _judged_days(data: PageData) -> str:
    first = _first_judged(data)
    return f"on {first}" if first == data.day else f"from {first} to {data.day}"


def _why_empty(data: PageData) -> str | None:
    """Why nobody was judged on the day; None where somebody was."""
    reason = data.protocol["reason"][0] if len(data.protocol) else None
    if reason:
        return reason
    judged = data.retrieval.filter(pl.col("relevance").is_not_null()) if len(data.retrieval) else data.retrieval
    if judged.is_empty():
        return f"no user of whom something was known did anything new {_judged_days(data)}"
    return None


def _rules(data: PageData) -> list[str]:
    """The protocol in words, with its numbers where they are known."""
    known = data.protocol.to_dicts()[0] if len(data.protocol) else {}
    budget = f"the same {_count(known['budget'])} pins" if known.get("budget") else "equally many pins"
    cosine = number(known["relevance_cosine"], 2) if known.get("relevance_cosine") is not None else "a threshold"
    near = f"a cosine of {cosine}" if known.get("relevance_cosine") is not None else "a threshold of the cosine"
    rules = [
        f"Every model knows what was known at the end of {_known_day(data)}, and is judged on what the same users did "
        f"new {_judged_days(data)}, of which no model uses anything{_but_those_of_the_day(data)}.",
        f"Every model may recommend {budget}; what a user has seen in the window "
        + ("counts as anything else. " if data.keep_seen else "is neither recommended nor counted as found. ")
        + "The model “as recommended” is the list that really was made, which may be shorter.",
        "Recall is the share of a user's new pins that were recommended; relevance the share with a recommended pin "
        f"at {near} or above. Relevance is a maximum over the set, so that random pins reach much of it: models are "
        "compared by recall.",
        "Each user counts once, however active. Draws by chance are averaged over several seeds.",
        "An interval holds 95 % of 2,000 resamples of users, each with all of their days, so that a user who comes "
        "back is not counted as several. One that contains zero shows no difference. With some twenty models one or "
        "two would look different by chance alone.",
    ]
    if (above := known.get("random_pairs_above")) is not None:
        rules.append(
            f"{_percent(above)} of random pairs of corpus pins are at {near} or above: the rarer that is, the more "
            "relevance means."
        )
    fitted = known.get("fitted_before")
    if fitted is not None:
        later = (
            "so vectors know nothing of the days judged."
            if fitted <= _first_judged(data)
            else "so they may know what is judged."
        )
        rules.append(f"Vectors of pins were fitted to what happened before {fitted}, {later}")
    elif known:
        rules.append(
            "Until when the vectors of pins were fitted is not known here: make sure that it was before this day."
        )
    return rules


def _but_those_of_the_day(data: PageData) -> str:
    models = data.intervals["model"].unique().sort() if len(data.intervals) else ()
    names = [f"“{name_of(model)}”" for model in models if family_of(model) == DAY_SO_FAR]
    return f" but {' and '.join(names)}, which know what the user did before each new pin" if names else ""


def _facts(data: PageData) -> list[tuple[str, str]]:
    """Counts behind the day's figures."""
    if len(data.protocol):
        row = data.protocol.to_dicts()[0]
        names = {
            "users_who_acted": "users did something new",
            "cold_users": "of them cold: nothing known, not judged",
            "judged_users": "users judged",
            "targets": "new pins to foresee",
            "targets_without_vector": "of them without a vector: always missed",
            "corpus_pins": "pins may be recommended",
            "budget": "recommended to each",
        }
        return [(_count(row[name]), words) for name, words in names.items() if row.get(name) is not None]
    facts = []
    if len(data.retrieval) and (users := data.retrieval.select(pl.max("users")).item()):
        facts.append((_count(users), "users judged on this day"))
    return facts


# --- Tables 4 and 5

_METRICS = {
    "recall": "Recall",
    "relevance": "Relevance",
    "r_precision": "R-precision",
    "reciprocal_rank": "Reciprocal rank",
}
_MEANINGS = {
    "recall": "the share of a user's new pins that were among those recommended",
    "relevance": "the share of a user's new pins with a similar one among those recommended",
    "r_precision": "the share of a user's k new pins that are ranked in the top k",
    "reciprocal_rank": "the mean of 1 / rank of a user's new pins",
}


def _retrieval(data: PageData, found: Findings) -> Section:
    shown, more = _against(data.intervals, found.baselines, ("recall", "relevance"))
    lifts, missing = _lifts(
        data.retrieval,
        {"recall": "Table 4, recall", "relevance": "Table 4, relevance"},
        "marts.retrieval_lifts",
        "the candidates",
    )
    if lifts:
        more["Lifts over the last pin, beside the paper's Table 4"] = lifts
    return Section(
        "retrieval",
        "Which candidates foresee what users do",
        "Every model recommends, and the next day decides (the paper's Table 4). The zero line is the baseline; a bar "
        "is the 95 % interval. A bar that crosses the line shows no difference.",
        shown,
        more,
        missing,
        () if shown or lifts else ("There are no comparisons of candidates: evaluation.intervals has no rows.",),
        _families(data.intervals),
    )


# Among what actions are ranked, in words; the paper does so among impressions.
_NEGATIVES = {
    "impressions": "what was shown, beside the paper's Table 5",
    "random": "random pins",
    "popular": "pins drawn by their popularity",
}


def _ranking(data: PageData) -> Section:
    found = Findings(data.intervals, "r_precision")
    shown, more = _against(data.intervals, found.baselines, ("r_precision", "reciprocal_rank"))
    titles = {"r_precision": "Table 5, R-precision", "reciprocal_rank": "Table 5, reciprocal rank"}
    lifts, notes = [], []
    for kind, words in _NEGATIVES.items() if len(data.ranking) else ():
        rows = data.ranking.filter(pl.col("negatives") == kind)
        of_kind, missing = _lifts(rows, titles, f"marts.ranking_lifts, {kind}", "the rankings")
        if of_kind:
            more[f"Lifts over the last pin, among {words}"] = of_kind
        lifts += of_kind
        notes += missing
    if len(data.ranking) and (padded := data.ranking.select(pl.max("padded_share")).item()) is not None:
        notes.append(f"{_percent(padded)} of what actions are ranked among were not shown but drawn at random.")
    return Section(
        "ranking",
        "How high models rank it among what was shown",
        "The same users and pins, but models only order them among impressions without an action, twenty for each "
        "action (Table 5); where fewer were shown, random pins fill up.",
        shown,
        more,
        notes,
        () if shown or lifts else ("Nothing was ranked: there were no actions to rank among impressions.",),
        {family: words for family, words in _families(data.intervals).items() if family != CONTROL},
    )


_WITHOUT_THE_DAY = "pinnersage"
_BASELINE_TITLES = {_WITHOUT_THE_DAY: "PinnerSage of the day before"}


def _families(intervals: pl.DataFrame) -> dict[str, str]:
    """The families that charts of intervals show."""
    models = intervals["model"].unique() if len(intervals) else ()
    present = {family_of(model) for model in models}
    return {family: words for family, words in FAMILIES.items() if family in present}


def _against(
    intervals: pl.DataFrame, baselines: Sequence[str], metrics: Sequence[str]
) -> tuple[list[Figure], dict[str, list[Figure]]]:
    """Charts against the first baseline; to be folded away, against the second, and the numbers against all others."""
    if intervals.is_empty():
        return [], {}
    own = intervals.filter(pl.col("metric").is_in(list(metrics)))
    others = [b for b in sorted(own["baseline"].unique()) if b not in baselines and b != _WITHOUT_THE_DAY]
    shown: list[Figure] = []
    more: dict[str, list[Figure]] = {}
    for place, baseline in enumerate([*baselines, *others]):
        charts = [
            _interval_chart(
                own.filter((pl.col("metric") == metric) & (pl.col("baseline") == baseline)),
                metric,
                baseline,
                drawn=baseline in baselines,
            )
            for metric in metrics
        ]
        charts = [chart for chart in charts if chart is not None]
        if place == 0:
            shown = charts
        elif charts:
            more[f"Against the {name_of(baseline)}"] = charts
    return shown, more


def _interval_chart(rows: pl.DataFrame, metric: str, baseline: str, drawn: bool) -> Figure | None:
    if rows.is_empty():
        return None
    ordered = rows.sort(["difference", "model"], descending=[True, False]).to_dicts()
    marks = [
        Mark(
            name_of(row["model"]),
            row["difference"],
            family_of(row["model"]),
            row["low"],
            row["high"],
            text=signed(row["difference"]),
            strong=row["model"] in ("recommended", "calibrated"),
        )
        for row in ordered
    ]
    title = f"{_METRICS[metric]}, against {_BASELINE_TITLES.get(baseline) or f'the {name_of(baseline)}'}"
    label = f"{title}: differences with 95 % intervals; best {marks[0].label}, worst {marks[-1].label}."
    table = Table(
        ["model", "difference", "95 % interval"],
        [[name_of(row["model"]), signed(row["difference"]), _interval(row)] for row in ordered],
    )
    axis = f"difference in {_METRICS[metric].lower()}"
    users, days = rows.select(pl.max("users", "days")).row(0)
    return Figure(
        title,
        figures.dots(f"{metric} {baseline}", label, marks, axis, 0.0) if drawn else Markup(),
        f"{_METRICS[metric]} is {_MEANINGS[metric]}. {_count(users)} users, "
        f"{_count(days)} day{'s' if days > 1 else ''}.",
        "evaluation.intervals",
        table,
    )


def _interval(row: Mapping[str, float | None]) -> str:
    return "one user" if row["low"] is None or row["high"] is None else f"[{number(row['low'])}, {number(row['high'])}]"


def _lifts(frame: pl.DataFrame, metrics: Mapping[str, str], source: str, what: str) -> tuple[list[Figure], list[str]]:
    """Our lifts over the last pin beside the paper's, and a sentence on models that only the paper has."""
    charts, missing = [], []
    if frame.is_empty():
        return charts, missing
    for metric, title in metrics.items():
        ours, papers = f"{metric}_lift", f"paper_{metric}_lift"
        rows = frame.filter(pl.col(ours).is_not_null()).sort([ours, "model"], descending=[True, False]).to_dicts()
        if not rows:
            continue
        marks = [
            Mark(
                name_of(row["model"]),
                row[ours],
                family_of(row["model"]),
                other=row[papers],
                text=_lift(row[ours]) + (f" · paper {_lift(row[papers])}" if row[papers] is not None else ""),
            )
            for row in rows
        ]
        label = f"{title}: lifts over the last pin, measured and in the paper."
        charts.append(
            Figure(
                title,
                figures.dots(f"lift {source} {metric}", label, marks, "lift over the last pin", 0.0),
                "A full dot is measured here, a hollow one is the paper's. Lifts depend on the data: what can be "
                "compared is the order of models.",
                source,
                Table(
                    ["model", metric.replace("_", " "), "lift", "paper's lift"],
                    [[name_of(r["model"]), number(r[metric]), _lift(r[ours]), _lift(r[papers])] for r in rows],
                ),
            )
        )
    only = frame.filter(pl.col(next(iter(metrics))).is_null()).sort("model").to_dicts()
    if only:
        names = "; ".join(f"{name_of(row['model'])} ({_in_the_paper(row, metrics)})" for row in only)
        missing.append(f"Not reproduced here, for {what}, because they need trained networks: {names}.")
    return charts, missing


def _in_the_paper(row: Mapping[str, Any], metrics: Mapping[str, str]) -> str:
    """The paper's lifts over the last pin, for a model that only the paper has."""
    lifts = {metric: row[f"paper_{metric}_lift"] for metric in metrics}
    if any(lift is None for lift in lifts.values()):
        return "no figures in the paper"
    return "the paper: " + ", ".join(f"{metric.replace('_', ' ')} {_lift(lift)}" for metric, lift in lifts.items())


# --- Which setting


def _settings(data: PageData) -> Section:
    charts, absent = [], []
    if data.calibration.is_empty():
        absent.append("No settings were tried against each other on this day: evaluation.calibration has no rows.")
    else:
        charts += _calibration(data.calibration)
    charts += (figure_7 := _figure_7(data.diversity) if len(data.diversity) else [])
    if not figure_7:
        absent.append("There is no Figure 7 for this day: nobody was judged.")
    if len(data.variety):
        charts += _variety(data.variety)
    else:
        absent.append("How varied candidates are is not known for this day: evaluation.variety has no rows.")
    lead = (
        "PinnerSage and its baselines each get the setting that is best for them; only then are they compared fairly."
    )
    return Section(
        "settings",
        "Which setting to use",
        lead if len(data.calibration) else "",
        charts,
        notes=[*_chosen(data.calibration), *_in_words(Findings(data.intervals).best_setting)],
        absent=absent,
    )


_FAMILY_NAMES = {"pinnersage": "PinnerSage", "single_vector": "Single vector", "last_pins": "Last pins"}


def _chosen(calibration: pl.DataFrame) -> list[str]:
    """The chosen setting of each family, in words and in the names of settings."""
    if calibration.is_empty():
        return []
    notes = []
    chosen = calibration.filter(pl.col("chosen") & pl.col("score").is_not_null())
    for row in chosen.sort("score", descending=True).to_dicts():
        own = row["family"] == "pinnersage"
        names = {
            "alpha": "clustering.alpha",
            "decay_per_day": "clustering.decay_per_day",
            "embeddings": "retrieval.sampled_medoids",
            "shares": "retrieval.shares",
        }
        words = [
            f"{setting if own else column.replace('_', ' ')} {row[column]:g}"
            if isinstance(row[column], int | float)
            else f"{setting if own else column} {row[column]}"
            for column, setting in names.items()
            if row[column] is not None
        ]
        if own:
            words += [f"clustering.decayed_medoids {row['representation'] == 'decayed_medoid'}".lower()]
            words += ["retrieval.refill true"]
        notes.append(
            f"{_FAMILY_NAMES.get(row['family'], row['family'])}: {', '.join(words)} (recall {number(row['recall'])}, "
            f"relevance {number(row['relevance'])}; {_count(row['users'])} users, {_count(row['days'])} days)."
        )
        if at_edge := _at_edge(row, calibration.filter(pl.col("family") == row["family"])):
            notes[-1] += f" That is the edge of what was tried ({', '.join(at_edge)}): a wider grid may find better."
    return notes


def _at_edge(chosen: Mapping[str, object], tried: pl.DataFrame) -> list[str]:
    """The numbers of a choice beyond which nothing was tried, though something could be."""
    found = []
    for column in ("alpha", "decay_per_day", "embeddings"):
        values = tried[column].drop_nulls().unique().sort().to_list()
        ends = [end for end in (values[:1] + values[-1:]) if end != 0 and (column, end) != ("embeddings", 1)]
        if len(values) > 1 and chosen[column] in ends:
            found.append(column.replace("_", " "))
    return found


def _in_words(model: str | None) -> list[str]:
    """What a setting changes of the paper's; nothing where that is not known."""
    if model not in VARIANTS:
        return []
    own, papers = vars(VARIANTS[model]), vars(Variant(refill=False))
    changes = [f"{name.replace('_', ' ')} = {value}" for name, value in own.items() if value != papers[name]]
    if not changes:
        return []
    return [f"The best by {MAIN_METRIC}, “{name_of(model)}”, differs from the paper's setting in {', '.join(changes)}."]


def _calibration(frame: pl.DataFrame) -> list[Figure]:
    charts = []
    own = frame.filter((pl.col("family") == "pinnersage") & pl.col("score").is_not_null())
    if len(own):
        charts.append(_surface(own))
    panels = []
    for family, axis, colour in (("single_vector", "decay_per_day", SINGLE_VECTOR), ("last_pins", "embeddings", PINS)):
        rows = frame.filter((pl.col("family") == family) & pl.col(axis).is_not_null() & pl.col("score").is_not_null())
        # The best over whatever else was tried.
        best = rows.sort("score").group_by(axis).agg(pl.col("score").last(), pl.col("chosen").any()).sort(axis)
        if len(best):
            place = best["chosen"].arg_max() if best["chosen"].any() else None
            words = {"decay_per_day": "λ of the average", "embeddings": "last pins"}[axis]
            panels.append((words, colour, best[axis].to_list(), best["score"].to_list(), place))
    if panels:
        level = own["score"].max() if len(own) else None
        label = "Score of the baselines by their own setting, and PinnerSage's best score as a dashed line."
        charts.append(
            Figure(
                "The baselines at their best",
                figures.lines("calibrated baselines", label, panels, level, "score"),
                "The score (mean of recall and relevance) of the baselines by their one setting, the chosen one in a "
                "ring. The dashed line is the best of PinnerSage's settings: baselines below it are "
                "beaten even at their best.",
                "evaluation.calibration",
                _calibration_table(frame.filter(pl.col("family") != "pinnersage")),
                {PINNERSAGE: "best of PinnerSage", SINGLE_VECTOR: "single vector", PINS: "last pins"},
            )
        )
    return charts


def _surface(own: pl.DataFrame) -> Figure:
    """λ against e, a panel for each α and way to share; unknown where it was not tried."""
    decays, sizes = own["decay_per_day"].unique().sort().to_list(), own["embeddings"].unique().sort().to_list()
    panels = []
    for (alpha, shares), rows in own.sort("alpha", "shares").group_by("alpha", "shares", maintain_order=True):
        scores, chosen = np.full((len(decays), len(sizes)), np.nan), None
        # The better of both kinds of medoid comes last and stays.
        for row in rows.sort("score").to_dicts():
            place = decays.index(row["decay_per_day"]), sizes.index(row["embeddings"])
            scores[place] = np.nan if row["score"] is None else row["score"]
            chosen = place if row["chosen"] else chosen
        title = f"α {alpha:g}, {'equal shares' if shares == 'equal' else f'shares by {shares}'}"
        wide = ["all" if size is None else f"{size:g}" for size in sizes]
        panels.append((title, wide, [f"{decay:g}" for decay in decays], scores, chosen))
    return Figure(
        "PinnerSage's score by setting",
        figures.surfaces(
            "calibration",
            "Score of PinnerSage by setting; the chosen one is framed.",
            panels,
            "embeddings",
            "λ per day",
        ),
        "The score is the mean of recall and relevance, that of the better kind of medoid; stronger is higher, on one "
        "scale, and the chosen setting is framed. A broad plateau means that the exact setting matters little.",
        "evaluation.calibration",
        _calibration_table(own),
    )


def _calibration_table(frame: pl.DataFrame) -> Table:
    columns = [*COLUMNS, "recall", "relevance", "score"]
    rows = frame.sort("score", descending=True, nulls_last=True).select(columns).rows()
    return Table([c.replace("_", " ") for c in columns], [[_cell(value) for value in row] for row in rows])


def _figure_7(frame: pl.DataFrame) -> list[Figure]:
    rows = frame.sort("embeddings").filter(pl.col("diversity").is_not_null() & pl.col("relevance").is_not_null())
    if rows.is_empty():
        return []
    actions = rows["action_diversity"].drop_nulls()
    upright = actions[0] if len(actions) else None
    label = "Relevance and diversity of the candidates of 1 to 10 drawn medoids."
    columns = ["embeddings", "relevance", "recall", "diversity", "users"]
    return [
        Figure(
            "Figure 7: relevance and diversity",
            figures.path(
                "figure 7",
                label,
                rows["diversity"].to_list(),
                rows["relevance"].to_list(),
                rows["embeddings"].to_list(),
                "diversity (mean cosine distance)",
                "relevance",
                upright,
            ),
            "Each point is a number of drawn medoids, 1 to 10, with equal budgets. The dashed line is the diversity of "
            "what users did: the paper takes the point nearest to it. Absolute values, not lifts as in the paper.",
            "evaluation.diversity",
            Table(
                columns, [[_cell(value) for value in row] for row in frame.sort("embeddings").select(columns).rows()]
            ),
            {PINNERSAGE: "candidates", PINS: "what users did"},
        )
    ]


def _variety(frame: pl.DataFrame) -> list[Figure]:
    described = {
        "coverage": ("Coverage", "The share of the corpus that is recommended to at least one user."),
        "interest_entropy": ("Variety within a list", "How evenly a user's list is spread over interests, in bits."),
        "overlap_with_popular": (
            "Overlap with the most popular",
            "The share of a list that everybody would get anyway.",
        ),
    }
    charts = []
    for column, (title, caption) in described.items():
        rows = frame.filter(pl.col(column).is_not_null()).sort([column, "model"], descending=[True, False]).to_dicts()
        if not rows:
            continue
        marks = [
            Mark(
                name_of(row["model"]),
                row[column],
                family_of(row["model"]),
                text=number(row[column]),
                strong=row["model"] in ("recommended", "calibrated"),
            )
            for row in rows
        ]
        table = Table(
            ["model", title.lower(), "users"],
            [[m.label, m.text, _cell(r["users"])] for m, r in zip(marks, rows, strict=True)],
        )
        charts.append(
            Figure(
                title,
                figures.dots(f"variety {column}", f"{title} by model.", marks, title.lower()),
                caption,
                "evaluation.variety",
                table,
            )
        )
    return charts


# --- The online model

# The first number of actions of each group of users.
_ACTIONS = (1, 2, 4, 8, 16)


def _day_so_far(data: PageData) -> Section:
    rows = data.intervals.filter(pl.col("baseline") == _WITHOUT_THE_DAY) if len(data.intervals) else data.intervals
    made = [
        _interval_chart(rows.filter(pl.col("metric") == metric), metric, _WITHOUT_THE_DAY, drawn=True)
        for metric in ("recall", "relevance")
        if len(rows)
    ]
    charts = [chart for chart in made if chart is not None]
    agreement = data.online_agreement
    if len(agreement):
        agreement = agreement.drop_nulls(["adjusted_rand_index", "medoid_overlap"])
    notes = []
    if len(agreement):
        charts.append(_agreement(agreement))
        index, overlap, moments = agreement.select(
            pl.mean("adjusted_rand_index", "medoid_overlap"), pl.sum("moments")
        ).row(0)
        notes.append(
            f"How far clusters that were updated online are as if made anew: adjusted Rand index {number(index)}, "
            f"{_percent(overlap)} of the medoids in common, over {_count(moments)} moments of {_count(len(agreement))} "
            "users."
        )
    absent = () if charts else ("What the day so far is worth is not known: nobody did anything twice on this day.",)
    return Section(
        "day",
        "What the day so far is worth",
        "The models above know nothing of the day that judges them. These two are asked again before each new pin: one "
        "updates yesterday's clusters with what the user did since midnight, the other clusters everything anew."
        if charts
        else "",
        charts,
        notes=notes,
        absent=absent,
    )


def _agreement(frame: pl.DataFrame) -> Figure:
    """By how many actions there were to take in."""
    marks, cells = [], []
    for first, after in zip(_ACTIONS, (*_ACTIONS[1:], None), strict=True):
        within = pl.col("actions") >= first if after is None else pl.col("actions").is_between(first, after - 1)
        rows = frame.filter(within)
        if rows.is_empty():
            continue
        words = f"{first} or more" if after is None else f"{first} to {after - 1}" if after > first + 1 else f"{first}"
        index, overlap = rows.select(pl.mean("adjusted_rand_index", "medoid_overlap")).row(0)
        text = f"{number(index)} · {number(overlap)}"
        marks.append(Mark(f"{words} action{'s' * (words != '1')}", index, DAY_SO_FAR, other=overlap, text=text))
        cells.append([words, number(index), number(overlap), _count(len(rows))])
    return Figure(
        "Updated online or clustered anew",
        figures.dots("agreement", "Agreement of both clusterings by actions since midnight.", marks, "agreement"),
        "How alike both cluster a user's pins, by the actions since midnight: full the adjusted Rand index (1 is the "
        "same, 0 no more than by chance), hollow the share of medoids in common.",
        "evaluation.online_agreement",
        Table(["actions", "adjusted Rand index", "medoids in common", "users"], cells),
    )


# --- Figures 2 and 3, Table 1, clusters per user


def _insights(data: PageData) -> Section:
    made = {
        "Table 1": (data.next_action, _table_1, "no action with one before it"),
        "Figure 2": (data.merged_vectors, _figure_2, "evaluation.merged_vectors has no rows"),
        "Figure 3": (data.action_ages, _figure_3, "evaluation.action_ages has no rows"),
        "Clusters per user": (data.clusters_per_user, _clusters_per_user, "nobody has clusters"),
    }
    charts = [chart for frame, draw, _ in made.values() if len(frame) for chart in draw(frame)]
    absent = [f"{name} is missing: {why} on this day." for name, (frame, _, why) in made.items() if frame.is_empty()]
    return Section(
        "why",
        "Why several embeddings",
        "The paper's case: one vector cannot say what a user with several interests does next, and an average of "
        "unlike interests lies near none of them.",
        charts,
        absent=absent,
    )


def _table_1(frame: pl.DataFrame) -> list[Figure]:
    charts, missing = _lifts(
        frame, {"accuracy": "Table 1: the next action"}, "marts.next_action_lifts", "the next action"
    )
    extra = (
        "Accuracy is the share of actions near a vector made of what came before. The oracles look ahead, and no "
        "model that chooses among past pins can beat the one over all of them."
    )
    return [
        Figure(c.title, c.chart, " ".join([extra, "A hollow dot is the paper's.", *missing]), c.source, c.table)
        for c in charts
    ]


def _figure_2(frame: pl.DataFrame) -> list[Figure]:
    columns = ["medoid_cosine", "merged_nearness", "medoid_nearness"]
    known = frame.drop_nulls(columns)
    if known.is_empty():
        return []
    x = known["medoid_cosine"].to_numpy()
    series = [
        ("single", x, known["merged_nearness"].to_numpy()),
        ("pinnersage", x, known["medoid_nearness"].to_numpy()),
    ]
    _, merged, medoids = known.select(pl.mean(*columns)).row(0)
    low = known.sort("medoid_cosine")[: max(1, len(known) // 5)]
    rows = [
        [words, number(cosine, 2), number(one), number(several), _count(len(part))]
        for words, part in (("all", known), ("the fifth with the most unlike medoids", low))
        for cosine, one, several in part.select(pl.mean(*columns)).rows()
    ]
    return [
        Figure(
            "Figure 2: what merging does",
            figures.cloud(
                "figure 2",
                "Nearness of what a merged vector and what its medoids retrieve, by how alike the medoids are.",
                series,
                "cosine of the merged medoids with each other",
                "nearness to the user's pins",
            ),
            "A point is a user: the mean cosine of retrieved pins with the nearest of the user's own. Medoids asked "
            f"one by one reach {number(medoids)}, merged into one vector {number(merged)}. Further left, medoids are "
            "less alike.",
            "evaluation.merged_vectors",
            Table(["users", "cosine of medoids", "merged", "one by one", "number"], rows),
            {"pinnersage": "medoids one by one", "single": "merged into one"},
        )
    ]


def _figure_3(frame: pl.DataFrame) -> list[Figure]:
    rows = frame.sort("days_from").filter(pl.col("cosine").is_not_null())
    if rows.is_empty():
        return []
    middle = ((rows["days_from"] + rows["days_to"]) / 2).to_list()
    cells = [
        [f"{r['days_from']:g} to {r['days_to']:g}", number(r["cosine"]), _count(r["actions"])] for r in rows.to_dicts()
    ]
    return [
        Figure(
            "Figure 3: how fast interests fade",
            figures.curve(
                "figure 3",
                "Mean cosine of a user's actions with the latest one, by their age.",
                middle,
                rows["cosine"].to_list(),
                "age of the action, days",
                "cosine with the latest pin",
            ),
            "How alike a user's earlier pins are to the latest one, on average. A line that stays flat says that old "
            "interests come back: a model that only looks at the latest pins misses them.",
            "evaluation.action_ages",
            Table(["age, days", "cosine", "actions"], cells),
        )
    ]


def _clusters_per_user(frame: pl.DataFrame) -> list[Figure]:
    rows = frame.sort("clusters")
    running = rows["users"].cum_sum()
    median = rows["clusters"][int((running >= running[-1] / 2).arg_max())]
    chart = figures.columns(
        "clusters per user",
        f"Users by number of embeddings; half have at most {median}.",
        rows["clusters"].to_list(),
        rows["users"].to_list(),
        "embeddings of a user",
        "users",
    )
    caption = (
        f"Half of {_count(running[-1])} users have at most {_count(median)}, the most is "
        f"{_count(rows['clusters'][-1])}. The paper speaks of 3 to 5 for light and 75 to 100 for heavy users; it "
        "depends on α."
    )
    columns = ["clusters", "users", "mean_actions"]
    table = Table(
        ["embeddings", "users", "mean actions"], [[_cell(v) for v in row] for row in rows.select(columns).rows()]
    )
    return [Figure("Embeddings per user", chart, caption, "marts.clusters_per_user", table)]


# --- Table 2 and volumes


def _costs_and_volumes(data: PageData) -> Section:
    charts, absent, notes = [], [], []
    compared = data.index_cost
    if len(compared):
        compared = compared.filter(pl.col("technique") != pl.col("compared_with"))
    if len(compared):
        charts.append(_table_2(compared, data.index_cost))
    else:
        absent.append("Costs of searching were not measured on this day: there were no queries, or no corpus.")
    today = data.volumes.filter(pl.col("dt") == data.day) if len(data.volumes) else data.volumes
    if len(today):
        if empty := today.filter(pl.col("rows") == 0)["table_name"].sort().to_list():
            notes.append(f"Empty on this day: {', '.join(empty)}.")
        charts += _volumes(today, data.volumes.filter(pl.col("dt") < data.day))
    else:
        absent.append("There are no data volumes: the ledger has no partitions of this day.")
    return Section("data", "Costs and data volumes", "", charts, notes=notes, absent=absent)


def _table_2(compared: pl.DataFrame, techniques: pl.DataFrame) -> Figure:
    rows = compared.sort("relative_cost", "technique").to_dicts()
    marks = [
        Mark(
            f"{row['technique']} instead of {row['compared_with']}",
            row["relative_cost"] - 1,
            PINNERSAGE,
            other=None if row["paper_relative_cost"] is None else row["paper_relative_cost"] - 1,
            text=_lift(row["relative_cost"] - 1),
        )
        for row in rows
    ]
    columns = ["technique", "compared_with", "relative_cost", "paper_relative_cost", "queries", "pins", "recall"]
    cells = [[_cell(value) for value in row] for row in techniques.select(columns).rows()]
    label = "Change of cost by technique, measured and in the paper."
    return Figure(
        "Table 2: what searching costs",
        figures.dots("table 2", label, marks, "change of cost", 0.0),
        "Distance computations for the day's queries at equal recall: what each technique saves over the other. A "
        "hollow dot is the paper's. What a cache saves grows with the users who share medoids.",
        "evaluation.index_cost",
        Table([column.replace("_", " ") for column in columns], cells),
    )


def _volumes(today: pl.DataFrame, before: pl.DataFrame) -> list[Figure]:
    usual = before.group_by("table_name").agg(pl.col("rows").mean().alias("usual"), pl.len().alias("days"))
    rows = today.join(usual, on="table_name", how="left").sort("table_name").to_dicts()
    marks = [
        Mark(row["table_name"], row["rows"], "ink", other=row["usual"] or None, text=_count(row["rows"]))
        for row in rows
        if row["rows"]
    ]
    if not marks:
        return []
    cells = [
        [row["table_name"], _count(row["rows"]), _cell(row["usual"] and round(row["usual"])), str(row["days"] or 0)]
        for row in rows
    ]
    return [
        Figure(
            "Data volumes: rows by table",
            figures.dots("volumes", "Rows of each table, this day and usually.", marks, "rows", logarithmic=True),
            "Rows of the day's partitions (full) and their mean over those of the seven days before (hollow, hidden "
            "where it is the same), on a logarithmic axis. A dot far from its ring is worth a question.",
            "operations.partitions",
            Table(["table", "rows", "mean of the week before", "days of it"], cells),
        )
    ]


# --- Boards

# Of the depths the middle one: that of the chart.
_CHART_DEPTH = 100


def _boards(data: PageData) -> Section:
    rows = data.board_holdout
    if rows.is_empty() or rows["hit_rate"].null_count():
        absent = "No board got a pin on this day that could be held out: evaluation.board_holdout has no rows."
        return Section("boards", "What boards get next", absent=[absent])
    lead = (
        f"The last pin of each of {_count(rows['boards'][0])} boards is held out: would it have been recommended to "
        "those before it? Pixie walks at random over pins and boards, embeddings know what pins are about."
    )
    return Section("boards", "What boards get next", lead, [_hit_rates(rows)])


def _hit_rates(rows: pl.DataFrame) -> Figure:
    keys = ["model", "graph", "degree_exponent"]
    shown = rows.filter(pl.col("k") == _CHART_DEPTH).sort(["hit_rate", *keys], descending=[True, False, False, False])
    marks = [
        Mark(
            _walked(row),
            row["hit_rate"],
            low=row["low"],
            high=row["high"],
            other=row["paper_hit_rate"],
            text=_percent(row["hit_rate"]),
            strong=row["model"] == "pixie",
        )
        for row in shown.to_dicts()
    ]
    wide = rows.sort("k").pivot("k", index=keys, values="hit_rate").sort(keys)
    cells = [[_walked(row), *(_cell(row[depth]) for depth in wide.columns[3:])] for row in wide.to_dicts()]
    return Figure(
        f"Hit rate at {_CHART_DEPTH} by model",
        figures.dots("hit rates", "Hit rate by model, with intervals.", marks, "hit rate", 0.0),
        "The share of boards whose held-out pin is recommended, with 95 % intervals over users; a hollow dot is the "
        "paper's, of another world with far more pins. What is not in the corpus or the graph is a miss.",
        "evaluation.board_holdout",
        Table(["model", *(f"at {depth}" for depth in wide.columns[3:])], cells),
    )


def _walked(row: Mapping[str, Any]) -> str:
    """A model, and the graph that it walks on."""
    graphs = {"full": ", full graph", "pruned": f", pruned with δ {row['degree_exponent']}"}
    return name_of(row["model"]) + graphs.get(row["graph"], "")


# --- Numbers as words


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _lift(lift: float | None) -> str:
    return "" if lift is None else f"{signed(100 * lift, 0)} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}".replace("-", "−")
