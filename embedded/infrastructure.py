"""Creates the table and the rule of ``deploy/`` in an AWS emulator.

``storage.yaml`` is deployed as it is. The emulator's CloudFormation does not know connections and
API destinations (docs/facts.md, T4), so those of ``eventbridge.yaml`` and its rule are applied by
API calls. ``python -m embedded.infrastructure`` does it for a system that docker-compose.yml runs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.settings import Role, load_or_exit

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"

_STACK = "cxone-event-processor"


class ProvisionError(Exception):
    """Raised when the AWS endpoint rejects what ``deploy/`` describes."""


def provision(settings: Mapping[str, str], *, ingest_url: str, api_key: str) -> None:
    """Create or update the table and the rule; idempotent.

    Raises:
        ProvisionError: with the endpoint's error message.
    """
    session = boto3.Session(region_name=settings["AWS_REGION"])
    config = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 3})
    parameters = {
        "IngestUrl": ingest_url,
        "ApiKey": api_key,
        "EventSource": settings["EVENT_SOURCE"],
        "AWS::StackName": _STACK,
        "AWS::Region": settings["AWS_REGION"],
    }
    try:
        _deploy_table(
            session.client("cloudformation", config=config),
            session.client("dynamodb", config=config),
            settings["PROCESSING_TABLE"],
        )
        events = session.client("events", config=config)
        _apply_rule(events, Template(DEPLOY / "eventbridge.yaml", parameters))
    except (BotoCoreError, ClientError) as error:
        message = f"the AWS endpoint rejected the templates of deploy/: {error}"
        raise ProvisionError(message) from error


def _deploy_table(
    cloudformation: "CloudFormationClient", dynamodb: "DynamoDBClient", table: str
) -> None:
    stack: Any = {
        "StackName": f"{_STACK}-storage",
        "TemplateBody": (DEPLOY / "storage.yaml").read_text(encoding="utf-8"),
        "Parameters": [{"ParameterKey": "TableName", "ParameterValue": table}],
    }
    done = "stack_update_complete"
    try:
        cloudformation.update_stack(**stack)
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return
        if "does not exist" not in str(error):
            raise
        if _exists(dynamodb, table):
            return  # created by other means, on an endpoint that others use too
        cloudformation.create_stack(**stack, OnFailure="DELETE")
        done = "stack_create_complete"
    # The type stubs know each waiter by a literal name only, and this is one of two.
    waiter: Any = cloudformation.get_waiter(done)  # type: ignore[call-overload]
    waiter.wait(StackName=stack["StackName"], WaiterConfig={"Delay": 1, "MaxAttempts": 30})


def _exists(dynamodb: "DynamoDBClient", table: str) -> bool:
    try:
        dynamodb.describe_table(TableName=table)
    except dynamodb.exceptions.ResourceNotFoundException:
        return False
    return True


def _apply_rule(events: "EventBridgeClient", template: "Template") -> None:
    """Apply connection, API destination and rule, each after what it refers to."""
    for kind, method in (("Connection", "connection"), ("ApiDestination", "api_destination")):
        for name, properties in template.resources(f"AWS::Events::{kind}"):
            arguments: Any = {"Name": name, **properties}
            try:
                answer = getattr(events, f"create_{method}")(**arguments)
            except events.exceptions.ResourceAlreadyExistsException:
                answer = getattr(events, f"update_{method}")(**arguments)
            template.set_attribute(f"{name}.Arn", answer[f"{kind}Arn"])
    for name, properties in template.resources("AWS::Events::Rule"):
        arguments = {"Name": name, **properties}
        arguments["EventPattern"] = json.dumps(arguments["EventPattern"])
        targets = arguments.pop("Targets")
        events.put_rule(**arguments)
        rule, bus = arguments["Name"], arguments["EventBusName"]
        events.put_targets(Rule=rule, EventBusName=bus, Targets=targets)


class Template:
    """A CloudFormation template whose resources can be read, with their references resolved."""

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        """Read a file; ``parameters`` are its own and the pseudo parameters (``AWS::…``)."""
        document = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - it is safe
        known = document["Parameters"].items()
        defaults = {name: given["Default"] for name, given in known if "Default" in given}
        self._path = path
        self._resources: dict[str, Any] = document["Resources"]
        self._conditions: dict[str, Any] = document.get("Conditions", {})
        self._references: dict[str, Any] = defaults | dict(parameters) | {"AWS::NoValue": None}
        self._attributes: dict[str, str] = {}

    def set_attribute(self, attribute: str, value: str) -> None:
        """Set the value of ``!GetAtt attribute``."""
        self._attributes[attribute] = value

    def resources(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield logical id and resolved properties of each resource of a type."""
        for name, resource in self._resources.items():
            if resource["Type"] == kind:
                yield name, self._resolve(resource["Properties"])

    def _resolve(self, value: Any) -> Any:  # noqa: PLR0911 - one per case
        match value:
            case {"Ref": name}:
                return self._references[name]
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{(.+?)\}", lambda m: str(self._references[m[1]]), text)
            case {"Fn::GetAtt": attribute}:
                return self._attributes.get(attribute) or self._made_up_arn(attribute)
            case {"Fn::If": [condition, yes, no]}:
                return self._resolve(yes if self._holds(self._conditions[condition]) else no)
            case dict():
                if unknown := [key for key in value if key.startswith("Fn::")]:
                    raise ProvisionError(f"{self._path.name}: {unknown[0]} is not supported here")
                resolved = {key: self._resolve(inner) for key, inner in value.items()}
                return {key: inner for key, inner in resolved.items() if inner is not None}
            case list():
                return [inner for inner in map(self._resolve, value) if inner is not None]
        return value

    def _holds(self, condition: Any) -> bool:
        match condition:
            case {"Fn::Equals": [one, other]}:
                return bool(self._resolve(one) == self._resolve(other))
            case {"Fn::Not": [inner]}:
                return not self._holds(inner)
        raise ProvisionError(f"{self._path.name}: a condition is not supported here")

    def _made_up_arn(self, attribute: str) -> str:
        """Return the ARN of a role or queue, which the emulator requires but does not check."""
        name = attribute.partition(".")[0]
        service = self._resources[name]["Type"].split("::")[1].lower()
        return f"arn:aws:{service}:{self._references['AWS::Region']}:000000000000:{name}"


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: ``!Ref x`` as ``{"Ref": "x"}``, and so on."""


def _long_form(loader: Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:  # a mapping: there are no other nodes, which the type stubs do not express
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


Loader.add_multi_constructor("!", _long_form)


def main() -> None:
    """Provision the endpoint that the environment names."""
    parser = argparse.ArgumentParser(prog="python -m embedded.infrastructure")
    parser.add_argument("--ingest-url", required=True, metavar="URL", help="where events are sent")
    arguments = parser.parse_args()
    settings = load_or_exit(Role.INGEST)
    assert settings.ingest_api_keys is not None  # noqa: S101 - ingest needs them
    try:
        provision(
            {
                "AWS_REGION": settings.aws_region,
                "EVENT_SOURCE": settings.event_source,
                "PROCESSING_TABLE": settings.processing_table,
            },
            ingest_url=arguments.ingest_url,
            api_key=settings.ingest_api_keys[0].decode(),
        )
    except ProvisionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
