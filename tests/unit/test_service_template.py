"""``deploy/service.yaml`` against the code that it runs: names, queues, rights, time-outs."""

import json
import re

import pytest
import yaml

import celeryconfig
from embedded.infrastructure import DEPLOY, Loader
from tasks.deliver import TASKS
from tasks.settings.model import variables
from tasks.sinks import SINKS

ROOT = DEPLOY.parent


def spelled_out(value, name, item):
    """What a loop makes of one of its items."""
    match value:
        case {"Ref": str(referred)} if referred == name:
            return item
        case {"Fn::Sub": str(text)}:
            text = text.replace(f"${{{name}}}", item)
            return {"Fn::Sub": text} if "${" in text else text
        case dict():
            return {
                key.replace(f"${{{name}}}", item): spelled_out(inner, name, item)
                for key, inner in value.items()
            }
        case list():
            return [spelled_out(inner, name, item) for inner in value]
    return value


def expanded(resources):
    """Every resource, those that a loop makes among them."""
    for key, value in resources.items():
        if key.startswith("Fn::ForEach::"):
            name, items, body = value
            for item in items:
                yield from spelled_out(body, name, item).items()
        else:
            yield key, value


TEMPLATE = yaml.load((DEPLOY / "service.yaml").read_text(), Loader)
RESOURCES = dict(expanded(TEMPLATE["Resources"]))
PROGRAMS = {
    name.removesuffix("Task"): resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::ECS::TaskDefinition"
}
OURS = {name: task for name, task in PROGRAMS.items() if name != "Redis"}
WORKERS = {name: task for name, task in OURS.items() if name.startswith("Worker")}
SECRETS = {variable.name for variable in variables() if variable.secret}


def of_type(kind):
    return {n: r["Properties"] for n, r in RESOURCES.items() if r["Type"] == f"AWS::{kind}"}


def container(task):
    (only,) = task["ContainerDefinitions"]
    return only


def settings_of(task):
    return {entry["Name"]: entry["Value"] for entry in container(task).get("Environment", [])}


def looked_up(value):
    """A value of the mapping."""
    mapping, first, second = value["Fn::FindInMap"]
    return TEMPLATE["Mappings"][mapping][first][second]


def queues_of(task):
    command = container(task)["Command"]
    return looked_up(command[command.index("-Q") + 1]).split(",")


def statements(role):
    """What a role may do, by the policies that name it."""
    for policy in of_type("IAM::Policy").values():
        if {"Ref": role} in policy["Roles"]:
            yield from policy["PolicyDocument"]["Statement"]


def actions(role, service):
    """The actions of a service that a role may do."""
    granted = [s["Action"] for s in statements(role)]
    flat = {a for action in granted for a in ([action] if isinstance(action, str) else action)}
    return {action.partition(":")[2] for action in flat if action.startswith(f"{service}:")}


# ── What runs ─────────────────────────────────────────────────────────────────────────────────


def test_every_role_of_the_image_runs():
    assert {container(task)["Command"][0] for task in OURS.values()} == {
        "ingest",
        "worker",
        "beat",
        "flower",
    }


def test_every_queue_has_one_group_of_workers():
    consumed = [queue for task in WORKERS.values() for queue in queues_of(task)]
    assert sorted(consumed) == sorted(queue.name for queue in celeryconfig.task_queues)


def test_a_sink_has_workers_of_its_own():
    assert [queues_of(task) for task in WORKERS.values()][1:] == [
        [sink.task_name] for sink in SINKS.values()
    ]


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one_and_no_secret_is_written_down(name):
    settings = settings_of(OURS[name])
    assert settings.keys() <= {variable.name for variable in variables()}
    kept = of_type("SecretsManager::Secret")
    named = {n for n, value in settings.items() if value in [{"Ref": secret} for secret in kept]}
    assert named == settings.keys() & SECRETS
    assert "REDIS_URL" in named


@pytest.mark.parametrize("name", OURS)
def test_it_runs_without_rights_of_its_machine(name):
    program = container(OURS[name])
    assert program["ReadonlyRootFilesystem"]
    assert program["LinuxParameters"]["Capabilities"]["Drop"] == ["ALL"]
    assert [mount["ContainerPath"] for mount in program["LinuxParameters"]["Tmpfs"]] == ["/tmp"]
    assert "User" not in program  # the image's
    assert re.search(r"^USER app$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    check = container(OURS[name])["HealthCheck"]["Command"]
    assert check[0] == "CMD"
    assert " ".join(check[1:]) == "python -I /app/deploy/image/health.py"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_failed_deployment_is_rolled_back(name):
    deployment = RESOURCES[name]["Properties"]["DeploymentConfiguration"]
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}


@pytest.mark.parametrize("name", ["Redis", "Beat", "Flower"])
def test_there_is_one_and_never_two(name):
    service = RESOURCES[name]["Properties"]
    assert service["DesiredCount"] == 1
    assert service["DeploymentConfiguration"]["MinimumHealthyPercent"] == 0
    assert service["DeploymentConfiguration"]["MaximumPercent"] == 100
    assert service["AvailabilityZoneRebalancing"] == "DISABLED"
    assert f'"{name}.Name"' not in json.dumps(of_type("ApplicationAutoScaling::ScalableTarget"))


@pytest.mark.parametrize("name", WORKERS)
def test_workers_may_end_what_they_are_delivering(name):
    longest = max(task.time_limit for task in TASKS.values())
    longest = max(longest, celeryconfig.worker_soft_shutdown_timeout)
    assert longest + 10 <= container(WORKERS[name])["StopTimeout"] <= 120  # Fargate's limit


@pytest.mark.parametrize("name", [*WORKERS, "Beat"])
def test_who_waits_for_redis_is_not_replaced_while_redis_is(name):
    """Without Redis none gives signs of life; a new Redis takes a minute or two."""
    check = container(OURS[name])["HealthCheck"]
    assert check["Interval"] * check["Retries"] >= 100


# ── Who may do what ───────────────────────────────────────────────────────────────────────────


def calls(path, pattern):
    """The operations that a module asks of AWS, as IAM calls them."""
    found = re.findall(pattern, (ROOT / "tasks" / path).read_text())
    assert found
    return {name.title().replace("_", "") for name in found}


@pytest.mark.parametrize("role", ["WorkerRole", "FlowerRole"])
def test_who_works_on_claims_may_do_what_they_ask_and_no_more(role):
    asked = calls("claims/dynamodb.py", r"self\._call\(\s*\"(\w+)\"")
    assert actions(role, "dynamodb") == asked


def test_queries_are_of_indexes_alone():
    (query,) = [s for s in statements("WorkerRole") if s["Action"] == "dynamodb:Query"]
    assert query["Resource"]["Fn::Sub"].endswith(":table/${TableName}/index/*")
    source = (ROOT / "tasks" / "claims" / "queries.py").read_text()
    queries = source.count("_table.query(") + source.count("_table.pages(")
    by_partition = source.count("**_parked_for(")
    assert queries == by_partition + source.count("IndexName=")


@pytest.mark.parametrize("role", ["IngestRole", "BeatRole", "RedisRole"])
def test_who_does_not_work_on_claims_may_not(role):
    assert not actions(role, "dynamodb")


@pytest.mark.parametrize("name", OURS)
def test_each_role_may_read_its_own_secrets_and_no_others(name):
    role = "WorkerRole" if name in WORKERS else f"{name}Role"
    assert OURS[name]["TaskRoleArn"] == {"Fn::GetAtt": f"{role}.Arn"}
    given = {v["Ref"] for n, v in settings_of(OURS[name]).items() if n in SECRETS}
    asking = "secretsmanager:GetSecretValue"
    read = [s["Resource"] for s in statements(role) if s["Action"] == asking]
    assert {resource["Ref"] for resource in read if "Ref" in resource} == given
    others = [resource["Fn::Sub"] for resource in read if "Ref" not in resource]
    assert all(text.endswith(":secret:${AWS::StackName}/sinks/*") for text in others)
    assert bool(others) == (name in WORKERS)


def test_only_what_a_container_runs_as_is_bound_to_the_account():
    """AWS documents that condition for these roles, and not for those that start containers."""
    bound = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    for task in PROGRAMS.values():
        for kind, condition in (("TaskRoleArn", bound), ("ExecutionRoleArn", None)):
            role = RESOURCES[task[kind]["Fn::GetAtt"].removesuffix(".Arn")]["Properties"]
            (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
            assert statement.get("Condition") == condition


def test_only_flower_is_told_who_may_look():
    given = [name for name, task in OURS.items() if "FLOWER_READONLY_AUTH" in settings_of(task)]
    assert given == ["Flower"]


def test_only_what_starts_tasks_may_touch_everything():
    for policy in of_type("IAM::Policy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            wide = statement["Resource"] == "*"
            assert wide == (statement["Action"] == "ecr:GetAuthorizationToken")


def test_the_world_may_call_the_balancer_by_tls_and_nobody_else():
    open_to_all = [
        (name, rule["FromPort"], rule["ToPort"])
        for name, group in of_type("EC2::SecurityGroup").items()
        for rule in group.get("SecurityGroupIngress", [])
    ]
    assert open_to_all == [("BalancerGroup", 443, 443)]
    assert all("CidrIp" not in rule for rule in of_type("EC2::SecurityGroupIngress").values())
    assert all(group["SecurityGroupEgress"] for group in of_type("EC2::SecurityGroup").values())
    (listener,) = of_type("ElasticLoadBalancingV2::Listener").values()
    assert (listener["Port"], listener["Protocol"]) == (443, "HTTPS")
    assert listener["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2-")
    assert listener["DefaultActions"][0]["Type"] == "fixed-response"


@pytest.mark.parametrize("name", ["Ingest", "Flower"])
def test_the_balancer_calls_where_it_is_listened(name):
    port = int(settings_of(OURS[name])[f"{name.upper()}_PORT"])
    assert container(OURS[name])["PortMappings"] == [{"ContainerPort": port}]
    assert of_type("ElasticLoadBalancingV2::TargetGroup")[f"{name}Targets"]["Port"] == port
    assert of_type("EC2::SecurityGroupIngress")[f"{name}FromBalancer"]["FromPort"] == port


def test_what_hosts_see_of_flower_is_for_operators():
    conditions = of_type("ElasticLoadBalancingV2::ListenerRule")["FlowerRule"]["Conditions"]
    assert {c["Field"] for c in conditions} == {"host-header", "source-ip"}


# ── Workers by backlog ────────────────────────────────────────────────────────────────────────


def test_workers_scale_by_a_backlog_that_sweeps_log():
    logged = {f"$.backlog.{q.name.replace('.', '_')}" for q in celeryconfig.task_queues}
    filters = of_type("Logs::MetricFilter")
    for name, task in WORKERS.items():
        transformation = filters[f"{name}Backlog"]["MetricTransformations"][0]
        path = looked_up(transformation["MetricValue"])
        assert path in logged
        assert path == f"$.backlog.{queues_of(task)[0].replace('.', '_')}"
        policy = of_type("ApplicationAutoScaling::ScalingPolicy")[f"{name}Scaling"]
        metric = policy["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
        assert metric["MetricName"] == transformation["MetricName"]
        assert "DesiredCount" not in RESOURCES[name]["Properties"]
    assert filters["SettleBacklog"]["MetricTransformations"][0]["MetricValue"] in logged


def test_logs_end():
    (logs,) = of_type("Logs::LogGroup").values()
    assert logs["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    for task in PROGRAMS.values():
        assert container(task)["LogConfiguration"]["Options"]["awslogs-group"] == {"Ref": "Logs"}


def test_every_parameter_is_described():
    assert all(parameter["Description"] for parameter in TEMPLATE["Parameters"].values())


def test_what_is_asked_of_a_setting_file_is_not_set_here():
    """``Environment`` goes before the files, and would silently win."""
    left = {v.name for v in variables()} - {n for task in OURS.values() for n in settings_of(task)}
    assert {sink.endpoint_variable for sink in SINKS.values()} <= left
    assert {"CURRENT_ENVIRONMENT", "CLAIM_LEASE_SECONDS", "REPLAY_POLICY"} <= left
