#!/usr/bin/env bash
# Runs lmindexer_jax.main, or what else launch/machine.sh takes, on this machine without a terminal; a lost connection does not end it.
#
#     launch/detached.sh start [options] -- --config configs/ours.py --workdir runs/mine
#     launch/detached.sh status [-- --config configs/ours.py --workdir runs/mine]
#     launch/detached.sh log
#     launch/detached.sh stop
#
# `status` prints one word: "running", the exit code, "dead" (neither exit code nor process, as after a reboot) or "none";
# where a run is given and it is not the one that goes on here, "other". `log` follows. One run at a time.
#
#     --in DIR           where log, process id and exit code are kept (default ~/lmindexer-run)
#     --platform NAME    as in launch/machine.sh, and --retries N too
#     --dry-run          print the command instead of running it
#     --help

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
here=$(cd "$(dirname "$0")" && pwd)

command="" in=$HOME/lmindexer-run
options=()
while (($#)); do
    case $1 in
    --in) in=$(value "$@"); shift 2 ;;
    --platform | --retries) options+=("$1" "$(value "$@")"); shift 2 ;;
    --dry-run) dry_run=true; shift ;;
    --help) help ;;
    --) shift; break ;;
    start | status | log | stop) command=$1; shift ;;
    *) fail "unknown argument '$1'; see --help" ;;
    esac
done
if [[ $command == start || $# -gt 0 ]]; then check_run "$@"; fi

running() {
    [[ -f $in/pid ]] && kill -0 "$(cat "$in/pid")" 2>/dev/null
}

start() {
    local detached=("$here/machine.sh" --status "$in/status" ${options[@]+"${options[@]}"} -- "$@")
    if $dry_run; then
        quote "${detached[@]}"
        return
    fi
    if running; then
        say "a run goes on here: $(cat "$in/run"); stop it first"
        exit 1
    fi
    mkdir -p "$in"
    rm -f "$in/status"
    quote "$@" >"$in/run"
    # A process group of its own, so that stop ends Python too.
    setsid nohup "${detached[@]}" >"$in/log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$in/pid"
}

status() {
    local ours=true
    if (($#)) && [[ $(quote "$@") != "$(cat "$in/run" 2>/dev/null)" ]]; then ours=false; fi
    if running; then
        if $ours; then echo running; else echo other; fi
    elif [[ ! -f $in/pid ]] || ! $ours; then
        echo none
    else
        cat "$in/status" 2>/dev/null || echo dead
    fi
}

case $command in
start | status) "$command" "$@" ;;
log) run tail -n 100 -F "$in/log" ;;
stop)
    if running; then run kill -- "-$(cat "$in/pid")"; fi
    run rm -f "$in/pid"
    ;;
"") fail "give a command: start, status, log or stop; see --help" ;;
esac
