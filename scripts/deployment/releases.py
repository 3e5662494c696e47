"""Release archives, and the bucket that keeps them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from attrs import define
from botocore.exceptions import ClientError

from scripts.deployment import packing
from scripts.deployment.errors import Stopped
from scripts.deployment.progress import Progress
from scripts.deployment.stack import MAX_BODY_BYTES


def version_of(archive: Path | None) -> str:
    """That of an archive by its name, or of this checkout. :raises Stopped: it is no archive of a release."""
    if archive is None:
        return metadata.version("chatflow")
    found = re.fullmatch(r"chatflow-([0-9A-Za-z.+_-]+)\.tar\.gz", archive.name)
    if found is None or not archive.is_file():
        raise Stopped(
            f"--archive {archive}: must be a file called chatflow-VERSION.tar.gz",
            "pack one: scripts/release --wheels",
        )
    return found[1]


def key_of(version: str) -> str:
    """Of the archive of a version."""
    return f"releases/chatflow-{version}.tar.gz"


@define
class Bucket:
    """:param s3: boto3's client. :param name: of the bucket."""

    s3: Any
    name: str
    progress: Progress

    def holds(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.s3.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"].get("Code") in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return True

    def provide(self, version: str, archive: Path | None) -> str:
        """Put the release of a version there, unless it is. What has a version never changes, so none is replaced.

        :param archive: where it is packed; None to pack this checkout, if need be.
        :return: its key.
        """
        key = key_of(version)
        if self.holds(key):
            self.progress.say(f"  release {version} is in the bucket already and used as it is there")
            return key
        with tempfile.TemporaryDirectory(prefix="chatflow-release-") as directory:
            packed = archive or self._pack(version, Path(directory))
            with self.progress.step("release", f"{version} uploaded") as step:
                # The object is there as a whole or not at all, whenever this is interrupted.
                self.s3.upload_file(str(packed), self.name, key)
                step.note = f"{packed.stat().st_size / 1e6:.1f} MB"
        return key

    def _pack(self, version: str, directory: Path) -> Path:
        with self.progress.step("release", f"{version} packed"):
            try:
                packed = packing.build(directory, wheels=True)
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                raise Stopped(f"the release cannot be packed: {error}", "or bring one: --archive FILE") from error
        if packed.name != Path(key_of(version)).name:
            raise Stopped(
                f"the checkout makes {packed.name}, and its environment is of version {version}",
                "remove .venv and repeat the command",
            )
        return packed

    def require(self, key: str) -> str:
        """The same key. :raises Stopped: it is not there."""
        if not self.holds(key):
            found = self.s3.list_objects_v2(Bucket=self.name, Prefix="releases/").get("Contents", ())
            known = [Path(each["Key"]).name for each in found]
            raise Stopped(
                f"{Path(key).name} is not in the bucket {self.name}",
                f"there is: {', '.join(known) or 'nothing'}",
                "scripts/deploy roll without --release packs this checkout",
            )
        return key

    def offer(self, template: Mapping[str, Any]) -> dict[str, str]:
        """What CloudFormation wants as template: the text, or where it is if it is too long."""
        body = json.dumps(template, separators=(",", ":"))
        if len(body.encode()) <= MAX_BODY_BYTES:
            return {"TemplateBody": body}
        key = f"templates/{hashlib.sha256(body.encode()).hexdigest()[:16]}.json"
        self.s3.put_object(Bucket=self.name, Key=key, Body=body.encode())
        region = self.s3.meta.region_name
        return {"TemplateURL": f"https://s3.{region}.amazonaws.com/{self.name}/{key}"}
