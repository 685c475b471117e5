"""Settings that hold the ARN of a secret in AWS Secrets Manager instead of the secret.

``arn:aws:secretsmanager:…:secret:NAME`` is the whole secret; with ``#KEY`` behind it, the text of
that field, where the secret is a JSON object.
"""

import json
import re
from functools import cache

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_PREFIX = re.compile(r"arn:aws[a-z-]*:secretsmanager:")
_ARN = re.compile(_PREFIX.pattern + r"(?P<region>[a-z0-9-]+):[0-9]{12}:secret:[^#]+")

_CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 3})


def is_arn(text: str) -> bool:
    """Return whether a text begins like the ARN of a secret."""
    return bool(_PREFIX.match(text))


class Secrets:
    """The secrets that a process reads when it starts, each once."""

    def __init__(self) -> None:
        self._fetch = cache(_fetch)

    def read(self, text: str) -> str:
        """Return the secret, or the field of one, that ``text`` names.

        Raises:
            ValueError: It cannot be read; the message contains neither the secret nor its name.
        """
        arn, _, key = text.partition("#")
        secret = self._fetch(arn)
        return (_field_of(secret, key) if key else secret).strip()


def _fetch(arn: str) -> str:
    found = _ARN.fullmatch(arn)
    if not found:
        raise ValueError("not the ARN of a secret")
    client = boto3.client("secretsmanager", region_name=found["region"], config=_CONFIG)
    try:
        return str(client.get_secret_value(SecretId=arn)["SecretString"])
    except ClientError as error:
        why = error.response["Error"]["Code"]
    except BotoCoreError as error:
        why = type(error).__name__
    except KeyError:
        why = "it is binary"
    raise ValueError(f"its secret is not to be had from AWS Secrets Manager: {why}")


def _field_of(secret: str, key: str) -> str:
    try:
        match json.loads(secret):
            case {**fields} if isinstance(fields.get(key), str):
                return str(fields[key])
    except (ValueError, RecursionError):
        pass
    raise ValueError("its secret is no JSON object with a text under the key behind the #")
