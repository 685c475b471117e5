"""What operators, readers and strangers may do, and that no request can be forged."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from flower import urls

from embedded.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.dashboard import OPERATOR, READER, FlowerContainer, Visitor, path_of, token_of
from tests.support.envelopes import envelope
from tests.support.nodes import running
from tests.support.oauth import Okta
from tests.support.system import System
from tests.support.waiting import eventually

#: Paths without authentication: of monitoring, of logins, and static files.
OPEN = {"/metrics", "/healthcheck", "/login/", "/logout", "/static/x", "/assets/x"}

#: Pages of the dashboard that have a POST.
PAGES = ["/event/x", "/event/x/retry", "/event/x/payload"]

#: Its other pages.
SHOWN = ["/overview", "/events", "/runbook"]


def flower_paths(method: str) -> list[str]:
    """Return a path of each of Flower's handlers that has this method."""
    paths = []
    for spec in urls.handlers:
        pattern, handler = (
            (spec.regex.pattern, spec.handler_class) if hasattr(spec, "regex") else spec[:2]
        )
        if hasattr(handler, method) and pattern != r".*":
            paths.append(re.sub(r"\(\.[*+]\)", "x", pattern.rstrip("$")).replace("?", ""))
    return [path for path in paths if path not in OPEN]


GETS = [*flower_paths("get"), *PAGES, *SHOWN]
#: POSTs that change something; the one for the table of tasks does not.
POSTS = [
    *(path for path in flower_paths("post") if path not in ("/tasks/datatable", "/login/")),
    *PAGES,
]


@pytest.fixture(params=["anonymous", "a wrong password", "half a header"])
def stranger(request: pytest.FixtureRequest, shared_flower: FlowerContainer) -> Visitor:
    """A visitor who is not signed in."""
    accounts = {"a wrong password": (OPERATOR[0], READER[1])}
    visitor = Visitor(shared_flower, accounts.get(request.param))
    if request.param == "half a header":
        visitor.session.headers["Authorization"] = "Basic"
    return visitor


def test_flower_has_paths_to_test() -> None:
    assert len(POSTS) > 12
    assert {"/", "/task/x", "/api/tasks", "/api/task/result/x"} <= set(GETS)


def test_strangers_see_nothing(stranger: Visitor) -> None:
    for path in GETS:
        assert stranger.get(path).status_code in (401, 405), path
    for path in [*POSTS, "/tasks/datatable"]:
        assert stranger.post(path).status_code in (401, 403), path  # 403: without a token


def test_monitoring_needs_no_authentication(stranger: Visitor) -> None:
    assert stranger.get("/metrics").status_code == 200
    assert stranger.get("/healthcheck").text == "OK"


def test_readers_may_view(reader: Visitor, system: System, operator: Visitor) -> None:
    claim = system.settle(envelope())
    operator.wait_for_task(f"{claim.id}.crm.1", "SUCCESS")
    for path in (f"/task/{claim.id}.crm.1", f"/event/{claim.id}", "/workers", "/api/tasks"):
        assert reader.page(path)
    table = {"draw": 1, "start": 0, "length": 9, "order[0][column]": 0, "order[0][dir]": "asc"}
    assert reader.post("/tasks/datatable", data=table).status_code == 200


@pytest.mark.parametrize("path", POSTS)
def test_readers_change_nothing(reader: Visitor, path: str) -> None:
    answer = reader.post(path)
    assert answer.status_code == 403
    if path not in PAGES:  # there, the missing token is reported first
        assert "Only operators" in answer.text


def test_readers_see_no_buttons(reader: Visitor, operator: Visitor, system: System) -> None:
    def worker_page(visitor: Visitor) -> str:
        name = next(iter(visitor.get("/workers?json=1").json()["data"]))["hostname"]
        return visitor.page(f"/worker/{name}")

    eventually(lambda: operator.get("/workers?json=1").json()["data"])
    assert 'id="worker-shutdown"' in worker_page(operator)
    assert 'id="worker-shutdown"' not in worker_page(reader)


FORGED = {
    "from another site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "from a sister site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-site"},
    "by an old browser": {"Origin": "https://evil.example"},
    "from nowhere": {"Origin": "null"},
    "of another port": {"Origin": "http://127.0.0.1:1"},
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_forged_requests_are_refused(operator: Visitor, headers: dict[str, str]) -> None:
    for path in POSTS:
        assert operator.post(path, headers=headers).status_code == 403, path


def test_forms_of_the_dashboard_need_their_token(
    operator: Visitor, reader: Visitor, system: System, sinks: SampleSinks
) -> None:
    sinks.behave("crm", "status", status=400)
    claim = system.settle(envelope())
    retry = f"/event/{claim.id}/retry?sink=crm"
    token = token_of(operator.page(retry))
    fields = {"sink": "crm", "version": claim.version}
    of_another = token_of(reader.page(retry))
    for data in (fields, {**fields, "_xsrf": ""}, {**fields, "_xsrf": of_another}):
        assert operator.post(retry, data=data).status_code == 403
    operator.session.cookies.clear()  # the token alone is not enough
    assert operator.post(retry, data={**fields, "_xsrf": token}).status_code == 403
    assert system.claim(claim.id) == claim


def test_text_from_outside_is_escaped(operator: Visitor, system: System) -> None:
    evil = "<script>alert(1)</script>"
    claim = system.settle(envelope(detail={"interactionId": evil}))
    for path in (f"/event/{claim.id}", f"/event/{quote(evil)}", f"/event/{quote(evil)}/retry"):
        page = operator.get(path).text
        assert "&lt;script&gt;alert" in page
        assert evil not in page


def test_headers_forbid_frames_caches_and_foreign_scripts(operator: Visitor) -> None:
    headers = operator.get("/event/x").headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    for path in ("/event/x", "/tasks", "/api/tasks", "/nowhere"):
        headers = operator.get(path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


# ── Payloads ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def refused(system: System, sinks: SampleSinks) -> Claim:
    """An event that the CRM refused, with an answer that quotes it."""
    sinks.behave("crm", "status", status=422)
    return system.settle(envelope())


def test_payloads_are_hidden(system: System, operator: Visitor, refused: Claim) -> None:
    page = operator.page(f"/event/{refused.id}")
    assert "DASHBOARD_SHOW_PAYLOADS" in page
    token = token_of(operator.page(f"/event/{refused.id}/retry"))
    answer = operator.post(f"/event/{refused.id}/payload", data={"_xsrf": token})
    assert answer.status_code == 403
    for text in (page, answer.text):
        assert "account-42" not in text
        assert "as I was told" not in text


def test_a_view_of_a_payload_is_logged(system: System, refused: Claim) -> None:
    settings = {**system.settings, "DASHBOARD_SHOW_PAYLOADS": "true"}
    with running(FlowerContainer(system.folder, settings)) as flower:
        operator, reader = Visitor(flower, OPERATOR), Visitor(flower, READER)
        path = f"/event/{refused.id}"
        assert "account-42" not in operator.page(path)
        assert "account-42" not in reader.page(path)
        assert operator.get(f"{path}/payload").status_code == 302
        assert reader.submit(f"{path}/retry", to=f"{path}/payload").status_code == 403
        assert "payload viewed" not in flower.logs()

        answer = operator.submit(path, to=f"{path}/payload")
        assert answer.status_code == 200
        assert "account-42" in answer.text
        assert "as I was told" in answer.text
        logged = eventually(lambda: re.findall(r"^\{.*payload viewed.*\}$", flower.logs(), re.M))
        assert len(logged) == 1
        assert refused.id in logged[0]
        assert f'"actor": "{OPERATOR[0]}"' in logged[0]


# ── OAuth ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def okta() -> Iterator[Okta]:
    """An OAuth provider that signs in ``okta.email``."""
    with Okta() as okta:
        yield okta


@pytest.fixture
def oauth_flower(system: System, okta: Okta) -> Iterator[FlowerContainer]:
    """Flower with OAuth."""
    settings = {
        **system.settings,
        "FLOWER_BASIC_AUTH": "",
        "FLOWER_READONLY_AUTH": "",
        "FLOWER_AUTH": ".*@example.com",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.OktaLoginHandler",
        "FLOWER_OAUTH2_KEY": "client",
        "FLOWER_OAUTH2_SECRET": "secret",
        "FLOWER_OAUTH2_OKTA_BASE_URL": okta.url,
        "FLOWER_OPERATORS": "Ann@example.com",
    }
    flower = FlowerContainer(system.folder, settings)
    flower.set("FLOWER_OAUTH2_REDIRECT_URI", f"{flower.url}/login")
    with running(flower):
        yield flower


def sign_in(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path, allow_redirects=True)
    assert (answer.status_code, answer.url) == (200, visitor.url + "/"), answer.text


def test_people_sign_in_by_oauth(
    system: System, okta: Okta, oauth_flower: FlowerContainer, refused: Claim, sinks: SampleSinks
) -> None:
    sinks.behave("crm")
    retry = f"/event/{refused.id}/retry?sink=crm"
    ann, carl, mallory = (Visitor(oauth_flower, None) for _ in range(3))
    assert path_of(ann.get(retry)) == "/login"
    assert ann.post("/api/task/async-apply/deliver.crm", json={}).status_code == 403

    okta.email = "carl@example.com"
    sign_in(carl, retry)
    assert "Only operators" in carl.page(retry)
    assert carl.submit(retry).status_code == 403

    okta.email = "mallory@evil.example"
    assert mallory.get(retry, allow_redirects=True).status_code == 403
    assert path_of(mallory.get(retry)) == "/login"

    okta.email = "ann@example.com"
    sign_in(ann, retry)
    assert ann.post(retry).status_code == 403  # without the token
    assert ann.submit(retry).status_code == 303
    claim = system.settled(refused.id)
    assert claim.audit[-1]["actor"] == "ann@example.com"

    assert ann.get("/logout").status_code == 200
    assert path_of(ann.get(retry)) == "/login"
