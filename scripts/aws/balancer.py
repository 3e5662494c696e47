"""The load balancer: clients come in here, by HTTP or HTTPS, and hold their WebSockets through it."""

from __future__ import annotations

from typing import Any

from scripts.aws.intrinsics import Resources, Value, either, ref, tags
from scripts.aws.network import LISTEN_PORT, subnets

#: The daemon pings a silent client after one to two intervals of 20 s, which the balancer counts as traffic. Thrice
#: the longest silence: a late ping closes no connection.
IDLE_SECONDS = 120

_CHECK_SECONDS = 10
_CHECK_TIMEOUT_SECONDS = 5
_FAILED_CHECKS = 2

#: For so long an instance that is about to stop may still be sent connections: until the balancer has seen it, or until
#: all of the balancer's nodes know that it was taken out, which takes less.
GRACE_SECONDS = _CHECK_SECONDS * _FAILED_CHECKS + _CHECK_TIMEOUT_SECONDS

# Of these a stranger would learn how busy we are; four and an address are what one rule takes.
_OPERATIONS = ["/metrics", "/db-metrics", "/queue/*", "/dashboard*"]


def make(*, drain_seconds: int) -> Resources:
    """The balancer with its listeners and the target group."""
    return {
        "LoadBalancer": {
            "Type": "AWS::ElasticLoadBalancingV2::LoadBalancer",
            "DependsOn": "InternetRoute",
            "Properties": {
                "Type": "application",
                "Scheme": "internet-facing",
                "IpAddressType": "ipv4",
                "Subnets": subnets("Public"),
                "SecurityGroups": [ref("BalancerSecurityGroup")],
                "LoadBalancerAttributes": [
                    _pair("idle_timeout.timeout_seconds", str(IDLE_SECONDS)),
                    _pair("routing.http.drop_invalid_header_fields.enabled", "true"),
                    _pair("deletion_protection.enabled", ref("DeletionProtection")),
                    either("HasAccessLogs", _pair("access_logs.s3.enabled", "true")),
                    either("HasAccessLogs", _pair("access_logs.s3.bucket", ref("AccessLogBucket"))),
                ],
                "Tags": tags("balancer"),
            },
        },
        "TargetGroup": {
            "Type": "AWS::ElasticLoadBalancingV2::TargetGroup",
            "Properties": {
                "VpcId": ref("Vpc"),
                "TargetType": "instance",
                "Protocol": "HTTP",
                "ProtocolVersion": "HTTP1",  # of which WebSocket is an upgrade
                "Port": LISTEN_PORT,
                # Ready: attached to its queues and not stopping. Whoever is not gets no new connections soon.
                "HealthCheckProtocol": "HTTP",
                "HealthCheckPath": "/health/ready",
                "HealthCheckIntervalSeconds": _CHECK_SECONDS,
                "HealthCheckTimeoutSeconds": _CHECK_TIMEOUT_SECONDS,
                "HealthyThresholdCount": 2,
                "UnhealthyThresholdCount": _FAILED_CHECKS,
                "Matcher": {"HttpCode": "200"},
                "TargetGroupAttributes": [
                    # Any instance can serve a client. A cookie keeps a browser's requests beside its WebSocket, and
                    # lets it return to an instance whose memory still has what it missed. For an hour only, so that
                    # instances that were added get clients.
                    _pair("stickiness.enabled", "true"),
                    _pair("stickiness.type", "lb_cookie"),
                    _pair("stickiness.lb_cookie.duration_seconds", "3600"),
                    # An open WebSocket is an outstanding request: who has the fewest gets the next.
                    _pair("load_balancing.algorithm.type", "least_outstanding_requests"),
                    # The daemon closes its clients while it drains, after the balancer has stopped to send new ones.
                    _pair("deregistration_delay.timeout_seconds", str(GRACE_SECONDS + drain_seconds)),
                ],
                "Tags": tags("daemons"),
            },
        },
        **_listeners(),
    }


def _pair(key: str, value: Value) -> dict[str, Value]:
    return {"Key": key, "Value": value}


def _listeners() -> Resources:
    forward = {"Type": "forward", "TargetGroupArn": ref("TargetGroup")}
    redirect = {
        "Type": "redirect",
        "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"},
    }
    not_found = {
        "Type": "fixed-response",
        "FixedResponseConfig": {"StatusCode": "404", "ContentType": "text/plain", "MessageBody": "not found"},
    }
    paths = {"Field": "path-pattern", "PathPatternConfig": {"Values": _OPERATIONS}}
    operators = {"Field": "source-ip", "SourceIpConfig": {"Values": [ref("OperationsCidr")]}}
    return {
        "HttpListener": {
            "Type": "AWS::ElasticLoadBalancingV2::Listener",
            "Properties": {
                "LoadBalancerArn": ref("LoadBalancer"),
                "Port": 80,
                "Protocol": "HTTP",
                "DefaultActions": [either("HasCertificate", redirect, forward)],
            },
        },
        "HttpsListener": {
            "Type": "AWS::ElasticLoadBalancingV2::Listener",
            "Condition": "HasCertificate",
            "Properties": {
                "LoadBalancerArn": ref("LoadBalancer"),
                "Port": 443,
                "Protocol": "HTTPS",
                "SslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06",  # TLS 1.2 and 1.3 with forward secrecy
                "Certificates": [{"CertificateArn": ref("CertificateArn")}],
                "DefaultActions": [forward],
            },
        },
        "OperatorsRule": _rule(10, [paths, operators], forward),
        "OperationsRule": _rule(20, [paths], not_found),
    }


def _rule(priority: int, conditions: list[dict[str, Any]], action: dict[str, Any]) -> dict[str, Any]:
    """On the listener that forwards."""
    return {
        "Type": "AWS::ElasticLoadBalancingV2::ListenerRule",
        "Properties": {
            "ListenerArn": either("HasCertificate", ref("HttpsListener"), ref("HttpListener")),
            "Priority": priority,
            "Conditions": conditions,
            "Actions": [action],
        },
    }
