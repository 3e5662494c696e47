# Sourced by the other scripts: makes a virtual environment in .venv with ChatFlow and one of its extras.
#
#   environment EXTRA       sets $bin; installs only when setup.cfg or the Python changed since
#
# PYTHON chooses the interpreter; CHATFLOW_VENV another place than .venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "chatflow: needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv)" >&2
    return 1
}

environment() {
    local extra=$1 venv=${CHATFLOW_VENV:-$root/.venv} python stamp
    unset CHATFLOW_VENV # the daemon refuses variables of its prefix that it does not know
    python=$(find_python) || exit 1
    bin=$venv/bin
    stamp="$("$python" -V) $(cksum <"$root/setup.cfg") $root"
    if [ "$(cat "$venv/installed-$extra" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    echo "chatflow: installing into $venv" >&2
    "$python" -m venv --clear "$venv"
    # A plain editable install would hide the twistd plugins from Twisted; "compat" puts the checkout on the path.
    # Of what is installed a fraction is ever imported, and then compiled.
    local wanted=(--quiet --constraint "$root/scripts/constraints.txt" --editable "$root[$extra]"
        --config-settings editable_mode=compat)
    # uv takes seconds for what takes pip minutes. Where there is no wheel of it, or pip alone knows the way to an index, pip
    # does it, and says what is wrong if anything is.
    local pip=("$bin/python" -m pip install --disable-pip-version-check --no-compile)
    { "${pip[@]}" --quiet --constraint "$root/scripts/constraints.txt" uv &&
        "$bin/uv" pip install --python "$bin/python" "${wanted[@]}"; } >/dev/null 2>&1 || "${pip[@]}" "${wanted[@]}"
    "$bin/twistd" --help >/dev/null # lets Twisted write its plugin cache once
    echo "$stamp" >"$venv/installed-$extra"
    if [ "$extra" = develop ]; then
        echo "$stamp" | tee "$venv/installed-testbed" >"$venv/installed-embedded" # parts of it
    fi
}
