"""What an instance runs: its first start, the password of the database, and its end."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.emulator import aws_environment
from testbed.stack import Stacks
from testbed.waiting import eventually
from tests.support.instance import Metadata, Programs

_INSTANCE = Path(__file__).parents[2] / "scripts" / "aws" / "instance"
_DATABASE = (
    "postgresql://chatflow@db.example.com:5432/chatflow?sslmode=verify-full"
    "&sslrootcert=/etc/chatflow/rds-ca.pem&passfile=/etc/chatflow/pgpass"
)
_STACK = f"""\
CHATFLOW_BROKER=sqs
CHATFLOW_ROOMS=20
AWS_REGION=eu-west-1
DATABASE_SECRET_ARN=arn:aws:secretsmanager:eu-west-1:123456789012:secret:rds!cluster-1
GROUP=chat
HOOK=drain
STOP_SECONDS=85
MANAGEMENT=true
PORT=8080
CERTIFICATES_FILE=/etc/chatflow/rds-ca.pem
PASSWORD_FILE=/etc/chatflow/pgpass
DATABASE_URL='{_DATABASE}'
"""


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "bin", "dnf", "systemctl", "amazon-cloudwatch-agent-ctl", "aws")


def environment(programs: Programs, **variables: str) -> dict[str, str]:
    """Of a script: our programs come before the system's."""
    return {"PATH": f"{programs.directory}:{os.environ['PATH']}", "HOME": "/", **variables}


class TestFirstStart:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A file system with a release in it, whose ``scripts/install`` only says that it ran."""
        root = tmp_path / "root"
        (root / "etc" / "chatflow").mkdir(parents=True)
        (root / "etc" / "chatflow" / "stack").write_text(_STACK)
        release = root / "opt" / "chatflow" / "release"
        shutil.copytree(_INSTANCE, release / "scripts" / "aws" / "instance")
        (release / "rds-ca.pem").write_text("certificates")
        install = release / "scripts" / "install"
        install.write_text('#!/bin/sh\necho "install $* $PYTHON" >>"$INSTALL_LOG"\n')
        install.chmod(0o755)
        return root

    def start(self, root: Path, programs: Programs) -> subprocess.CompletedProcess[str]:
        with Metadata({"instance-id": "i-0123456789abcdef0"}) as metadata:
            return subprocess.run(
                [root / "opt" / "chatflow" / "release" / "scripts" / "aws" / "instance" / "bootstrap"],
                env=environment(
                    programs,
                    CHATFLOW_ROOT=str(root),
                    IMDS_URL=metadata.url,
                    INSTALL_LOG=str(programs.directory / "calls"),
                ),
                capture_output=True,
                text=True,
            )

    def test_it_installs_from_the_release_and_starts_all_in_order(self, root: Path, programs: Programs) -> None:
        ended = self.start(root, programs)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert programs.calls == [
            "dnf install -y -q python3.11 amazon-cloudwatch-agent",
            f"amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:{root}/etc/chatflow/cloudwatch-agent.json",
            f"install --offline --prefix {root}/opt/chatflow --etc {root}/etc/chatflow "
            f"--units {root}/etc/systemd/system --instance 8080 python3.11",
            "systemctl daemon-reload",
            "systemctl start chatflow-password.service",
            "systemctl enable --now chatflow-password.timer chatflow-termination.service",
            "systemctl start chatflow-migrate.service",
            "systemctl enable --now chatflow@8080.socket chatflow@8080.service",
        ]

    def test_a_second_start_does_the_same_again(self, root: Path, programs: Programs) -> None:
        self.start(root, programs)
        first = programs.calls
        assert self.start(root, programs).returncode == 0
        assert programs.calls == first * 2

    def test_the_daemon_gets_its_settings_and_name_where_nobody_else_reads_them(
        self, root: Path, programs: Programs
    ) -> None:
        self.start(root, programs)
        path = root / "etc" / "chatflow" / "8080.env"
        assert path.read_text().splitlines() == [
            "CHATFLOW_BROKER=sqs",
            "CHATFLOW_ROOMS=20",
            "AWS_REGION=eu-west-1",
            "CHATFLOW_SERVER_ID=i-0123456789abcdef0",
        ]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (root / "etc" / "chatflow" / "database.url").read_text() == _DATABASE + "\n"
        unit = root / "etc" / "systemd" / "system" / "chatflow@.service.d" / "aws.conf"
        assert "TimeoutStopSec=100" in unit.read_text()

    def test_the_log_goes_to_the_stack_s_own_groups(self, root: Path, programs: Programs) -> None:
        self.start(root, programs)
        agent = json.loads((root / "etc" / "chatflow" / "cloudwatch-agent.json").read_text())
        files = agent["logs"]["logs_collected"]["files"]["collect_list"]
        assert [file["log_group_name"] for file in files] == ["/chat/daemon", "/chat/system"]

    def test_without_endpoints_for_it_no_agent_is_started(self, root: Path, programs: Programs) -> None:
        settings = root / "etc" / "chatflow" / "stack"
        settings.write_text(settings.read_text().replace("MANAGEMENT=true", "MANAGEMENT=false"))
        assert self.start(root, programs).returncode == 0
        assert not [call for call in programs.calls if "cloudwatch" in call]

    def test_when_something_fails_no_daemon_is_started(self, root: Path, programs: Programs) -> None:
        programs.add("dnf", status=1)
        assert self.start(root, programs).returncode == 1
        assert not [call for call in programs.calls if "chatflow@" in call]


class TestPassword:
    @pytest.fixture
    def secret(self, stacks: Stacks) -> Iterator[str]:
        """ARN of a secret as RDS keeps one, with all that means something in a password file."""
        secrets = stacks.client("secretsmanager")
        value = json.dumps({"username": "chatflow", "password": r"a:b\c d"})
        arn = secrets.create_secret(Name="of-a-database", SecretString=value)["ARN"]
        yield arn
        secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)

    def refresh(self, stacks: Stacks, secret: str, path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, _INSTANCE / "refresh-password", getpass.getuser()],
            env={
                **aws_environment(stacks.url),
                "DATABASE_SECRET_ARN": secret,
                "PASSWORD_FILE": str(path),
                "DATABASE_URL": _DATABASE,
            },
            capture_output=True,
            text=True,
        )

    def test_it_is_written_as_libpq_reads_it_and_for_one_user_only(
        self, stacks: Stacks, secret: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "pgpass"
        ended = self.refresh(stacks, secret, path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert path.read_text() == "db.example.com:5432:chatflow:chatflow:a\\:b\\\\c d\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "a:b" not in ended.stdout

    def test_it_is_replaced_when_it_changed_and_otherwise_left(
        self, stacks: Stacks, secret: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "pgpass"
        (tmp_path / "pgpass.new").write_text("of a run that was killed")
        self.refresh(stacks, secret, path)
        inode = path.stat().st_ino
        assert self.refresh(stacks, secret, path).stdout == ""
        assert path.stat().st_ino == inode
        stacks.client("secretsmanager").put_secret_value(
            SecretId=secret, SecretString=json.dumps({"username": "chatflow", "password": "other"})
        )
        assert self.refresh(stacks, secret, path).stdout == "the database has another password now\n"
        assert path.read_text().endswith(":other\n")
        assert not (tmp_path / "pgpass.new").exists()

    def test_a_failed_look_leaves_the_password_as_it_was(self, stacks: Stacks, secret: str, tmp_path: Path) -> None:
        path = tmp_path / "pgpass"
        self.refresh(stacks, secret, path)
        before = path.read_text()
        assert self.refresh(stacks, secret + "-gone", path).returncode != 0
        assert path.read_text() == before


class TestTermination:
    @contextlib.contextmanager
    def watching(self, programs: Programs, metadata: Metadata, **variables: str) -> Iterator[subprocess.Popen[str]]:
        settings = {
            "GROUP": "chat",
            "HOOK": "drain",
            "MANAGEMENT": "true",
            "AWS_REGION": "eu-west-1",
        }
        process = subprocess.Popen(
            [_INSTANCE / "watch-termination"],
            env=environment(programs, IMDS_URL=metadata.url, POLL_SECONDS="0.05", **{**settings, **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def asked_again(self, metadata: Metadata) -> None:
        """Wait until the state has been looked at, and the answer judged."""
        before = metadata.asked.count("autoscaling/target-lifecycle-state")
        eventually(
            lambda: metadata.asked.count("autoscaling/target-lifecycle-state") >= before + 2, "the state is asked for"
        )

    def test_the_daemon_drains_when_the_group_wants_the_instance_to_end_and_not_before(
        self, programs: Programs
    ) -> None:
        with Metadata({"instance-id": "i-1"}) as metadata, self.watching(programs, metadata) as process:
            self.asked_again(metadata)  # a new instance has no state: 404
            metadata.values["autoscaling/target-lifecycle-state"] = "InService"
            self.asked_again(metadata)
            assert programs.calls == []
            metadata.values["autoscaling/target-lifecycle-state"] = "Terminated"
            assert process.wait(20) == 0
        assert programs.calls == [
            "systemctl stop chatflow@*.socket chatflow@*.service",
            "aws autoscaling complete-lifecycle-action --region eu-west-1 --auto-scaling-group-name chat "
            "--lifecycle-hook-name drain --instance-id i-1 --lifecycle-action-result CONTINUE",
        ]

    def test_whatever_fails_the_group_is_told_or_goes_on_by_itself(self, programs: Programs) -> None:
        programs.add("systemctl", status=1)
        programs.add("aws", status=255)
        state = {"instance-id": "i-1", "autoscaling/target-lifecycle-state": "Terminated"}
        with Metadata(state) as metadata, self.watching(programs, metadata) as process:
            assert process.wait(20) == 0
            assert process.stderr is not None
            assert process.stderr.read().splitlines() == [
                "the daemon did not stop in order",
                "the group goes on by itself when the hook's time is over",
            ]
        assert [call.split()[0] for call in programs.calls] == ["systemctl", "aws"]

    def test_without_an_endpoint_for_it_nothing_is_said_to_the_group(self, programs: Programs) -> None:
        state = {"instance-id": "i-1", "autoscaling/target-lifecycle-state": "Terminated"}
        with Metadata(state) as metadata, self.watching(programs, metadata, MANAGEMENT="false") as process:
            assert process.wait(20) == 0
        assert programs.calls == ["systemctl stop chatflow@*.socket chatflow@*.service"]
