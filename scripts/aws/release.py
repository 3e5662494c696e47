"""Packs what an instance installs: one archive that needs nothing from the internet.

It holds, below ``chatflow-VERSION/``: ``wheels/``, ChatFlow's and those of everything that it needs, for the instances'
Python and processor; ``scripts/``; and ``rds-ca.pem``, the certificates by which Aurora proves who it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.request import urlopen

_ROOT = Path(__file__).resolve().parents[2]

#: What ``instance/bootstrap`` installs.
PYTHON = "3.11"
#: Amazon Linux 2023 has glibc 2.34; pip wants each tag by itself that this satisfies.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 24, 17, 12, 5)]

_NOT_IN_THE_WHEEL = [
    ".*",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "chatflow-data",
    "tests",
    "testbed",
    "benchmarks",
]

# https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.SSL.html
_CERTIFICATES = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
_TIMEOUT_SECONDS = 60


def build(directory: Path, *, certificates: Path | None = None, offline: bool = False) -> Path:
    """Pack the archive of this checkout. Needs PyPI, and AWS for the certificates. Blocks for a minute or so.

    :param certificates: a file to take instead of asking AWS.
    :param offline: pack no wheel but ChatFlow's own: for instances that have the others.
    :return: the archive, ``chatflow-VERSION.tar.gz`` in ``directory``, which is made when missing.
    :raises subprocess.CalledProcessError: pip failed, and has said why.
    :raises OSError: the certificates could not be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chatflow-release-") as scratch:
        wheels = Path(scratch) / "wheels"
        wheel = _build_wheel(Path(scratch) / "source", wheels, isolated=not offline)
        if not offline:
            _download(wheel, wheels)
        bundle = certificates or _fetch_certificates(Path(scratch))
        version = wheel.name.split("-")[1]
        archive = directory / f"chatflow-{version}.tar.gz"
        _pack(archive, f"chatflow-{version}", wheels, bundle)
    return archive


def _build_wheel(source: Path, wheels: Path, *, isolated: bool) -> Path:
    """From a copy: a build leaves files beside its sources, and takes those of earlier builds for sources."""
    shutil.copytree(_ROOT, source, ignore=shutil.ignore_patterns(*_NOT_IN_THE_WHEEL))
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), *([] if isolated else ["--no-build-isolation"]), str(source))
    [wheel] = wheels.glob("chatflow-*.whl")
    return wheel


def _download(wheel: Path, wheels: Path) -> None:
    platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
    target = ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    _pip("download", "--dest", str(wheels), *target, str(wheel))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def _fetch_certificates(directory: Path) -> Path:
    with urlopen(_CERTIFICATES, timeout=_TIMEOUT_SECONDS) as answer:
        content = answer.read()
    if not re.match(rb"\s*(#.*\n\s*)*-----BEGIN CERTIFICATE-----", content):
        raise OSError(f"what came from {_CERTIFICATES} is no bundle of certificates")
    path = directory / "rds-ca.pem"
    path.write_bytes(content)
    return path


def _pack(archive: Path, top: str, wheels: Path, certificates: Path) -> None:
    def only_what_runs(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in member.name:
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    fresh = archive.with_name(archive.name + ".new")
    with tarfile.open(fresh, "w:gz") as tar:
        tar.add(wheels, f"{top}/wheels", filter=only_what_runs)
        tar.add(_ROOT / "scripts", f"{top}/scripts", filter=only_what_runs)
        tar.add(certificates, f"{top}/rds-ca.pem", filter=only_what_runs)
    fresh.replace(archive)


def main(arguments: list[str]) -> None:
    """Pack, and print where the archive is."""
    parser = argparse.ArgumentParser(prog="python -m scripts.aws.release", description="Pack what instances install.")
    parser.add_argument("directory", type=Path, help="where the archive goes")
    parser.add_argument("--certificates", type=Path, help="the certificates of RDS, instead of fetching them from AWS")
    options = parser.parse_args(arguments)
    try:
        print(build(options.directory, certificates=options.certificates))
    except subprocess.CalledProcessError:
        sys.exit("the archive was not packed: pip failed, see above")
    except OSError as error:
        sys.exit(f"the archive was not packed: {error}. Get {_CERTIFICATES} in another way and give --certificates")


if __name__ == "__main__":
    main(sys.argv[1:])
