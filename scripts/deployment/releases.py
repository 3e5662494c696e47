"""Release archives, and the bucket that keeps them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define
from botocore.exceptions import ClientError

from scripts.deployment.errors import Stopped
from scripts.deployment.progress import Progress
from scripts.deployment.stack import MAX_BODY_BYTES


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

    def provide(self, version: str, build: Callable[[Path], Path]) -> str:
        """Put the archive of a version there, unless it is. Instances of one version must be alike: none is replaced.

        :param build: packs it into a directory, and gives its path.
        :return: its key.
        """
        key = key_of(version)
        if self.holds(key):
            self.progress.say(f"  release {version} is in the bucket already and used as it is there")
            return key
        with tempfile.TemporaryDirectory(prefix="chatflow-release-") as directory:
            with self.progress.step("release", f"packed, {version}"):
                archive = build(Path(directory))
            if archive.name != Path(key).name:
                raise Stopped(
                    f"the checkout makes {archive.name}, and not {Path(key).name}",
                    "the environment is of another version: remove .venv and repeat the command",
                )
            with self.progress.step("release", "uploaded") as step:
                # The object is there as a whole or not at all, whenever this is interrupted.
                self.s3.upload_file(str(archive), self.name, key)
                step.note = f"{archive.stat().st_size / 1e6:.1f} MB"
        return key

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
        return {"TemplateURL": f"https://{self.name}.s3.{region}.amazonaws.com/{key}"}
