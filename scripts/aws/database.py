"""Aurora PostgreSQL: a writer and, in the other zone, a reader that takes over within about half a minute."""

from __future__ import annotations

from typing import Any

from scripts.aws.intrinsics import Resources, Value, attribute, either, ref, sub, tags, zone
from scripts.aws.network import DATABASE_PORT, subnets

DATABASE_NAME = "chatflow"
#: The daemon makes, refreshes and drops its tables, partitions and views: it has to own them. So it is the user that
#: Aurora makes, which is no superuser, in a cluster that serves nothing else.
USER = "chatflow"

#: Name of the secret's ARN among the cluster's attributes.
SECRET = attribute("DatabaseCluster", "MasterUserSecret.SecretArn")

_MAJOR_VERSION: Value = {"Fn::Select": [0, {"Fn::Split": [".", ref("DatabaseEngineVersion")]}]}


def make() -> Resources:
    """The cluster, its two instances and what they need."""
    return {
        "DatabaseSubnetGroup": {
            "Type": "AWS::RDS::DBSubnetGroup",
            "Properties": {
                "DBSubnetGroupDescription": "ChatFlow, subnets without a route to anywhere",
                "SubnetIds": subnets("Database"),
                "Tags": tags("database"),
            },
        },
        "DatabaseParameters": {
            "Type": "AWS::RDS::DBClusterParameterGroup",
            "Properties": {
                "Description": "ChatFlow, TLS only",
                "Family": sub("aurora-postgresql${Major}", Major=_MAJOR_VERSION),
                # Connections without TLS are refused. What takes a second is logged: the daemon ends it after 5 to 30.
                "Parameters": {"rds.force_ssl": "1", "log_min_duration_statement": "1000"},
                "Tags": tags("database"),
            },
        },
        "DatabaseCluster": {
            "Type": "AWS::RDS::DBCluster",
            # What was ever acknowledged ends up here: a last snapshot is kept, whoever deletes or replaces it.
            "DeletionPolicy": "Snapshot",
            "UpdateReplacePolicy": "Snapshot",
            "Properties": {
                "Engine": "aurora-postgresql",
                "EngineVersion": ref("DatabaseEngineVersion"),
                "DatabaseName": either("FromSnapshot", ref("AWS::NoValue"), DATABASE_NAME),
                "Port": DATABASE_PORT,
                "DBSubnetGroupName": ref("DatabaseSubnetGroup"),
                "DBClusterParameterGroupName": ref("DatabaseParameters"),
                "VpcSecurityGroupIds": [attribute("DatabaseSecurityGroup", "GroupId")],
                # RDS makes the password, keeps it in Secrets Manager, and changes it every week; no template, log or
                # person ever has it. A running daemon follows, see instance/refresh-password.
                "MasterUsername": either("FromSnapshot", ref("AWS::NoValue"), USER),
                "ManageMasterUserPassword": True,
                "StorageEncrypted": True,
                "StorageType": ref("DatabaseStorageType"),
                "SnapshotIdentifier": either("FromSnapshot", ref("DatabaseSnapshot")),
                "BackupRetentionPeriod": ref("BackupRetentionDays"),
                "CopyTagsToSnapshot": True,
                "DeletionProtection": ref("DeletionProtection"),
                "Tags": tags("database"),
            },
        },
        "DatabaseWriter": _instance("writer", 0),
        # After the writer: Aurora makes the first instance of a cluster its writer.
        "DatabaseReader": {**_instance("reader", 1), "DependsOn": "DatabaseWriter"},
    }


def _instance(role: str, zone_index: int) -> dict[str, Any]:
    return {
        "Type": "AWS::RDS::DBInstance",
        # The cluster holds the data; an instance of it has none of its own.
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {
            "Engine": "aurora-postgresql",
            "DBClusterIdentifier": ref("DatabaseCluster"),
            "DBInstanceClass": ref("DatabaseInstanceClass"),
            "AvailabilityZone": zone(zone_index),
            "PromotionTier": zone_index,
            "PubliclyAccessible": False,
            "AutoMinorVersionUpgrade": True,
            "Tags": tags(f"database-{role}"),
        },
    }


def url(*, certificates: str, password_file: str) -> Value:
    """What ``--database`` is given: without a password, which libpq reads from a file whenever it connects.

    ``verify-full``: the server proves by a certificate of RDS that it is the one of this name.
    """
    return sub(
        f"postgresql://{USER}@${{DatabaseCluster.Endpoint.Address}}:{DATABASE_PORT}/{DATABASE_NAME}"
        f"?sslmode=verify-full&sslrootcert={certificates}&passfile={password_file}"
    )
