"""Flower with the dashboard, as a part of the system under test, and its users."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from .nodes import HOST, ProcessContainer, free_port, python
from .system import environment
from .waiting import TIMEOUT, eventually

#: Accounts: user and password.
OPERATOR = ("ann", "ann's: pässword")
READER = ("bob", "bob's password")


class FlowerContainer(ProcessContainer):
    """``celery -A tasks flower``."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Use a free port."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        accounts = {
            "FLOWER_BASIC_AUTH": ":".join(OPERATOR),
            "FLOWER_READONLY_AUTH": ":".join(READER),
            "FLOWER_PORT": str(self.port),
        }
        command = python("celery", "-A", "tasks", "flower")
        super().__init__("flower", command, folder, environment(**{**accounts, **settings}))

    def set(self, name: str, value: str) -> None:
        """Change a setting before the start."""
        self._environment[name] = value

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return requests.get(f"{self.url}/healthcheck", timeout=TIMEOUT).ok
        except requests.ConnectionError:
            return False


class Visitor:
    """A user of Flower; anonymous without an account."""

    def __init__(self, flower: FlowerContainer, account: tuple[str, str] | None) -> None:
        self.url = flower.url
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no .netrc
        if account:
            user, password = account
            self.session.auth = (user.encode(), password.encode())

    def get(self, path: str, **options: Any) -> requests.Response:
        """Open a page, without following redirects."""
        options = {"timeout": TIMEOUT, "allow_redirects": False, **options}
        return self.session.get(self.url + path, **options)

    def page(self, path: str) -> str:
        """Return the text of a page, which must exist."""
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.text

    def post(self, path: str, **options: Any) -> requests.Response:
        """Send a POST without the token of a form."""
        options = {"timeout": TIMEOUT, "allow_redirects": False, **options}
        return self.session.post(self.url + path, **options)

    def submit(self, path: str, to: str | None = None, **fields: Any) -> requests.Response:
        """Submit the form of a page as a browser would."""
        page = self.page(path)
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
        headers = {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        return self.post(to or path, data={**hidden, **fields}, headers=headers)

    def wait_for_task(self, task_id: str, state: str) -> str:
        """Wait until Flower's page of a task shows this state."""

        def shown() -> str | None:
            answer = self.get(f"/task/{task_id}")
            known = answer.status_code == 200 and re.search(rf">{state}<", answer.text)
            return answer.text if known else None

        page = eventually(shown, what=f"Flower shows {task_id} as {state}")
        assert page is not None
        return page


def token_of(page: str) -> str:
    """Return the token of a page's form."""
    found = re.search(r'name="_xsrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def path_of(response: requests.Response) -> str:
    """Return the path that a response redirects to."""
    return urlsplit(response.headers["Location"]).path
