#!/bin/sh
# Starts a peer in its own virtual environment, which the first call sets up. --setup does only the set-up.
#
#   benches/peers/run.sh NAME PORT MODEL_DIR [CONNECTIONS]
#   benches/peers/run.sh --setup NAME
#
# NAME: mosec, fastapi, litserve, bentoml, mlserver. CONNECTIONS: the expected number, which decides workers, threads
# and batches (peers/common.py); PEER_WORKERS, PEER_THREADS and PEER_BATCH override them.
set -eu

here="$(cd "$(dirname "$0")" && pwd)"

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

set_up() {
    [ -f "$here/requirements-$name.txt" ] || fail "expected mosec, fastapi, litserve, bentoml or mlserver, found $name"
    cmp -s "$here/requirements-$name.txt" "$venv/requirements.txt" && return
    echo "setting up $name" >&2
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements-$name.txt"
    # Last, because its presence means that the set-up is complete.
    cp "$here/requirements-$name.txt" "$venv/requirements.txt"
}

if [ "${1:-}" = --setup ]; then
    name=${2:?"expected the name of a peer"}
    venv="$here/.venv-$name"
    set_up
    exit 0
fi

name=${1:?"expected the name of a peer"}
venv="$here/.venv-$name"
export PEER_PORT="${2:?"expected a port"}"
PEER_MODEL="$(cd "${3:?"expected a model directory"}" && pwd)"
export PEER_MODEL
export PEER_CONNECTIONS="${4:-64}"
set_up
cd "$here"

case $name in
    mosec) exec "$venv/bin/python" mosec_server.py --address 127.0.0.1 --port "$PEER_PORT" --log-level warning --timeout 60000 ;;
    bentoml)
        export BENTOML_DO_NOT_TRACK=true BENTOML_HOME="$venv/home"
        exec "$venv/bin/bentoml" serve bentoml_server:Service --host 127.0.0.1 --port "$PEER_PORT"
        ;;
    mlserver)
        export MLSERVER_HOST=127.0.0.1 MLSERVER_HTTP_PORT="$PEER_PORT" MLSERVER_GRPC_PORT=$((PEER_PORT + 1000))
        export MLSERVER_METRICS_PORT=$((PEER_PORT + 2000)) MLSERVER_METRICS_DIR="$venv/metrics"
        # Custom handlers run in the server's own process, so parallel workers would be idle.
        export MLSERVER_DEBUG=false MLSERVER_PARALLEL_WORKERS=0 PYTHONPATH="$here"
        exec "$venv/bin/mlserver" start mlserver_settings
        ;;
    *) exec "$venv/bin/python" "${name}_server.py" ;;
esac
