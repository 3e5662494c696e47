"""Packs what an instance installs: one archive that needs nothing from the internet.

It holds, below ``chatflow-VERSION/``: the wheel; ``wheels/``, those of all that it needs, for the instances' Python
and processor; ``scripts/`` and ``docs/``; and ``rds-ca.pem``, the certificates by which Aurora proves who it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
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
        wheel = _build_wheel(Path(scratch) / "source", Path(scratch), isolated=not offline)
        wheels.mkdir()
        if not offline:
            _download(wheel, wheels)
            (wheels / wheel.name).unlink(missing_ok=True)  # pip copies what it is asked for, too
        bundle = certificates or _fetch_certificates(Path(scratch))
        name = "-".join(wheel.name.split("-")[:2])
        archive = directory / f"{name}.tar.gz"
        contents = {wheel.name: wheel, "wheels": wheels, "rds-ca.pem": bundle}
        contents |= {path: _ROOT / path for path in ("scripts", "docs", "README.rst")}
        _pack(archive, name, contents)
    return archive


def _build_wheel(source: Path, directory: Path, *, isolated: bool) -> Path:
    """From a copy: a build leaves files beside its sources, and takes those of earlier builds for sources."""
    shutil.copytree(_ROOT, source, ignore=shutil.ignore_patterns(*_NOT_IN_THE_WHEEL))
    options = ["--no-deps", "--wheel-dir", str(directory), *([] if isolated else ["--no-build-isolation"])]
    _pip("wheel", *options, str(source))
    [wheel] = directory.glob("chatflow-*.whl")
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


def _pack(archive: Path, top: str, contents: Mapping[str, Path]) -> None:
    def only_what_runs(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if {"__pycache__", "_build"} & set(member.name.split("/")):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    fresh = archive.with_name(archive.name + ".new")
    with tarfile.open(fresh, "w:gz") as tar:
        for name, path in contents.items():
            tar.add(path, f"{top}/{name}", filter=only_what_runs)
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
