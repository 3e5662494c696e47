"""Packs a release: one archive with all that ``scripts/install`` needs; on request also without the internet.

It holds, below ``chatflow-VERSION/``: the wheel; ``scripts/install``, the units, what Prometheus and instances on AWS
run; ``docs/``. With wheels also ``wheels/``, those of all that ChatFlow needs, for the Python and processor of the
instances on AWS, and ``rds-ca.pem``, the certificates by which Aurora proves who it is.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

_ROOT = Path(__file__).resolve().parents[2]

#: What ``scripts/aws/instance/bootstrap`` installs.
PYTHON = "3.11"
#: Amazon Linux 2023 has glibc 2.34; pip wants each tag by itself that this satisfies.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 24, 17, 12, 5)]

_OF_THE_WHEEL = ["setup.cfg", "setup.py", "pyproject.toml", "README.rst", "chatflow", "twisted", "sql"]
_PACKED = ["scripts/install", "scripts/systemd", "scripts/monitoring", "scripts/aws/instance", "docs", "README.rst"]
_MADE_HERE = {"__pycache__", "_build", "dropin.cache"}
# The same sources make the same bytes. A zip file knows no earlier time than 1980, and the build's is of no interest.
_EPOCH = 946_684_800

# https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.SSL.html
_CERTIFICATES = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
_TIMEOUT_SECONDS = 60


def build(directory: Path, *, wheels: bool = False, certificates: Path | None = None) -> Path:
    """Pack the archive of this checkout. Blocks: for seconds, or for a minute or so with wheels.

    :param wheels: pack also what needs PyPI and AWS now and nothing when it is installed: all wheels, certificates.
    :param certificates: a file to take instead of asking AWS.
    :return: the archive, ``chatflow-VERSION.tar.gz`` in ``directory``, which is made when missing.
    :raises subprocess.CalledProcessError: pip failed, and has said why.
    :raises OSError: the certificates could not be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chatflow-release-") as name:
        scratch = Path(name)
        # Where there is the internet, the build's own tools come from there; else those of this environment do.
        wheel = _build_wheel(scratch / "source", scratch, isolated=wheels)
        contents = {wheel.name: wheel} | {path: _ROOT / path for path in _PACKED}
        if wheels:
            contents["wheels"] = _download(wheel, scratch / "wheels")
        if wheels or certificates is not None:
            contents["rds-ca.pem"] = certificates or _fetch_certificates(scratch)
        top = "-".join(wheel.name.split("-")[:2])
        archive = directory / f"{top}.tar.gz"
        _pack(archive, top, contents)
    return archive


def _build_wheel(source: Path, directory: Path, *, isolated: bool) -> Path:
    """From a copy: a build leaves files beside its sources, and takes those of earlier builds for sources."""
    source.mkdir()
    for name in _OF_THE_WHEEL:
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, source / name, ignore=shutil.ignore_patterns(*_MADE_HERE))
        else:
            shutil.copy(_ROOT / name, source)
    options = ["--no-deps", "--wheel-dir", str(directory), *([] if isolated else ["--no-build-isolation"])]
    _pip("wheel", *options, str(source))
    [wheel] = directory.glob("chatflow-*.whl")
    return wheel


def _download(wheel: Path, wheels: Path) -> Path:
    """What it needs, into a directory."""
    platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
    target = ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    wheels.mkdir()
    _pip("download", "--dest", str(wheels), *target, str(wheel))
    (wheels / wheel.name).unlink(missing_ok=True)  # pip copies what it is asked for, too
    return wheels


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH)})


def _fetch_certificates(directory: Path) -> Path:
    with urlopen(_CERTIFICATES, timeout=_TIMEOUT_SECONDS) as answer:
        content = answer.read()
    if not re.match(rb"\s*(#.*\n\s*)*-----BEGIN CERTIFICATE-----", content):
        raise OSError(f"what came from {_CERTIFICATES} is no bundle of certificates")
    path = directory / "rds-ca.pem"
    path.write_bytes(content)
    return path


def _pack(archive: Path, top: str, contents: Mapping[str, Path]) -> None:
    fresh = archive.with_name(archive.name + ".new")
    with (
        fresh.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=_EPOCH) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for name, path in sorted(_files(contents)):
            member = tar.gettarinfo(path, f"{top}/{name}")
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = _EPOCH
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            with path.open("rb") as source:
                tar.addfile(member, source)
    fresh.replace(archive)


def _files(contents: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Each file, with its name in the archive; tar makes the directories of these by itself."""
    for name, path in contents.items():
        if path.is_file():
            yield name, path
            continue
        for each in path.rglob("*"):
            within = each.relative_to(path)
            if each.is_file() and not _MADE_HERE.intersection(within.parts):
                yield f"{name}/{within}", each


def main(arguments: list[str]) -> None:
    """Pack, and print where the archive is."""
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description="Pack dist/chatflow-VERSION.tar.gz: the wheel, scripts/install, the systemd units, documentation.",
    )
    parser.add_argument("directory", type=Path, nargs="?", default=_ROOT / "dist", help="another place than dist/")
    parser.add_argument(
        "--wheels",
        action="store_true",
        help="pack also the wheels of all that ChatFlow needs (Python 3.11, x86-64) and the certificates of RDS: what"
        " is installed without the internet, as on AWS",
    )
    parser.add_argument("--certificates", type=Path, help="the certificates of RDS, instead of fetching them from AWS")
    options = parser.parse_args(arguments)
    try:
        print(build(options.directory, wheels=options.wheels, certificates=options.certificates))
    except subprocess.CalledProcessError:
        sys.exit("scripts/release: nothing was packed: pip failed, see above")
    except OSError as error:
        sys.exit(
            f"scripts/release: nothing was packed: {error}\n"
            f"Certificates come from {_CERTIFICATES}; get them in another way and give --certificates FILE"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
