"""The VPC over two zones: where the load balancer, the instances and the database live, and what reaches what.

Nothing in it reaches the internet but the load balancer: there is no NAT gateway. Instances talk to AWS through
endpoints, and install from S3, whose gateway endpoint costs nothing: a release brings all that it needs, and the
repositories of Amazon Linux are buckets.
"""

from __future__ import annotations

from scripts.aws.intrinsics import (
    Resources,
    Value,
    allow,
    arn,
    attribute,
    policy,
    ref,
    sub,
    tags,
    zone,
)

LISTEN_PORT = 8080
DATABASE_PORT = 5432

ZONES = ("A", "B")

# The third number of each subnet's first address, by zone. A load balancer wants eight free addresses in each subnet;
# the others take one for each instance or endpoint.
_SUBNETS = {"Public": ("0.0/24", "1.0/24"), "Private": ("16.0/20", "32.0/20"), "Database": ("4.0/24", "5.0/24")}

# What the daemons use all day, and what they need at their start.
_ENDPOINTS = {"Sqs": "sqs", "Sns": "sns", "SecretsManager": "secretsmanager"}
# What people and CloudWatch need of them.
_MANAGEMENT_ENDPOINTS = {"Logs": "logs", "Ssm": "ssm", "SsmMessages": "ssmmessages", "AutoScaling": "autoscaling"}


def cidr(kind: str, index: int) -> Value:
    """The addresses of a subnet."""
    return sub(f"${{VpcCidrPrefix}}.{_SUBNETS[kind][index]}")


def subnets(kind: str) -> list[Value]:
    """References to the subnets of a kind: Public, Private or Database."""
    return [ref(f"{kind}Subnet{letter}") for letter in ZONES]


def ways_out() -> list[str]:
    """The endpoints and routes without which an instance cannot start."""
    endpoints = [f"{name}Endpoint" for name in ("S3", *_ENDPOINTS)]
    return [*endpoints, *(f"PrivateSubnet{letter}Routes" for letter in ZONES)]


def make() -> Resources:
    """The VPC, its subnets, routes, endpoints and security groups."""
    return {**_vpc(), **_subnets_and_routes(), **_endpoints(), **_security_groups(), **_flow_logs()}


def _vpc() -> Resources:
    return {
        "Vpc": {
            "Type": "AWS::EC2::VPC",
            "Properties": {
                "CidrBlock": sub("${VpcCidrPrefix}.0.0/16"),
                # Both, so that the endpoints answer to the services' ordinary names.
                "EnableDnsSupport": True,
                "EnableDnsHostnames": True,
                "Tags": tags("vpc"),
            },
        },
        "InternetGateway": {"Type": "AWS::EC2::InternetGateway", "Properties": {"Tags": tags("internet")}},
        "InternetGatewayAttachment": {
            "Type": "AWS::EC2::VPCGatewayAttachment",
            "Properties": {"VpcId": ref("Vpc"), "InternetGatewayId": ref("InternetGateway")},
        },
    }


def _subnets_and_routes() -> Resources:
    made: Resources = {}
    for kind in _SUBNETS:
        # One table for both zones: no route of them leads through a device of one zone.
        made[f"{kind}RouteTable"] = {
            "Type": "AWS::EC2::RouteTable",
            "Properties": {"VpcId": ref("Vpc"), "Tags": tags(kind.lower())},
        }
        for index, letter in enumerate(ZONES):
            made[f"{kind}Subnet{letter}"] = {
                "Type": "AWS::EC2::Subnet",
                "Properties": {
                    "VpcId": ref("Vpc"),
                    "AvailabilityZone": zone(index),
                    "CidrBlock": cidr(kind, index),
                    # A load balancer brings public addresses of its own; nothing else lives in the public subnets.
                    "MapPublicIpOnLaunch": False,
                    "Tags": tags(f"{kind.lower()}-{letter.lower()}"),
                },
            }
            made[f"{kind}Subnet{letter}Routes"] = {
                "Type": "AWS::EC2::SubnetRouteTableAssociation",
                "Properties": {"SubnetId": ref(f"{kind}Subnet{letter}"), "RouteTableId": ref(f"{kind}RouteTable")},
            }
    made["InternetRoute"] = {
        "Type": "AWS::EC2::Route",
        "DependsOn": "InternetGatewayAttachment",
        "Properties": {
            "RouteTableId": ref("PublicRouteTable"),
            "DestinationCidrBlock": "0.0.0.0/0",
            "GatewayId": ref("InternetGateway"),
        },
    }
    return made


def _endpoints() -> Resources:
    made: Resources = {
        "S3Endpoint": {
            "Type": "AWS::EC2::VPCEndpoint",
            "Properties": {
                "VpcId": ref("Vpc"),
                "VpcEndpointType": "Gateway",
                "ServiceName": sub("com.amazonaws.${AWS::Region}.s3"),
                "RouteTableIds": [ref("PrivateRouteTable")],
                # The release and the packages of Amazon Linux (their buckets are named in its user guide): whoever
                # gets into an instance cannot carry data to a bucket of their own.
                "PolicyDocument": policy(
                    allow(
                        ["s3:GetObject"],
                        [
                            sub("arn:${AWS::Partition}:s3:::${ArtefactBucket}/releases/*"),
                            sub("arn:${AWS::Partition}:s3:::al2023-repos-${AWS::Region}-de612dc2/*"),
                        ],
                        Principal="*",
                    )
                ),
                "Tags": tags("s3"),
            },
        }
    }
    for name, service in {**_ENDPOINTS, **_MANAGEMENT_ENDPOINTS}.items():
        endpoint = {
            "Type": "AWS::EC2::VPCEndpoint",
            "Properties": {
                "VpcId": ref("Vpc"),
                "VpcEndpointType": "Interface",
                "ServiceName": sub(f"com.amazonaws.${{AWS::Region}}.{service}"),
                "SubnetIds": subnets("Private"),
                "SecurityGroupIds": [ref("EndpointSecurityGroup")],
                "PrivateDnsEnabled": True,
                # The roles decide what is allowed. This keeps out credentials of other accounts.
                "PolicyDocument": policy(
                    allow(
                        [f"{service}:*"],
                        "*",
                        Principal="*",
                        Condition={"StringEquals": {"aws:PrincipalAccount": ref("AWS::AccountId")}},
                    )
                ),
                "Tags": tags(service),
            },
        }
        if name in _MANAGEMENT_ENDPOINTS:
            endpoint["Condition"] = "HasManagement"
        made[f"{name}Endpoint"] = endpoint
    return made


def _rule(port: int, description: str, **peer: Value) -> dict[str, Value]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "Description": description, **peer}


# Without any rule a group lets everything out; one that leads nowhere takes that back.
_NOTHING_OUT = [{"IpProtocol": "-1", "CidrIp": "127.0.0.1/32", "Description": "nothing begins connections from here"}]


def _security_groups() -> Resources:
    """Two groups cannot name each other in their own rules, so the way out is told by subnet, the way in by group."""

    def group(what: str, ingress: list[dict[str, Value]], egress: list[dict[str, Value]]) -> dict[str, Value]:
        return {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": f"ChatFlow, {what}",
                "VpcId": ref("Vpc"),
                "SecurityGroupIngress": ingress,
                "SecurityGroupEgress": egress,
                "Tags": tags(what.replace(" ", "-")),
            },
        }

    from_instances = {"SourceSecurityGroupId": attribute("InstanceSecurityGroup", "GroupId")}
    clients = {"CidrIp": ref("ClientCidr")}
    return {
        "BalancerSecurityGroup": group(
            "load balancer",
            [_rule(80, "clients, HTTP", **clients), _rule(443, "clients, HTTPS", **clients)],
            [_rule(LISTEN_PORT, "to the daemons", CidrIp=cidr("Private", index)) for index in (0, 1)],
        ),
        "InstanceSecurityGroup": group(
            "instances",
            [
                _rule(
                    LISTEN_PORT,
                    "from the load balancer",
                    SourceSecurityGroupId=attribute("BalancerSecurityGroup", "GroupId"),
                )
            ],
            [
                # To anywhere as far as there are routes: to the endpoints, and to S3 whose addresses change.
                _rule(443, "to AWS through endpoints: nothing else has a route", CidrIp="0.0.0.0/0"),
                *(_rule(DATABASE_PORT, "to the database", CidrIp=cidr("Database", index)) for index in (0, 1)),
            ],
        ),
        "EndpointSecurityGroup": group("endpoints", [_rule(443, "from the instances", **from_instances)], _NOTHING_OUT),
        "DatabaseSecurityGroup": group(
            "database", [_rule(DATABASE_PORT, "from the instances", **from_instances)], _NOTHING_OUT
        ),
    }


def _flow_logs() -> Resources:
    writes = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    return {
        "FlowLogGroup": {
            "Type": "AWS::Logs::LogGroup",
            "Condition": "HasFlowLogs",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {
                "LogGroupName": sub("/${AWS::StackName}/refused-connections"),
                "RetentionInDays": ref("LogRetentionDays"),
                "Tags": tags(),
            },
        },
        "FlowLogRole": {
            "Type": "AWS::IAM::Role",
            "Condition": "HasFlowLogs",
            "Properties": {
                "AssumeRolePolicyDocument": policy(
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
                        "Action": "sts:AssumeRole",
                        "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
                    }
                ),
                "Policies": [
                    {
                        "PolicyName": "logs",
                        "PolicyDocument": policy(
                            allow(
                                writes,
                                [
                                    attribute("FlowLogGroup", "Arn"),
                                    arn("logs", "log-group:/${AWS::StackName}/refused-connections:log-stream:*"),
                                ],
                            )
                        ),
                    }
                ],
                "Tags": tags(),
            },
        },
        "FlowLog": {
            "Type": "AWS::EC2::FlowLog",
            "Condition": "HasFlowLogs",
            "Properties": {
                "ResourceType": "VPC",
                "ResourceId": ref("Vpc"),
                "TrafficType": "REJECT",
                "LogGroupName": ref("FlowLogGroup"),
                "DeliverLogsPermissionArn": attribute("FlowLogRole", "Arn"),
                "Tags": tags(),
            },
        },
    }
