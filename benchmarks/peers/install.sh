#!/bin/sh
# Make the virtual environments of the servers that ours is compared with: benchmarks/peers/install.sh [FOLDER] [PEER...]
# Triton's wheel needs glibc 2.35 or later, its Python backend CPython 3.8-3.13.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../build/peers}
[ $# -gt 0 ] && shift
mkdir -p "$folder"
[ $# -gt 0 ] || set -- fastapi bentoml litserve mlserver triton
for peer; do
    echo "installing $peer into $folder/$peer"
    "${PYTHON:-python3}" -m venv "$folder/$peer"
    nice "$folder/$peer/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/$peer/requirements.txt"
done
