"""The page of a day: what it says, that nothing in the data can break it, and that a browser shows it well."""

import dataclasses
import datetime
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up import DAY, MODELS, intervals, page_data, users

from pinnersage_assets.reports.findings import Findings, sentences
from pinnersage_assets.reports.page import PageData, render
from pinnersage_assets.reports.users import clean, pin_of, safe_url, spread

HOSTILE = [
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onload='alert(1)",
    "</style></svg><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "$x$ $\\frac{1}{0}$ $unfinished",
    "&amp;&lt;b&gt;",
    "long " * 1000,
    "A" * 5000,
    "שלום עולם مرحبا بالعالم",
    "left \u202eright\u202c and \x00\x07\x1b[0m control",
    "line\nbreaks\u2028 and\ttabs",
    "",
    "   ",
    None,
    "😀🧵 𝔘𝔫𝔦",
]
SAFE_URLS = ["https://localhost:1/a.png?b=1&c=%22", "http://localhost:1/b.png"]
UNSAFE_URLS = [
    "javascript:alert(1)",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "//example.org/a.png",
    "/relative.png",
    "http://",
    "https://exa mple.org/a.png",
    "https://example.org/\n.png",
    "https://[broken/a.png",
    "",
    None,
]

_VOID = {"meta", "img", "br", "hr", "link", "input", "base"}


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and whether every element was closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {tag} {attributes}"
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render(page_data())


@pytest.fixture(scope="module")
def hostile_page() -> str:
    return render(page_data(users=users(titles=HOSTILE, urls=[*SAFE_URLS, *UNSAFE_URLS], count=5)))


# --- Form


def test_a_page_is_well_formed_and_small(page):
    parsed = Parsed(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"""(?:url\(|href=")#([^)"]+)""", page))
    assert used <= set(ids)
    assert len(parsed.of("svg")) > 15
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in parsed.of("svg"))
    assert len(page) < 3e6


def test_the_same_frames_give_the_same_bytes(page):
    assert render(page_data()) == page


def test_a_page_needs_nothing_but_pictures_of_pins(hostile_page):
    parsed = Parsed(hostile_page)
    assert {tag for tag, _ in parsed.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    assert {image["src"] for image in parsed.of("img")} == set(SAFE_URLS)
    for image in parsed.of("img"):
        assert (image["loading"], image["referrerpolicy"]) == ("lazy", "no-referrer")
        assert image["alt"]
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag != "img":
            assert all(attributes.get(name, "#").startswith("#") for name in ("href", "xlink:href", "src"))
    assert "@import" not in hostile_page
    assert set(re.findall(r"url\((.)", hostile_page)) == {"#"}
    [policy] = [meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_every_colour_is_one_that_light_and_dark_have(page):
    style, body = re.search(r"<style>(.*)</style>(.*)", page, flags=re.DOTALL).groups()
    light, dark = (set(re.findall(r"--([a-z0-9-]+): #", part)) for part in style.split("prefers-color-scheme")[:2])
    assert light == dark
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", body)) <= light
    assert not re.search(r"(?:fill|stroke): #", body)
    assert "#0102" not in body


# --- What users wrote


def page_of(titles):
    return Parsed(render(PageData(DAY, users=users(titles=titles, count=5))))


def test_titles_are_shown_as_text():
    parsed = page_of(HOSTILE)
    for title in HOSTILE:
        assert " ".join(clean(title).split()).replace("\N{NO-BREAK SPACE}", " ") in parsed.text
    # No element but those of a harmless page.
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in page_of(["a"]).elements]


def test_titles_do_not_change_the_charts():
    def charts(titles):
        page = render(PageData(DAY, users=users(titles=titles)))
        return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)

    assert charts(HOSTILE) == charts(["a"])


def test_a_pin_without_title_is_called_by_its_id():
    assert pin_of({"pin_id": -7, "title": None}).title == "pin -7"
    assert pin_of({"pin_id": 7, "title": " \n\x00"}).title == "pin 7"


def test_text_is_one_line_that_ends_and_turns_nothing_around():
    assert clean("a\u202eb\x00c\nd\u2028e") == "ab c d e"
    assert len(clean("A" * 10_000)) < 250
    assert clean("שלום") == "שלום"


@pytest.mark.parametrize("address", UNSAFE_URLS)
def test_other_addresses_than_of_the_web_are_not_loaded(address):
    assert safe_url(address) is None


# --- What the page says


def headline(**levels):
    rows = intervals(MODELS | levels)
    return " ".join(sentences(Findings(rows), Findings(rows, "relevance"))).replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_says_first_what_the_intervals_say(page):
    text = Parsed(page).text.partition("How it was judged")[0]
    assert "As recommended, PinnerSage cannot be told apart from the best single vector" in text
    assert "is behind the last 20 pins" in text
    assert "“calibrated”, is ahead of the best single vector (decay average, λ 0.01) and the last 20 pins" in text
    assert "PinnerSage helps here with that setting, not with the one in use" in text
    assert "+0.160 [0.140, 0.180]" in text


def test_a_setting_chosen_among_many_is_called_that():
    assert "It is the best of 3 tried on the same days" in headline(calibrated=0.1)


def test_it_says_so_if_pinnersage_does_not_help():
    text = headline(pinnersage_top_20_by_importance=0.22, calibrated=0.21)
    assert "no setting of PinnerSage helps here: even the best foresees less than the last 20 pins" in text


def test_a_model_of_the_settings_that_clusters_is_pinnersages():
    rows = intervals(MODELS | {"ten_by_importance": 0.5})
    found = Findings(rows, own_pinnersage=frozenset({"ten_by_importance"}))
    assert found.best_setting == "ten_by_importance"
    assert Findings(rows).best_setting == "calibrated"
    assert "by their means, others foresee more still: ten by importance" in " ".join(
        sentences(Findings(rows), Findings(rows, "relevance"))
    )


def test_a_model_of_fewer_days_is_compared_on_them_and_not_ranked():
    few = pl.col("model") == "calibrated"
    found = Findings(intervals().with_columns(days=pl.when(few).then(1).otherwise("days")))
    assert found.best_setting == "pinnersage_top_20_by_importance"
    assert "calibrated" in found.subjects
    assert {one.days for one in found.comparisons("calibrated")} == {1}
    assert {one.days for one in found.comparisons("recommended")} == {3}


def test_it_says_so_if_nothing_is_shown():
    text = headline(pinnersage_top_20_by_importance=0.31, calibrated=0.21)
    assert "it is not shown that PinnerSage foresees more than the last 20 pins" in text


def test_it_says_so_if_what_is_in_use_is_good():
    text = headline(recommended=0.36)
    assert "As recommended, PinnerSage is ahead of the best single vector" in text
    assert "PinnerSage helps here; the best setting is “calibrated”" in text


def test_a_single_vector_is_only_called_the_best_if_it_is():
    text = headline(calibrated_single_vector=0.25)
    assert "the single vector (decay average" in text
    assert "best single vector" not in text


def test_what_is_better_still_is_not_kept_back():
    assert "others foresee more still: all pins +0.040" in headline(all_pins=0.4)
    assert "foresee more still" not in headline()


def test_an_interval_of_one_user_shows_nothing():
    one = intervals().with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64), users=pl.lit(1))
    text = Parsed(render(PageData(DAY, intervals=one))).text
    assert "(no interval: one user)" in text
    assert "▲ ahead" not in text
    assert "▼ behind" not in text


def test_models_of_the_paper_alone_are_named_as_not_reproduced(page):
    assert (
        "Not reproduced here, for the candidates, because they need trained networks: HierTCN (the paper: "
        in Parsed(page).text
    )


def test_the_protocol_has_its_numbers(page):
    text = Parsed(page).text
    for words in (
        "known at the end of 2026-04-09",
        "the same 400 pins",
        "a cosine of 0.80 or above",
        "0.4 % of random pairs",
        "fitted to what happened before 2026-03-11, so vectors know nothing of the days judged",
        "30 of them cold",
        "12 of them without a vector",
    ):
        assert words in text
    for before, says in (
        (DAY, "so vectors know nothing of the days judged"),
        (DAY + datetime.timedelta(days=1), "so they may know what is judged"),
    ):
        fitted = page_data().protocol.with_columns(fitted_before=pl.lit(before))
        assert says in Parsed(render(PageData(DAY, protocol=fitted))).text


def test_a_longer_horizon_is_said():
    known = DAY - datetime.timedelta(days=3)
    protocol = page_data().protocol.with_columns(known_day=pl.lit(known), horizon_days=pl.lit(3))
    text = Parsed(render(PageData(DAY, protocol=protocol))).text
    assert f"known at the end of {known}" in text
    assert f"from {known + datetime.timedelta(days=1)} to {DAY}, of which no model uses anything" in text


def test_a_choice_at_the_edge_of_the_grid_is_called_that(page):
    # Made up so that more medoids are better, and a λ in the middle.
    notes = [line for line in Parsed(page).text.split("PinnerSage: ")[1:] if "clustering.alpha" in line]
    assert "the edge of what was tried (" in notes[0]
    assert "embeddings" in notes[0].partition("the edge of what was tried (")[2].partition(")")[0]
    assert "decay" not in notes[0].partition("the edge of what was tried (")[2].partition(")")[0]


def test_numbers_stand_beside_the_charts(page):
    assert "−0.190 [−0.210, −0.170]" in Parsed(page).text


def test_who_knows_the_day_so_far_is_shown_beside_and_not_ranked(page):
    text = Parsed(page).text
    assert "but “PinnerSage, updated online” and “PinnerSage, clustered anew”, which know what the user did" in text
    said = sentences(Findings(intervals()), Findings(intervals(), "relevance"))
    assert not any("online" in sentence or "anew" in sentence for sentence in said)
    # The title stands in the list of contents, too.
    section = text.split("What the day so far is worth")[-1].partition("Why several embeddings")[0]
    assert "+0.200" in section
    assert "+0.210" in section
    assert "adjusted Rand index 0.900, 85 % of the medoids in common, over 80 moments of 40 users" in section
    assert "16 or more actions" in section
    assert "Recall, against PinnerSage of the day before" in section
    assert "Against the PinnerSage" not in text


# --- Parts that are missing


def test_a_day_without_anything_has_an_explained_page():
    parsed = Parsed(render(PageData(DAY)))
    assert "Nothing was judged on this day." in parsed.text
    assert f"no user of whom something was known did anything new on {DAY}" in parsed.text
    assert "Nobody has clusters on this day" in parsed.text
    assert not parsed.of("svg")
    assert "How it was judged" in parsed.text


def test_the_reason_of_the_protocol_is_given():
    protocol = page_data().protocol.with_columns(reason=pl.lit("no impressions & no <actions>"))
    assert "no impressions & no <actions>" in Parsed(render(PageData(DAY, protocol=protocol))).text


def test_a_day_without_actions_still_has_the_days_before():
    text = Parsed(render(PageData(DAY, intervals=intervals()))).text
    assert "Nothing was judged on this day." in text
    assert "What follows is of the days before it" in text


PARTS = [part.name for part in dataclasses.fields(PageData) if part.type is pl.DataFrame or part.type == "pl.DataFrame"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_shows_when_it_has_rows(part):
    nothing, something = PageData(DAY), page_data()
    frame = getattr(something, part)
    without = Parsed(render(dataclasses.replace(nothing, **{part: frame.clear()})))
    assert without.text == Parsed(render(nothing)).text
    # One row of Table 2 is compared with nothing.
    for rows in (frame, frame.head(2 if part == "index_cost" else 1)):
        assert Parsed(render(dataclasses.replace(nothing, **{part: rows}))).text != without.text


@pytest.mark.parametrize("part", PARTS)
def test_measurements_that_are_null_break_nothing(part):
    frame = getattr(page_data(), part)
    never = ("difference", "mean_actions", "relative_cost", "alpha", "decay_per_day")
    measured = [column for column, kind in frame.schema.items() if kind == pl.Float64 and column not in never]
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(column) for column in measured)
    Parsed(render(PageData(DAY, **{part: frame})))


# --- Users


def test_users_go_from_light_to_heavy_and_are_chosen_by_seed():
    everybody = pl.DataFrame({"user_id": range(-500, 500), "clusters": [1 + n % 80 for n in range(1000)]})
    everybody = everybody.with_columns(actions=10 * pl.col("clusters"))
    some = spread(everybody, 10, 0, 1)
    assert len(some) == 10
    assert some["clusters"].is_sorted()
    assert some["clusters"].to_list() == pytest.approx(list(range(4, 80, 8)), abs=5)
    assert some.equals(spread(everybody.sample(fraction=1, shuffle=True, seed=3), 10, 0, 1))
    assert not some.equals(spread(everybody, 10, 1, 1))
    assert len(spread(everybody[:4], 10, 0, 1)) == 4


def test_a_heavy_user_is_cut_short_and_it_says_by_how_much():
    data = users(count=6)  # 16 clusters
    heavy = dataclasses.replace(data, users=data.users[-1:])
    parsed = Parsed(render(PageData(DAY, users=heavy)))
    assert "User 6" in parsed.text
    assert "And 4 more clusters" in parsed.text
    assert re.search(r"and \d+ more", parsed.text)
    rows = [attributes for attributes in parsed.of("ul") if attributes.get("class") == "pins"]
    assert len(rows) == 12 + 3


def test_medoids_come_first_and_the_most_important_cluster_too():
    data = users(count=2)
    text = render(PageData(DAY, users=dataclasses.replace(data, users=data.users[1:])))
    shares = [float(share) for share in re.findall(r'class="rank"><i[^>]*>\d</i> ([\d.]+) %', text)][:4]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=2)
    firsts = re.findall(r'<ul class="pins"[^>]*>\s*<li class="([^"]+)"', text)
    assert all("medoid" in first for first in firsts)


def test_techniques_that_are_compared_with_nothing_are_no_table():
    cost = page_data().index_cost.filter(pl.col("technique") == pl.col("compared_with"))
    assert "Costs of searching were not measured" in Parsed(render(PageData(DAY, index_cost=cost))).text


def test_what_became_of_a_users_recommendations_is_told():
    text = Parsed(render(PageData(DAY, users=users()))).text
    assert "Of the 5 new pins that this user acted on, 1 was among the 400 recommendations made before" in text
    assert "Not judged on this day" in text


def test_a_user_with_one_pin_and_negative_id_is_shown():
    data = users(count=1)
    pin = data.pins[:1].with_columns(user_id=pl.lit(-(2**62)))
    lone = dataclasses.replace(
        data,
        users=data.users.with_columns(user_id=pl.lit(-(2**62))),
        pins=pin,
        vectors=data.vectors[:1],
        medoids=data.medoids.with_columns(user_id=pl.lit(-(2**62)), medoid_pin_id=pin["pin_id"]),
        recommendations=data.recommendations.clear(),
    )
    parsed = Parsed(render(PageData(DAY, users=lone)))
    assert f"User {-(2**62)}" in parsed.text
    assert "no pin of the corpus was left" in parsed.text


# --- In a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

# A page has no scripts and allows none: a copy for the test has one that tells what the browser made of it.
_PROBE = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const wide = [...document.querySelectorAll("body *")].filter(one =>
    one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".pins, .wide, svg"));
  const small = [...document.querySelectorAll("svg text")].filter(one => one.getBoundingClientRect().height < 8);
  parent.postMessage([innerWidth, document.documentElement.scrollWidth, wide.length, small.length,
    getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
    getComputedStyle(document.querySelector("svg text")).fill].join(";"), "*");
});
</script>
</body>"""
_FRAME = """<!DOCTYPE html><title>nothing</title><body style="margin: 0">
<script>addEventListener("message", event => {{ document.title = event.data; }});</script>
<iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe></body>"""


def browse(folder: Path, *arguments: str) -> str:
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_overflow_in_light_and_dark(tmp_path, hostile_page, width, scheme):
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", hostile_page).replace("</body>", _PROBE)
    (tmp_path / "page.html").write_text(copy, encoding="utf-8")
    (tmp_path / "frame.html").write_text(_FRAME.format(width=width), encoding="utf-8")
    options = ["--window-size=1300,1000", "--virtual-time-budget=5000"]
    options += ["--force-dark-mode"] if scheme == "dark" else []
    dump = browse(tmp_path, *options, "--dump-dom", f"file://{tmp_path / 'frame.html'}")
    inner, scroll, wide, small, paper, ink, chart = re.search(r"<title>([^<]*)", dump)[1].split(";")
    assert int(inner) == width
    assert int(scroll) <= width
    assert (wide, small) == ("0", "0")
    assert brightness(paper) > 200 if scheme == "light" else brightness(paper) < 50
    for words in (ink, chart):
        assert abs(brightness(paper) - brightness(words)) > 90


@in_browser
def test_a_browser_draws_the_page_as_it_is(tmp_path, page):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    for scheme, options in {"light": [], "dark": ["--force-dark-mode"]}.items():
        picture = tmp_path / f"{scheme}.png"
        address = f"file://{tmp_path / 'page.html'}"
        browse(tmp_path, *options, "--window-size=1200,2400", f"--screenshot={picture}", address)
        pixels = 255 * read_picture(picture)[..., :3].mean(axis=2)
        assert np.median(pixels) > 200 if scheme == "light" else np.median(pixels) < 50
        assert pixels.std() > 10


def brightness(colour: str) -> float:
    return float(np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]))


def read_picture(path: Path) -> np.ndarray:
    import matplotlib.image

    return matplotlib.image.imread(path)
