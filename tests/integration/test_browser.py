"""What operators do, in a real browser: headless Chromium."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.dashboard import OPERATOR, READER, FlowerContainer, Visitor
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import HOST, RedisContainer, running
from tests.support.system import System
from tests.support.waiting import TIMEOUT, eventually


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    """The browser; skipped on a machine without one, which in CI is a failure."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        missing = "missing: chromium and chromedriver (apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, Service(driver)) as browser:
        browser.set_page_load_timeout(TIMEOUT)
        browser.set_window_size(1280, 1200)
        # It takes a moment, in which things move under the mouse.
        eventually(lambda: browser.execute_script("return innerWidth") > 1200)
        yield browser


class Person:
    """Somebody at the browser."""

    def __init__(self, browser: Chrome, flower: FlowerContainer, account: tuple[str, str]) -> None:
        self.browser = browser
        self._origin = f"http://{':'.join(map(quote, account))}@{HOST}:{flower.port}"

    def open(self, path: str) -> None:
        """Open a page."""
        self.browser.get(self._origin + path)

    def sees(self, text: str) -> bool:
        """Tell whether the page shows this text."""
        return text in str(self.browser.execute_script("return document.body.innerText"))

    def waits_for(self, text: str) -> None:
        """Wait until the page shows this text, without doing anything."""
        eventually(lambda: self.sees(text), what=f"the page shows {text!r}")

    def waits_for_page(self, end: str) -> None:
        """Wait until the page is one whose address ends like this."""
        eventually(lambda: self.browser.current_url.endswith(end), what=f"the page is …{end}")

    def has(self, css: str) -> bool:
        """Tell whether the page has what a selector finds."""
        return bool(self.browser.find_elements(By.CSS_SELECTOR, css))

    def click(self, css: str) -> None:
        """Click on what a selector finds, once it is there."""
        eventually(lambda: self.has(css), what=f"the page has {css}")
        self.browser.find_element(By.CSS_SELECTOR, css).click()

    def complaints(self) -> list[str]:
        """What the browser did not like since it was last asked: errors, refused scripts."""
        return [line["message"] for line in self.browser.get_log("browser")]


@pytest.fixture
def ann(chromium: Chrome, shared_flower: FlowerContainer, sinks: SampleSinks) -> Iterator[Person]:
    """An operator at the browser, on whose pages nothing goes wrong."""
    ann = Person(chromium, shared_flower, OPERATOR)
    ann.complaints()
    yield ann
    assert ann.complaints() == []


@contextmanager
def at_another_flower(
    browser: Chrome, folder: Path, settings: Mapping[str, str]
) -> Iterator[Person]:
    """An operator at a Flower that is there for them alone."""
    with running(FlowerContainer(folder, settings)) as flower:
        yield Person(browser, flower, OPERATOR)
        browser.get("about:blank")  # the page is not to ask a Flower that is gone


@pytest.fixture
def event() -> Envelope:
    return envelope()


@pytest.fixture
def refused(
    system: System, shared_flower: FlowerContainer, sinks: SampleSinks, event: Envelope
) -> Claim:
    """An event that the CRM refused, and goes on to refuse."""
    sinks.behave("crm", "status", status=400)
    return system.settle(event)


def completed(system: System, key: str) -> Claim:
    """Wait until every sink has an event; it may read as an earlier delivery left it before."""

    def completed() -> Claim | None:
        claim = system.claim(key)
        return claim if claim.status == "completed" else None

    claim = eventually(completed, what=f"{key} is completed")
    assert claim is not None
    return claim


def test_retry(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim, event: Envelope
) -> None:
    ann.open(f"/event/{refused.id}")
    ann.waits_for("partial failure")
    ann.click(f'a[href$="{refused.id}.crm.1"]')
    ann.waits_for("FAILURE")  # on Flower's page of it, which comes once Flower has heard of it
    assert ann.sees("400 Bad Request")

    sinks.behave("crm")
    ann.click("#task-retry")
    ann.waits_for("Deliver again to crm?")
    ann.click("#confirm")

    ann.waits_for_page(f"/task/{refused.id}.crm.2")
    ann.waits_for("crm now: delivered")  # as its claim says, whatever Flower has heard
    assert system.claim(refused.id).status == "completed"
    ann.waits_for("SUCCESS")
    assert not ann.has("#task-retry")

    ann.open(f"/event/{refused.id}")
    ann.waits_for("The chain holds: 2 records")
    assert ann.sees(f"delivered again, requested by {OPERATOR[0]}")
    claim = system.claim(refused.id)
    assert claim.audit[1]["actor"] == OPERATOR[0]
    assert_chain_holds(list(claim.audit))
    assert [call.answered for call in system.calls(event)["crm"]] == [400, 200]


@pytest.fixture
def ann_unheard(
    chromium: Chrome, system: System, redis: RedisContainer, tmp_path: Path
) -> Iterator[Person]:
    """An operator at a Flower that hears of no task: what workers tell goes over another Redis."""
    deaf = {**system.settings, "REDIS_URL": redis.url}
    with at_another_flower(chromium, tmp_path, deaf) as ann:
        yield ann


def test_a_delivery_is_followed_where_flower_hears_of_no_task(
    sinks: SampleSinks, operator: Visitor, refused: Claim, ann_unheard: Person
) -> None:
    ann_unheard.open(f"/task/{refused.id}.crm.1")
    ann_unheard.waits_for("Flower has not heard of this task yet")
    assert ann_unheard.sees("crm now: failed")
    sinks.behave("crm")
    assert operator.submit(f"/event/{refused.id}/retry?sink=crm").status_code == 303
    ann_unheard.waits_for("crm now: delivered")  # by itself
    assert not ann_unheard.has("#task-retry")


def test_an_impatient_double_click_is_one_delivery(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim, event: Envelope
) -> None:
    sinks.behave("crm", "slow", seconds=1)
    ann.open(f"/event/{refused.id}/retry?sink=crm")
    confirm = ann.browser.find_element(By.ID, "confirm")
    ActionChains(ann.browser).double_click(confirm).perform()
    ann.waits_for_page(".crm.2")
    completed(system, refused.id)
    assert [call.answered for call in system.calls(event)["crm"]] == [400, 200]


def test_a_retry_needs_no_mouse(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim
) -> None:
    sinks.behave("crm")
    ann.open(f"/event/{refused.id}/retry?sink=crm")
    eventually(lambda: ann.has("#confirm:focus"), what="the button has the focus")
    ann.browser.switch_to.active_element.send_keys(Keys.ENTER)
    ann.waits_for_page(".crm.2")
    completed(system, refused.id)


def test_an_event_under_way_comes_up_to_date_by_itself(
    system: System, sinks: SampleSinks, ann: Person, event: Envelope
) -> None:
    sinks.behave("crm", "slow", seconds=3)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    ann.open(f"/event/{key}")
    ann.waits_for("processing")
    ann.waits_for("completed")
    ann.waits_for("The chain holds")


def test_another_site_cannot_retry(
    system: System, ann: Person, refused: Claim, event: Envelope, sinks: SampleSinks
) -> None:
    ann.open(f"/event/{refused.id}")
    target = f"{ann.browser.execute_script('return location.origin')}/event/{refused.id}/retry"
    ann.browser.get("data:text/html,<title>elsewhere</title>")
    ann.browser.execute_script(
        """
        const form = document.createElement("form");
        form.method = "post";
        form.action = arguments[0];
        for (const [name, value] of [["sink", "crm"], ["version", arguments[1]]]) {
          const input = document.createElement("input");
          [input.name, input.value] = [name, value];
          form.append(input);
        }
        document.body.append(form);
        form.submit();
        """,
        target,
        str(refused.version),
    )
    ann.waits_for("forbidden")
    ann.complaints()  # of the 403
    assert system.claim(refused.id) == refused


def test_who_only_looks_sees_no_buttons(
    chromium: Chrome, shared_flower: FlowerContainer, refused: Claim
) -> None:
    bob = Person(chromium, shared_flower, READER)
    bob.open(f"/event/{refused.id}")
    bob.waits_for("400 Bad Request")
    assert not bob.has("main .btn-primary")
    bob.open(f"/event/{refused.id}/retry?sink=crm")
    bob.waits_for("Only operators may retry")


def test_many_are_redriven_with_progress(
    system: System, shared_flower: FlowerContainer, sinks: SampleSinks, ann: Person
) -> None:
    sinks.behave("crm", "status", status=400)
    claims = [system.settle(envelope("transfer")) for _ in range(3)]
    sinks.behave("crm")
    ann.open("/events?sink=crm&type=transfer&since=1h")
    ann.click('input[data-check="key"]')
    selected = ann.browser.find_elements(By.CSS_SELECTOR, 'input[name="key"]:checked')
    assert {box.get_attribute("value") for box in selected} >= {claim.id for claim in claims}
    ann.click('button[value="selected"]')
    ann.waits_for(f"Deliver {len(selected)} events again?")
    assert ann.sees("to crm, and to no other sink")
    ann.click("#start")
    ann.waits_for(f"done: {len(selected)} of {len(selected)}")  # by itself
    for claim in claims:
        assert completed(system, claim.id).audit[-1]["actor"] == OPERATOR[0]


# ── Overview ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fresh(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system of its own, which has counted nothing yet.

    What others count comes up to a second late, and so might come into a test's own numbers.
    """
    folder = tmp_path_factory.mktemp("fresh")
    with System(folder, aws_url=aws_url, sinks=sample_sinks, listen=False) as system:
        yield system


def plotted(ann: Person, title: str) -> Counter[str]:
    """What the points of a plot tell, added up."""
    points = ann.browser.execute_script(
        """
        const plots = Array.from(document.querySelectorAll("figure"));
        const plot = plots.find(each => each.innerText.startsWith(arguments[0]));
        return Array.from(plot.querySelectorAll("rect title"), each => each.textContent);
        """,
        title,
    )
    found: Counter[str] = Counter()
    for point in points:
        for name, count in re.findall(r"([a-z]+) ([0-9]+)", point):
            found[name] += int(count)
    return found


def test_the_plots_have_the_numbers_that_the_sinks_counted(
    fresh: System, sinks: SampleSinks, chromium: Chrome
) -> None:
    with at_another_flower(chromium, fresh.folder, fresh.settings) as ann:
        ann.open("/overview")
        assert plotted(ann, "Events") == {}
        sinks.behave("crm", "status", status=400)
        events = [envelope() for _ in range(3)]
        for event in events:
            fresh.settle(event)

        eventually(  # the page brings itself up to date
            lambda: plotted(ann, "Events") == {"accepted": 3, "settled": 3},
            what="the plots show the events",
        )
        for sink in SINKS:
            calls = [call.answered for event in events for call in fresh.calls(event)[sink]]
            how = "failed" if sink == "crm" else "delivered"
            assert plotted(ann, f"Deliveries to {sink}") == {how: len(calls)} == {how: 3}
        assert ann.sees("3 of 3 deliveries to crm failed within the hour")


def test_what_is_wrong_leads_to_what_to_do(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim
) -> None:
    for _ in range(3):
        system.settle(envelope())
    ann.open("/overview")
    ann.waits_for("deliveries to crm failed within the hour")
    ann.click('#problems a[href$="#deliveries-fail"]')
    ann.waits_for("Deliveries fail")
    assert ann.has("h2#deliveries-fail:target")


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(ann: Person, width: int) -> None:
    ann.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        for path in ("/overview", "/overview?span=day", "/runbook", "/events"):
            ann.open(path)
            wide = "return document.documentElement.scrollWidth"
            assert ann.browser.execute_script(wide) <= width, path
    finally:
        ann.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
