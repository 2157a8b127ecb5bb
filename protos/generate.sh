#!/usr/bin/env bash
# Regenerates the committed Python code of the protos; with --check, fails when it is stale.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
out=gen
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
common=$("$python" -c 'import google.api, pathlib; print(pathlib.Path(list(google.api.__path__)[0]).parents[1])')
find sangsang -name '*.proto' | sort | xargs "$python" -m grpc_tools.protoc \
  -I . -I "$common" --python_out="$out" --pyi_out="$out" --grpc_python_out="$out"
# The public API with all that it imports, for callers that read descriptors: Node.js, grpcurl.
"$python" -m grpc_tools.protoc -I . -I "$common" --include_imports -o "$out/imaging.binpb" \
  sangsang/imaging/v1/image_generation_service.proto google/rpc/status.proto google/rpc/error_details.proto
find "$out" -type d \( -name v1 -o -name v1alpha1 \) | while read -r package; do
  echo '"""Generated from the protos beside this folder; run `make proto`."""' > "$package/__init__.py"
done
if [ "$out" != gen ]; then
  diff -ru --exclude=__pycache__ gen "$out" || { echo "generated code is stale: run make proto" >&2; exit 1; }
fi
