# What the scripts share. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# Tools and SDKs are installed here once, outside the clone.
if [ -z "${BACKSTOP_CACHE:-}" ]; then
    if [ "$(id -u)" = 0 ]; then
        BACKSTOP_CACHE=/var/cache/backstop
    else
        BACKSTOP_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/backstop
    fi
fi
export BACKSTOP_CACHE
mkdir -p "$BACKSTOP_CACHE"

step() {
    printf '\n==> %s\n' "$*"
}

# Runs a command and shows its output only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log"
        rm -f "$log"
        printf 'failed: %s\n' "$*" >&2
        return 1
    fi
    rm -f "$log"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Installs Debian packages, unless the command (or the test) that stands before them works:
#   debian 'command -v redis-server' redis-server
debian() {
    local check=$1
    shift
    if bash -c "$check" >/dev/null 2>&1; then
        return
    fi
    step "Installing $* (Debian)"
    if [ -z "${apt_is_updated:-}" ]; then
        quietly as_root apt-get update
        apt_is_updated=1
    fi
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"
    bash -c "$check" >/dev/null
}

# The official SDKs in a virtual environment of their own; tests find it by BACKSTOP_PYTHON.
sdks() {
    local wanted=crates/gateway/tests/end_to_end/requirements.txt
    local venv
    venv=$BACKSTOP_CACHE/python-$(sha256sum <"$wanted" | cut -c1-12)
    export BACKSTOP_PYTHON=$venv/bin/python
    if [ -e "$venv/complete" ]; then
        return
    fi
    debian 'python3 -c "import venv, ensurepip"' python3 python3-venv
    step "Installing the openai and anthropic SDKs into $venv (PyPI)"
    rm -rf "$venv"
    quietly python3 -m venv "$venv"
    quietly "$BACKSTOP_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$wanted"
    touch "$venv/complete"
}
