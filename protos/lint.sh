#!/usr/bin/env bash
# Runs buf lint without the network: google/api comes from the installed googleapis-common-protos.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
common=$("$python" -c 'import google.api, pathlib; print(pathlib.Path(list(google.api.__path__)[0]))')
mkdir -p "$workspace/ours" "$workspace/common/google/api"
cp -r sangsang "$workspace/ours/"
cp "$common"/field_behavior.proto "$workspace/common/google/api/"
"$python" - "$workspace" <<'PY'
import pathlib, re, sys
text = pathlib.Path("buf.yaml").read_text()
modules = "modules:\n  - path: ours\n  - path: common\n    lint:\n      disallow_comment_ignores: false\n      ignore: [common]\n"
text = re.sub(r"modules:.*?(?=lint:)", modules, text, flags=re.S)
pathlib.Path(sys.argv[1], "buf.yaml").write_text(text)
PY
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
(cd "$workspace" && "$bin/buf" lint)
echo "buf lint: clean"
