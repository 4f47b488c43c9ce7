"""The service as people meet it: a real server on a free port, asked over HTTP."""

import contextlib
import datetime
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from served_data import CORPUS, DAY, USERS, pin_id, publish_day

from pinnersage_assets.serving.events import Event
from pinnersage_assets.serving.served_day import Follower
from pinnersage_assets.serving.server import check_address
from pinnersage_assets.serving.service import create_app
from pinnersage_assets.serving.store import StoreUnavailableError, open_store
from pinnersage_assets.settings import Settings

NOON = datetime.datetime(2026, 4, 11, 12, tzinfo=datetime.UTC)


class Service:
    def __init__(self, port, follower, store):
        self.port, self.follower, self.store = port, follower, store

    def ask(self, path, body=None, **headers):
        """Status, the answer, and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET" if body is None else "POST", path, body, given)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(text) if is_json else text, response.headers


@contextlib.contextmanager
def running(data, api_key=None, **serving):
    settings = Settings(serving=serving)
    with contextlib.closing(open_store("lmdb", data / "serving")) as store:
        follower = Follower(data / "published" / "pinnersage.duckdb", data, settings, store)
        app = create_app(follower, settings.serving, api_key, now=lambda: NOON)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield Service(server.servers[0].sockets[0].getsockname()[1], follower, store)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    publish_day(data)
    with running(data, largest_answer=50) as service:
        yield service


def test_recommendations_say_which_pins_and_why(service):
    status, answer, _ = service.ask("/users/1/recommendations")
    assert (status, answer["day"], answer["source"]) == (200, str(DAY), "clusters")
    medoids = [query["medoid_pin_id"] for query in answer["queries"]]
    assert sorted(medoids) == [pin_id(row) for row in USERS[1]]
    assert len(answer["candidates"]) == 12
    assert {candidate["medoid_pin_id"] for candidate in answer["candidates"]} <= set(medoids)
    assert answer["details"] is None
    assert service.ask("/users/1/recommendations?size=50")[1]["candidates"][49]["pin_id"]


def test_an_unknown_user_gets_popular_pins_marked_as_such(service):
    status, answer, _ = service.ask("/users/77/recommendations?size=2&details=true")
    assert (status, answer["source"], answer["queries"]) == (200, "popular", [])
    popular = [pin_id(CORPUS - 1), pin_id(CORPUS - 2)]
    assert [candidate["pin_id"] for candidate in answer["candidates"]] == popular
    assert answer["details"][str(popular[0])] == {"title": f"Pin {popular[0]}", "category": None}


def test_negative_ids_and_the_largest_are_users_too(service):
    for user in (-3, 2**63 - 1, -(2**63)):
        assert service.ask(f"/users/{user}/recommendations")[1]["source"] == "popular"


def test_interests_are_clusters_the_most_important_first(service):
    status, answer, _ = service.ask("/users/1/interests")
    assert status == 200
    assert [interest["medoid_pin_id"] for interest in answer["interests"]] == [pin_id(row) for row in USERS[1]]
    assert service.ask("/users/77/interests")[1]["interests"] == []


def test_pins_like_a_pin(service):
    status, answer, _ = service.ask(f"/pins/{pin_id(4)}/like?size=5")
    assert status == 200
    assert len(answer["candidates"]) == 5
    assert pin_id(4) not in {candidate["pin_id"] for candidate in answer["candidates"]}
    assert service.ask("/pins/11/like")[:2] == (404, {"detail": f"pin 11 is not known on {DAY}"})


def test_pins_that_people_put_together_with_a_pin(service):
    status, answer, _ = service.ask(f"/pins/{pin_id(12)}/related?size=5&details=true")
    assert (status, answer["day"], answer["reason"]) == (200, str(DAY), None)
    found = [candidate["pin_id"] for candidate in answer["candidates"]]
    assert len(found) == len(set(found)) == 5
    assert pin_id(12) not in found
    assert set(answer["details"]) == {str(pin) for pin in found}
    assert service.ask(f"/pins/{pin_id(12)}/related?size=5&details=true")[1] == answer
    status, answer, _ = service.ask(f"/pins/{pin_id(CORPUS - 1)}/related")
    assert (status, answer["candidates"]) == (200, [])
    assert f"pin {pin_id(CORPUS - 1)} has no edge in the graph of {DAY}" in answer["reason"]
    assert service.ask("/pins/11/related")[:2] == (404, {"detail": f"pin 11 is not known on {DAY}"})


def test_candidates_come_from_where_they_are_asked_for(service):
    usual = service.ask("/users/1/recommendations")[1]
    assert service.ask("/users/1/recommendations?source=pinnersage")[1] == usual
    assert (usual["query_pin_ids"], usual["reason"]) == ([], None)
    status, walked, _ = service.ask("/users/1/recommendations?source=pixie")
    assert (status, walked["source"], walked["queries"]) == (200, "pixie", [])
    assert walked["query_pin_ids"] == [pin_id(row) for row in USERS[1]]
    assert len(walked["candidates"]) == 12
    both = service.ask("/users/1/recommendations?source=blended")[1]
    assert (both["source"], both["queries"]) == ("blended", usual["queries"])
    by_walks = [candidate for candidate in both["candidates"] if candidate["medoid_pin_id"] is None]
    # The half of them.
    assert by_walks == [c for c in walked["candidates"] if c in by_walks]
    assert len(by_walks) == len(both["candidates"]) - len(by_walks) == 6
    status, nobody, _ = service.ask("/users/77/recommendations?source=pixie&size=2")
    assert (status, nobody["source"], len(nobody["candidates"])) == (200, "popular", 2)
    assert "nothing that is known of user 77 has an edge" in nobody["reason"]
    text = service.ask("/metrics")[1]
    assert 'pinnersage_answers_total{source="pixie"} 1.0' in text


def test_without_a_graph_walks_are_refused_with_the_reason(tmp_path):
    publish_day(tmp_path, boards=0)
    with running(tmp_path) as service:
        assert service.ask("/health")[1]["status"] == "ok"
        assert service.ask("/users/1/recommendations")[0] == 200
        reason = f"the graph of {DAY} has no edges: give board_pins"
        for path in ("/users/1/recommendations?source=pixie", f"/pins/{pin_id(1)}/related"):
            status, answer, _ = service.ask(path)
            assert status == 503
            assert answer["detail"].startswith(reason)
        status, answer, _ = service.ask("/users/1/recommendations?source=blended")
        assert (status, len(answer["candidates"])) == (200, 12)
        assert answer["reason"].startswith(reason)


@pytest.mark.parametrize(
    "path",
    [
        "/users/1.5/recommendations",
        f"/users/{2**63}/recommendations",
        "/users/1/recommendations?size=0",
        "/users/1/recommendations?size=51",
        "/users/1/interests?details=perhaps",
        f"/pins/{pin_id(4)}/like?size=-1",
        "/users/1/recommendations?source=pinterest",
        f"/pins/{pin_id(4)}/related?size=51",
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_parameter_and_a_reason(service, path):
    status, answer, _ = service.ask(path)
    assert status == 422
    assert answer["detail"][0]["loc"]
    assert answer["detail"][0]["msg"]


def test_a_body_is_refused(service):
    assert service.ask("/users/1/interests", body="x" * 10)[:2] == (413, {"detail": "requests have no body here"})
    assert service.ask("/users/1/interests", body="")[0] == 405


def test_health_and_metrics(service):
    status, answer, _ = service.ask("/health")
    assert (status, answer["status"], answer["day"], answer["users"]) == (200, "ok", str(DAY), len(USERS))
    service.store.commit([Event("a", 5, 10, "click", NOON)], None)
    service.ask("/users/1/recommendations")
    service.ask("/nowhere/1")
    text = service.ask("/metrics")[1]
    assert 'pinnersage_requests_total{route="/users/{user_id}/recommendations",status="200"}' in text
    assert 'pinnersage_requests_total{route="none",status="404"}' in text
    assert 'pinnersage_medoids_total{cached="true"}' in text
    assert "pinnersage_stale 0.0" in text
    assert 'pinnersage_events{outcome="new"} 1.0' in text


def test_the_page_describes_every_address_and_loads_nothing_from_elsewhere(service):
    page = service.ask("/docs")[1]
    assert "http" not in page.replace("http-equiv", "")
    assert service.ask("/docs/files/swagger-ui-bundle.js")[0] == 200
    described = service.ask("/openapi.json")[1]
    assert described["openapi"].startswith("3.0")
    for path, methods in described["paths"].items():
        assert methods["get"]["summary"], path
        assert methods["get"]["description"], path


def test_who_asks_too_often_has_to_wait(tmp_path):
    publish_day(tmp_path)
    with running(tmp_path, requests_per_minute=3) as service:
        found = [service.ask("/users/1/interests") for _ in range(8)]
        # A minute may begin between two of them.
        assert [status for status, *_ in found].count(200) <= 6
        status, answer, headers = next(answer for answer in found if answer[0] != 200)
        assert (status, headers["Retry-After"]) == (429, "60")
        assert "more than 3 requests in a minute" in answer["detail"]
        assert service.ask("/health")[0] == 200


def test_with_a_key_only_who_has_it_is_answered(tmp_path):
    publish_day(tmp_path)
    with running(tmp_path, api_key="sesame") as service:
        for headers in ({}, {"X_API_Key": "sesam"}, {"X_API_Key": "sesame "[:-1] + "x"}):
            status, answer, _ = service.ask("/users/1/interests", **headers)
            assert (status, answer["detail"]) == (401, "the header X-API-Key must have the service's key")
        assert service.ask("/metrics")[0] == 401
        assert service.ask("/users/1/interests", X_API_Key="sesame")[0] == 200
        for path in ("/health", "/docs", "/openapi.json"):
            assert service.ask(path)[0] == 200
        assert service.ask("/openapi.json")[1]["components"]["securitySchemes"]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "example"])
def test_beyond_this_machine_there_is_no_service_without_a_key(host):
    with pytest.raises(ValueError, match=f"serving.host is {host}.* set PINNERSAGE_API_KEY"):
        check_address(host, None)
    check_address(host, "sesame")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_on_this_machine_none_is_needed(host):
    check_address(host, None)


def test_before_anything_is_published_the_reason_is_given(tmp_path):
    with running(tmp_path) as service:
        for path in ("/users/1/recommendations", "/users/1/interests", "/pins/1/like", "/pins/1/related"):
            status, answer, _ = service.ask(path)
            assert status == 503
            assert "does not exist yet: run `make demo`" in answer["detail"]
        status, answer, _ = service.ask("/health")
        assert (status, answer["status"]) == (503, "unavailable")


def test_a_store_that_is_away_is_said_to_be(tmp_path, monkeypatch):
    publish_day(tmp_path)
    with running(tmp_path) as service:

        def away(*arguments):
            raise StoreUnavailableError("redis://somewhere cannot be reached")

        monkeypatch.setattr(service.store, "recent", away)
        assert service.ask("/users/1/interests")[:2] == (503, {"detail": "redis://somewhere cannot be reached"})
        monkeypatch.setattr(service.store, "recent", lambda *arguments: 1 / 0)
        status, answer, _ = service.ask("/users/1/interests")
        assert status == 500
        assert answer["detail"] == "ZeroDivisionError: division by zero; the log of the service has more"


def test_no_request_is_dropped_while_days_change(tmp_path):
    publish_day(tmp_path)
    with running(tmp_path) as service, ThreadPoolExecutor(4) as pool:
        service.follower.start()
        changing = threading.Event()

        def keep_asking(user):
            answers = []
            while not changing.is_set():
                answers.append(service.ask(f"/users/{user}/recommendations"))
            return answers

        asked = [pool.submit(keep_asking, user) for user in (1, 2, 1, 77)]
        try:
            versions = [publish_day(tmp_path, DAY + datetime.timedelta(days=n), suffix=str(n)) for n in range(1, 4)]
            deadline = time.monotonic() + 30
            while service.follower.current.version != versions[-1]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            changing.set()
            service.follower.stop()
        answers = [answer for future in asked for answer in future.result()]
        assert {status for status, *_ in answers} == {200}
        assert len({answer["day"] for _, answer, _ in answers}) >= 2


def test_users_who_were_dropped_meanwhile_are_those_of_the_next_day(tmp_path):
    publish_day(tmp_path)
    with running(tmp_path) as service:
        version = publish_day(tmp_path, DAY + datetime.timedelta(days=1), suffix="b")
        service.store.drop_snapshots([version])
        assert service.ask("/users/1/recommendations")[1]["day"] == str(DAY + datetime.timedelta(days=1))
        service.store.drop_snapshots([])
        status, answer, _ = service.ask("/users/1/recommendations")
        assert status == 503
        assert version in answer["detail"]
