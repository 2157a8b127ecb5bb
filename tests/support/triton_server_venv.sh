#!/usr/bin/env bash
# Prepares .venv-triton, where the tests find a real NVIDIA Triton Inference Server and perf_analyzer.
# Where it cannot be had, .venv-triton/unavailable says why: the tests are skipped with that reason,
# and the next run tries again. It has to be a venv of its own, because the server wants numpy 1.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=.venv-triton

unavailable() {
    echo "$1" >"$venv/unavailable"
    echo "Tests against NVIDIA's Triton are skipped: $1" >&2
    exit 0
}

rm -f "$venv/.ready"
mkdir -p "$venv"
system="$(uname -s) on $(uname -m)"
[ "$system" = "Linux on x86_64" ] || unavailable "its wheel is for Linux on x86_64, not $system"

# Results are compared bit by bit: ONNX Runtime is the one of .venv.
runtime=$(.venv/bin/python -c 'import onnxruntime; print(onnxruntime.__version__)')
"${PYTHON:-python3}" -m venv "$venv" >"$venv/install.log" 2>&1 || unavailable "see $venv/install.log"
# Of the wheel's own dependencies the server itself needs none.
"$venv/bin/pip" install --quiet --disable-pip-version-check --retries 1 --no-deps --only-binary :all: \
    nvidia-pytriton==0.7.0 numpy==1.26.4 "onnxruntime==$runtime" tritonclient==2.51.0 >>"$venv/install.log" 2>&1 ||
    unavailable "it cannot be installed, see $venv/install.log"

# Its Python backend is a program for each version of Python, and links to Python's shared library.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
library=$("$venv/bin/python" -c 'import sys; print(sys.base_prefix)')/lib
stub="$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub"
[ -f "$stub" ] || unavailable "it has no backend for Python $version"
missing=$(LD_LIBRARY_PATH="$library" ldd "$stub" "$site/pytriton/tritonserver/bin/tritonserver" |
    awk '/not found/ {print $1}' | sort -u | paste -sd ' ')
[ -z "$missing" ] || unavailable "this machine lacks $missing"

# perf_analyzer is a program in the client's wheel of that release; wheels of its own want a newer
# glibc. Of the libraries that it needs beside it, the server's wheel has both, under other names.
mkdir -p "$venv/perf_analyzer_libraries"
for name in libb64.so.0d libcudart.so.12; do
    ln -sfn "$(echo "$site/nvidia_pytriton.libs/${name%%.so.*}-"*.so."${name##*.so.}"*)" \
        "$venv/perf_analyzer_libraries/$name"
done

rm -f "$venv/unavailable"
touch "$venv/.ready"
