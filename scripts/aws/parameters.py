"""What whoever deploys may choose, each with a default where there is a sensible one, and what it has to be."""

from __future__ import annotations

from typing import Any

#: Amazon Linux 2023 for x86-64. Some libraries that ChatFlow needs have no wheels for arm64.
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


def _text(description: str, default: str | None, pattern: str, constraint: str) -> dict[str, Any]:
    made = {
        "Type": "String",
        "Description": description,
        "AllowedPattern": pattern,
        "ConstraintDescription": f"must be {constraint}",
    }
    return made if default is None else {**made, "Default": default}


def _number(description: str, default: int, least: int, most: int) -> dict[str, Any]:
    return {
        "Type": "Number",
        "Description": description,
        "Default": default,
        "MinValue": least,
        "MaxValue": most,
        "ConstraintDescription": f"must be a whole number from {least} to {most}",
    }


def _switch(description: str, default: bool) -> dict[str, Any]:
    return {
        "Type": "String",
        "Description": description,
        "Default": "true" if default else "false",
        "AllowedValues": ["true", "false"],
        "ConstraintDescription": "must be true or false",
    }


_CIDR = r"(\d{1,3}\.){3}\d{1,3}/([0-9]|[12][0-9]|3[0-2])"

_GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "Release": {
        "ArtefactBucket": _text(
            "The bucket that holds the release, made by the stack of artefacts",
            None,
            r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            "the name of an S3 bucket",
        ),
        "ReleaseKey": _text(
            "The release archive in that bucket. Instances that start from now on install it; those that run stay",
            None,
            r"^releases/chatflow-[0-9A-Za-z.+_-]+\.tar\.gz$",
            "a key such as releases/chatflow-0.2.0.tar.gz",
        ),
    },
    "Daemons": {
        "QueuePrefix": _text(
            "Begins the names of all queues and topics, as --queue-prefix. Deployments with other ones share nothing",
            "chatflow",
            r"^[A-Za-z0-9_-]{1,20}$",
            "1 to 20 letters, digits, _ or -",
        ),
        # 99: a topic of SNS FIFO takes 100 subscriptions, and a replaced instance overlaps with its successor.
        "InstanceCount": _number("How many instances run, spread over two zones. One daemon each", 4, 1, 99),
        "InstanceType": _text(
            "One processor runs the daemon's Python; more help only a little. No burstable type under steady load",
            "c7a.medium",
            r"^[a-z0-9-]+\.[a-z0-9]+$",
            "an EC2 instance type for x86-64, such as c7a.medium",
        ),
        "ImageId": {
            "Type": "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>",
            "Description": "SSM parameter with the id of an Amazon Linux 2023 image for x86-64; read at each update",
            "Default": IMAGE,
        },
    },
    "Database": {
        "DatabaseInstanceClass": _text(
            "Of the writer and of the reader, which takes over when the writer fails",
            "db.t4g.medium",
            r"^db\.[a-z0-9-]+\.[a-z0-9]+$",
            "an Aurora instance class such as db.r7g.large",
        ),
        "DatabaseEngineVersion": _text(
            "Of Aurora PostgreSQL. With another major version the parameter group follows",
            "16.13",
            r"^(15|16|17|18)\.[0-9]+$",
            "a version of Aurora PostgreSQL from 15 on, such as 16.13",
        ),
        "DatabaseStorageType": {
            "Type": "String",
            "Description": "aurora bills each I/O; aurora-iopt1 does not, for 30 % more per instance and 125 % per GB",
            "Default": "aurora",
            "AllowedValues": ["aurora", "aurora-iopt1"],
            "ConstraintDescription": "must be aurora or aurora-iopt1",
        },
        "DatabaseSnapshot": _text(
            "Snapshot to begin with, such as the one that an earlier stack left. Keep it at later updates: another "
            "value replaces the database",
            "",
            r"^$|^[A-Za-z0-9:_-]+$",
            "empty, or the name or ARN of a cluster snapshot",
        ),
        "BackupRetentionDays": _number("How far back the database can be restored to any second", 7, 1, 35),
        "DeletionProtection": _switch(
            "Neither database nor load balancer can be deleted before this is set to false", True
        ),
    },
    "Network": {
        "VpcCidrPrefix": _text(
            "The first two numbers of the VPC's addresses, a /16",
            "10.20",
            r"^(10\.([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])|172\.(1[6-9]|2[0-9]|3[01])|192\.168)$",
            "two numbers of a private range: 10.0 to 10.255, 172.16 to 172.31 or 192.168",
        ),
        "CertificateArn": _text(
            "With a certificate clients connect by HTTPS and wss, and HTTP redirects there; without, all goes in clear",
            "",
            r"^$|^arn:[a-z-]+:acm:[a-z0-9-]+:\d{12}:certificate/[a-f0-9-]+$",
            "empty, or the ARN of a certificate of ACM in this region",
        ),
        "DomainName": _text(
            "The name that the certificate is for, with a DNS record for the load balancer; only for the output Url",
            "",
            r"^$|^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$",
            "empty, or a domain such as chat.example.com",
        ),
        "ClientCidr": _text("Who may connect", "0.0.0.0/0", f"^{_CIDR}$", "a range of addresses such as 192.0.2.0/24"),
        "OperationsCidr": _text(
            "Who may see /metrics, /db-metrics, /queue/… and /dashboard through the load balancer. By default nobody",
            "127.0.0.1/32",
            f"^{_CIDR}$",
            "a range of addresses such as 192.0.2.0/24",
        ),
        "ManagementEndpoints": _switch(
            "Session Manager, CloudWatch Logs and quick ends of instances, for four more interface endpoints", True
        ),
        "FlowLogs": _switch("Log the connections that the VPC refuses", False),
        "AccessLogBucket": _text(
            "A bucket for the load balancer's access logs, whose policy lets ELB write",
            "",
            r"^$|^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            "empty, or the name of an S3 bucket",
        ),
    },
    "Watching": {
        "AlarmEmail": _text(
            "Who hears of alarms; confirms a mail first", "", r"^$|^[^@\s]+@[^@\s]+\.[^@\s]+$", "empty or an address"
        ),
        "OldestMessageSeconds": _number("A message that waits for longer in a room's queue is an alarm", 60, 1, 86_400),
        "DatabaseConnectionsAlarm": _number(
            "More connections than this are an alarm. An instance keeps fewer than ten", 200, 1, 5000
        ),
        "DatabaseGigabytesAlarm": _number(
            "More storage than this is an alarm: it costs, and --retention-days may be missing", 100, 1, 131_072
        ),
        "LogRetentionDays": {
            "Type": "Number",
            "Description": "How long log lines are kept",
            "Default": 30,
            "AllowedValues": [1, 3, 5, 7, 14, 30, 60, 90, 180, 365, 731, 1827, 3653],
            "ConstraintDescription": "must be one of the periods that CloudWatch Logs knows, such as 30 or 365",
        },
    },
}

PARAMETERS = {name: parameter for group in _GROUPS.values() for name, parameter in group.items()}

CONDITIONS = {
    "HasCertificate": {"Fn::Not": [{"Fn::Equals": [{"Ref": "CertificateArn"}, ""]}]},
    "HasDomainName": {"Fn::Not": [{"Fn::Equals": [{"Ref": "DomainName"}, ""]}]},
    "HasAccessLogs": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AccessLogBucket"}, ""]}]},
    "HasAlarmEmail": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}]},
    "HasFlowLogs": {"Fn::Equals": [{"Ref": "FlowLogs"}, "true"]},
    "HasManagement": {"Fn::Equals": [{"Ref": "ManagementEndpoints"}, "true"]},
    "FromSnapshot": {"Fn::Not": [{"Fn::Equals": [{"Ref": "DatabaseSnapshot"}, ""]}]},
}

#: For the console's form.
INTERFACE = {
    "ParameterGroups": [
        {"Label": {"default": label}, "Parameters": list(parameters)} for label, parameters in _GROUPS.items()
    ]
}
