"""A stack of its own, made before the other: the bucket for releases, and for templates too large for a call."""

from __future__ import annotations

from typing import Any

from scripts.aws.intrinsics import attribute, policy, ref, sub


def render() -> dict[str, Any]:
    """The template."""
    ours = [{"Key": "project", "Value": "chatflow"}]
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "ChatFlow: the bucket of its releases. It stays when the stack is deleted.",
        "Resources": {
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                # An instance that has to be replaced needs its release; the way back needs the one before.
                "DeletionPolicy": "RetainExceptOnCreate",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "VersioningConfiguration": {"Status": "Enabled"},
                    "BucketEncryption": {
                        "ServerSideEncryptionConfiguration": [
                            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                        ]
                    },
                    "PublicAccessBlockConfiguration": {
                        "BlockPublicAcls": True,
                        "BlockPublicPolicy": True,
                        "IgnorePublicAcls": True,
                        "RestrictPublicBuckets": True,
                    },
                    "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                    "LifecycleConfiguration": {
                        "Rules": [
                            {
                                "Id": "overwritten",
                                "Status": "Enabled",
                                "NoncurrentVersionExpiration": {"NoncurrentDays": 90},
                                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                            }
                        ]
                    },
                    "Tags": ours,
                },
            },
            "BucketPolicy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "Bucket": ref("Bucket"),
                    "PolicyDocument": policy(
                        {
                            "Sid": "TlsOnly",
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [attribute("Bucket", "Arn"), sub("${Bucket.Arn}/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ),
                },
            },
        },
        "Outputs": {"ArtefactBucketName": {"Description": "Parameter ArtefactBucket", "Value": ref("Bucket")}},
    }
