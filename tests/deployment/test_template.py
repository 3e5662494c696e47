"""The CloudFormation template: sound by the linter; made, changed and removed on the emulator; as expected."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from chatflow.broker.calls import BlockingCalls, blocking_calls
from chatflow.broker.names import Names
from chatflow.broker.setup import set_up
from chatflow.config import TABLE, Config
from chatflow.lifecycle.blocking import at_once
from chatflow.options import load
from scripts.aws import artefacts
from scripts.aws.__main__ import main as print_template
from scripts.aws.balancer import IDLE_SECONDS
from scripts.aws.parameters import PARAMETERS as DECLARED
from scripts.aws.template import MAX_RESOURCES, render
from testbed.emulator import aws_environment
from testbed.stack import Stacks, emulable
from tests.deployment.conftest import PARAMETERS, ROOMS, Stack
from tests.support.cloud import direct_client, shared_aws

_CFN_LINT = Path(sys.executable).with_name("cfn-lint")

# What SQS tells beside the attributes that a queue was made with; and that it is encrypted: AWS does that with every
# new queue, the emulator only with those of CloudFormation.
_NOT_OURS = re.compile("Approximate.*|.*Timestamp|QueueArn|SqsManagedSseEnabled")


def config(environ: dict[str, str]) -> Config:
    """The daemon's settings from its environment."""
    return Config.from_settings(load(TABLE, {}, environ, lambda path: Path(path).read_text()))


def by_key(pairs: list[dict[str, str]]) -> dict[str, str]:
    """A list of attributes or tags as AWS writes it."""
    return {pair["Key"]: pair["Value"] for pair in pairs}


@pytest.fixture(scope="module")
def settings(stacks: Stacks, stack: Stack) -> dict[str, str]:
    """What the user data of an instance would write to /etc/chatflow/stack, read as a shell reads it."""
    return dict(
        line.split("=", 1) for line in shlex.split(user_data(stacks, stack).split("<<'END'\n")[1].split("\nEND")[0])
    )


def user_data(stacks: Stacks, stack: Stack) -> str:
    """The script that an instance runs at its first start."""
    return base64.b64decode(launch_template(stacks, stack)["UserData"]).decode()


def launch_template(stacks: Stacks, stack: Stack) -> dict[str, Any]:
    """How an instance is made."""
    versions = stacks.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=stack.outputs["LaunchTemplateId"], Versions=["$Latest"]
    )
    data: dict[str, Any] = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    return data


class TestText:
    def test_the_linter_finds_nothing_but_a_fault_that_is_planted(self, tmp_path: Path) -> None:
        """One room: each further one adds the same again, and time."""
        wrong = artefacts.render()
        wrong["Resources"]["Bucket"]["Properties"]["VersioningConfiguration"]["Status"] = "yes"
        made = {"stack": render(1), "artefacts": artefacts.render(), "wrong": wrong}
        for name, template in made.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(template))
        command = [str(_CFN_LINT), "--format", "parseable", *(f"{name}.json" for name in made)]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
        assert [(line.split(":")[0], line.split(":")[5]) for line in found] == [("wrong.json", "E3030")]

    def test_every_parameter_says_what_it_is_and_what_it_refuses(self) -> None:
        for name, parameter in DECLARED.items():
            assert parameter["Description"], name
            if not parameter["Type"].startswith("AWS::SSM::"):
                assert parameter["ConstraintDescription"].startswith("must be"), name

    @pytest.mark.parametrize(
        ("name", "right", "wrong"),
        [
            (
                "ReleaseKey",
                ["releases/chatflow-0.2.0.tar.gz", "releases/chatflow-0.2.0.dev1+g12.tar.gz"],
                ["x.tar.gz", ""],
            ),
            ("QueuePrefix", ["chatflow", "a", "x" * 20], ["", "x" * 21, "a.b", "a$(id)"]),
            ("VpcCidrPrefix", ["10.0", "172.31", "192.168"], ["10", "11.0", "10.256", "172.32", "10.0.0"]),
            ("ClientCidr", ["0.0.0.0/0", "192.0.2.0/24"], ["0.0.0.0", "::/0", "192.0.2.0/33"]),
            ("DomainName", ["", "chat.example.com"], ["https://chat.example.com", "chat", "chat.example.com/"]),
            ("AlarmEmail", ["", "ops@example.com"], ["ops", "a b@example.com"]),
            ("DatabaseEngineVersion", ["16.13", "17.6"], ["16", "14.9", "latest"]),
            ("DatabaseSnapshot", ["", "arn:aws:rds:eu-west-1:123456789012:cluster-snapshot:last"], ["a b", "x;y"]),
            (
                "CertificateArn",
                ["", "arn:aws:acm:eu-west-1:123456789012:certificate/0a-1b"],
                ["cert", "arn:aws:iam::1:x"],
            ),
            ("ArtefactBucket", ["my-bucket.1"], ["", "A", "-a-", "a/b"]),
        ],
    )
    def test_a_parameter_takes_what_is_right_and_nothing_else(
        self, name: str, right: list[str], wrong: list[str]
    ) -> None:
        allowed = DECLARED[name]["AllowedPattern"]
        assert [value for value in right if not re.search(allowed, value)] == []
        assert [value for value in wrong if re.search(allowed, value)] == []

    def test_the_prefix_is_one_that_the_daemon_takes(self) -> None:
        assert config({"CHATFLOW_QUEUE_PREFIX": "x" * 20}).queue_prefix == "x" * 20
        assert DECLARED["QueuePrefix"]["Default"] == config({}).queue_prefix

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ((0,), "rooms is 0"),
            ((20, -1), "room_queues is -1"),
            ((20, 0, 29), "drain_seconds is 29"),
            ((20, 0, 3601), "drain_seconds is 3601"),
            ((1000,), "room_queues of at most "),
        ],
    )
    def test_what_is_not_possible_is_refused_with_a_reason(self, arguments: tuple[int, ...], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            render(*arguments)

    def test_the_most_room_queues_that_the_refusal_names_are_possible(self) -> None:
        with pytest.raises(ValueError, match="at most") as caught:
            render(1000)
        most = int(str(caught.value).rsplit(" ", 1)[1])
        assert len(render(1000, most)["Resources"]) <= MAX_RESOURCES
        with pytest.raises(ValueError, match=f"at most {most}$"):
            render(1000, most + 1)

    def test_the_command_prints_what_is_rendered_or_says_why_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_template(["--rooms", "3", "--room-queues", "2"])
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(render(3, 2)))
        print_template(["--artefacts"])
        assert json.loads(capsys.readouterr().out) == artefacts.render()
        with pytest.raises(SystemExit) as caught:
            print_template(["--rooms", "0"])
        assert caught.value.code == 2
        assert capsys.readouterr().err.endswith("error: rooms is 0: it must be at least 1\n")


class TestQueues:
    def test_room_queues_and_dead_letters_are_those_that_setup_makes(self, stacks: Stacks, stack: Stack) -> None:
        sqs, names = stacks.client("sqs"), Names("chatflow", ROOMS)
        other = Names("by-setup", ROOMS)
        at_once(set_up(BlockingCalls(shared_aws().clients), other, lambda line: None))
        queues = {name: names.room_queue(shard) for shard in names.shards for name in [other.room_queue(shard)]}
        for by_setup, by_stack in {**queues, other.dead_letters: names.dead_letters}.items():
            assert _fixed(sqs, by_stack) == _fixed(direct_client("sqs"), by_setup)

    def test_setup_finds_no_queue_to_change(self, stacks: Stacks, stack: Stack) -> None:
        lines: list[str] = []
        with mock.patch.dict(os.environ, aws_environment(stacks.url)):
            at_once(set_up(blocking_calls(), Names("chatflow", ROOMS), lines.append))
        assert [line for line in lines if "queue" in line] == [
            "queue chatflow-db-dlq.fifo exists",
            *(f"queue chatflow-room-{room}.fifo exists" for room in range(1, ROOMS + 1)),
        ]

    def test_the_topic_is_the_one_that_setup_makes(self, stack: Stack) -> None:
        """By the template: the emulator's CloudFormation makes a topic, but without its attributes."""
        other = Names("by-setup", ROOMS)
        at_once(set_up(BlockingCalls(shared_aws().clients), other, lambda line: None))
        sns = direct_client("sns")
        found = sns.get_topic_attributes(TopicArn=f"arn:aws:sns:us-east-1:000000000000:{other.topic}")["Attributes"]
        properties = render(ROOMS)["Resources"]["FanoutTopic"]["Properties"]
        attributes = {key: properties[key] for key in properties.keys() - {"TopicName", "Tags"}}
        assert set(attributes) == {"FifoTopic", "ContentBasedDeduplication", "FifoThroughputScope"}
        assert {key: str(value).lower() for key, value in attributes.items()} == {
            key: found[key].lower() for key in attributes
        }
        assert stack.outputs["FanoutTopicArn"].endswith(":chatflow-fanout.fifo")

    def test_shared_queues_are_named_as_the_daemon_names_them(self) -> None:
        names = {
            resource["Properties"]["QueueName"]["Fn::Sub"]
            for resource in render(5, 2)["Resources"].values()
            if resource["Type"] == "AWS::SQS::Queue"
        }
        assert names == {f"${{QueuePrefix}}-{end}.fifo" for end in ("rooms-1of2", "rooms-2of2", "db-dlq")}


def _fixed(sqs: Any, name: str) -> dict[str, str]:
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return {key: value for key, value in attributes.items() if not _NOT_OURS.fullmatch(key)}


def target_group_attributes(stacks: Stacks, stack: Stack) -> dict[str, str]:
    """How clients are spread over the instances."""
    found = stacks.client("elbv2").describe_target_group_attributes(TargetGroupArn=stack.outputs["TargetGroupArn"])
    return by_key(found["Attributes"])


class TestLoadBalancer:
    def test_clients_are_kept_and_spread_as_the_daemon_expects(self, stacks: Stacks, stack: Stack) -> None:
        attributes = target_group_attributes(stacks, stack)
        assert attributes["stickiness.enabled"] == "true"
        assert attributes["stickiness.type"] == "lb_cookie"
        assert attributes["load_balancing.algorithm.type"] == "least_outstanding_requests"

    def test_an_instance_that_is_taken_out_has_the_time_that_its_drain_may_take(
        self, stacks: Stacks, stack: Stack, settings: dict[str, str]
    ) -> None:
        attributes = target_group_attributes(stacks, stack)
        daemon = config(daemon_environment(settings))
        stop_seconds = daemon.drain_grace_seconds + daemon.drain_seconds
        assert int(attributes["deregistration_delay.timeout_seconds"]) == stop_seconds
        assert int(settings["STOP_SECONDS"]) == stop_seconds
        [hook] = render(ROOMS)["Resources"]["AutoScalingGroup"]["Properties"]["LifecycleHookSpecificationList"]
        assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
        assert hook["HeartbeatTimeout"] > stop_seconds
        assert hook["DefaultResult"] == "CONTINUE"
        assert hook["LifecycleHookName"] == settings["HOOK"]

    def test_a_silent_connection_outlives_the_longest_time_between_two_pings(
        self, stacks: Stacks, stack: Stack, settings: dict[str, str]
    ) -> None:
        attributes = by_key(
            stacks.client("elbv2").describe_load_balancer_attributes(LoadBalancerArn=stack.resources["LoadBalancer"])[
                "Attributes"
            ]
        )
        ping_seconds = config(daemon_environment(settings)).ping_interval_seconds
        assert int(attributes["idle_timeout.timeout_seconds"]) == IDLE_SECONDS > 2 * ping_seconds + 10

    def test_a_target_is_healthy_once_it_is_ready_and_serves_until_it_is_known_not_to_be(
        self, stacks: Stacks, stack: Stack, settings: dict[str, str]
    ) -> None:
        [group] = stacks.client("elbv2").describe_target_groups(TargetGroupArns=[stack.outputs["TargetGroupArn"]])[
            "TargetGroups"
        ]
        assert (group["HealthCheckPath"], group["HealthCheckPort"]) == ("/health/ready", "traffic-port")
        assert group["Matcher"] == {"HttpCode": "200"}
        # How long somebody who is not ready is still sent clients.
        noticed_seconds = group["HealthCheckIntervalSeconds"] * group["UnhealthyThresholdCount"]
        assert noticed_seconds <= 20
        grace_seconds = config(daemon_environment(settings)).drain_grace_seconds
        assert grace_seconds >= noticed_seconds + group["HealthCheckTimeoutSeconds"]

    def test_operations_are_for_those_whom_a_parameter_names(self, stacks: Stacks, stack: Stack) -> None:
        rules = stacks.client("elbv2").describe_rules(ListenerArn=stack.resources["HttpListener"])["Rules"]
        first, second, last = sorted(rules, key=lambda rule: (rule["IsDefault"], rule["Priority"]))
        hidden = {"/metrics", "/db-metrics", "/queue/*", "/dashboard*"}
        assert [set(condition["Values"]) for condition in first["Conditions"]] == [hidden, {"127.0.0.1/32"}]
        assert first["Actions"][0]["Type"] == "forward"
        assert [set(condition["Values"]) for condition in second["Conditions"]] == [hidden]
        assert second["Actions"][0]["FixedResponseConfig"]["StatusCode"] == "404"
        assert last["Actions"][0]["Type"] == "forward"
        # AWS's quota of condition values per rule, which the emulator does not know.
        assert sum(len(condition["Values"]) for condition in first["Conditions"]) <= 5


def daemon_environment(settings: dict[str, str]) -> dict[str, str]:
    """Of an instance's settings, those that the daemon is started with, and the database."""
    ours = {key: value for key, value in settings.items() if key.startswith(("CHATFLOW_", "AWS_"))}
    return {**ours, "CHATFLOW_DATABASE": settings["DATABASE_URL"]}


class TestInstances:
    def test_the_daemon_takes_the_settings_that_an_instance_is_given(
        self, stack: Stack, settings: dict[str, str]
    ) -> None:
        made = config({**daemon_environment(settings), "CHATFLOW_SERVER_ID": "i-0123456789abcdef0"})
        assert (made.broker, made.rooms, made.room_queues, made.queue_prefix) == ("sqs", ROOMS, None, "chatflow")
        assert made.server_id == "i-0123456789abcdef0"
        assert f"@{stack.outputs['DatabaseEndpoint']}:5432/chatflow?" in made.database

    def test_the_database_is_told_apart_by_its_certificate_and_no_password_is_given(
        self, stacks: Stacks, stack: Stack, settings: dict[str, str]
    ) -> None:
        assert "sslmode=verify-full&sslrootcert=/etc/chatflow/rds-ca.pem" in settings["DATABASE_URL"]
        assert settings["DATABASE_URL"].startswith("postgresql://chatflow@")
        assert "password" not in settings["DATABASE_URL"]
        secret = stacks.client("secretsmanager").get_secret_value(SecretId=settings["DATABASE_SECRET_ARN"])
        assert json.loads(secret["SecretString"])["password"] not in user_data(stacks, stack)

    def test_user_data_is_a_script_that_bash_takes(self, stacks: Stacks, stack: Stack) -> None:
        script = user_data(stacks, stack)
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert len(script) < 16_384, "AWS takes no more"
        assert '"s3://releases-of-ours/releases/chatflow-0.2.0.tar.gz"' in script

    def test_metadata_wants_a_token_disks_are_encrypted_and_there_is_no_key_for_ssh(
        self, stacks: Stacks, stack: Stack
    ) -> None:
        data = launch_template(stacks, stack)
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert all(disk["Ebs"]["Encrypted"] for disk in data["BlockDeviceMappings"])
        assert "KeyName" not in data

    def test_a_line_of_the_log_is_one_event_for_those_who_collect_it(self, settings: dict[str, str]) -> None:
        assert config(daemon_environment(settings)).log_format == "json"

    def test_the_group_has_four_over_two_zones(self, stacks: Stacks, stack: Stack) -> None:
        [group] = stacks.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        assert group["DesiredCapacity"] == 4
        subnets = stacks.client("ec2").describe_subnets(SubnetIds=group["VPCZoneIdentifier"].split(","))["Subnets"]
        assert len({subnet["AvailabilityZone"] for subnet in subnets}) == 2

    def test_nobody_reaches_an_instance_or_the_database_past_the_load_balancer(
        self, stacks: Stacks, stack: Stack
    ) -> None:
        groups = {
            name: stacks.client("ec2").describe_security_groups(GroupIds=[stack.resources[name]])["SecurityGroups"][0]
            for name in stack.resources
            if name.endswith("SecurityGroup")
        }
        names = {group["GroupId"]: name for name, group in groups.items()}
        ways_in = {
            (name, rule["FromPort"], names[pair["GroupId"]])
            for name, group in groups.items()
            for rule in group["IpPermissions"]
            for pair in rule["UserIdGroupPairs"]
        }
        assert ways_in == {
            ("InstanceSecurityGroup", 8080, "BalancerSecurityGroup"),
            ("EndpointSecurityGroup", 443, "InstanceSecurityGroup"),
            ("DatabaseSecurityGroup", 5432, "InstanceSecurityGroup"),
        }
        open_to_ranges = {
            (name, rule["FromPort"])
            for name, group in groups.items()
            for rule in group["IpPermissions"]
            if rule["IpRanges"]
        }
        assert open_to_ranges == {("BalancerSecurityGroup", 80), ("BalancerSecurityGroup", 443)}

    def test_only_the_public_subnets_have_a_route_to_the_internet(self, stacks: Stacks, stack: Stack) -> None:
        tables = stacks.client("ec2").describe_route_tables(
            Filters=[{"Name": "vpc-id", "Values": [stack.outputs["VpcId"]]}]
        )["RouteTables"]
        to_the_internet = {
            table["RouteTableId"]
            for table in tables
            for route in table["Routes"]
            if route.get("DestinationCidrBlock") == "0.0.0.0/0"
        }
        assert to_the_internet == {stack.resources["PublicRouteTable"]}


class TestDatabase:
    def test_it_is_encrypted_in_two_zones_and_takes_tls_only(self, stacks: Stacks, stack: Stack) -> None:
        rds = stacks.client("rds")
        [cluster] = rds.describe_db_clusters()["DBClusters"]
        assert cluster["StorageEncrypted"]
        assert cluster["DeletionProtection"]
        assert cluster["BackupRetentionPeriod"] == 7
        instances = rds.describe_db_instances()["DBInstances"]
        assert len({instance["AvailabilityZone"] for instance in instances}) == 2
        assert not any(instance["PubliclyAccessible"] for instance in instances)
        parameters = rds.describe_db_cluster_parameters(
            DBClusterParameterGroupName=stack.resources["DatabaseParameters"]
        )["Parameters"]
        assert {each["ParameterName"]: each.get("ParameterValue") for each in parameters}["rds.force_ssl"] == "1"

    def test_rds_keeps_the_password_and_a_snapshot_stays(self) -> None:
        cluster = render(ROOMS)["Resources"]["DatabaseCluster"]
        assert cluster["Properties"]["ManageMasterUserPassword"] is True
        assert "MasterUserPassword" not in cluster["Properties"]
        assert cluster["DeletionPolicy"] == cluster["UpdateReplacePolicy"] == "Snapshot"


class TestWatching:
    def test_there_is_an_alarm_for_whatever_somebody_has_to_look_at(self, stacks: Stacks, stack: Stack) -> None:
        alarms = stacks.client("cloudwatch").describe_alarms()["MetricAlarms"]
        watched = {
            (alarm["MetricName"], dimension["Value"])
            for alarm in alarms
            for dimension in alarm["Dimensions"]
            if dimension["Name"] == "QueueName"
        }
        assert watched == {
            *(("ApproximateAgeOfOldestMessage", f"chatflow-room-{room}.fifo") for room in range(1, ROOMS + 1)),
            ("ApproximateNumberOfMessagesVisible", "chatflow-db-dlq.fifo"),
        }
        assert {
            "HealthyHostCount",
            "CPUUtilization",
            "DatabaseConnections",
            "VolumeBytesUsed",
            "FreeLocalStorage",
        } <= {alarm["MetricName"] for alarm in alarms}
        assert {alarm["AlarmActions"][0] for alarm in alarms} == {stack.outputs["AlarmTopicArn"]}
        thresholds = {alarm["AlarmName"]: alarm["Threshold"] for alarm in alarms}
        assert thresholds["chat-ready-instances"] == 4
        assert thresholds["chat-room-1-oldest-message"] == 60
        assert thresholds["chat-database-storage"] == 100e9

    def test_the_dashboard_shows_every_metric_that_has_an_alarm(self, stacks: Stacks, stack: Stack) -> None:
        cloudwatch = stacks.client("cloudwatch")
        body = cloudwatch.get_dashboard(DashboardName=stack.outputs["DashboardName"])["DashboardBody"]
        charts = [widget["properties"] for widget in json.loads(body)["widgets"]]
        shown = {(metric[0], metric[1]) for chart in charts for metric in chart["metrics"]}
        alarms = cloudwatch.describe_alarms()["MetricAlarms"]
        assert {(alarm["Namespace"], alarm["MetricName"]) for alarm in alarms} <= shown
        assert "${" not in body

    def test_log_lines_are_kept_for_a_time_only(self, stacks: Stacks, stack: Stack) -> None:
        groups = stacks.client("logs").describe_log_groups(logGroupNamePrefix="/chat/")["logGroups"]
        assert {group["logGroupName"]: group["retentionInDays"] for group in groups} == {
            "/chat/daemon": 30,
            "/chat/system": 30,
        }


def test_everything_that_takes_tags_tells_whose_it_is() -> None:
    without = {
        "AWS::EC2::VPCGatewayAttachment",
        "AWS::EC2::SubnetRouteTableAssociation",
        "AWS::EC2::Route",
        "AWS::EC2::LaunchTemplate",  # by TagSpecifications
        "AWS::IAM::InstanceProfile",
        "AWS::ElasticLoadBalancingV2::Listener",
        "AWS::ElasticLoadBalancingV2::ListenerRule",
        "AWS::SNS::TopicPolicy",
        "AWS::SNS::Subscription",
        "AWS::CloudWatch::Dashboard",
    }
    for name, resource in render()["Resources"].items():
        if resource["Type"] not in without:
            assert {"project", "prefix"} <= {tag["Key"] for tag in resource["Properties"]["Tags"]}, name


def test_a_stack_is_made_changed_and_removed_and_what_has_to_stay_stays(stacks: Stacks) -> None:
    sqs, rds = stacks.client("sqs"), stacks.client("rds")
    mine = {**PARAMETERS, "QueuePrefix": "passing", "DeletionProtection": "false"}
    first = stacks.create("passing", emulable(render(2)), **mine, InstanceCount="1")
    before = stacks.resources("passing")

    changed = {
        **mine,
        "ReleaseKey": "releases/chatflow-0.3.0.tar.gz",
        "CertificateArn": f"arn:aws:acm:us-east-1:{0:012}:certificate/0a",
    }
    second = stacks.update("passing", emulable(render(3)), **changed, InstanceCount="5", ManagementEndpoints="false")
    after = stacks.resources("passing")
    assert set(after) - set(before) == {"RoomQueue3", "RoomQueue3OldestMessage", "HttpsListener"}
    assert set(before) - set(after) == {f"{name}Endpoint" for name in ("Logs", "Ssm", "SsmMessages", "AutoScaling")}
    # Nothing that holds data or is known by address is replaced.
    for kept in ("DatabaseCluster", "RoomQueue1", "DeadLetterQueue", "FanoutTopic", "LoadBalancer", "TargetGroup"):
        assert after[kept] == before[kept]
    assert (first["Url"].split(":")[0], second["Url"].split(":")[0]) == ("http", "https")
    listener = stacks.client("elbv2").describe_listeners(ListenerArns=[after["HttpListener"]])["Listeners"][0]
    assert listener["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    [group] = stacks.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["passing"])[
        "AutoScalingGroups"
    ]
    assert group["DesiredCapacity"] == 5
    assert group["LaunchTemplate"]["Version"] == "2", "new instances install the new release"

    stacks.delete("passing")
    left = sqs.list_queues(QueueNamePrefix="passing-")["QueueUrls"]
    assert [url.rsplit("/", 1)[1] for url in left] == ["passing-db-dlq.fifo"]
    snapshots = rds.describe_db_cluster_snapshots()["DBClusterSnapshots"]
    assert after["DatabaseCluster"] in {snapshot["DBClusterIdentifier"] for snapshot in snapshots}
    assert after["DatabaseCluster"] not in {
        each["DBClusterIdentifier"] for each in rds.describe_db_clusters()["DBClusters"]
    }


def test_releases_outlive_their_stack(stacks: Stacks) -> None:
    bucket = stacks.create("artefacts", artefacts.render())["ArtefactBucketName"]
    s3 = stacks.client("s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"][0]["Effect"] == "Deny"
    stacks.delete("artefacts")
    assert bucket in {each["Name"] for each in s3.list_buckets()["Buckets"]}
