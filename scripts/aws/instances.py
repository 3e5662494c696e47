"""The instances: how one is made and installs itself, the group that keeps their number, and how one ends."""

from __future__ import annotations

from scripts.aws import database
from scripts.aws.balancer import GRACE_SECONDS
from scripts.aws.intrinsics import Resources, Value, attribute, ref, sub, tags
from scripts.aws.network import LISTEN_PORT, subnets, ways_out

HOOK = "drain"

#: Beyond grace and drain: to notice, and to close what the daemon's own deadline leaves.
_MARGIN_SECONDS = 30

CERTIFICATES_FILE = "/etc/chatflow/rds-ca.pem"
PASSWORD_FILE = "/etc/chatflow/pgpass"

# Short, since it cannot be tested where it runs: all else is in the release. No secret in it, only where one is kept.
_USER_DATA = """\
#!/bin/bash
set -euo pipefail
install -d -m 0755 /etc/chatflow /opt/chatflow/release
cat >/etc/chatflow/stack <<'END'
SETTINGS
END
aws s3 cp --only-show-errors --region "${AWS::Region}" "s3://${ArtefactBucket}/${ReleaseKey}" - |
    tar -xz --no-same-owner --strip-components=1 -C /opt/chatflow/release
exec /opt/chatflow/release/scripts/aws/instance/bootstrap
"""


def make(*, rooms: int, room_queues: int, drain_seconds: int, room_queue_ids: list[str]) -> Resources:
    """Launch template, group and log groups.

    :param room_queue_ids: what has to exist, with all else that a daemon needs, before one starts.
    """
    return {
        "LaunchTemplate": {
            "Type": "AWS::EC2::LaunchTemplate",
            "Properties": {
                "LaunchTemplateData": {
                    "ImageId": ref("ImageId"),
                    "InstanceType": ref("InstanceType"),
                    "IamInstanceProfile": {"Arn": attribute("InstanceProfile", "Arn")},
                    "SecurityGroupIds": [attribute("InstanceSecurityGroup", "GroupId")],
                    # Version 2 only, and not across another hop: a request that somebody makes the daemon send gets no
                    # credentials. There is no key pair and no port for SSH: people come by Session Manager.
                    "MetadataOptions": {
                        "HttpEndpoint": "enabled",
                        "HttpTokens": "required",
                        "HttpPutResponseHopLimit": 1,
                    },
                    "BlockDeviceMappings": [
                        {
                            "DeviceName": "/dev/xvda",
                            "Ebs": {
                                "VolumeType": "gp3",
                                "VolumeSize": 16,
                                "Encrypted": True,
                                "DeleteOnTermination": True,
                            },
                        }
                    ],
                    "UserData": {"Fn::Base64": _user_data(rooms, room_queues, drain_seconds)},
                    "TagSpecifications": [
                        {"ResourceType": kind, "Tags": tags("daemon")} for kind in ("instance", "volume")
                    ],
                },
                "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tags("daemon")}],
            },
        },
        "AutoScalingGroup": {
            "Type": "AWS::AutoScaling::AutoScalingGroup",
            "DependsOn": [*ways_out(), "DatabaseWriter", "DeadLetterQueue", "FanoutTopic", *room_queue_ids],
            "Properties": {
                "AutoScalingGroupName": ref("AWS::StackName"),
                "VPCZoneIdentifier": subnets("Private"),
                "LaunchTemplate": {
                    "LaunchTemplateId": ref("LaunchTemplate"),
                    "Version": attribute("LaunchTemplate", "LatestVersionNumber"),
                },
                # Nothing scales it by itself: connections do not move to new instances. The least is one and not all,
                # so that an instance can be taken aside and looked at.
                "MinSize": "1",
                "DesiredCapacity": ref("InstanceCount"),
                "MaxSize": "99",
                "TargetGroupARNs": [ref("TargetGroup")],
                # Not the balancer's: when the queues are away nobody is ready, and the whole fleet would be replaced.
                # A daemon that hangs is restarted by systemd; who is not ready gets no connections, and an alarm tells.
                "HealthCheckType": "EC2",
                "HealthCheckGracePeriod": 300,
                "TerminationPolicies": ["OldestLaunchTemplate", "OldestInstance"],
                "MetricsCollection": [{"Granularity": "1Minute"}],
                # The instance sees in its metadata that it is to end, drains, and says so (instance/watch-termination).
                # If it cannot, it has had the time for it, and ends.
                "LifecycleHookSpecificationList": [
                    {
                        "LifecycleHookName": HOOK,
                        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
                        "HeartbeatTimeout": GRACE_SECONDS + drain_seconds + _MARGIN_SECONDS,
                        "DefaultResult": "CONTINUE",
                    }
                ],
                "Tags": [{**tag, "PropagateAtLaunch": False} for tag in tags("daemon")],
            },
        },
        **{
            f"{name.title()}LogGroup": {
                "Type": "AWS::Logs::LogGroup",
                "DeletionPolicy": "Delete",
                "UpdateReplacePolicy": "Delete",
                "Properties": {
                    "LogGroupName": sub(f"/${{AWS::StackName}}/{name}"),
                    "RetentionInDays": ref("LogRetentionDays"),
                    "Tags": tags(),
                },
            }
            for name in ("daemon", "system")
        },
    }


def _user_data(rooms: int, room_queues: int, drain_seconds: int) -> Value:
    """A script that writes what the stack knows and hands over to the release."""
    chatflow = {
        "CHATFLOW_BROKER": "sqs",
        "CHATFLOW_QUEUE_PREFIX": "${QueuePrefix}",
        "CHATFLOW_ROOMS": rooms,
        "CHATFLOW_ROOM_QUEUES": room_queues,
        "CHATFLOW_DRAIN_GRACE_SECONDS": GRACE_SECONDS,
        "CHATFLOW_DRAIN_SECONDS": drain_seconds,
        "CHATFLOW_LOG_FORMAT": "json",
        "CHATFLOW_TRUSTED_PROXY": "${VpcCidrPrefix}.0.0/16",  # the load balancer
        "AWS_REGION": "${AWS::Region}",
    }
    instance = {
        "PORT": LISTEN_PORT,
        "DATABASE_SECRET_ARN": "${DatabaseSecretArn}",
        "GROUP": "${AWS::StackName}",
        "HOOK": HOOK,
        "STOP_SECONDS": GRACE_SECONDS + drain_seconds,
        "MANAGEMENT": "${ManagementEndpoints}",
        "CERTIFICATES_FILE": CERTIFICATES_FILE,
        "PASSWORD_FILE": PASSWORD_FILE,
    }
    lines = [f"{key}={value}" for key, value in (chatflow | instance).items()]
    lines.append("DATABASE_URL='${DatabaseUrl}'")
    return sub(
        _USER_DATA.replace("SETTINGS", "\n".join(lines)),
        DatabaseUrl=database.url(certificates=CERTIFICATES_FILE, password_file=PASSWORD_FILE),
        DatabaseSecretArn=database.SECRET,
    )
