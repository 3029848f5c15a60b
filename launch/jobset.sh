#!/usr/bin/env bash
# Prints a JobSet for Kubernetes (GKE): one pod per TPU host or GPU machine, started anew together when one fails.
#
#     launch/jobset.sh [options] -- --config configs/ours.py --workdir /mnt/lmindexer/runs/mine | kubectl apply -f -
#
#     --name NAME            of the JobSet (default lmindexer)
#     --image IMAGE          made from launch/Dockerfile
#     --volume CLAIM         a PersistentVolumeClaim, ReadWriteMany, that all pods see as /mnt/lmindexer
#     --tpu TYPE/TOPOLOGY    GKE's names, such as tpu-v5-lite-podslice/4x4 (with --hosts 4); or
#     --gpu TYPE             such as nvidia-h100-80gb
#     --hosts N              pods (default 1)
#     --chips N              TPU chips or GPUs of each (default 4, of GPUs 8)
#     --retries N            restarts of the whole (default 10)
#     --spot                 on spot nodes
#     --dry-run              the same; this script only prints
#     --help
#
# The cluster needs the JobSet controller (jobset.sigs.k8s.io). The run goes on from its last checkpoint.

cd "$(dirname "$0")/.."
source launch/common.sh

name=lmindexer image="" volume="" tpu="" gpu="" hosts=1 chips="" retries=10 spot=false
while (($#)); do
    case $1 in
    --name) name=$(value "$@"); shift 2 ;;
    --image) image=$(value "$@"); shift 2 ;;
    --volume) volume=$(value "$@"); shift 2 ;;
    --tpu) tpu=$(value "$@"); shift 2 ;;
    --gpu) gpu=$(value "$@"); shift 2 ;;
    --hosts) hosts=$(value "$@"); shift 2 ;;
    --chips) chips=$(value "$@"); shift 2 ;;
    --retries) retries=$(value "$@"); shift 2 ;;
    --spot) spot=true; shift ;;
    --dry-run) shift ;;
    --help) help ;;
    --) shift; break ;;
    *) fail "unknown argument '$1'; see --help" ;;
    esac
done
if [[ -n $tpu && -n $gpu || -z $tpu$gpu ]]; then fail "give either --tpu or --gpu"; fi
if [[ -n $tpu && $tpu != ?*/?*x?* ]]; then fail "--tpu is TYPE/TOPOLOGY, as tpu-v5-lite-podslice/4x4, not '$tpu'"; fi
if [[ -n $tpu ]]; then platform=tpu; else platform=gpu; fi
if [[ -z $chips ]]; then if [[ $platform == tpu ]]; then chips=4; else chips=8; fi; fi
whole --hosts "$hosts"
whole --chips "$chips"
whole --retries "$retries"
if ((hosts < 1 || chips < 1)); then fail "--hosts and --chips are at least 1"; fi
if [[ -n $tpu ]]; then
    topology=${tpu#*/} all=1
    for side in ${topology//x/ }; do
        whole "a side of the topology" "$side"
        all=$((all * side))
    done
    if ((all != hosts * chips)); then fail "$topology is $all chips, not --hosts $hosts times --chips $chips"; fi
fi
if [[ ! $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ || ${#name} -gt 40 ]]; then
    fail "--name is up to 40 small letters, digits and hyphens, not '$name'"
fi
if [[ -z $image ]]; then fail "give --image, made from launch/Dockerfile"; fi
if [[ -z $volume ]]; then fail "give --volume, a claim that holds the workdir: a pod's own disk goes with the pod"; fi
check_run "$@"
check_shared "$@"

# A string as YAML and JSON write it.
text() {
    printf '"%s"' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# The container's command, one word a line; $$( keeps Kubernetes from reading $( as a variable.
words() {
    local word
    # shellcheck disable=SC2016 # for Kubernetes to read
    for word in launch/machine.sh --platform "$platform" -- "$@"; do
        case $word in *$'\n'*) fail "a line break in an argument" ;; esac
        printf '                    - %s\n' "$(text "$(printf '%s' "$word" | sed 's/\$(/$$(/g')")"
    done
}

nodes() {
    local indent="                "
    if [[ $platform == tpu ]]; then
        printf '%scloud.google.com/gke-tpu-accelerator: %s\n' "$indent" "$(text "${tpu%%/*}")"
        printf '%scloud.google.com/gke-tpu-topology: %s\n' "$indent" "$(text "${tpu#*/}")"
    else
        printf '%scloud.google.com/gke-accelerator: %s\n' "$indent" "$(text "$gpu")"
    fi
    if $spot; then printf '%scloud.google.com/gke-spot: "true"\n' "$indent"; fi
}

# Nodes with accelerators keep other pods away, and so may spot nodes.
tolerations() {
    local key keys=("$resource")
    if $spot; then keys+=(cloud.google.com/gke-spot); fi
    for key in "${keys[@]}"; do
        printf '                - key: %s\n                  operator: Exists\n' "$key"
    done
}

# GKE tells TPU pods about each other; GPU pods are told here. The first pod coordinates.
environment() {
    if [[ $platform == gpu ]]; then
        cat <<END

                  env:
                    - name: JAX_COORDINATOR_ADDRESS
                      value: "$name-workers-0-0.$name:8476"
                    - name: JAX_NUM_PROCESSES
                      value: "$hosts"
                    - name: JAX_PROCESS_ID
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
END
    fi
}

container=$(words "$@")
resource=$(if [[ $platform == tpu ]]; then echo google.com/tpu; else echo nvidia.com/gpu; fi)
cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $retries
    rules:
      - name: wrong-settings
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: main
                  operator: In
                  values: [2]
          template:
            spec:
              restartPolicy: Never
              nodeSelector:
$(nodes)
              tolerations:
$(tolerations)
              containers:
                - name: main
                  image: $(text "$image")
                  command:
$container$(environment)
                  ports:
                    - containerPort: 8476
                  resources:
                    limits:
                      $resource: $chips
                  volumeMounts:
                    - name: lmindexer
                      mountPath: /mnt/lmindexer
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
                - name: lmindexer
                  persistentVolumeClaim:
                    claimName: $(text "$volume")
                - name: shared-memory
                  emptyDir:
                    medium: Memory
END
