# What scripts here share; to be sourced by one that has `say`.

# need PACKAGE TEST...: installs a Debian package unless the test says that it is there.
need() {
    local package=$1
    shift
    if "$@" >/dev/null 2>&1; then return; fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "install Debian's package \`$package\` first (as root this script does it)"
        exit 1
    fi
    say "installing Debian's package $package"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >&2
}
