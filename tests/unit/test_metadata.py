import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.events import MetadataRules
from tasks.events.metadata import SHIPPED
from tests.support.samples import PROD_RULES, RULED, without
from tests.support.strategies import json_texts, json_values

MISSING = "Missing data for required field."


def broken_by(metadata):
    """What breaks the rules of prod: field → message."""
    return {error.field: error.message for error in PROD_RULES.check(metadata)}


# ── The rules that are shipped ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("environment", ["prod", "staging", "dev"])
def test_each_environment_requires_its_own_name(environment):
    rules = MetadataRules.from_file(SHIPPED, environment)
    assert rules.check(RULED | {"environment": environment}) == []
    (error,) = rules.check(RULED | {"environment": "another"})
    assert str(error) == f'detail.metadata.environment: must be "{environment}"'


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "ap-southeast-2"])
def test_three_regions_are_accepted(region):
    assert broken_by(RULED | {"region": region}) == {}


@pytest.mark.parametrize(
    "region",
    [
        "us-east-1x",
        "xus-east-1",
        "us-east-1\n",
        "\nus-east-1",
        " us-east-1",
        "US-EAST-1",
        "us-east",
        "us-west-2",
        "",
        None,
        1,
        ["us-east-1"],
    ],
    ids=ascii,
)
def test_other_region_is_refused(region):
    assert broken_by(RULED | {"region": region}) == {
        "detail.metadata.region": 'must be one of ["us-east-1", "eu-west-1", "ap-southeast-2"]'
    }


@pytest.mark.parametrize("version", ["0.0.0", "1.12.0", "10.200.3000"])
def test_pipeline_version_has_three_numbers(version):
    assert broken_by(RULED | {"pipelineVersion": version}) == {}


@pytest.mark.parametrize(
    "version",
    [
        "1.2.3\n",
        "\n1.2.3",
        "1.2.3\n\n",
        " 1.2.3",
        "1.2",
        "1.2.3.4",
        "v1.2.3",
        "1.2.3-rc1",
        "1..3",
        "1.2.٣",
        "１.2.3",
        "1.2.²",
        "",
        "1,2,3",
        None,
        1.2,
        ["1.2.3"],
    ],
    ids=ascii,
)
def test_other_pipeline_version_is_refused(version):
    assert list(broken_by(RULED | {"pipelineVersion": version})) == [
        "detail.metadata.pipelineVersion"
    ]


@pytest.mark.parametrize("environment", ["Prod", "prod ", "prod\n", "staging", "", None, ["prod"]])
def test_environment_must_be_equal(environment):
    assert broken_by(RULED | {"environment": environment}) == {
        "detail.metadata.environment": 'must be "prod"'
    }


@pytest.mark.parametrize("name", RULED)
def test_missing_field_is_named(name):
    assert broken_by(without(RULED, name)) == {f"detail.metadata.{name}": MISSING}


def test_all_missing_fields_are_named_at_once():
    assert broken_by({}) == {f"detail.metadata.{name}": MISSING for name in RULED}


@given(st.dictionaries(json_texts.filter(lambda name: name not in RULED), json_values, max_size=3))
def test_unknown_keys_are_allowed(others):
    assert PROD_RULES.check(others | RULED) == []


@given(st.dictionaries(st.sampled_from(list(RULED)), json_values))
def test_value_breaks_at_most_the_rule_of_its_field(changes):
    changed = {f"detail.metadata.{name}" for name in changes}
    assert set(broken_by(RULED | changes)) <= changed


# ── Rules of one's own ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schema", "metadata", "errors"),
    [
        pytest.param(
            {"properties": {"size": {"type": "integer", "minimum": 3}}},
            {"size": 1},
            ["detail.metadata.size: breaks the rule minimum: 3"],
            id="minimum",
        ),
        pytest.param(
            {"properties": {"agent": {"required": ["id", "id2"]}}},
            {"agent": {"name": "Jane"}},
            [f"detail.metadata.agent.id: {MISSING}", f"detail.metadata.agent.id2: {MISSING}"],
            id="required-inside",
        ),
        pytest.param(
            {"required": ["it's", 'b"c']},
            {},
            [f"detail.metadata.it's: {MISSING}", f'detail.metadata.b"c: {MISSING}'],
            id="required-with-quotes",
        ),
        pytest.param(
            {"properties": {"tags": {"items": {"type": "string"}}}},
            {"tags": ["x", 7]},
            ['detail.metadata.tags.1: must be of type "string"'],
            id="items",
        ),
        pytest.param(
            {"additionalProperties": False},
            {"jane": 1},
            ["detail.metadata: breaks the rule additionalProperties: false"],
            id="nothing-else",
        ),
        pytest.param(
            {
                "properties": {"zip": {"$ref": "#/$defs/zip"}},
                "$defs": {"zip": {"pattern": "^[0-9]"}},
            },
            {"zip": "x"},
            ['detail.metadata.zip: must match "^[0-9]"'],
            id="ref-inside",
        ),
    ],
)
def test_broken_rule_is_reported_without_the_value(schema, metadata, errors):
    assert sorted(map(str, MetadataRules(schema).check(metadata))) == sorted(errors)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.just("Jane-Doe-4711") | st.just(4711)))
def test_no_error_repeats_a_value(metadata):
    rules = MetadataRules(
        {
            "required": ["a", "b"],
            "properties": {
                "a": {"enum": ["x"], "minLength": 99, "maximum": 1},
                "b": {"const": "y", "type": ["array", "null"], "not": {"type": "string"}},
                "c": {"anyOf": [{"type": "object"}, {"pattern": "^$"}], "multipleOf": 2},
            },
        }
    )
    text = " ".join(map(str, rules.check(metadata)))
    assert "Jane" not in text
    assert "4711" not in text


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        pytest.param({"type": "text"}, "not a JSON Schema", id="no-such-type"),
        pytest.param({"properties": []}, "not a JSON Schema", id="mistyped-keyword"),
        pytest.param({"pattern": "("}, "not a JSON Schema", id="bad-pattern"),
        pytest.param({"$ref": 5}, "not a JSON Schema", id="mistyped-ref"),
        pytest.param({"$schema": []}, "not a JSON Schema", id="mistyped-draft"),
        pytest.param({"$ref": "https://example.com/x"}, "same schema", id="ref-to-the-web"),
        pytest.param({"$ref": "file:///etc/passwd"}, "same schema", id="ref-to-a-file"),
        pytest.param(
            {"allOf": [{"not": {"$ref": "other.json"}}]}, "same schema", id="ref-deep-inside"
        ),
        pytest.param({"$dynamicRef": "other#x"}, "same schema", id="dynamic-ref-outside"),
        pytest.param({"$ref": "#/$defs/nowhere"}, "points nowhere", id="dangling"),
        pytest.param({"$ref": "#nowhere"}, "points nowhere", id="dangling-anchor"),
        pytest.param(
            {"properties": {"region": {"$ref": "#/$defs/nowhere"}}},
            "points nowhere",
            id="dangling-deep-inside",
        ),
        pytest.param({"$ref": "#"}, r"\$ref", id="endless"),
    ],
)
def test_unusable_schema_is_refused(schema, problem):
    with pytest.raises(ValueError, match=problem):
        MetadataRules(schema)


@pytest.mark.parametrize(
    "definition",
    [{"$ref": "#/definitions/name"}, {"$ref": "#name"}],
    ids=["pointer", "anchor"],
)
def test_schema_may_name_an_older_draft(definition):
    rules = MetadataRules(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"name": {"$id": "#name", "type": "string"}},
            "properties": {"queue": definition},
        }
    )
    assert [error.field for error in rules.check({"queue": 7})] == ["detail.metadata.queue"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", r"no rules for environment 'prod' \(it has: \)"),
        ("null", "no rules for environment 'prod'"),
        ('{"staging": {}, "dev": {}}', r"no rules for environment 'prod' \(it has: dev, staging\)"),
        ('{"prod": null}', "no rules for environment 'prod'"),
        ('{"prod": []}', "no rules for environment 'prod'"),
        ('{"prod": {"type": 5}}', "not a JSON Schema"),
    ],
    ids=str,
)
def test_file_without_rules_is_refused(tmp_path, text, problem):
    path = tmp_path / "rules.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        MetadataRules.from_file(path, "prod")


def test_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "rules.json"
    path.write_bytes('{"prod": {"title": "Zoë"}}'.encode("latin-1"))
    with pytest.raises(ValueError, match="not JSON"):
        MetadataRules.from_file(path, "prod")


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read it: No such file or directory"):
        MetadataRules.from_file(tmp_path / "nowhere.json", "prod")
    with pytest.raises(ValueError, match="cannot read it: Is a directory"):
        MetadataRules.from_file(tmp_path, "prod")


def test_broken_rules_of_another_environment_are_ignored(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"prod": {"required": ["queue"]}, "dev": 5}), encoding="utf-8")
    assert [e.field for e in MetadataRules.from_file(path, "prod").check({})] == [
        "detail.metadata.queue"
    ]
