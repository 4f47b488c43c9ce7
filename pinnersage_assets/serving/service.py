"""The answers over HTTP: a small FastAPI application, described by itself at ``/docs``.

What belongs here: addresses, parameters, limits, and an explanation for every refusal. What is answered is the business
of `recommender`.
"""

import datetime
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from pinnersage_assets.serving import recommender
from pinnersage_assets.serving.graph_walks import NoGraphError
from pinnersage_assets.serving.recommender import UnknownPinError
from pinnersage_assets.serving.served_day import Follower, NothingToServeError, ServedDay
from pinnersage_assets.serving.store import MissingSnapshotError, StoreError, utc_now
from pinnersage_assets.settings import ServingSettings

API_KEY_HEADER = "X-API-Key"
# Requests in work and waiting; more would only wait longer than anybody does.
_AT_ONCE = 256
# What needs no key, and may be asked for as often as one likes: it says nothing of users or pins.
_OPEN = re.compile(r"/health|/docs|/docs/files/.*|/openapi\.json")
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinDetails:
    """What a pin is about, as far as it is known."""

    title: str | None
    category: str | None


@dataclass(frozen=True)
class RecommendationsAnswer:
    """What to show a user now, and why each pin is there: which medoid brings it, and how near it is."""

    user_id: int
    day: datetime.date
    """Of the batch whose clusters were updated."""
    source: str
    queries: list[recommender.Query]
    candidates: list[recommender.Candidate]
    unknown_pin_ids: list[int]
    query_pin_ids: list[int]
    reason: str | None
    details: dict[int, PinDetails] | None


@dataclass(frozen=True)
class InterestsAnswer:
    """The clusters of a user now, the most important first."""

    user_id: int
    day: datetime.date
    interests: list[recommender.Interest]
    details: dict[int, PinDetails] | None


@dataclass(frozen=True)
class LikeAnswer:
    """The pins nearest to a pin."""

    pin_id: int
    day: datetime.date
    candidates: list[recommender.Candidate]
    details: dict[int, PinDetails] | None


@dataclass(frozen=True)
class RelatedAnswer:
    """The pins that walks from a pin visit most, or why there are none."""

    pin_id: int
    day: datetime.date
    candidates: list[recommender.Candidate]
    reason: str | None
    details: dict[int, PinDetails] | None


@dataclass(frozen=True)
class Health:
    """What is served."""

    status: str
    """``ok``; ``stale`` where the newest published day cannot be opened, or events do not come in; ``unavailable``
    where there is no day."""
    problem: str | None
    day: datetime.date | None
    version: str | None
    users: int | None
    clusters: int | None
    pins: int | None


_Id = Annotated[int, Path(ge=-(2**63), le=2**63 - 1)]
_Source = Annotated[
    recommender.Source,
    Query(
        description="Where pins come from: `pinnersage`, the user's clusters; `pixie`, walks over pins and boards; "
        "`blended`, both by their quotas (setting blending.pixie_share)."
    ),
]
_Details = Annotated[bool, Query(description="Add title and category of every pin.")]


def create_app(
    follower: Follower,
    settings: ServingSettings,
    api_key: str | None = None,
    now: Callable[[], datetime.datetime] = utc_now,
    problem: Callable[[], str | None] = lambda: None,
) -> FastAPI:
    """The application.

    Args:
        follower: has the day to answer from.
        settings: limits.
        api_key: what requests must bring along in the header X-API-Key; None: nothing.
        now: the time (UTC).
        problem: says why events may not be coming in.
    """
    app = FastAPI(
        title="PinnerSage",
        description="Recommendations from the clusters of the last batch, updated by what users did since.",
        docs_url=None,
        redoc_url=None,
        # Checked by the guard; here it is what makes the page ask for it.
        dependencies=[Security(APIKeyHeader(name=API_KEY_HEADER, auto_error=False))] if api_key else [],
    )
    # The newest that the bundled page can show.
    app.openapi_version = "3.0.3"
    metrics = _Metrics(follower)
    how_many = Query(ge=1, le=settings.largest_answer, description="How many; as in the batch if not said.")

    @app.get("/users/{user_id}/recommendations", summary="What to show a user now", **_answers(RecommendationsAnswer))
    async def recommendations(
        user_id: _Id,
        size: Annotated[int | None, how_many] = None,
        source: _Source = "pinnersage",
        details: _Details = False,
    ) -> Response:
        """The pins to show a user now; to one of whom nothing is known, popular ones, with ``source`` ``popular``.

        Walks begin at the pins that the user acted on since the last batch, or else at its medoids. If there is no
        graph to walk on, ``pixie`` is answered by 503 and why, and ``blended`` by what the clusters bring; where walks
        bring nothing, ``reason`` says why.
        """
        day, found = await _asked(follower, lambda day: day.recommender.recommend(user_id, now(), size, source))
        metrics.count(found)
        pins = [candidate.pin_id for candidate in found.candidates] + [query.medoid_pin_id for query in found.queries]
        pins += found.query_pin_ids
        return _json(RecommendationsAnswer(user_id, day.day, **vars(found), details=await _details(day, pins, details)))

    @app.get("/users/{user_id}/interests", summary="What a user is interested in now", **_answers(InterestsAnswer))
    async def interests(user_id: _Id, details: _Details = False) -> Response:
        """The clusters of a user now, the most important first; none where nothing is known of it."""
        day, found = await _asked(follower, lambda day: day.recommender.interests(user_id, now()))
        pins = [interest.medoid_pin_id for interest in found]
        return _json(InterestsAnswer(user_id, day.day, found, await _details(day, pins, details)))

    @app.get("/pins/{pin_id}/like", summary="Pins like a pin", **_answers(LikeAnswer, {404: "The pin is not known."}))
    async def like(pin_id: _Id, size: Annotated[int, how_many] = 20, details: _Details = False) -> Response:
        """The pins nearest to a pin that may be recommended, without what repeats it."""
        day, found = await _asked(follower, lambda day: day.recommender.like(pin_id, size))
        pins = [candidate.pin_id for candidate in found]
        return _json(LikeAnswer(pin_id, day.day, found, await _details(day, pins, details)))

    @app.get(
        "/pins/{pin_id}/related",
        summary="Pins that people put together with a pin",
        **_answers(RelatedAnswer, {404: "The pin is not known."}),
    )
    async def related(pin_id: _Id, size: Annotated[int, how_many] = 20, details: _Details = False) -> Response:
        """The pins that walks over boards from a pin visit most, without what repeats it.

        A pin that is on no board of the graph gets none, and ``reason`` says so. If there is no graph to walk on, the
        answer is 503 and says why.
        """
        day, found = await _asked(follower, lambda day: day.recommender.related(pin_id, size))
        pins = [candidate.pin_id for candidate in found.candidates]
        return _json(RelatedAnswer(pin_id, day.day, **vars(found), details=await _details(day, pins, details)))

    @app.get(
        "/health",
        summary="What is served",
        tags=["operation"],
        response_model=Health,
        responses={503: {"model": Health}},
    )
    def health() -> Response:
        """What is served, and whether it is the newest."""
        try:
            day = follower.current
        except NothingToServeError as error:
            return _json(Health("unavailable", str(error), *[None] * 5), 503)
        problems = "; ".join(filter(None, (follower.problem, problem())))
        served = day.day, day.version, day.users, day.clusters, day.pins
        return _json(Health("stale" if problems else "ok", problems or None, *served))

    @app.get("/metrics", summary="Counts and times", tags=["operation"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """The page that describes all of this; it loads nothing from elsewhere."""
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="PinnerSage",
            swagger_js_url="docs/files/swagger-ui-bundle.js",
            swagger_css_url="docs/files/swagger-ui.css",
            swagger_favicon_url="docs/files/favicon-32x32.png",
        )

    app.mount("/docs/files", StaticFiles(directory=swagger_ui_path))
    for error, status in _STATUS.items():
        app.add_exception_handler(error, _explained(status))
    app.add_middleware(_Guard, settings=settings, api_key=api_key, metrics=metrics)
    return app


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer."""

    detail: str


def _answers(model: type, others: Mapping[int, str] = MappingProxyType({})) -> dict[str, Any]:
    """How an answer is described on the page, and what else may come."""
    usual = {
        429: "Too many requests in a minute.",
        503: "There is nothing to answer from, or no graph to walk on, or the store is away.",
    }
    responses = {status: {"model": Refusal, "description": why} for status, why in {**others, **usual}.items()}
    return {"response_model": model, "responses": responses, "tags": ["answers"]}


_STATUS = {
    UnknownPinError: 404,
    NothingToServeError: 503,
    NoGraphError: 503,
    StoreError: 503,
    Exception: 500,
}


def _explained(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def handler(request: Request, error: Exception) -> JSONResponse:
        if status == 500:
            _log.error("%s failed", request.url.path, exc_info=error)
            return JSONResponse({"detail": f"{type(error).__name__}: {error}; the log of the service has more"}, 500)
        return JSONResponse({"detail": str(error)}, status)

    return handler


async def _asked(follower: Follower, question: Callable[[ServedDay], Any]) -> tuple[ServedDay, Any]:
    """A day, and what it answers; the next day, if the first one's users were dropped while it was asked."""

    def ask() -> tuple[ServedDay, Any]:
        day = follower.current
        try:
            return day, question(day)
        except MissingSnapshotError:
            follower.look()
            if follower.current is day:
                raise
            return follower.current, question(follower.current)

    # An answer is a millisecond of work: threads that share one interpreter would only wait for each other. Not so
    # where it waits for a server.
    return ask() if follower.is_embedded else await run_in_threadpool(ask)


async def _details(day: ServedDay, pin_ids: list[int], wanted: bool) -> dict[int, PinDetails] | None:
    if not wanted:
        return None
    found = await run_in_threadpool(day.details, pin_ids)
    return {pin_id: PinDetails(*details) for pin_id, details in found.items()}


def _json(answer: Any, status: int = 200) -> Response:
    return Response(_ADAPTERS[type(answer)].dump_json(answer), status, media_type="application/json")


_ADAPTERS = {
    kind: TypeAdapter(kind) for kind in (RecommendationsAnswer, InterestsAnswer, LikeAnswer, RelatedAnswer, Health)
}


class _Metrics:
    """What Prometheus is told."""

    def __init__(self, follower: Follower) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("pinnersage_requests", "Requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "pinnersage_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._medoids = Counter("pinnersage_medoids", "Medoids queried.", ["cached"], registry=registry)
        self._answers = Counter(
            "pinnersage_answers", "Recommendations by what they come from.", ["source"], registry=registry
        )
        day = Gauge("pinnersage_served_day_timestamp_seconds", "Begin of the day that is served.", registry=registry)
        day.set_function(lambda: _begin(follower))
        events = Gauge("pinnersage_events", "Events that came, since the store began.", ["outcome"], registry=registry)
        for outcome in ("new", "repeated", "refused"):
            events.labels(outcome).set_function(lambda name=outcome: _events(follower, name))
        stale = Gauge("pinnersage_stale", "1 where the newest published day cannot be opened.", registry=registry)
        stale.set_function(lambda: float(follower.problem is not None))

    def count(self, found: recommender.Recommendations) -> None:
        self._answers.labels(found.source).inc()
        for query in found.queries:
            self._medoids.labels(str(query.is_cached).lower()).inc()


def _events(follower: Follower, outcome: str) -> float:
    try:
        return float(getattr(follower.store.totals(), outcome))
    except StoreError:
        return float("nan")


def _begin(follower: Follower) -> float:
    try:
        day = follower.current.day
    except NothingToServeError:
        return float("nan")
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()


class _Guard:
    """What is refused before anything is asked: without the key, with a body, too many at once or in a minute."""

    def __init__(self, app: ASGIApp, settings: ServingSettings, api_key: str | None, metrics: _Metrics) -> None:
        self._app, self._api_key, self._metrics = app, api_key, metrics
        self._limit = RateLimitItemPerMinute(settings.requests_per_minute)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._in_work = 0
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._lock:
            self._in_work += 1
        try:
            refused = self._refusal(scope)
            await (refused or self._app)(scope, receive, counted)
        finally:
            with self._lock:
                self._in_work -= 1
            # Of an address that nobody answers the name would be anybody's text.
            route = getattr(scope.get("route"), "path", "refused" if refused else "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        if _OPEN.fullmatch(scope["path"]):
            return None
        headers = dict(scope["headers"])
        given = headers.get(API_KEY_HEADER.lower().encode(), b"")
        if self._api_key is not None and not secrets.compare_digest(given, self._api_key.encode()):
            return _refused(401, f"the header {API_KEY_HEADER} must have the service's key")
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            return _refused(413, "requests have no body here")
        address, _ = scope.get("client") or ("", 0)
        if not self._limiter.hit(self._limit, address):
            per_minute = self._limit.amount
            return _refused(
                429, f"more than {per_minute} requests in a minute (setting serving.requests_per_minute)", 60
            )
        if self._in_work > _AT_ONCE:
            return _refused(503, f"{_AT_ONCE} requests are in work already", 1)
        return None


def _refused(status: int, reason: str, retry_after: int | None = None) -> Response:
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    return JSONResponse({"detail": reason}, status, headers)
