#!/bin/sh
# Several workers in one container, one for each GPU, say: several.sh COUNT
#
# Each has a folder of its own, so that neither their state files nor relative paths of their jobs meet. As the first
# process of a container a shell hears no SIGTERM without a trap: the workers would be killed, and their jobs would
# wait until their leases lapse.
set -u
workers=
trap 'kill -TERM $workers' TERM INT
for number in $(seq 1 "$1"); do
    mkdir -p "worker-$number"
    (cd "worker-$number" && exec kelpie) &
    workers="$workers $!"
done
# A signal ends a wait early; the workers still give their jobs back.
for worker in $workers; do
    while kill -0 "$worker" 2>/dev/null; do wait "$worker"; done
done
