#!/bin/sh
# Install packages under a prefix; what /opt/venv has, or PYTHONPATH, is not installed a second time.
#
#     install PREFIX PIP-OPTION...
set -eu
prefix=$1
shift
mkdir -p "$prefix/bin" "$prefix/lib"
/opt/pip/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-compile --no-warn-script-location \
    --disable-pip-version-check --root-user-action ignore --prefix "$prefix" --constraint /src/requirements.txt "$@"
# Tests, headers and type stubs of the libraries are no use in an image.
find "$prefix/lib" -depth -type d \( -name tests -o -name include \) -path '*-packages/*/*' -exec rm -rf {} +
find "$prefix/lib" -name '*.pyi' -delete
# Compiled here, on all cores, because the image is read-only where it runs.
/opt/venv/bin/python -m compileall -q -j 0 "$prefix/lib"
