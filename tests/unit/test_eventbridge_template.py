"""``deploy/eventbridge.yaml``, as far as it has choices."""

import pytest

from embedded.infrastructure import DEPLOY, Template

GIVEN = {
    "IngestUrl": "https://ingest.example.com/events",
    "ApiKey": "a-key-of-sixteen-letters",
    "AWS::StackName": "cxone-events",
    "AWS::Region": "eu-west-1",
    "AWS::Partition": "aws",
    "AWS::AccountId": "123456789012",
}
OAUTH = {
    "OAuthEndpoint": "https://login.example.com/token",
    "OAuthClientId": "eventbridge",
    "OAuthClientSecret": "s3cr3t",
}
GRANT = {"Key": "grant_type", "Value": "client_credentials", "IsValueSecret": False}


def resource(kind, **parameters):
    template = Template(DEPLOY / "eventbridge.yaml", GIVEN | parameters)
    found = dict(template.resources(f"AWS::Events::{kind}"))
    (properties,) = found.values()
    return properties


def test_ingest_is_called_with_its_key():
    connection = resource("Connection")
    assert connection["AuthorizationType"] == "API_KEY"
    assert connection["AuthParameters"] == {
        "ApiKeyAuthParameters": {"ApiKeyName": "x-api-key", "ApiKeyValue": GIVEN["ApiKey"]}
    }


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ({}, [GRANT]),
        (
            {"OAuthScope": "events:write"},
            [GRANT, {"Key": "scope", "Value": "events:write", "IsValueSecret": False}],
        ),
    ],
)
def test_a_gateway_gets_its_token_and_ingest_its_key(scope, asked):
    connection = resource("Connection", **OAUTH, **scope)
    assert connection["AuthorizationType"] == "OAUTH_CLIENT_CREDENTIALS"
    assert connection["AuthParameters"] == {
        "OAuthParameters": {
            "AuthorizationEndpoint": "https://login.example.com/token",
            "HttpMethod": "POST",
            "ClientParameters": {"ClientID": "eventbridge", "ClientSecret": "s3cr3t"},
            "OAuthHttpParameters": {"BodyParameters": asked},
        },
        "InvocationHttpParameters": {
            "HeaderParameters": [
                {"Key": "x-api-key", "Value": GIVEN["ApiKey"], "IsValueSecret": True}
            ]
        },
    }


def test_what_does_not_get_through_for_a_day_is_a_dead_letter():
    (target,) = resource("Rule")["Targets"]
    assert target["RetryPolicy"] == {
        "MaximumRetryAttempts": 185,
        "MaximumEventAgeInSeconds": 86_400,
    }
    assert target["DeadLetterConfig"]["Arn"].endswith(":DeadLetters")


def test_the_rule_may_call_what_it_calls_and_nothing_else():
    """In either form of its name, which are one here."""
    template = Template(DEPLOY / "eventbridge.yaml", GIVEN)
    ((_, role),) = template.resources("AWS::IAM::Role")
    (policy,) = role["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    (target,) = resource("Rule")["Targets"]
    assert statement["Action"] == "events:InvokeApiDestination"
    assert set(statement["Resource"]) == {target["Arn"]}
