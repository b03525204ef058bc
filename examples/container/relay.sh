#!/bin/sh
# A long computation in small: relay.sh STEPS [steps|names]
#
# in/data is the input. Each step makes three files out of the three before it, and saves them as a checkpoint: in a
# directory per step, or always under the same names. out/ depends on every step, so that one that was skipped, done
# twice, or mixed with another shows in its bytes. How far it is it prints as Open Job Description has it, which Kelpie reads.
set -eu
steps=$1 layout=${2:-steps} saved=checkpoint/latest
size=2000 # lines of a file

digest() { printf '%s' "$*" | sha256sum | cut -c 1-64; }
place() { if [ "$layout" = steps ]; then echo "checkpoint/step-$1"; else echo checkpoint/files; fi; }
write() { yes "$2 $3" | head -n $size >"$1.new" && mv "$1.new" "$1"; }

# The digest in a file of that step; nothing if it is missing, cut, of another step, or of two.
read_back() {
    [ "$(wc -l <"$1")" -eq $size ] && [ "$(sort -u "$1" | cut -d ' ' -f 1)" = "$2" ] && sort -u "$1" | cut -d ' ' -f 2
} 2>/dev/null

start() {
    rm -rf checkpoint/*
    step=0 one=$(digest one "$(cat in/data)") two=$(digest two "$(cat in/data)") three=$(digest three "$(cat in/data)")
}

resume() {
    step=$(cat $saved) here=$(place "$step")
    one=$(read_back "$here/one" "$step") && two=$(read_back "$here/two" "$step") && three=$(read_back "$here/three" "$step")
}

save() {
    here=$(place "$step")
    mkdir -p "$here"
    write "$here/one" "$step" "$one"
    write "$here/two" "$step" "$two"
    write "$here/three" "$step" "$three"
    # What says where to go on comes last, and what it said before goes after it.
    echo "$step" >$saved.new && mv $saved.new $saved
    for old in checkpoint/step-*; do
        [ "$old" = "$here" ] || rm -rf "$old"
    done
}

mkdir -p checkpoint out
if [ ! -e $saved ]; then
    start
    echo "relay: from the start"
elif resume; then
    echo "relay: resumed from step $step of $steps"
elif [ "${KELPIE_CHECKPOINT_STATUS:-none}" = clean ]; then
    echo "relay: the checkpoint is torn, and Kelpie says that it is whole" >&2
    exit 70
else
    start
    echo "relay: the checkpoint is torn, from the start"
fi
while echo "openjd_progress: $((100 * step / steps))" && [ "$step" -lt "$steps" ]; do
    step=$((step + 1))
    one=$(digest "$step" "$one" "$three")
    two=$(digest "$step" "$two" "$one")
    three=$(digest "$step" "$three" "$two")
    save
    sleep "${SECONDS_PER_STEP:-1}"
done
mkdir -p out/parts
write out/parts/one "$step" "$one"
write out/parts/two "$step" "$two"
digest "$one" "$two" "$three" >out/result
