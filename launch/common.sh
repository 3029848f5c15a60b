# What the launch scripts share: their help, one clear line on wrong arguments, and showing a command instead of running it.
# shellcheck shell=bash
set -euo pipefail

dry_run=false
script=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "$0")

# The script's opening comment.
help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
    exit 0
}

# One line on standard error and exit code 2.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 2
}

say() {
    printf '%s\n' "$*" >&2
}

# The words of a command as a POSIX shell reads them back.
quote() {
    local word separator=""
    for word in "$@"; do
        printf '%s' "$separator"
        case $word in
        "" | *[!A-Za-z0-9_./:=,@%+-]*) printf "'%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$word" ;;
        esac
        separator=" "
    done
    printf '\n'
}

# Runs a command, or shows it.
run() {
    if $dry_run; then quote "$@"; else "$@"; fi
}

# value OPTION [VALUE ...]: the value that must follow an option.
value() {
    if (($# < 2)) || [[ -z $2 || $2 == --* ]]; then fail "$1 needs a value; see --help"; fi
    printf '%s' "$2"
}

# whole OPTION VALUE: a number of at least 0.
whole() {
    case $2 in
    "" | *[!0-9]*) fail "$1 is a whole number, not '$2'" ;;
    esac
}

# The program that what stands behind -- is for: its first word, or main.
program_of() {
    case ${1:-} in finetune | recommend) printf '%s' "$1" ;; *) printf 'main' ;; esac
}

# The run's workdir must lie where the machine's end does not take it along; a config may lie anywhere.
check_shared() {
    local argument before=""
    for argument in "$@"; do
        case $before$argument in
        --workdir=/mnt/lmindexer/?* | --workdir=) ;;
        --workdir=*) fail "the workdir lies under /mnt/lmindexer, which outlives the machine, not ${argument#--workdir=}" ;;
        esac
        before=""
        if [[ $argument == --workdir ]]; then before=--workdir=; fi
    done
}

# What stands behind -- needs a workdir and, but for finetune, a config.
check_run() {
    local argument config=false workdir=false
    if [[ $(program_of "$@") == finetune ]]; then config=true; fi
    for argument in "$@"; do
        case $argument in
        --config | --config=?*) config=true ;;
        --workdir | --workdir=?*) workdir=true ;;
        esac
    done
    if ! $config || ! $workdir; then
        fail "give the run behind --, as in: $(basename "$0") ... -- --config configs/ours.py --workdir runs/mine"
    fi
}
