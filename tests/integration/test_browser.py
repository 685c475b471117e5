"""What operators do, in a real browser: headless Chromium."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from embedded.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.desk import OPERATOR, READER, FlowerContainer
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import HOST
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


def test_retry(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim, event: Envelope
) -> None:
    ann.open(f"/event/{refused.id}")
    ann.waits_for("partial failure")
    ann.click(f'a[href$="{refused.id}.crm.1"]')
    eventually(lambda: ann.sees("FAILURE") or ann.browser.refresh())  # Flower hears of it later
    assert ann.sees("400 Bad Request")

    sinks.behave("crm")
    ann.click("#task-retry")
    ann.waits_for("Deliver again to crm?")
    ann.click("#confirm")

    ann.waits_for("deliver.crm")  # Flower's page of the new task, once it has heard of it
    assert ann.browser.current_url.endswith(f"/task/{refused.id}.crm.2")
    assert system.settled(refused.id).status == "completed"
    eventually(lambda: ann.browser.refresh() or ann.sees("SUCCESS"))
    assert not ann.has("#task-retry")

    ann.open(f"/event/{refused.id}")
    ann.waits_for("The chain holds: 2 records")
    assert ann.sees(f"sent again, as {OPERATOR[0]} asked")
    claim = system.claim(refused.id)
    assert claim.audit[1]["actor"] == OPERATOR[0]
    assert_chain_holds(list(claim.audit))
    assert [call.answered for call in system.calls(event)["crm"]] == [400, 200]


def test_an_impatient_double_click_is_one_delivery(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim, event: Envelope
) -> None:
    sinks.behave("crm", "slow", seconds=1)
    ann.open(f"/event/{refused.id}/retry?sink=crm")
    confirm = ann.browser.find_element(By.ID, "confirm")
    ActionChains(ann.browser).double_click(confirm).perform()
    ann.waits_for_page(".crm.2")
    assert system.settled(refused.id).status == "completed"
    assert [call.answered for call in system.calls(event)["crm"]] == [400, 200]


def test_a_retry_needs_no_mouse(
    system: System, sinks: SampleSinks, ann: Person, refused: Claim
) -> None:
    sinks.behave("crm")
    ann.open(f"/event/{refused.id}/retry?sink=crm")
    ann.browser.switch_to.active_element.send_keys(Keys.ENTER)
    ann.waits_for_page(".crm.2")
    assert system.settled(refused.id).status == "completed"


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
        assert system.settled(claim.id).audit[-1]["actor"] == OPERATOR[0]


# ── Overview ──────────────────────────────────────────────────────────────────────────────────


def told(ann: Person, title: str) -> Counter[str]:
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
    system: System, sinks: SampleSinks, ann: Person
) -> None:
    ann.open("/overview")
    before = {sink: told(ann, f"Deliveries to {sink}") for sink in SINKS}
    settled = told(ann, "Events")["settled"]
    sinks.behave("crm", "status", status=400)
    events = [envelope() for _ in range(3)]
    for event in events:
        system.settle(event)

    def more(sink: str) -> Counter[str]:
        return told(ann, f"Deliveries to {sink}") - before[sink]

    eventually(  # the page brings itself up to date
        lambda: told(ann, "Events")["settled"] == settled + 3, what="the plots show the events"
    )
    for sink in SINKS:
        calls = [call.answered for event in events for call in system.calls(event)[sink]]
        how = "failed" if sink == "crm" else "delivered"
        assert more(sink) == {how: len(calls)} == {how: 3}
    assert ann.sees("deliveries to crm failed within the hour")


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
