"""What every peer does with an event: the same claim and the same calls."""

import json
import os
from typing import Any

import boto3
import requests

SINKS = ("analytics", "crm", "compliance")

Event = dict[str, Any]

TABLE = os.environ["PROCESSING_TABLE"]

#: Threads may share it; so may forks, as it connects at its first call.
dynamodb = boto3.client("dynamodb")


def claim(event: Event) -> bool:
    """Claim an event by a conditional put; False for a duplicate."""
    try:
        dynamodb.put_item(
            TableName=TABLE,
            Item={
                "id": {"S": event["id"]},
                "status": {"S": "processing"},
                "payload": {"S": json.dumps(event)},
            },
            ConditionExpression="attribute_not_exists(id)",
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
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
    dynamodb.update_item(
        TableName=TABLE,
        Key={"id": {"S": key}},
        UpdateExpression="SET #status = :completed",
        ConditionExpression="#status = :processing",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={
            ":completed": {"S": "completed"},
            ":processing": {"S": "processing"},
        },
    )
