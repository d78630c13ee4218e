#!/usr/bin/env bash
# A worker of NVIDIA Dynamo: `chelsea serve` and Dynamo's sidecar, of which neither outlives the other.
#
#     deploy/worker.sh --model=MODEL --grpc-port=50051 ...
#
# Takes the flags of `chelsea serve`; --grpc-port=PORT has to be one of them, with the sign between the two, since the sidecar
# is told the same port. CHELSEA and PYTHON name the programs; the sidecar takes its own flags from the environment, such as
# DYN_DISAGGREGATION_MODE. A sidecar without its server would tell its clients of
# errors instead of having them go on elsewhere, so when one of the two ends, the other is ended at once. On SIGTERM
# both are told at once: the sidecar has the router send nobody any more, and the server finishes what it has.
set -euo pipefail
port=
for word in "$@"; do
    case "$word" in
    --grpc-port=*) port="${word#*=}" ;;
    esac
done
if [[ -z $port ]]; then
    echo "error: give --grpc-port=PORT, with the sign between the two" >&2
    exit 2
fi
ending=
"${CHELSEA:-chelsea}" serve "$@" &
server=$!
"${PYTHON:-python3}" -m dynamo.vllm.sidecar --grpc-endpoint "127.0.0.1:$port" &
sidecar=$!
trap 'ending=1; kill -TERM "$sidecar" "$server" 2>/dev/null || true' TERM INT
status=0
wait -n "$server" "$sidecar" || status=$?
if [[ -n $ending ]]; then
    # Both end by themselves, each when it has finished.
    wait "$server" "$sidecar" || true
    exit 0
fi
kill -KILL "$server" "$sidecar" 2>/dev/null || true
exit "$((status == 0 ? 1 : status))"
