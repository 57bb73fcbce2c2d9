#!/bin/sh
# Install into /opt/venv what pip's options ask for, in the versions of requirements.txt, and slim it.
#
# pip and uv come from the stage `tools` of the Dockerfiles, mounted at /mnt.
set -eu
home=/opt/hounsfield
venv=/opt/venv
if [ ! -e $venv ]; then
    python3 -m venv --without-pip $venv
    echo $home >"$(echo $venv/lib/python3*/site-packages)/hounsfield.pth"
    printf '#!/bin/sh\nexec %s/bin/python -m pipeline "$@"\n' $venv >$venv/bin/hounsfield
    chmod +x $venv/bin/hounsfield
fi

# For uv, what pip is set to where the image is built (components/build.py).
[ ! -e /etc/uv.env ] || . /etc/uv.env
by_uv() {
    UV_INDEX_STRATEGY=unsafe-best-match /mnt/bin/uv pip install --quiet --no-cache --system-certs \
        --python $venv/bin/python --constraint $home/build/requirements.txt "$@"
}
by_pip() {
    /mnt/bin/python -m pip --python $venv/bin/python install --quiet --no-compile --no-cache-dir \
        --disable-pip-version-check --root-user-action ignore --constraint $home/build/requirements.txt "$@"
}
# pip takes the build of torch that the machine is set up for; uv needs seconds for the rest, where pip needs minutes.
case "$*" in
*torch.txt) by_pip "$@" ;;
*) by_uv "$@" || by_pip "$@" ;;
esac

# Tests, headers and type stubs of the libraries are no use in an image.
cd $venv/lib
find . -depth -type d \( -name tests -o -name include \) -path '*/site-packages/*/*' -exec rm -rf {} +
find . \( -name '*.py[ix]' -o -name '*.px[di]' -o -name '*.a' \) -delete
# What a list names in the file of its name that ends with .unused.
cd python3*/site-packages
for option in "$@"; do
    unused=${option%.txt}.unused
    if [ "$unused" != "$option" ] && [ -e "$unused" ]; then
        # Patterns are meant to be patterns here.
        # shellcheck disable=SC2046
        rm -rf -- $(grep -v '^#' "$unused")
    fi
done
cd ../..
# Compiled here, on all cores, because the image is read-only where it runs.
$venv/bin/python -m compileall -qq -j 0 . || true
