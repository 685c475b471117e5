"""One DynamoDB table: Python values in and out, bounded waits, errors as StoreError."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import boto3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.errors import StoreError
from tasks.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize

#: Arguments of a request whose values are Python's until they are sent.
_VALUES = ("Item", "Key", "ExpressionAttributeValues", "ExclusiveStartKey")


class ConditionFailedError(Exception):
    """Raised where a condition did not hold; ``existing`` is the item there, None for no item."""

    def __init__(self, existing: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.existing = existing


class Table:
    """The table ``name``.

    Every method raises ``StoreError`` where DynamoDB cannot be reached or answers with an error.
    """

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        """Use ``client``, whose waits must be bounded."""
        self._client = client
        self._name = name

    def get(self, key: str) -> dict[str, Any] | None:
        """Read one item, consistently."""
        found = self._call("get_item", Key={"id": key}, ConsistentRead=True)
        return _to_python(found["Item"]) if found.get("Item") else None

    def put(self, item: Mapping[str, Any], condition: str, values: Mapping[str, Any]) -> None:
        """Put an item where the condition holds.

        Raises:
            ConditionFailedError: it does not.
        """
        self._call(
            "put_item",
            Item=item,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )

    def update(
        self, key: str, expression: str, values: Mapping[str, Any], **arguments: Any
    ) -> dict[str, Any]:
        """Update an item; return the attributes that ``ReturnValues`` asks for.

        Raises:
            ConditionFailedError: ``ConditionExpression`` does not hold.
        """
        answer = self._call(
            "update_item",
            Key={"id": key},
            UpdateExpression=expression,
            ExpressionAttributeValues=values,
            **arguments,
        )
        return _to_python(answer.get("Attributes", {}))

    def query(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the items that a query finds, page by page."""
        for page in self.pages(**arguments):
            yield from map(_to_python, page["Items"])

    def pages(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a query, as DynamoDB sends them."""
        while True:
            page = self._call("query", **arguments)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            arguments["ExclusiveStartKey"] = _to_python(page["LastEvaluatedKey"])

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        values = {name: _to_dynamodb(arguments[name]) for name in _VALUES if name in arguments}
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                TableName=self._name, **(arguments | values)
            )
        except ClientError as error:
            details = error.response["Error"]
            if details["Code"] == "ConditionalCheckFailedException":
                existing: Any = error.response.get("Item")
                raise ConditionFailedError(_to_python(existing) if existing else None) from None
            message = f"DynamoDB {operation}: {details['Code']}: {details.get('Message', '')}"
            raise StoreError(message) from None
        except BotoCoreError as error:
            raise StoreError(f"DynamoDB {operation}: {error}") from None
        return answer


def _to_dynamodb(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _serialize(value) for name, value in values.items()}


def _to_python(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _deserialize(value) for name, value in attributes.items()}


def connect(config: Settings) -> "DynamoDBClient":
    """Make a client with bounded waits; boto3 finds credentials and an emulator's endpoint."""
    return boto3.client(
        "dynamodb",
        region_name=config.aws_region,
        config=Config(
            connect_timeout=2,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 4},
            parameter_validation=False,  # our own code makes them: DynamoDB checks them anyway
            max_pool_connections=32,
            user_agent="cxone-event-processor",  # else botocore puts a long one together each time
        ),
    )
