"""What every peer does with an event, whatever carries its tasks: the same claim and calls."""

import json
import os
from functools import cache
from typing import Any

import boto3
import requests

SINKS = ("analytics", "crm", "compliance")

Event = dict[str, Any]


@cache
def table() -> Any:
    """The table of claims, through boto3's usual front."""
    return boto3.resource("dynamodb").Table(os.environ["PROCESSING_TABLE"])


def claim(event: Event) -> bool:
    """Claim an event by a conditional put; False for a duplicate."""
    try:
        table().put_item(
            Item={"id": event["id"], "status": "processing", "payload": json.dumps(event)},
            ConditionExpression="attribute_not_exists(id)",
        )
    except table().meta.client.exceptions.ConditionalCheckFailedException:
        return False
    return True


def deliver(event: Event, sink: str) -> bool:
    """Post an event to one sink."""
    response = requests.post(
        os.environ[f"{sink.upper()}_ENDPOINT"],
        json=event["detail"],
        headers={"Idempotency-Key": f"{event['id']}:{sink}"},
        timeout=10,
    )
    response.raise_for_status()
    return True


def settle(key: str) -> None:
    """Write the final status by a conditional update."""
    table().update_item(
        Key={"id": key},
        UpdateExpression="SET #status = :completed",
        ConditionExpression="#status = :processing",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":completed": "completed", ":processing": "processing"},
    )
